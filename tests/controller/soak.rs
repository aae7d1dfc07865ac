//! Days in minutes: owners come bare and go, nodes boot, the injector goes and comes back, and neither the controller nor the prover grows.
//!
//! A minute of it by default, or as long as `LINKERD_GATE_TESTS_SOAK` says (`1h`; `make soak`). What is held to account is what one
//! round leaves behind for ever: a few kilobytes a round are megabytes in an hour.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, DeleteParams};
use linkerd_gate_kit::standin::Fault;

use super::harness::{Agent, Harness, agent_of, controller, is_closed, logs_of};
use super::workloads::{
    Pods, SHOP, all_bare, all_meshed, job, opened, recover, set, stateful, unscheduled, until_pods, waiting,
};

/// Not before this many rounds: caches fill, and the allocator finds its size.
const WARM: usize = 3;

/// What a process may have more at the end than when it was warm, in KiB.
const GROWTH: u64 = 2048;

/// How often a line is printed.
const PRINTED_EVERY: Duration = Duration::from_mins(1);

/// Resident KiB after a round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    controller: u64,
    prover: u64,
}

/// What lives as long as the soak does, and the agent that does not.
struct Soak {
    harness: Harness,
    controller: Agent,
    prover: Agent,
    booted: Option<Agent>,
    round: usize,
}

#[tokio::test]
async fn nothing_grows_while_owners_and_boots_come_and_go() -> Result<()> {
    let lasts = match std::env::var("LINKERD_GATE_TESTS_SOAK") {
        Ok(text) => humantime::parse_duration(&text).with_context(|| format!("LINKERD_GATE_TESTS_SOAK is {text:?}"))?,
        Err(_) => Duration::from_mins(1),
    };
    let mut soak = Soak::begin().await?;
    let (began, mut printed) = (Instant::now(), Instant::now());
    let mut samples: Vec<Sample> = Vec::new();
    while began.elapsed() < lasts || samples.len() < WARM + 2 {
        let round = soak.round().await.with_context(|| format!("round {}", soak.round));
        round.with_context(|| logs_of([&soak.controller, &soak.prover].into_iter().chain(&soak.booted)))?;
        let sample = Sample { controller: soak.controller.resident()?, prover: soak.prover.resident()? };
        samples.push(sample);
        if samples.len() == WARM || printed.elapsed() >= PRINTED_EVERY {
            printed = Instant::now();
            println!("{:>5} s, round {}: {sample:?} KiB", began.elapsed().as_secs(), samples.len());
        }
    }
    println!("{:>5} s, {} rounds: {:?} KiB", began.elapsed().as_secs(), samples.len(), samples.last());
    for (who, of) in [("controller", Sample::controller as fn(&Sample) -> u64), ("prover", Sample::prover)] {
        // The least of some, before and after: what is free again by the next round is no growth.
        let least = |samples: &[Sample]| samples.iter().map(of).min().unwrap_or_default();
        let part = (samples.len() - WARM).div_ceil(4);
        let (before, after) = (least(&samples[WARM..WARM + part]), least(&samples[samples.len() - part..]));
        println!("{who}: {before} KiB when warm, {after} KiB at the end");
        ensure!(after <= before + GROWTH, "the {who} grew from {before} to {after} KiB in {} rounds", samples.len());
    }
    Ok(())
}

// === impl Sample ===

impl Sample {
    fn controller(&self) -> u64 {
        self.controller
    }

    fn prover(&self) -> u64 {
        self.prover
    }
}

// === impl Soak ===

impl Soak {
    async fn begin() -> Result<Self> {
        let harness = opened().await?;
        harness.cluster.start_kwok().await?;
        harness.cluster.fake_nodes(2).await?;
        for node in ["prover", "boots"] {
            harness.node_of_an_earlier_boot(node).await?;
        }
        recover(&harness).await?;
        let prover = harness.start_apart(agent_of("prover", "boot-0"), "prover").await?;
        harness.until_node("prover", "open", |node| !is_closed(node)).await?;
        let settings = controller("one").with("REPAIR_COOLDOWN", "1s");
        let controller = harness.start_apart(settings, "controller").await?;
        controller.until_said("proof: open").await.with_context(|| controller.said())?;
        Ok(Self { harness, controller, prover, booted: None, round: 0 })
    }

    /// The injector goes, a node boots, owners come and their pods are bare; the injector is back, all are meshed, and the owners go.
    async fn round(&mut self) -> Result<()> {
        self.round += 1;
        let round = self.round;
        let harness = &self.harness;
        harness.injector.suffer(Fault::Absent).await?;
        harness.move_injector(false).await?;
        if let Some(mut agent) = self.booted.take() {
            agent.kill().await?;
        }
        let boot = format!("boot-{round}");
        let booted = harness.start(agent_of("boots", &boot))?;
        harness.until_node("boots", "closed", is_closed).await?;
        let [web, db, once] = ["web", "db", "once"].map(|name| format!("{name}-{round}"));
        harness.create::<ReplicaSet>(SHOP, unscheduled(set(&web, 4))).await?;
        harness.create::<StatefulSet>(SHOP, unscheduled(stateful(&db, 2))).await?;
        harness.create::<Job>(SHOP, unscheduled(waiting(job(&once, 2)))).await?;
        self.controller.until_said(&format!("owner=ReplicaSet {web} held=4")).await?;
        // Before the injector is back: beside a meshed pod of its Job a bare one stays, and is for a person.
        self.controller.until_said(&format!("suspended Job namespace=shop owner=Job {once}")).await?;
        until_pods(harness, "bare", |pods| all_bare(pods, 6)).await?;
        recover(harness).await?;
        until_pods(harness, "meshed", |pods| all_meshed(pods, 8)).await?;
        let opened = |node: &k8s_openapi::api::core::v1::Node| super::harness::opened(node).as_ref() == Some(&boot);
        harness.until_node("boots", "open", opened).await?;
        self.booted = Some(booted);
        let client = harness.cluster.client().await?;
        let background = DeleteParams::background();
        Api::<ReplicaSet>::namespaced(client.clone(), SHOP).delete(&web, &background).await?;
        Api::<StatefulSet>::namespaced(client.clone(), SHOP).delete(&db, &background).await?;
        Api::<Job>::namespaced(client, SHOP).delete(&once, &background).await?;
        until_pods(harness, "gone", Pods::is_empty).await?;
        Ok(())
    }
}
