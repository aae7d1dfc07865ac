//! The genuine program through faults that are enumerated, not drawn: a controller or an agent that is killed after each of its writes
//! in turn, before it learns that the write is done; a watch that ends instead of each of its events; an API server that lags. And a
//! cluster that refuses what comes instead.
//!
//! The API server is the kit's, in memory: one for each place where a fault can be, all at once. A boot's first seconds are played.
//! For the controller, pods of several owners are held, Linkerd is back, and the controller has them created again. Whatever the fault,
//! in the end each owner's pod is in the mesh, none was deleted twice, no Job counts a failure, and what is not the controller's to touch
//! is as it was. For an agent, its node closes, and opens by a proof.

mod node;
mod world;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use linkerd_gate_kit::memory_api::{Faults, WatchFault};
use serde_json::Value;

use self::node::NodeWorld;
use self::world::{HELD, HELD_WITH_JOBS, World, within_patience};

/// How many worlds there are at a time: each has one process, which waits for the most part.
const AT_ONCE: usize = 20;

/// Plays the story once for each place where its fault can be, and returns what was found at them.
async fn at_each<P, T, F>(places: impl IntoIterator<Item = P>, story: impl Fn(P) -> F) -> Result<Vec<T>>
where
    P: Debug + Clone,
    F: Future<Output = Result<T>>,
{
    let stories = places.into_iter().map(|place| {
        let played = story(place.clone());
        async move { played.await.with_context(|| format!("at {place:?}")) }
    });
    stream::iter(stories).buffer_unordered(AT_ONCE).try_collect().await
}

/// The story without any fault.
async fn undisturbed() -> Result<World> {
    let world = World::start(Faults::default()).await?;
    let controller = world.controller()?;
    world.until_all_are_meshed(&controller).await?;
    world.check()?;
    Ok(world)
}

/// Kills the controller after one write, and returns which one that was. It comes in any case: once there is nothing else to write, the
/// controller renews its Lease.
async fn killed(faults: Faults) -> Result<String> {
    let world = World::start(faults).await?;
    let controller = world.controller()?;
    within_patience(world.faults().until_silent()).await.context("the write has not come")?;
    controller.kill().await?;
    world.faults().speak_again();
    let next = world.controller()?;
    world.until_all_are_meshed(&next).await?;
    world.check()?;
    world.faults().silenced_by().context("no write")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_after_any_write_loses_nothing() {
    let writes = undisturbed().await.unwrap().faults().written();
    // A pod of each owner is deleted, and that of one Job; the other Job is suspended and resumed.
    for (kind, least) in
        [("DELETE /api/v1/pods", HELD + 1), ("PATCH /api/v1/pods", 1), ("PATCH /apis/batch/v1/jobs", 2)]
    {
        let count = writes.iter().filter(|write| *write == kind).count();
        assert!(count >= least, "{kind}: {count} of {writes:#?}");
    }
    let after = at_each(1..=writes.len(), |write| killed(Faults::silent_after(write))).await.unwrap();
    // The order differs from one run to the next: what never was the last write is made to be.
    let missed: BTreeSet<String> = writes.iter().filter(|write| !after.contains(write)).cloned().collect();
    println!("{} writes, and {} of a kind that was not among them: {after:#?} {missed:?}", after.len(), missed.len());
    at_each(missed, |kind| async move { killed(Faults::silent_after_first(&kind)).await }).await.unwrap();
}

/// A node boots while Linkerd is down, until its agent has said that it opens it.
async fn undisturbed_boot() -> Result<NodeWorld> {
    let world = NodeWorld::start(Faults::default()).await?;
    let agent = world.agent()?;
    world.until_open(&agent, None).await?;
    within_patience(world.faults().until_written("POST /api/v1/events GateOpened")).await?;
    Ok(world)
}

/// Kills the agent after one write, and returns which one that was, and what is left on the node in the end.
async fn killed_agent(faults: Faults) -> Result<(String, Value)> {
    let world = NodeWorld::start(faults).await?;
    let agent = world.agent()?;
    within_patience(world.faults().until_silent()).await.context("the write has not come")?;
    agent.kill().await?;
    let lease = world.lease();
    world.faults().speak_again();
    let next = world.agent()?;
    world.until_open(&next, lease.as_ref()).await?;
    Ok((world.faults().silenced_by().context("no write")?, world.check().await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_after_any_write_opens_by_a_proof() {
    let world = undisturbed_boot().await.unwrap();
    let (writes, expected) = (world.faults().written(), world.check().await.unwrap());
    let kinds = [
        ("PATCH /api/v1/nodes", 2),
        ("POST /apis/coordination.k8s.io/v1/leases", 1),
        ("PATCH /apis/coordination.k8s.io/v1/leases", 1),
        ("POST /api/v1/events GateClosed", 1),
        ("POST /api/v1/events GateOpened", 1),
    ];
    for (kind, least) in kinds {
        let count = writes.iter().filter(|write| *write == kind).count();
        assert!(count >= least, "{kind}: {count} of {writes:#?}");
    }
    let mut ends = at_each(1..=writes.len(), |write| killed_agent(Faults::silent_after(write))).await.unwrap();
    let is_missed = |write: &&String| !ends.iter().any(|(after, _)| after == *write);
    let missed: BTreeSet<String> = writes.iter().filter(is_missed).cloned().collect();
    println!("{} writes, and {} of a kind that was not among them", writes.len(), missed.len());
    let story = |kind: String| async move { killed_agent(Faults::silent_after_first(&kind)).await };
    ends.extend(at_each(missed, story).await.unwrap());
    for (after, left) in ends {
        assert_eq!(left, expected, "after {after}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_ends_before_any_event_loses_nothing() {
    let events = undisturbed().await.unwrap().faults().events();
    // Each held pod comes, goes, and comes again; two parts of Linkerd answer.
    assert!(events >= 3 * HELD_WITH_JOBS + 2, "{events}");
    println!("{events} events");
    let faults = [WatchFault::Closed, WatchFault::Expired];
    let places = (1..=events).flat_map(|event| faults.map(|fault| (event, fault)));
    let story = async |(event, fault)| {
        let world = World::start(Faults::ending_a_watch(event, fault)).await?;
        let controller = world.controller()?;
        // It comes in any case, as the write does: Leases are watched.
        within_patience(world.faults().until_cut()).await.context("the event has not come")?;
        world.until_all_are_meshed(&controller).await?;
        world.check()
    };
    at_each(places, story).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_lags_makes_no_difference_but_time() {
    let world = World::start(Faults::lagging(Duration::from_millis(1500))).await.unwrap();
    let controller = world.controller().unwrap();
    world.until_all_are_meshed(&controller).await.unwrap();
    world.check().unwrap();
    // The server delivered each held pod's end late, and its beginning and its successor's too.
    assert!(world.faults().late() >= 3 * HELD_WITH_JOBS, "{}", world.faults().late());
}

/// Not a fault of the API server's: it accepted the held pods, and refuses the injected ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_refuses_a_replacement_is_reported_on_its_owner() {
    let world = World::start_refusing().await.unwrap();
    let controller = world.controller().unwrap();
    let logged = world.until_refusals_are_reported(&controller).await.unwrap();
    for cause in ["pod_security", "quota", "admission", "annotation"] {
        let line = logged.lines().find(|line| line.ends_with(&format!(" cause={cause}"))).expect(&logged);
        assert!(line.contains("pod not created again: ") && line.contains(" namespace=shop owner="), "{line}");
    }
    assert_eq!(logged.matches("pod not created again").count(), HELD, "{logged}");
    assert_eq!(world.deleted(), HELD);
}
