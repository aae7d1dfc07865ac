//! What agents cost an API server, and that their rights are what they use: with the manifests' own service account, policies
//! and tokens.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use linkerd_gate_kit::cluster::{self, AuditedRequest};
use serde_json::json;

use super::harness::{Agent, GATE, Harness, PATIENCE, agent_of, holder, is_closed, logs_of};
use super::rights::{apply_what_runs, rights, until_rights_count, used};

/// The agents' service account in the manifests.
const ACCOUNT: &str = "linkerd-gate-agent";

#[tokio::test]
async fn agents_send_few_requests_and_have_only_the_rights_for_them() -> Result<()> {
    let harness = Harness::before_installation().await?;
    // It will have to be found out that this one was there before.
    harness.node("node-2", json!({})).await?;
    apply_what_runs(&harness).await?;
    let rights = rights(&["30-agent-rbac.yaml"])?;
    until_rights_count(&harness, ACCOUNT, &rights).await?;
    for node in ["node-0", "node-1"] {
        harness.node_of_an_earlier_boot(node).await?;
    }
    let mut agents = vec![start(&harness, "node-0").await?];
    agents[0].until_says("gate: waiting: injection not ready").await.with_context(|| logs_of(&agents))?;
    agents.push(start(&harness, "node-1").await?);
    agents.push(start(&harness, "node-2").await?);
    Box::pin(until_open(&harness, &agents)).await.with_context(|| logs_of(&agents))?;

    let opened = harness.requests_of(ACCOUNT).await?;
    for (node, most) in [("node-0", None), ("node-1", Some(12)), ("node-2", Some(12))] {
        let requests: Vec<String> = of(&opened, node).map(AuditedRequest::short).collect();
        println!("{node} from start to open, {} requests:\n  {}", requests.len(), requests.join("\n  "));
        ensure!(most.is_none_or(|most| requests.len() <= most), "{node} asked for too much");
    }

    let since = Timestamp::now();
    let renewals = 4;
    for _ in 0..renewals {
        let before = harness.leases().await?.get(GATE).await?.spec.context("no spec")?.renew_time;
        harness
            .until_lease("renewed", |lease| lease.spec.as_ref().is_some_and(|spec| spec.renew_time != before))
            .await
            .with_context(|| logs_of(&agents))?;
    }
    let all = harness.requests_of(ACCOUNT).await?;
    let at_rest: Vec<&AuditedRequest> = all.iter().filter(|request| request.received > since).collect();
    let shown: Vec<String> = at_rest.iter().map(|request| format!("{:?} {}", request.node, request.short())).collect();
    println!("at rest for {renewals} renewals:\n  {}", shown.join("\n  "));
    // The prover's renewals, and every 20 s a proof, which is one more renewal.
    for request in &at_rest {
        let provers = request.node.as_deref() == Some("node-0");
        let renews = provers && request.verb == "patch" && request.resource == "leases";
        ensure!(renews || provers && request.dry_run || request.verb == "watch", "at rest: {request:?}");
    }
    ensure!(at_rest.iter().filter(|request| request.dry_run).count() <= 2, "proves too often");

    let pods = all.iter().filter(|request| request.resource == "pods" && request.verb != "create");
    let namespaces: BTreeSet<&str> = pods.clone().map(|request| request.namespace.as_str()).collect();
    // One watch for all of them, and the toleration of one pod.
    ensure!(namespaces == ["", "kube-system"].into(), "{namespaces:?}");
    ensure!(pods.clone().filter(|request| request.verb == "list").count() == 1, "more than one list of pods");
    ensure!(pods.clone().all(|request| request.node.as_deref() == Some("node-0")), "not only the prover looks at pods");

    let mut proofs = 0;
    for agent in &agents {
        proofs += agent.metric("linkerd_gate_proofs_total", "result=").await?;
    }
    // Counted after the proofs, so that one under way counts here.
    let dry_runs = harness.requests_of(ACCOUNT).await?.iter().filter(|request| request.dry_run).count();
    println!("{dry_runs} dry-runs, {proofs} proofs");
    ensure!(proofs >= 3 && dry_runs as u64 <= 2 * proofs, "{dry_runs} dry-runs for {proofs} proofs");

    for agent in &mut agents {
        ensure!(agent.terminate().await? == 0, "{}", agent.said());
    }
    let all = harness.requests_of(ACCOUNT).await?;
    used(&rights, &all).with_context(|| logs_of(&agents))
}

fn of<'a>(requests: &'a [AuditedRequest], node: &'a str) -> impl Iterator<Item = &'a AuditedRequest> {
    requests.iter().filter(move |request| request.node.as_deref() == Some(node))
}

/// The agent of a node, with the token that kubelet would give its pod.
async fn start(harness: &Harness, node: &str) -> Result<Agent> {
    let pod = format!("{GATE}-{node}");
    let own = json!({
        "metadata": {"name": pod},
        "spec": {
            "nodeName": node, "serviceAccountName": ACCOUNT, "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "agent", "image": "gate:1"}],
        },
    });
    harness.create::<Pod>(GATE, own).await?;
    harness.start_as(agent_of(node, "boot-1"), &harness.cluster.kubeconfig_as_pod(GATE, &pod).await?)
}

/// Closed nodes, an essential pod that may go there all the same, and then Linkerd.
async fn until_open(harness: &Harness, agents: &[Agent]) -> Result<()> {
    for agent in &agents[1..] {
        agent.until_says("gate: waiting: injection not ready").await?;
    }
    for node in ["node-0", "node-1"] {
        harness.until_node(node, "closed", is_closed).await?;
        harness.until_event(node, "GateClosed").await?;
    }
    harness.until_event("node-2", "GateAdopted").await?;
    let dns = json!({"metadata": {"name": "dns-0"}, "spec": {"containers": [{"name": "dns", "image": "dns:1"}]}});
    harness.create::<Pod>("kube-system", dns).await?;
    let pods: Api<Pod> = Api::namespaced(harness.cluster.client().await?, "kube-system");
    let tolerates = |pod: &Pod| {
        let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
        tolerations.into_iter().any(|toleration| toleration.key.as_deref() == Some("linkerd-gate/closed"))
    };
    cluster::until(&pods, "dns-0", "tolerating our taint", PATIENCE, tolerates).await?;
    harness.injector.recover().await?;
    for node in ["node-0", "node-1"] {
        harness.until_node(node, "open", |node| !is_closed(node)).await?;
        harness.until_event(node, "GateOpened").await?;
    }
    agents[2].until_says("gate: open: proven").await?;
    let lease = harness.leases().await?.get(GATE).await?;
    ensure!(holder(&lease).as_deref() == Some("node-0"), "{lease:?}");
    Ok(())
}
