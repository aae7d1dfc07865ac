//! SIGTERM ends `wait` at any point, whatever is in flight. (How fast is a figure of `make bench`.)

use linkerd_gate_kit::standin::Fault;

use crate::support::{Linkerd, missed};

#[tokio::test]
async fn sigterm_ends_a_wait_with_143_whatever_is_in_flight() {
    let linkerd = Linkerd::start().await;
    for fault in [Fault::Absent, Fault::Hang, Fault::HangAfterHandshake] {
        linkerd.injector.suffer(fault).await.unwrap();
        linkerd.identity.suffer(fault).await.unwrap();
        let connections = linkerd.identity.connections();
        let run = missed().asking(&linkerd).with("ON_MISSED", "open").start();
        if fault != Fault::Absent {
            linkerd.identity.until_connections(connections + 1).await;
        }
        let mut run = run;
        run.until("created without Linkerd's proxy").await;
        run.terminate();
        let ended = run.end().await;
        assert_eq!(ended.code, 143, "{fault:?}: {}", ended.said);
        assert!(ended.termination_log.contains("ended by SIGTERM"), "{}", ended.termination_log);
        linkerd.injector.recover().await.unwrap();
        linkerd.identity.recover().await.unwrap();
    }
}
