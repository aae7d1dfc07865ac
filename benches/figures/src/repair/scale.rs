//! Ten thousand pods, a thousand of them missed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use linkerd_gate_kit::standin::Fault;
use tokio::time::{Instant, sleep};

use super::{HURRIED, QUIET, SHOP, check_meshed, create, load, number, owner, set, until_pods};
use crate::agents::{Harness, PATIENCE, ports};
use crate::gate::Gate;
use crate::said;
use crate::table::{GATE, Table, Target};

/// How many ReplicaSets, each of so many pods: those that are meshed, that are missed, and that do not ask.
const MESHED: usize = 40;
const MISSED: usize = 10;
const NOT_ASKING: usize = 50;
const PODS_OF_EACH: usize = 100;

/// A node bears 250 pods.
const NODES: usize = 50;

/// How long it is watched, without a controller and with one.
const WINDOW: Duration = Duration::from_mins(1);

/// The cluster is at rest once its API server uses so little of a CPU for that long: kwok has played all pods by then.
const REST: Duration = Duration::from_secs(5);
const REST_SHARE: f64 = 0.1;

/// In MiB.
const MEMORY_LIMIT: f64 = 64.0;

/// How often it is asked how many missed pods it knows.
const ASK_EVERY: Duration = Duration::from_millis(20);

pub(super) async fn measure(gate: &Gate, table: &mut Table) -> Result<()> {
    let harness = set(NODES, &HURRIED).await?;
    fill(&harness).await?;
    until_at_rest(&harness).await?;

    said(&format!("repair: the API server with a controller, {} s; load {}", WINDOW.as_secs(), load()?));
    let began = Instant::now();
    let before = harness.api_server_cpu()?;
    let mut controller = harness.start_controller(gate.full(), ports(1)[0]).await?;
    let looked = controller.until_said("first scan complete").await?;
    let missed = number(MISSED * PODS_OF_EACH);
    loop {
        let counted = controller.metric("linkerd_gate_missed_pods").await?;
        if counted.to_bits() == missed.to_bits() {
            break;
        }
        ensure!(began.elapsed() < WINDOW, "it knows {counted} of {missed} missed pods:\n{}", controller.said());
        sleep(ASK_EVERY).await;
    }
    let reported = Instant::now();
    let at_report = harness.api_server_cpu()?.saturating_sub(before);
    cpu_of_window(&harness, began).await?;
    let busy = harness.api_server_cpu()?.saturating_sub(before);
    let own = controller.process.cpu()?;
    let memory = controller.process.memory()?;
    drop(controller);
    // After it, and not before: by now kwok has nothing left to do.
    until_at_rest(&harness).await?;
    said(&format!("repair: without one, {} s; load {}", WINDOW.as_secs(), load()?));
    let idle = cpu_of_window(&harness, Instant::now()).await?;

    let how = "from the process's start to its log line \"first scan complete\"; kwok plays the nodes, and the clusters' other programs \
               share the machine";
    table.figure("10,000 pods: all looked at", "s", how).value(GATE, (looked - began).as_secs_f64());
    let how = "from the process's start until /metrics shows all 1,000 missed pods, asked every 20 ms";
    table.figure("10,000 pods, 1,000 missed: all reported", "s", how).value(GATE, (reported - began).as_secs_f64());
    let how = "VmHWM of /proc/PID/status after a minute: the most that it ever had, its first lists included";
    table
        .figure("10,000 pods: the controller's memory, most", "MiB", how)
        .value(GATE, memory.most)
        .target("≤ 64", Target::Kept(memory.most <= MEMORY_LIMIT));
    let how = "VmRSS of the same, at that time";
    table.figure("10,000 pods: the controller's memory", "MiB", how).value(GATE, memory.resident);
    let how = "schedstat of its threads over that minute";
    table.figure("10,000 pods: the controller's CPU in a minute", "s", how).value(GATE, own.as_secs_f64());
    let how = "schedstat of kube-apiserver's threads";
    table.figure("10,000 pods: the API server's CPU until then", "s", how).value(GATE, at_report.as_secs_f64());
    let how = "schedstat of kube-apiserver's threads over a minute from its start, Events of 1,000 pods included";
    table.figure("10,000 pods: the API server's CPU in a minute", "s", how).value(GATE, busy.as_secs_f64());
    let how = "the same over a minute after it";
    table.figure("10,000 pods: likewise without a controller", "s", how).value(GATE, idle.as_secs_f64());
    tell_requests(&harness, table)
}

/// Creates the pods.
async fn fill(harness: &Harness) -> Result<()> {
    let sets = |name: &str, from: usize, count: usize| {
        let set = |place: usize| {
            ("ReplicaSet", owner("ReplicaSet", &format!("{name}-{place}"), PODS_OF_EACH, (from + place) % NODES))
        };
        (0..count).map(set).collect::<Vec<_>>()
    };
    said(&format!("repair: making {} pods", (MESHED + MISSED + NOT_ASKING) * PODS_OF_EACH));
    harness.rise().await?;
    create(harness, QUIET, sets("quiet", 0, NOT_ASKING)).await?;
    create(harness, SHOP, sets("meshed", 0, MESHED)).await?;
    until_pods(harness, SHOP, MESHED * PODS_OF_EACH).await?;
    until_pods(harness, QUIET, NOT_ASKING * PODS_OF_EACH).await?;
    // Its endpoints stay: that the webhook has nobody to call is what the dry-run shows.
    harness.injector.suffer(Fault::Absent).await?;
    create(harness, SHOP, sets("missed", MESHED, MISSED)).await?;
    until_pods(harness, SHOP, (MESHED + MISSED) * PODS_OF_EACH).await?;
    check_meshed(harness, SHOP, MESHED * PODS_OF_EACH).await
}

async fn until_at_rest(harness: &Harness) -> Result<()> {
    let began = Instant::now();
    loop {
        let before = harness.api_server_cpu()?;
        sleep(REST).await;
        let share = harness.api_server_cpu()?.saturating_sub(before).as_secs_f64() / REST.as_secs_f64();
        if share < REST_SHARE {
            return Ok(());
        }
        ensure!(
            began.elapsed() < PATIENCE * 2,
            "the API server uses {share:.2} of a CPU, and nobody asks for anything"
        );
    }
}

/// The API server's CPU time from now until a window from `began` has passed.
async fn cpu_of_window(harness: &Harness, began: Instant) -> Result<Duration> {
    let before = harness.api_server_cpu()?;
    tokio::time::sleep_until(began + WINDOW).await;
    Ok(harness.api_server_cpu()?.saturating_sub(before))
}

fn tell_requests(harness: &Harness, table: &mut Table) -> Result<()> {
    let requests = harness.requests_of_controllers()?;
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for request in &requests {
        *kinds.entry(format!("{} {}", request.verb, request.resource)).or_default() += 1;
    }
    for (kind, count) in &kinds {
        said(&format!("repair: in that minute {count} × {kind}"));
    }
    let how = "audit log, over that minute; Events are written at 25 a second";
    let (events, others): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.resource == "events");
    table.figure("10,000 pods: the controller's requests in a minute", "", how).value(GATE, number(others.len()));
    table.figure("10,000 pods: and its Events", "", how).value(GATE, number(events.len()));
    Ok(())
}
