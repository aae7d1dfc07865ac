//! The entry itself: the documented one, in the right place.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use linkerd_gate::config::{Wait, table};
use linkerd_gate_kit::cluster::until_any;
use linkerd_gate_kit::object::{Pod as PodBuilder, deployment, namespace, pod};
use linkerd_gate_kit::standin::Fault;
use serde_json::{Value, json};

use crate::stage::{PATIENCE, SHOP, Stage, entry, in_shop, names};

/// The entry as the README has it.
fn pasted() -> Result<Value> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"))?;
    let block = readme.split("```yaml\n").nth(1).context("no YAML in the README")?;
    let block: Value = serde_saphyr::from_str(block.split("```").next().unwrap_or_default())?;
    Ok(block["initContainers"][0].clone())
}

/// The API server stores the same pod in all it holds, whether its author pasted the entry or the policy added it; and it says what the README
/// says, in that order, with nothing beside it but what the API server itself fills in.
pub async fn it_is_what_the_readme_gives_people_to_paste(stage: &Stage) -> Result<()> {
    let setup = json!({"name": "setup", "image": "setup:1", "command": ["true"]});
    for more in [vec![], vec![setup.clone()]] {
        let bare = |name| more.iter().cloned().fold(pod(name).in_namespace(SHOP), PodBuilder::with_init_container);
        stage.injector.suffer(Fault::Absent).await?;
        let added = stage.admit(&bare("web").json()).await?;
        let mut by_hand = bare("web").json();
        let containers = [pasted()?].into_iter().chain(more.iter().cloned()).collect::<Vec<_>>();
        by_hand["spec"]["initContainers"] = containers.into();
        let by_hand = stage.admit(&by_hand).await?;
        ensure!(
            without_token_name(&added) == without_token_name(&by_hand),
            "added {:#}\npasted {:#}",
            added["spec"],
            by_hand["spec"]
        );
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            ensure!(added["metadata"][field] == by_hand["metadata"][field], "{field} differ: {:#}", added["metadata"]);
        }
        ensure!(names(&added, "initContainers")[0] == "linkerd-gate", "it is not the first: {:#}", added["spec"]);

        let stored = entry(&added).context("no entry")?;
        ensure!(stripped(stored)? == pasted()?, "{stored:#}\nis not what the README has");
    }
    Ok(stage.injector.recover().await?)
}

/// The spec, without what the API server makes up anew for each pod: the name of the volume with the account's token.
fn without_token_name(pod: &Value) -> String {
    let text = pod["spec"].to_string();
    match text.split_once("kube-api-access-") {
        Some((_, rest)) => text.replace(&format!("kube-api-access-{}", &rest[..5]), "the-token"),
        None => text,
    }
}

/// The entry, without what the API server fills in.
fn stripped(stored: &Value) -> Result<Value> {
    let mut entry = stored.clone();
    let fields = entry.as_object_mut().context("no object")?;
    for filled_in in ["imagePullPolicy", "terminationMessagePath", "terminationMessagePolicy", "volumeMounts"] {
        ensure!(fields.remove(filled_in).is_some(), "the API server did not fill in {filled_in}: {stored}");
    }
    for variable in fields["env"].as_array_mut().context("no variables")? {
        variable["valueFrom"]["fieldRef"].as_object_mut().context("no field")?.remove("apiVersion");
    }
    Ok(entry)
}

/// `wait` takes its variables, and `explain` says that such a pod is held.
pub async fn wait_and_explain_take_it(stage: &Stage) -> Result<()> {
    stage.injector.suffer(Fault::Absent).await?;
    let admitted = stage.admit(&in_shop("web")).await?;
    stage.injector.recover().await?;
    let variables = entry(&admitted).context("no entry")?["env"].as_array().context("no variables")?.clone();
    let variables = variables.iter().filter_map(|variable| {
        let name = variable["name"].as_str()?;
        Some((name.into(), variable["value"].as_str().unwrap_or(table::find(name)?.example).into()))
    });
    Wait::from_variables(variables)?;

    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), admitted.to_string())?;
    let explained = tokio::process::Command::new(env!("CARGO_BIN_EXE_linkerd-gate"))
        .args(["explain", "-o", "json", "-f"])
        .arg(file.path())
        .stdin(Stdio::null())
        .output()
        .await?;
    let said: Value = serde_json::from_slice(&explained.stdout)
        .with_context(|| String::from_utf8_lossy(&explained.stderr).into_owned())?;
    let found = &said[0]["wait"];
    ensure!(found["state"] == "ok" && found["holds"] == true && found["remarks"] == json!([]), "{said:#}");
    Ok(())
}

/// With the injector there, native and classic: the pod is injected as it would be, and has the entry once.
pub async fn it_is_first_among_the_users_own_in_an_injected_pod(stage: &Stage) -> Result<()> {
    let setup = || json!({"name": "setup", "image": "setup:1"});
    let native = pod("native").in_namespace(SHOP).with_init_container(setup());
    let classic = pod("classic").in_namespace(SHOP).with_init_container(setup()).with_classic_sidecar();
    let cases = [
        (native.json(), vec!["linkerd-init", "linkerd-proxy", "linkerd-gate", "setup"], vec!["app"]),
        (classic.json(), vec!["linkerd-gate", "setup", "linkerd-init"], vec!["linkerd-proxy", "app"]),
    ];
    for (sent, init, regular) in cases {
        let before = stage.injector.requests();
        let admitted = stage.admit(&sent).await?;
        ensure!(stage.injector.requests() > before, "the injector was not called");
        ensure!(names(&admitted, "initContainers") == init, "{:#}", admitted["spec"]["initContainers"]);
        ensure!(names(&admitted, "containers") == regular, "{:#}", admitted["spec"]["containers"]);
        let meshed = serde_json::from_value::<Pod>(admitted)?;
        ensure!(linkerd_gate::linkerd::meshed(&meshed), "it is not meshed");
    }
    Ok(())
}

/// A namespace of the level `restricted` refuses what is not confined; what the policy adds is.
pub async fn the_restricted_level_admits_it(stage: &Stage) -> Result<()> {
    let restricted = namespace("restricted").asking().labelled("pod-security.kubernetes.io/enforce", "restricted");
    stage.make(restricted).await?;
    let confined = json!({
        "runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    stage.injector.suffer(Fault::Absent).await?;
    let plain = pod("plain").in_namespace("restricted");
    let refused = stage.admit(&plain.clone().json()).await.err().context("the level does not count")?;
    let words = format!("{refused:#}");
    ensure!(words.contains("PodSecurity") && !words.contains("linkerd-gate"), "{words}");
    let admitted = stage.admit(&plain.container_field("securityContext", confined).json()).await?;
    ensure!(entry(&admitted).is_some(), "it was not added");
    Ok(stage.injector.recover().await?)
}

/// A namespace's limits are filled in as for every container, and a minimum above what the entry asks for refuses the pod.
pub async fn a_namespaces_limits_count_for_it(stage: &Stage) -> Result<()> {
    stage.make(namespace("limited").asking()).await?;
    let limits = |limit: Value| {
        json!({
            "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"},
            "spec": {"limits": [limit]},
        })
    };
    let path = "/api/v1/namespaces/limited/limitranges";
    stage.send(Method::POST, path, &limits(json!({"type": "Container", "default": {"cpu": "70m"}}))).await?;
    let limited = pod("web").in_namespace("limited");
    let filled_in = |pod: &Value| entry(pod).is_some_and(|entry| entry["resources"]["limits"]["cpu"] == "70m");
    let admitted = stage.until("the limit is filled in", &limited.clone().json(), filled_in).await?;
    ensure!(entry(&admitted).is_some_and(|entry| entry["resources"]["requests"]["cpu"] == "1m"), "{admitted:#}");

    let minimum = limits(json!({"type": "Container", "min": {"cpu": "10m"}}));
    stage.send(Method::PUT, &format!("{path}/limits"), &minimum).await?;
    let enough = limited.container_field("resources", json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "10m"}}));
    let words = stage.until_refused(&enough.clone().json(), "minimum cpu usage per Container is 10m").await?;
    ensure!(!words.contains("linkerd-gate-init"), "{words}");
    stage.admit(&enough.labelled("linkerd-gate/init", "disabled").json()).await?;
    Ok(())
}

/// Workloads' templates stay as they are; the pods that controllers make of them have the entry.
pub async fn a_controllers_pods_get_it(stage: &Stage) -> Result<()> {
    let web = deployment("web").in_namespace(SHOP).of(pod("web").in_namespace(SHOP)).json();
    let path = format!("/apis/apps/v1/namespaces/{SHOP}/deployments");
    let created = stage.send(Method::POST, &path, &web).await?;
    ensure!(created["spec"]["template"]["spec"]["initContainers"].is_null(), "the template was changed");
    let pods: Api<Pod> = Api::namespaced(stage.cluster.client().await?, SHOP);
    let of_web = ListParams::default().labels("app=web");
    let made = until_any(&pods, &of_web, "a pod", PATIENCE, |pods| pods.values().next().cloned()).await?;
    let made = serde_json::to_value(made)?;
    let names = names(&made, "initContainers");
    ensure!(names == ["linkerd-init", "linkerd-proxy", "linkerd-gate"], "{names:?}");
    ensure!(names.iter().collect::<BTreeSet<_>>().len() == names.len(), "one is there twice");
    stage.send(Method::DELETE, &format!("{path}/web"), &Value::Null).await?;
    Ok(())
}
