//! One look of the agent's own: does identity answer from this node? A verdict is proven elsewhere, and says nothing of the way
//! from here.

use std::convert::Infallible;
use std::net::SocketAddr;

use tokio::sync::watch;

use crate::config::IdentityBy;
use crate::decide::ProbeResult;
use crate::observe::ControlPlane;
use crate::retry::Schedule;

/// Asks at the addresses that the verdict names, again and again, and at once when they change.
pub(super) async fn ask(
    parts: ControlPlane,
    by: IdentityBy,
    mut addresses: watch::Receiver<Vec<SocketAddr>>,
    found: watch::Sender<ProbeResult>,
) -> Infallible {
    let mut proving = Schedule::closed_probe();
    let mut again = Schedule::open_identity_probe();
    loop {
        let current = addresses.borrow_and_update().clone();
        let outcome = match by {
            // Where agents are kept out, the prover's word is all there is: it has looked at the endpoints.
            IdentityBy::Endpoints => ProbeResult::Ready,
            IdentityBy::Ask if current.is_empty() => ProbeResult::unknown("its addresses are not known yet"),
            IdentityBy::Ask => hint(parts.identity(&current).await),
        };
        let pause = if outcome.is_ready() {
            proving.reset();
            again.next_pause()
        } else {
            proving.next_pause()
        };
        found.send_if_modified(|before| {
            let news = *before != outcome;
            *before = outcome;
            news
        });
        tokio::select! {
            biased;
            changed = addresses.changed() => {
                if changed.is_err() {
                    // The node reconciler has ended, and with it the process.
                    std::future::pending::<()>().await;
                }
                proving.reset();
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A blocked connection is a separate case, with its own remedy.
fn hint(outcome: ProbeResult) -> ProbeResult {
    match outcome {
        ProbeResult::Unknown(reason) => ProbeResult::unknown(format!(
            "{reason}; if a NetworkPolicy keeps agents out, LINKERD_GATE_IDENTITY=endpoints takes its endpoints' word"
        )),
        outcome @ (ProbeResult::Ready | ProbeResult::NotReady(_)) => outcome,
    }
}
