//! Who proves: one agent at a time, whatever becomes of it; and what the others take from its word.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use linkerd_gate::decide::election::lease_record::{LEASE_DURATION, VERDICT};
use linkerd_gate_kit::cluster::AuditedRequest;
use linkerd_gate_kit::standin::Fault;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::harness::{Agent, GATE, Harness, agent_of, free_port, holder, is_closed, logs_of, object, opened};

/// Agents by their nodes' names.
type Agents = BTreeMap<String, Agent>;

#[tokio::test]
async fn a_lost_prover_is_replaced_and_overwrites_nothing() -> Result<()> {
    let harness = Harness::set().await?;
    harness.injector.recover().await?;
    let mut agents = Agents::new();
    for node in ["node-a", "node-b", "node-c"] {
        harness.node_of_an_earlier_boot(node).await?;
        agents.insert(node.to_owned(), harness.start_apart(agent_of(node, "boot-1"), node).await?);
    }
    let story = async {
        for (node, agent) in &agents {
            agent.until_says("gate: open: proven").await?;
            harness.until_node(node, "open", |node| opened(node).as_deref() == Some("boot-1")).await?;
        }
        let first = holder(&harness.until_lease("held", |lease| holder(lease).is_some()).await?).context("nobody")?;
        ensure!(agents.values().map(|agent| agent.times_said("this agent is the prover")).sum::<usize>() == 1);
        anyhow::Ok(first)
    };
    let first = story.await.with_context(|| logs_of(agents.values()))?;
    let outcome = async {
        Box::pin(dies(&harness, &mut agents, &first)).await.context("the prover dies")?;
        Box::pin(hangs(&harness, &mut agents)).await.context("the prover hangs")?;
        Box::pin(leaves(&harness, &mut agents)).await.context("the prover leaves")?;
        Box::pin(loses_its_lease(&harness, &agents)).await.context("the Lease is deleted")
    };
    let outcome = outcome.await;
    outcome.with_context(|| logs_of(agents.values()))
}

/// Killed, it says nothing: the others wait for its Lease to expire, and stay open meanwhile.
async fn dies(harness: &Harness, agents: &mut Agents, first: &str) -> Result<()> {
    let mut dead = agents.remove(first).context("an agent that nobody started")?;
    dead.kill().await?;
    let last = renewed(&harness.leases().await?.get(GATE).await?)?;
    let lease = harness.until_lease("somebody else's", |lease| holder(lease).is_some_and(|node| node != first)).await?;
    let second = holder(&lease).context("nobody")?;
    let waited = acquired(&lease)?.duration_since(last);
    println!("a killed prover was replaced {waited:#} after its last renewal");
    ensure!(waited >= SignedDuration::try_from(LEASE_DURATION)?, "taken too early: {waited:#}");
    for (node, agent) in &*agents {
        if *node == second {
            let line = agent.until_says("gate: still open, but not confirmed: injection unknown: ").await?;
            ensure!(line.contains(&format!("the prover on node {first} stopped renewing the Lease")), "{line}");
            agent.until_says("this agent is the prover: its holder stopped renewing it").await?;
        }
        ensure!(agent.times_said("gate: closed") == 0);
        agent.answers(200).await?;
    }
    // Back, in the same boot: three again.
    dead = harness.start_as(agent_of(first, "boot-1"), &harness.cluster.kubeconfig_as(GATE, first).await?)?;
    dead.until_says("gate: open: proven").await?;
    agents.insert(first.to_owned(), dead);
    Ok(())
}

/// Stopped, it knows nothing of the time that has passed when it goes on.
async fn hangs(harness: &Harness, agents: &mut Agents) -> Result<()> {
    let second = holder(&harness.leases().await?.get(GATE).await?).context("nobody")?;
    let hanging = &agents[&second];
    hanging.signal(Signal::SIGSTOP)?;
    let lease =
        harness.until_lease("somebody else's", |lease| holder(lease).is_some_and(|node| node != second)).await?;
    let (third, taken) = (holder(&lease).context("nobody")?, acquired(&lease)?);
    hanging.signal(Signal::SIGCONT)?;
    let line = hanging.until_says("no longer the prover: ").await?;
    println!("{line}");
    hanging.answers(200).await?;

    // Two renewals later it is the third's still.
    for _ in 0..2 {
        let before = renewed(&harness.leases().await?.get(GATE).await?)?;
        let lease = harness.until_lease("renewed", |lease| renewed(lease).is_ok_and(|at| at > before)).await?;
        ensure!(holder(&lease).as_ref() == Some(&third), "{lease:?}");
    }
    let writes: Vec<AuditedRequest> = harness
        .requests_of(&second)
        .await?
        .into_iter()
        .filter(|request| request.resource == "leases" && request.verb == "patch" && request.received > taken)
        .collect();
    println!("writes of the one that woke up: {:?}", writes.iter().map(|write| write.code).collect::<Vec<_>>());
    ensure!(writes.iter().all(|write| write.code == Some(409)), "{writes:?}");
    Ok(())
}

/// Asked to end, it gives the Lease up: no other agent has to wait until it expires.
async fn leaves(harness: &Harness, agents: &mut Agents) -> Result<()> {
    let third = holder(&harness.leases().await?.get(GATE).await?).context("nobody")?;
    let mut leaving = agents.remove(&third).context("an agent that nobody started")?;
    ensure!(leaving.terminate().await? == 0, "{}", leaving.said());
    ensure!(leaving.times_said("gave up the Lease") == 1, "{}", leaving.said());
    let lease = harness.until_lease("somebody else's", |lease| holder(lease).is_some_and(|node| node != third)).await?;
    let fourth = holder(&lease).context("nobody")?;
    agents[&fourth].until_says("this agent is the prover: the Lease was free").await?;
    for agent in agents.values() {
        agent.answers(200).await?;
    }
    Ok(())
}

async fn loses_its_lease(harness: &Harness, agents: &Agents) -> Result<()> {
    let before = harness.leases().await?.get(GATE).await?.metadata.uid;
    harness.leases().await?.delete(GATE, &DeleteParams::default()).await?;
    let made =
        harness.until_lease("made again", |lease| lease.metadata.uid != before && holder(lease).is_some()).await?;
    ensure!(made.metadata.annotations.is_some_and(|all| all[VERDICT].contains(r#""gate":"open","basis":"proven""#)));
    for agent in agents.values() {
        ensure!(agent.times_said("gate: closed") == 0);
        agent.answers(200).await?;
    }
    Ok(())
}

fn renewed(lease: &Lease) -> Result<Timestamp> {
    Ok(lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).context("never renewed")?.0)
}

fn acquired(lease: &Lease) -> Result<Timestamp> {
    Ok(lease.spec.as_ref().and_then(|spec| spec.acquire_time.as_ref()).context("never acquired")?.0)
}

/// A prover of another release, played by hand.
#[tokio::test]
async fn a_verdict_in_another_format_is_reported_and_changes_nothing() -> Result<()> {
    let harness = Harness::set().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    publish(&harness, json!({"version": 1, "gate": "settling"})).await?;
    let agent = harness.start_apart(agent_of("node-0", "boot-1"), "agent").await?;
    let story = async {
        // What was there before counts for nothing until its holder shows a sign of life.
        agent
            .until_says("gate: waiting: injection unknown: waiting for the prover on node elsewhere to renew the Lease")
            .await?;
        // Fields that this release does not know do no harm.
        let more = json!({"version": 1, "gate": "open", "basis": "proven", "since": "noon", "taintSuppressedBy": {}, "more": {"a": [1]}});
        publish(&harness, more).await?;
        agent.until_says("gate: open: proven").await?;
        harness.until_node("node-0", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;

        let unreadable =
            "injection unknown: the published verdict cannot be used: it is in format 99, and this version reads 1";
        publish(&harness, json!({"version": 99, "verdict": "no"})).await?;
        agent.until_says(&format!("gate: still open, but not confirmed: {unreadable}")).await?;
        ensure!(agent.answers(200).await?["prover"] == "elsewhere");
        let refused = json!({"version": 1, "gate": "closed", "failedProbes": [
            {"probe": "injection", "result": "not-ready", "reason": "by hand"},
        ]});
        publish(&harness, refused).await?;
        agent.until_says("gate: closed: injection not ready: by hand").await?;
        agent.answers(503).await?;
        publish(&harness, json!({"version": 99, "verdict": "yes"})).await?;
        agent.until_says(&format!("gate: waiting: {unreadable}")).await?;
        agent.answers(503).await?;
        publish(&harness, json!("no verdict at all")).await?;
        agent
            .until_says("gate: waiting: injection unknown: the published verdict cannot be used: it cannot be read")
            .await?;
        ensure!(
            harness
                .requests_of("agent")
                .await?
                .iter()
                .all(|request| request.resource != "leases" || request.verb != "patch")
        );
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())
}

/// Renews the Lease for an agent elsewhere, with this verdict.
async fn publish(harness: &Harness, verdict: Value) -> Result<()> {
    let lease = json!({
        "metadata": {"name": GATE, "annotations": {VERDICT: verdict.to_string()}},
        "spec": {
            "holderIdentity": "elsewhere/linkerd-gate-1/boot-9",
            "leaseDurationSeconds": 15,
            "renewTime": MicroTime(Timestamp::now()),
        },
    });
    let leases = harness.leases().await?;
    if leases.get_opt(GATE).await?.is_none() {
        leases.create(&PostParams::default(), &object(lease)?).await?;
    } else {
        leases.patch(GATE, &PatchParams::default(), &Patch::Merge(lease)).await?;
    }
    Ok(())
}

/// As during an update that starts the new one first.
#[tokio::test]
async fn two_agents_on_one_node_do_not_fight_over_it() -> Result<()> {
    let harness = Harness::set().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    let port = free_port()?;
    let of = |pod: &str| agent_of("node-0", "boot-1").with("POD_NAME", pod);
    let mut old = harness.start_apart(of("old").listening_on(port), "old").await?;
    old.until_says("gate: waiting: injection not ready").await?;
    let new = harness.start_apart(of("new").listening_on(port), "new").await?;
    let beside = harness.start_apart(of("beside"), "beside").await?;
    let story = async {
        new.until_says("HTTP server not started yet").await?;
        for agent in [&new, &beside] {
            agent.until_says("gate: waiting: injection not ready").await?;
        }
        harness.injector.recover().await?;
        for agent in [&old, &new, &beside] {
            agent.until_says("gate: open: proven").await?;
        }
        harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
        harness.injector.suffer(Fault::Absent).await?;
        harness.move_injector(true).await?;
        for agent in [&old, &new, &beside] {
            agent.until_says("gate: closed: injection not ready").await?;
        }
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&old, &new, &beside]))?;
    ensure!(old.terminate().await? == 0);
    new.until_says("HTTP server started").await.with_context(|| new.said())?;
    new.answers(503).await?;

    let mut written = Vec::new();
    let mut lost = 0;
    for account in ["old", "new", "beside"] {
        for request in harness.requests_of(account).await? {
            if request.verb == "patch" && request.resource == "nodes" {
                match request.code {
                    Some(200) => written.push(request),
                    // By the node's version, or by its taints.
                    Some(409 | 422) => lost += 1,
                    _ => bail!("{request:?}"),
                }
            }
        }
    }
    println!("{lost} lost races");
    ensure!(written.len() == 2, "closed once and opened once: {written:?}");
    // Of three agents one wins each of the two writes.
    ensure!(lost <= 4, "each that was not first loses a write once at most: {lost}");
    for agent in [&old, &new, &beside] {
        ensure!(agent.times_said("ERROR") == 0, "a lost race is nobody's trouble: {}", agent.said());
    }
    Ok(())
}
