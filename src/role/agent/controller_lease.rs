//! The controllers' Lease, followed while the node is closed: it says how many pods are still to be replaced before the node may open.

use std::convert::Infallible;

use tokio::sync::watch;
use tracing::warn;

use crate::cluster::Client;
use crate::cluster::lease::follow_lease;
use crate::cluster::watch::Seen;
use crate::decide::election::lease_record::{CONTROLLER_LEASE, LeaseRecord};

/// Follows it for ever, but only while it is wanted.
pub(super) async fn follow(
    client: Client,
    namespace: &str,
    mut wanted: watch::Receiver<bool>,
    sink: watch::Sender<Seen<LeaseRecord>>,
) -> Infallible {
    loop {
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            // The node reconciler has ended, and with it the process.
            std::future::pending::<()>().await;
        }
        let mut seen = sink.subscribe();
        let troubles = async {
            let mut last = None;
            while seen.changed().await.is_ok() {
                let trouble = seen.borrow_and_update().trouble.clone();
                if trouble != last {
                    if let Some(trouble) = &trouble {
                        warn!(
                            error = trouble,
                            "the controllers' Lease is unreadable: the node waits for LINKERD_GATE_REPAIR_GRACE at most"
                        );
                    }
                    last = trouble;
                }
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            _ = wanted.wait_for(|wanted| !*wanted) => {}
            never = follow_lease(client.clone(), namespace, CONTROLLER_LEASE, sink.clone()) => match never {},
            never = troubles => match never {},
        }
        sink.send_replace(Seen::default());
    }
}
