//! Tells people where admission could hold or refuse what would be bare, and does not: nothing here decides anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Context;
use crate::cluster::admission::{self, AdmissionPolicies};
use crate::decide::hold::HOLD_POLICY;

/// How often it is looked.
const RECHECK: Duration = Duration::from_mins(1);

/// How long one look may take. Unlike its neighbours, so that a reason tells which limit fired.
const ANSWER: Duration = Duration::from_millis(6100);

/// Looks for ever.
pub(super) async fn run(context: Arc<Context>) -> Infallible {
    let mut reported: Option<AdmissionPolicies> = None;
    let mut failed: Option<String> = None;
    loop {
        let looked = tokio::time::timeout(ANSWER, admission::read_status(&context.client)).await;
        match looked.unwrap_or_else(|_| Err(format!("the API server did not answer in {ANSWER:?}"))) {
            Ok(found) => {
                // What was not wanted is not missing.
                let hold_binding_missing = found.hold_binding_missing && context.settings.wants_hold();
                let found = AdmissionPolicies { hold_binding_missing, ..found };
                context.metrics.hold_binding_missing.set(i64::from(found.hold_binding_missing));
                context.metrics.admission_parameter_missing.set(i64::from(found.parameter_missing));
                report(reported, found);
                (reported, failed) = (Some(found), None);
            }
            // What could not be looked at stays as it was seen last.
            Err(why) if failed.as_ref() != Some(&why) => {
                warn!(error = why, "cannot read the admission policies");
                failed = Some(why);
            }
            Err(_) => {}
        }
        tokio::time::sleep(RECHECK).await;
    }
}

/// Says what is another than it was.
fn report(before: Option<AdmissionPolicies>, now: AdmissionPolicies) {
    let was = |of: fn(&AdmissionPolicies) -> bool| before.as_ref().is_some_and(of);
    match (was(|before| before.hold_binding_missing), now.hold_binding_missing) {
        (false, true) => warn!(
            binding = HOLD_POLICY,
            command = "helm upgrade … --set admission=auto",
            "no pod is held at creation: the binding is missing; install it, or set LINKERD_GATE_ADMISSION to what is installed"
        ),
        (true, false) => info!("the binding linkerd-gate-hold exists, or the API server no longer has its API"),
        _ => {}
    }
    match (was(|before| before.parameter_missing), now.parameter_missing) {
        (false, true) => warn!(
            policies = "linkerd-gate-hold, linkerd-gate-guard",
            command = "kubectl get mutatingwebhookconfigurations -l linkerd.io/control-plane-component=proxy-injector",
            "no pod is held or refused at creation: no webhook configuration has the label"
        ),
        (true, false) => info!("the admission policies find a webhook configuration again"),
        _ => {}
    }
}
