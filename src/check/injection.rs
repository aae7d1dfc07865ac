//! Whether a pod that is created now would be injected.

use super::code::{PROVEN, PROVEN_EVERYWHERE};
use super::{Check, Level, Proof, State, Unread, fix};
use crate::decide::election::lease_record;
use crate::decide::election::published_verdict::WireVerdict;
use crate::decide::{Basis, ProbeResult};

pub(super) fn checks(state: &State) -> Vec<Check> {
    let mut checks = Vec::new();
    if state.webhooks().is_ok_and(|webhooks| webhooks.is_empty()) {
        // Its own category says that there is no Linkerd.
        return checks;
    }
    checks.push(here(&state.proof));
    if !state.pre {
        checks.extend(everywhere(state));
    }
    checks
}

fn here(proof: &Proof) -> Check {
    match proof {
        Proof::Answered { namespace, outcome: ProbeResult::Ready } => {
            PROVEN.passes().described(format!("{} (a dry-run pod in namespace {namespace} was)", PROVEN.description))
        }
        Proof::Answered { namespace, outcome: ProbeResult::NotReady(reason) } => {
            PROVEN.fails(format!("a dry-run pod in namespace {namespace} was not: {reason}")).with_fix("linkerd check")
        }
        Proof::Answered { namespace, outcome: ProbeResult::Unknown(reason) } => PROVEN
            .warns(format!("a dry-run pod in namespace {namespace} shows nothing: {reason}"))
            .with_fix("linkerd check"),
        Proof::Skipped(why) => PROVEN.warns(format!("not looked at: {why}")).with_fix("linkerd check"),
        Proof::Forbidden(right) => PROVEN.unread(&Unread::Forbidden(right.clone())),
    }
}

fn everywhere(state: &State) -> Option<Check> {
    let check = published(state)?;
    // The prover logs what it could not look at.
    Some(if check.result == Level::Warning && check.fix.is_none() {
        check.with_fix(fix::logs(state, "agent"))
    } else {
        check
    })
}

fn published(state: &State) -> Option<Check> {
    if let Err(unread) = &state.leases {
        return Some(PROVEN_EVERYWHERE.unread(unread));
    }
    // A verdict is as old as the last renewal of the Lease that it is on.
    let renewed = state
        .lease(lease_record::PROVER_LEASE)
        .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref())
        .map(|time| time.0);
    if state.verdict().is_some() && renewed.is_none_or(|renewed| state.is_stale(renewed)) {
        let from = renewed.map_or_else(|| "an unknown time".to_owned(), |renewed| renewed.to_string());
        return Some(PROVEN_EVERYWHERE.warns(format!("not looked at: the verdict is from {from}")));
    }
    match state.verdict() {
        None => {
            // Where nothing is installed, nothing is published.
            state.agents().ok().flatten()?;
            Some(
                PROVEN_EVERYWHERE
                    .warns("not looked at: no verdict is published; your kubeconfig leads to one API server only"),
            )
        }
        Some(Err(why)) => {
            Some(PROVEN_EVERYWHERE.warns(format!("not looked at: the published verdict cannot be used: {why}")))
        }
        Some(Ok(published)) => Some(match published.verdict {
            WireVerdict::Open { basis: Basis::NotInstalled, .. } => {
                PROVEN_EVERYWHERE.warns("the prover found no Linkerd when it looked last")
            }
            WireVerdict::Open { degraded, .. } if degraded.is_empty() => PROVEN_EVERYWHERE.passes(),
            WireVerdict::Open { degraded, .. } => {
                let mut check = PROVEN_EVERYWHERE.warns("the prover could not look at everything lately");
                check.listing(degraded.iter().map(ToString::to_string));
                check
            }
            WireVerdict::Settling => PROVEN_EVERYWHERE.warns("all probes are ready; settling"),
            WireVerdict::Closed { failed_probes } if failed_probes.is_empty() => {
                PROVEN_EVERYWHERE.warns("the prover has not looked yet")
            }
            WireVerdict::Closed { failed_probes } => {
                let mut check = PROVEN_EVERYWHERE
                    .fails("the prover's gate is closed: nodes that boot now stay closed")
                    .with_fix("linkerd check");
                check.listing(failed_probes.iter().map(ToString::to_string));
                check
            }
        }),
    }
}
