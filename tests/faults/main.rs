//! The genuine program through faults that are enumerated, not drawn: a controller that is killed after each of its writes in turn,
//! before it learns that the write is done; a watch that ends instead of each of its events; an API server that lags. And a cluster
//! that refuses what comes instead.
//!
//! The API server is the kit's, in memory: one for each place where a fault can be, all at once. A boot's first seconds are played:
//! pods of several owners are held, Linkerd is back, and the controller has them created again. Whatever the fault, in the end each
//! owner's pod is in the mesh, none was deleted twice, and what is not the controller's to touch is as it was.

mod world;

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use linkerd_gate_kit::memory_api::{Faults, WatchFault};

use self::world::{HELD, World};

/// What watches tell in a story: each held pod comes, goes, and comes again; two parts of Linkerd answer.
const EVENTS: usize = 3 * HELD + 2;

/// How many worlds there are at a time: each has one process, which waits for the most part.
const AT_ONCE: usize = 12;

/// Plays the story once for each place. In most of them the fault has to happen: from one run to the next a story has some writes or events
/// more or less.
async fn at_each<F>(places: usize, story: impl Fn(usize) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    let stories = (1..=places).map(|place| {
        let played = story(place);
        async move {
            played
                .await
                .and_then(|world| world.check().map(|()| world.happened()))
                .with_context(|| format!("at {place}"))
        }
    });
    let happened: Vec<bool> = stream::iter(stories).buffer_unordered(AT_ONCE).try_collect().await?;
    let count = happened.iter().filter(|happened| **happened).count();
    println!("{count} of {places} places");
    ensure!(count > HELD, "the fault happened in {count} of {places} stories");
    Ok(())
}

/// How many writes there are without any fault.
async fn undisturbed() -> Result<usize> {
    let world = World::start(Faults::default()).await?;
    let controller = world.controller()?;
    world.until_all_are_meshed(&controller).await?;
    world.check()?;
    ensure!(world.deleted() == HELD, "{} pods were deleted, and {HELD} were held", world.deleted());
    Ok(world.writes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_after_any_write_loses_nothing() {
    let writes = undisturbed().await.unwrap();
    assert!(writes > 2 * HELD, "{writes}");
    let story = async |write| {
        let world = World::start(Faults::silent_after(write)).await?;
        let controller = world.controller()?;
        tokio::select! {
            () = world.until_silent() => {}
            // It had less to write this time.
            settled = world.until_all_are_meshed(&controller) => return settled.map(|()| world),
        }
        controller.kill().await?;
        world.speak_again();
        let next = world.controller()?;
        world.until_all_are_meshed(&next).await?;
        Ok(world)
    };
    at_each(writes, story).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_ends_before_any_event_loses_nothing() {
    for fault in [WatchFault::Closed, WatchFault::Expired] {
        let story = async |event| {
            let world = World::start(Faults::ending_a_watch(event, fault)).await?;
            let controller = world.controller()?;
            world.until_all_are_meshed(&controller).await?;
            Ok(world)
        };
        at_each(EVENTS, story).await.unwrap_or_else(|error| panic!("{fault:?} {error:#}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_lags_makes_no_difference_but_time() {
    let world = World::start(Faults::lagging(Duration::from_millis(1500))).await.unwrap();
    let controller = world.controller().unwrap();
    world.until_all_are_meshed(&controller).await.unwrap();
    world.check().unwrap();
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
