//! Two replicas, of which one acts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::standin::Fault;
use nix::sys::signal::Signal;

use super::harness::{controller, logs_of};
use super::workloads::{
    Pods, SHOP, all_bare, all_meshed, opened, recover, removals, set, succeeded, unscheduled, until_pods,
};

const PODS: usize = 16;

#[tokio::test]
async fn one_replica_acts_at_a_time_and_a_paused_one_does_nothing() -> Result<()> {
    let harness = opened().await?;
    recover(&harness).await?;
    let mut first = harness.start_apart(controller("first"), "first").await?;
    first.until_said("this replica leads").await?;
    let mut second = harness.start_apart(controller("second"), "second").await?;
    let story = async {
        // It holds a proof, which is good for longer than it is stopped.
        first.until_said("proof: open").await?;
        first.signal(Signal::SIGSTOP)?;
        let stopped = Instant::now();
        harness.injector.suffer(Fault::Absent).await?;
        harness.create::<ReplicaSet>(SHOP, unscheduled(set("web", u32::try_from(PODS)?))).await?;
        until_pods(&harness, "bare", |pods| all_bare(pods, PODS)).await?;
        recover(&harness).await?;
        second.until_said("this replica leads").await?;
        let took = stopped.elapsed();
        // Renewed up to 5 s before, and free 15 s after that; how much later depends on the machine.
        ensure!(took >= Duration::from_secs(9), "it took over after {took:?}");
        first.signal(Signal::SIGCONT)?;
        first.until_said("no longer leads: ").await?;
        until_pods(&harness, "all meshed", |pods| all_meshed(pods, PODS)).await?;
        let late = removals(&harness.requests_of("first").await?).len();
        ensure!(late == 0, "{late} removals by a replica that was stopped meanwhile");
        let requests = harness.requests_of("second").await?;
        let all: Vec<_> = succeeded(&removals(&requests)).into_iter().cloned().collect();
        let names: BTreeSet<_> = all.iter().map(|request| request.name.as_str()).collect();
        ensure!(names.len() == PODS && all.len() == PODS, "not each of {PODS} pods once, but {} removals", all.len());
        ensure!(
            first.metric("linkerd_gate_leader", "").await? == 0 && second.metric("linkerd_gate_leader", "").await? == 1
        );
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&first, &second]))?;

    let story = async {
        harness.injector.suffer(Fault::Absent).await?;
        harness.create::<ReplicaSet>(SHOP, unscheduled(set("later", 2))).await?;
        until_pods(&harness, "two more, bare", |pods| pods.len() == PODS + 2 && meshed_of(pods) == PODS).await?;
        let asked = Instant::now();
        let code = second.terminate().await?;
        ensure!(code == 0, "it ended with {code}");
        ensure!(second.said().contains("gave up the Lease"), "{}", second.said());
        // Not again: a third time.
        while first.times_said("this replica leads") < 2 {
            first.until_says("this replica leads").await?;
        }
        ensure!(asked.elapsed() < Duration::from_secs(15), "a Lease that was given up was waited for");
        recover(&harness).await?;
        until_pods(&harness, "all meshed", |pods| all_meshed(pods, PODS + 2)).await?;
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&first, &second]))?;
    let code = first.terminate().await?;
    ensure!(code == 0, "it ended with {code}:\n{}", first.said());
    Ok(())
}

fn meshed_of(pods: &Pods) -> usize {
    pods.values().filter(|pod| meshed(pod)).count()
}
