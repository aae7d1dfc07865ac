//! Every fault of injector and identity: each has a line that no other fault has, and none opens the gate.

use std::collections::BTreeSet;
use std::time::Duration;

use linkerd_gate_kit::standin::{Certificates, Fault, Flaw};

use super::missed;
use crate::support::Linkerd;

/// With `ON_MISSED=open` every mistake would be an exit with 0.
async fn logged_line(linkerd: &Linkerd, verified: bool, text: &str) -> String {
    let wait = missed().asking(linkerd).with("ON_MISSED", "open");
    let mut run = if verified { wait.trusting(linkerd) } else { wait }.start();
    let line = run.until(text).await;
    assert!(run.is_running(), "{line}");
    line
}

#[tokio::test]
async fn each_injector_fault_has_a_separate_reason_and_opens_nothing() {
    let linkerd = Linkerd::start().await;
    let mut reasons = BTreeSet::new();
    for (fault, verified, text) in [
        (Fault::Absent, false, "refuses connections"),
        (Fault::Hang, false, "the TLS handshake did not end in 2s"),
        (Fault::HangAfterHandshake, false, "accepted the request and did not answer it in 3s"),
        (Fault::Reset, false, "cut the connection"),
        (Fault::PlainHttp, false, "does not speak TLS"),
        (Fault::Status(500), false, "answered HTTP 500"),
        (Fault::Stranger, false, "answered with a web page"),
        (Fault::Certificate(Flaw::Name), false, "it is for not-the-injector.linkerd.svc"),
        (Fault::Certificate(Flaw::Expired), false, "it has expired"),
        (Fault::Certificate(Flaw::Authority), true, "it does not chain to the bundle"),
    ] {
        linkerd.injector.suffer(fault).await.unwrap();
        let line = logged_line(&linkerd, verified, text).await;
        assert!(line.contains("injector not ready"), "{line}");
        assert!(reasons.insert(text), "{fault:?} looks like another");
        linkerd.injector.recover().await.unwrap();
    }
}

#[tokio::test]
async fn each_identity_fault_has_a_separate_reason_and_opens_nothing() {
    let linkerd = Linkerd::start().await;
    for (fault, text) in [
        (Fault::Absent, "refuses connections"),
        (Fault::Hang, "did not answer it in 3s"),
        (Fault::Reset, "cut the connection"),
        (Fault::Status(500), "answered HTTP 500"),
        (Fault::Stranger, "answered HTTP 200 OK, not gRPC"),
        (Fault::NotReady, "cannot certify: gRPC status 14, cert issuer not ready yet"),
        (Fault::PlainHttp, "did not give a whole answer"),
    ] {
        linkerd.identity.suffer(fault).await.unwrap();
        let line = logged_line(&linkerd, false, text).await;
        assert!(line.contains("identity not ready"), "{fault:?}: {line}");
        linkerd.identity.recover().await.unwrap();
    }
}

#[tokio::test]
async fn an_injector_that_is_ready_and_then_gone_does_not_open() {
    let linkerd = Linkerd::start().await;
    linkerd.identity.suffer(Fault::Absent).await.unwrap();
    let mut run = missed().asking(&linkerd).with("ON_MISSED", "open").start();
    run.until("identity not ready").await;
    // The injector was ready all this time; now it goes, and only then identity comes.
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    let seen = linkerd.identity.connections();
    linkerd.identity.recover().await.unwrap();
    run.while_it_holds(linkerd.identity.until_connections(seen + 3)).await;
    run.until("injector not ready").await;
    assert!(run.is_running());
    linkerd.injector.recover().await.unwrap();
    assert_eq!(run.end().await.code, 0);
}

#[tokio::test]
async fn an_injector_that_flaps_faster_than_settling_opens_nothing() {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    let mut run = missed().asking(&linkerd).with("ON_MISSED", "open").start();
    run.until("injector not ready").await;
    for _ in 0..5 {
        // One answer, and gone again before that answer arrives: whoever counts one answer opens here.
        let answered = linkerd.injector.requests();
        linkerd.injector.suffer(Fault::Once).await.unwrap();
        run.while_it_holds(linkerd.injector.until_requests(answered + 1)).await;
        let looks = linkerd.identity.connections();
        run.while_it_holds(linkerd.identity.until_connections(looks + 2)).await;
        assert_eq!(linkerd.injector.fault(), Some(Fault::Refuse));
    }
    linkerd.injector.recover().await.unwrap();
    assert_eq!(run.end().await.code, 0);
}

#[tokio::test]
async fn a_bundle_verifies_self_signed_and_ca_signed_certificates() {
    for certificates in [Certificates::for_injector("linkerd"), Certificates::in_the_charts_form("linkerd")] {
        let linkerd = Linkerd::start_with(certificates.unwrap()).await;
        let ended = missed().asking(&linkerd).trusting(&linkerd).with("ON_MISSED", "open").end().await;
        assert_eq!(ended.code, 0, "{}", ended.said);
        assert!(ended.said.contains("chains to the CA bundle"), "{}", ended.said);
    }
}

#[tokio::test]
async fn without_a_bundle_the_issuer_is_said_to_be_unchecked() {
    let linkerd = Linkerd::start_with(Certificates::in_the_charts_form("linkerd").unwrap()).await;
    let ended = missed().asking(&linkerd).with("ON_MISSED", "open").end().await;
    assert_eq!(ended.code, 0);
    assert!(ended.said.contains("reachable, not proven"), "{}", ended.said);
}

#[tokio::test]
async fn a_bundle_that_changes_while_a_pod_is_held_is_followed() {
    let linkerd = Linkerd::start().await;
    let right = std::fs::read(linkerd.ca_file.path()).unwrap();
    std::fs::write(linkerd.ca_file.path(), Certificates::for_injector("linkerd").unwrap().ca_bundle()).unwrap();
    let mut run = missed().asking(&linkerd).trusting(&linkerd).with("ON_MISSED", "open").start();
    run.until("does not chain to the bundle").await;
    std::fs::write(linkerd.ca_file.path(), right).unwrap();
    assert_eq!(run.end().await.code, 0);
}

#[tokio::test]
async fn a_slow_linkerd_is_ready_all_the_same() {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Slow(Duration::from_millis(900))).await.unwrap();
    let ended = missed().asking(&linkerd).with("ON_MISSED", "exit").end().await;
    assert_eq!(ended.code, 75);
}

#[tokio::test]
async fn a_failed_probe_runs_alone_and_other_changes_are_reported() {
    let linkerd = Linkerd::start().await;
    linkerd.identity.suffer(Fault::Status(500)).await.unwrap();
    let mut run = missed().asking(&linkerd).with("ON_MISSED", "open").start();
    run.until("identity not ready").await;
    let (looks, handshakes) = (linkerd.identity.connections(), linkerd.injector.connections());
    run.while_it_holds(linkerd.identity.until_connections(looks + 6)).await;
    let handshakes = linkerd.injector.connections() - handshakes;
    assert!(handshakes < 6, "{handshakes} TLS handshakes, as many as looks, that could change nothing");
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    run.until("injector not ready").await;
}
