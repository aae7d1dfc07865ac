//! SIGTERM and SIGINT end `wait` at any point, whatever is in flight. (How fast is a figure of `make bench`.)

use std::time::{Duration, Instant};

use linkerd_gate_kit::standin::Fault;
use nix::sys::signal::Signal;

use super::missed;
use crate::support::{Ended, Linkerd, Running};

/// A third of the 30 s after which kubelet kills (`terminationGracePeriodSeconds`): far more than it takes, and yet no pod
/// would be killed.
const PROMPT: Duration = Duration::from_secs(10);

async fn ended_by(run: Running, signal: Signal) -> Ended {
    let sent = Instant::now();
    run.signal(signal);
    let ended = run.end().await;
    assert!(sent.elapsed() < PROMPT, "{signal} took {:?}; it said:\n{}", sent.elapsed(), ended.said);
    assert_eq!(ended.code, 143, "{signal}: {}", ended.said);
    assert!(ended.termination_log.contains("nothing was opened"), "{}", ended.termination_log);
    ended
}

#[tokio::test]
async fn a_signal_ends_wait_with_143_while_probes_fail() {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    linkerd.identity.suffer(Fault::Absent).await.unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut run = missed().asking(&linkerd).with("ON_MISSED", "open").start();
        run.until("refuses connections").await;
        ended_by(run, signal).await;
    }
}

#[tokio::test]
async fn a_signal_does_not_await_what_is_in_flight() {
    let linkerd = Linkerd::start().await;
    for fault in [Fault::Hang, Fault::HangAfterHandshake] {
        linkerd.injector.suffer(fault).await.unwrap();
        linkerd.identity.suffer(fault).await.unwrap();
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let connections = linkerd.identity.connections();
            let mut run = missed().asking(&linkerd).with("ON_MISSED", "open").start();
            run.until("created without Linkerd's proxy").await;
            run.while_it_holds(linkerd.identity.until_connections(connections + 1)).await;
            let ended = ended_by(run, signal).await;
            // No stopwatch tells a prompt end from one that awaits its request on every machine. The log does: a look that
            // ends logs it, and this one would end at its own limit only.
            assert!(!ended.said.contains("did not"), "{signal}, {fault:?}: the look went on: {}", ended.said);
        }
    }
}

#[tokio::test]
async fn a_signal_ends_the_wait_of_a_pod_that_is_held_for_good() {
    let linkerd = Linkerd::start().await;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut run = missed().asking(&linkerd).with("ON_MISSED", "hold").start();
        run.until("must be created again").await;
        ended_by(run, signal).await;
    }
}
