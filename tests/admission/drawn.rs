//! Webhook configurations, namespaces and pods that no person thought of, drawn from a seed: hold, guard and Rust agree on them.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::Api;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::answer::{Answer, dry_run};
use crate::harness::{Admission, Expected, Harness, Parameters, view};

const NAMESPACES: usize = 12;
const SETS: usize = 32;
const PODS: usize = 16;

#[tokio::test]
async fn hold_guard_and_rust_agree_on_what_is_drawn() -> Result<()> {
    let harness = Harness::set().await?;
    // The same in every run: what fails once fails again.
    let mut runner = TestRunner::deterministic();
    let mut namespaces = Vec::new();
    for number in 0..NAMESPACES {
        let mut drawn = draw(&mut runner, &metadata())?;
        drawn["name"] = format!("drawn-{number}").into();
        let name = harness.cluster.create_namespace(&serde_json::from_value(json!({"metadata": drawn}))?).await?;
        if number % 2 == 0 {
            harness.mount_no_tokens(&name).await?;
        }
        namespaces.push(Api::<Namespace>::all(harness.admin.clone()).get(&name).await?);
    }

    let mut caught = 0;
    for set in 0..SETS {
        let (admission, token_projection, parameters) = match set / (SETS / 4) {
            0 => (Admission::Refuse, true, Parameters::Labelled),
            1 => (Admission::Hold, true, Parameters::Labelled),
            2 => (Admission::Hold, false, Parameters::All),
            _ => (Admission::Refuse, false, Parameters::All),
        };
        if set % (SETS / 4) == 0 {
            harness.await_admission(admission, token_projection, parameters).await?;
        }
        let configurations = draw(&mut runner, &vec(configuration(), 1..3))?;
        let configurations: Vec<MutatingWebhookConfiguration> = configurations
            .into_iter()
            .enumerate()
            .map(|(number, mut configuration)| {
                configuration["metadata"]["name"] = format!("drawn-{number}").into();
                serde_json::from_value(configuration)
            })
            .collect::<Result<_, _>>()?;
        harness.install(&configurations).await?;
        let view = view(&configurations, parameters)?;
        for _ in 0..PODS {
            let namespace = &namespaces[draw(&mut runner, &(0..NAMESPACES))?];
            let mut pod: Pod = serde_json::from_value(draw(&mut runner, &pod())?)?;
            pod.metadata.namespace.clone_from(&namespace.metadata.name);
            let admitted = as_admitted(&harness, &pod).await?;
            let expected = admission.expects(&admitted, namespace, &view, token_projection);
            let answer = dry_run(&harness.admin, &pod).await?;
            ensure!(
                expected.is(&answer),
                "Rust says {expected:?}, {admission:?} {answer:?} to {} in {} behind {}",
                serde_json::to_string(&pod)?,
                serde_json::to_string(&namespace)?,
                serde_json::to_string(&configurations)?,
            );
            caught += usize::from(expected != Expected::Admitted);
        }
    }
    // Neither answer is rare.
    ensure!((SETS * PODS / 10..SETS * PODS * 2 / 3).contains(&caught), "{caught} of {}", SETS * PODS);
    eprintln!("drawn: {caught} of {} pods held or refused", SETS * PODS);
    Ok(())
}

/// The pod as admission shows it to policies: seen by means of the label that exempts it, which is then taken off again.
async fn as_admitted(harness: &Harness, pod: &Pod) -> Result<Pod> {
    let mut exempt = pod.clone();
    exempt.metadata.labels.get_or_insert_default().insert("linkerd-gate/admission".to_owned(), "exempt".to_owned());
    match dry_run(&harness.admin, &exempt).await? {
        Answer::Admitted(mut admitted, _) => {
            admitted.metadata.labels.get_or_insert_default().remove("linkerd-gate/admission");
            Ok(*admitted)
        }
        answer => bail!("an exempt pod: {answer:?}"),
    }
}

fn draw<T: std::fmt::Debug>(runner: &mut TestRunner, strategy: &impl Strategy<Value = T>) -> Result<T> {
    let tree = strategy.new_tree(runner).map_err(|reason| anyhow::anyhow!("{reason}"));
    Ok(tree.context("nothing could be drawn")?.current())
}

fn labels() -> impl Strategy<Value = Value> {
    let values = select(&["", "x", "y"][..]);
    btree_map(select(&["a", "b", "linkerd.io/cni-resource"][..]), values, 0..3).prop_map(|labels| json!(labels))
}

/// Mostly what asks.
fn metadata() -> impl Strategy<Value = Value> {
    const VALUES: &[&str] =
        &["enabled", "enabled", "enabled", "enabled", "enabled", "ingress", "disabled", "", "Enabled"];
    (labels(), prop::option::weighted(0.8, select(VALUES))).prop_map(|(labels, inject)| match inject {
        Some(inject) => json!({"labels": labels, "annotations": {"linkerd.io/inject": inject}}),
        None => json!({"labels": labels}),
    })
}

/// A container under one of these names. Where it mounts something, the API server mounts no token there.
fn container(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    const IMAGES: &[&str] = &[
        "app:1",
        "app:1",
        "app:1",
        "app:1",
        "app:1",
        "app:1",
        "app:1",
        "app:1",
        "app:1",
        "app:1",
        "cr.l5d.io/linkerd/proxy:v1",
        "cr.l5d.io/linkerd/proxy-init:v1",
        "mirror.example.com/cr.l5d.io/linkerd/proxy:v1",
        "gcr.io/istio-release/proxyv2:1",
        "gcr.io/istio-release/proxy_init:1",
    ];
    const PATHS: &[&str] = &["/data", "/var/run/secrets/kubernetes.io/serviceaccount"];
    (select(names), select(IMAGES), prop::option::of(select(PATHS))).prop_map(|(name, image, path)| {
        let mounts: Vec<_> = path.into_iter().map(|path| json!({"name": "any", "mountPath": path})).collect();
        json!({"name": name, "image": image, "volumeMounts": mounts})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    const SECOND: &[&str] = &["second", "second", "second", "second", "linkerd-proxy", "istio-proxy", "linkerd-init"];
    const INIT: &[&str] = &["init", "init", "init", "init", "init", "linkerd-init", "istio-init"];
    (
        metadata(),
        container(&["app"]),
        vec(container(SECOND), 0..2),
        vec(container(INIT), 0..2),
        prop::option::weighted(0.1, any::<bool>()),
        prop::option::of(any::<bool>()),
    )
        .prop_map(|(mut metadata, first, second, inits, host_network, automount)| {
            metadata["name"] = "drawn".into();
            let containers: Vec<_> = std::iter::once(first).chain(second).collect();
            // No two of a name are in one pod.
            let inits: Vec<_> =
                inits.into_iter().filter(|init| containers.iter().all(|other| other["name"] != init["name"])).collect();
            json!({"metadata": metadata, "spec": {
                "containers": containers,
                "initContainers": inits,
                "hostNetwork": host_network,
                "automountServiceAccountToken": automount,
                "volumes": [{"name": "any", "emptyDir": {}}],
            }})
        })
}

/// Mostly one that selects everything.
fn selector() -> impl Strategy<Value = Value> {
    const OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist"];
    let values = vec(select(&["", "x", "y"][..]), 1..3);
    let expression = (select(&["a", "b"][..]), select(OPERATORS), values).prop_map(|(key, operator, values)| {
        let values = if operator.ends_with("In") { values } else { vec![] };
        json!({"key": key, "operator": operator, "values": values})
    });
    let labels = btree_map(select(&["a", "b"][..]), select(&["", "x"][..]), 0..2);
    prop::option::weighted(0.4, (labels, vec(expression, 0..2))).prop_map(|selector| match selector {
        Some((labels, expressions)) => json!({"matchLabels": labels, "matchExpressions": expressions}),
        None => json!({}),
    })
}

/// One rule of a webhook: often one that matches the creation of pods, in one of its many forms.
fn rule() -> impl Strategy<Value = Value> {
    let of_the_chart = json!({
        "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "services"],
        "scope": "Namespaced",
    });
    prop_oneof![Just(of_the_chart), any_rule(), any_rule()]
}

fn any_rule() -> impl Strategy<Value = Value> {
    let operations: &[&[&str]] = &[&["CREATE"], &["CREATE"], &["*"], &["CREATE", "DELETE"], &["UPDATE"]];
    let resources: &[&[&str]] = &[
        &["pods"],
        &["pods", "services"],
        &["*"],
        &["*/*"],
        &["pods/*"],
        &["services"],
        &["pods/status"],
        &["*/status"],
    ];
    let versions: &[&str] = &["v1", "v1", "*", "v2"];
    let groups: &[&str] = &["", "", "*", "apps"];
    let scopes: &[&str] = &["Namespaced", "Namespaced", "*", "Cluster"];
    (select(operations), select(groups), select(versions), select(resources), select(scopes)).prop_map(
        |(operations, group, version, resources, scope)| {
            json!({
                "operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": resources,
                "scope": scope,
            })
        },
    )
}

/// A webhook without a name.
fn webhook() -> impl Strategy<Value = Value> {
    let conditions = prop::bool::weighted(0.1);
    (selector(), selector(), vec(rule(), 1..6), conditions).prop_map(|(namespaces, objects, rules, conditional)| {
        let conditions = conditional.then(|| json!([{"name": "any", "expression": "true"}]));
        json!({
            "namespaceSelector": namespaces,
            "objectSelector": objects,
            "rules": rules,
            "matchConditions": conditions,
            "clientConfig": {"service": {"name": "nobody", "namespace": "linkerd"}},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
        })
    })
}

/// A configuration without a name; the injector's by its label, or by its first webhook's name, or not at all.
fn configuration() -> impl Strategy<Value = Value> {
    let first = select(&["linkerd-proxy-injector.linkerd.io", "sidecars.example.com"][..]);
    let component = select(&["proxy-injector", "proxy-injector", "identity"][..]);
    (vec(webhook(), 1..3), first, component).prop_map(|(mut webhooks, first, component)| {
        for (number, webhook) in webhooks.iter_mut().enumerate() {
            webhook["name"] = if number == 0 { first.into() } else { format!("number-{number}.example.com").into() };
        }
        json!({"metadata": {"labels": {"linkerd.io/control-plane-component": component}}, "webhooks": webhooks})
    })
}
