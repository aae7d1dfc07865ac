//! One look of the agent's own: does identity answer from this node? A verdict is proven elsewhere, and says nothing of the way
//! from here.

use std::convert::Infallible;
use std::net::SocketAddr;

use tokio::sync::watch;

use crate::config::IdentityBy;
use crate::decide::Outcome;
use crate::observe::Parts;
use crate::retry::Schedule;

/// Asks at the addresses that the verdict names, again and again, and at once when they change.
pub(super) async fn ask(
    parts: Parts,
    by: IdentityBy,
    mut addresses: watch::Receiver<Vec<SocketAddr>>,
    found: watch::Sender<Outcome>,
) -> Infallible {
    let mut proving = Schedule::proving();
    let mut again = Schedule::looking_again();
    loop {
        let current = addresses.borrow_and_update().clone();
        let outcome = match by {
            // Where agents are kept out, the prover's word is all there is: it has looked at the endpoints.
            IdentityBy::Endpoints => Outcome::Ready,
            IdentityBy::Ask if current.is_empty() => Outcome::unknown("nobody has said yet where to ask it"),
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
                    // The steward is gone, and with it the process.
                    std::future::pending::<()>().await;
                }
                proving.reset();
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Not being let through is a thing of its own, with a way out of its own.
fn hint(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Unknown(reason) => Outcome::unknown(format!(
            "{reason}; if a NetworkPolicy keeps agents out, LINKERD_GATE_IDENTITY=endpoints takes its endpoints' word"
        )),
        outcome @ (Outcome::Ready | Outcome::NotReady(_)) => outcome,
    }
}
