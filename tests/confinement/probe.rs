//! The probe namespace: dry-runs of pods, and nothing that runs, for nobody.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};

use crate::harness::{PROBE, with_every_right};
use crate::write::{Attack, Change, Refusal, Write, get, send};

const PODS: &str = "/api/v1/namespaces/linkerd-gate-probe/pods";

fn probe() -> Value {
    pod("linkerd-gate-proof").running("app:test").json()
}

#[tokio::test]
async fn the_agent_proves_injection_by_dry_runs() -> Result<()> {
    let harness = with_every_right().await?;
    let agent = harness.agent("node-a").await?;
    send(&agent, &Write::create(PODS, &probe()).dry_run()).await?;
    // As some installations have the injector make it.
    let mut injected = probe();
    injected["spec"]["initContainers"] =
        json!([{"name": "linkerd-init", "image": "init:1", "securityContext": {"privileged": true}}]);
    send(&agent, &Write::create(PODS, &injected).dry_run()).await?;
    let stored = get(&harness.admin().await?, PODS).await?;
    ensure!(stored["items"] == json!([]), "a dry-run was stored: {stored:#}");
    Ok(())
}

#[tokio::test]
async fn the_agent_creates_only_dry_run_pods_in_the_probe_namespace() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent) = (harness.admin().await?, harness.agent("node-a").await?);
    let attack = Attack { anybody: &admin, attacker: &agent, policy: "linkerd-gate-agent-pods" };
    let dry = "by dry-run only, in the namespace linkerd-gate-probe only";
    // Two policies refuse this, and the API server may name either.
    let stays = send(&agent, &Write::create(PODS, &probe())).await;
    let refused = |refusal: &Refusal| refusal.by(attack.policy) || refusal.by("linkerd-gate-probe");
    ensure!(stays.as_ref().is_err_and(refused), "a pod that stays: {stays:?}");
    for elsewhere in ["shop", "linkerd-gate", "kube-system"] {
        let pods = format!("/api/v1/namespaces/{elsewhere}/pods");
        let write = Write::create(&pods, &probe()).dry_run();
        attack.write_is_refused(elsewhere, &write, dry).await?;
    }
    // Server-side apply of what is not there creates.
    let path = "/api/v1/namespaces/shop/pods/linkerd-gate-proof";
    attack.write_is_refused("by apply", &Write::apply(path, &probe()), dry).await?;

    let nowhere = harness.agent_without_a_node().await?;
    let without_node = Attack { attacker: &nowhere, ..attack };
    let write = Write::create(PODS, &probe()).dry_run();
    without_node.write_is_refused("a token without a node", &write, "by the token of its pod").await?;

    let shares: [(&str, Change); 6] = [
        ("hostNetwork", |pod| pod["spec"]["hostNetwork"] = true.into()),
        ("hostPID", |pod| pod["spec"]["hostPID"] = true.into()),
        ("hostIPC", |pod| pod["spec"]["hostIPC"] = true.into()),
        ("hostPath", |pod| pod["spec"]["volumes"] = json!([{"name": "root", "hostPath": {"path": "/"}}])),
        ("privileged", |pod| pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true})),
        ("a privileged init container", |pod| {
            pod["spec"]["initContainers"] =
                json!([{"name": "init", "image": "init:1", "securityContext": {"privileged": true}}]);
        }),
    ];
    for (what, share) in shares {
        let mut pod = probe();
        share(&mut pod);
        let write = Write::create(PODS, &pod).dry_run();
        attack.write_is_refused(what, &write, "have no access to the host").await?;
    }
    Ok(())
}

#[tokio::test]
async fn no_pod_or_workload_can_be_created_in_the_probe_namespace() -> Result<()> {
    let harness = with_every_right().await?;
    let admin = harness.admin().await?;
    let attack = Attack { anybody: &admin, attacker: &admin, policy: "linkerd-gate-probe" };
    let words = "no pod runs in linkerd-gate-probe";
    attack.write_is_refused("a pod", &Write::create(PODS, &probe()), words).await?;

    let metadata = json!({"name": "any"});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": probe()["spec"]});
    let selector = json!({"matchLabels": {"a": "b"}});
    let with = |spec: Value| json!({"metadata": metadata, "spec": spec});
    let workload = with(json!({"selector": selector, "template": template}));
    let set = with(json!({"selector": selector, "template": template, "serviceName": "any"}));
    let mut task = template.clone();
    task["spec"]["restartPolicy"] = "Never".into();
    let job = with(json!({"template": task}));
    let cron = with(json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": task}}}));
    let controller = with(json!({"selector": {"a": "b"}, "template": template}));
    for (path, body) in [
        ("/apis/apps/v1/namespaces/NS/deployments", &workload),
        ("/apis/apps/v1/namespaces/NS/replicasets", &workload),
        ("/apis/apps/v1/namespaces/NS/daemonsets", &workload),
        ("/apis/apps/v1/namespaces/NS/statefulsets", &set),
        ("/apis/batch/v1/namespaces/NS/jobs", &job),
        ("/apis/batch/v1/namespaces/NS/cronjobs", &cron),
        ("/api/v1/namespaces/NS/replicationcontrollers", &controller),
    ] {
        // Elsewhere it is what it should be.
        let valid = send(&admin, &Write::create(&path.replace("NS", "shop"), body).dry_run()).await;
        valid.with_context(|| format!("{path}: nobody could do that"))?;
        let write = Write::create(&path.replace("NS", PROBE), body);
        attack.is_refused_alone(path, &write, words).await?;
        attack.is_refused_alone(path, &write.dry_run(), words).await?;
    }
    // What every namespace gets from the controllers is there.
    for of_the_controllers in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
        get(&admin, &format!("/api/v1/namespaces/{PROBE}/{of_the_controllers}")).await?;
    }
    Ok(())
}
