//! Why an owner has not created a pod again after the controller removed one: by its Events `FailedCreate`.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;

use super::object::OwnerReference;
use super::retry::is_ours;
use super::successor::{Refusal, RefusalCause};

/// How far the clock of the controller manager, which dates its Events in whole seconds, may be behind ours.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

/// An owner that lacks a pod which the controller removed, and has not created another in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateReplacement {
    /// Its namespace.
    pub namespace: String,
    /// Itself.
    pub owner: OwnerReference,
    /// When the controller last removed a pod of it.
    pub since: Duration,
    /// Since when injection has been proven without a break.
    pub proven_since: Duration,
}

/// An Event that says that an owner could not create a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCreate {
    /// When that happened last.
    pub at: Timestamp,
    /// The API server's words, after those of the owner's controller.
    pub message: String,
}

/// Why a pod was not created again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCreated {
    /// It is refused.
    Refused(Refusal),
    /// The API server failed, in these words: the owner's controller tries again, or the reason was not found.
    Failed(String),
    /// No Event says why.
    Unknown,
}

// === impl FailedCreate ===

impl FailedCreate {
    /// Nothing where the Event is about another object, or has no time: who may create Events can name any uid in them.
    pub fn of(event: &Event, owner: &OwnerReference) -> Option<Self> {
        let (about, (api_version, kind)) = (&event.involved_object, owner.kind.names());
        let same = [
            (about.api_version.as_deref(), api_version),
            (about.kind.as_deref(), kind),
            (about.name.as_deref(), owner.name.as_str()),
            (about.uid.as_deref(), owner.uid.as_str()),
        ];
        if same.iter().any(|(found, expected)| *found != Some(*expected)) {
            return None;
        }
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        let at = last.or_else(|| event.event_time.as_ref().map(|time| time.0))?;
        // It goes into the log: what a tenant writes there must not look like lines of ours.
        let message = event.message.as_deref()?.replace(char::is_control, " ");
        Some(Self { at, message })
    }

    /// The latest since `since`; of those that missing injection explains, since injection has been proven without a break: before
    /// that there was an outage, and the owner is retried.
    pub fn latest(events: &[Self], since: Timestamp, proven_since: Timestamp) -> Option<&Self> {
        let recent = events.iter().filter(|event| {
            let from = if is_ours(&event.message) { since.max(proven_since) } else { since };
            event.at >= from.saturating_sub(CLOCKS_DIFFER).unwrap_or(Timestamp::MIN)
        });
        recent.max_by_key(|event| event.at)
    }
}

// === impl NotCreated ===

impl NotCreated {
    /// A word for the metric.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.cause.key(),
            Self::Failed(_) => "failed",
            Self::Unknown => "unknown",
        }
    }

    /// For an Event on `owner`: state, cause, next command, and then the API server's words, which may be long. Nothing where there
    /// is no cause to name.
    pub fn message(&self, namespace: &str, owner: &OwnerReference) -> Option<String> {
        let state = format!("{owner} did not create a pod again after the controller removed one");
        match self {
            Self::Refused(refusal) => {
                let next = next_command(refusal.cause, namespace);
                Some(format!("{state}: {}. {next}. The refusal: {}", refusal.not_created(), refusal.words))
            }
            Self::Failed(why) => {
                Some(format!("{state}. See what the API server does: linkerd-gate check. The error: {why}"))
            }
            Self::Unknown => None,
        }
    }
}

fn next_command(cause: RefusalCause, namespace: &str) -> String {
    match cause {
        RefusalCause::PodSecurity => format!(
            "Use Linkerd's CNI plug-in, or a lower level. The level: kubectl get namespace {namespace} --show-labels"
        ),
        RefusalCause::Quota | RefusalCause::QuotaUndecided => {
            format!("Raise the quota. The quotas: kubectl describe resourcequota --namespace {namespace}")
        }
        RefusalCause::Annotation => {
            format!("Correct the annotation. Those of the namespace: kubectl describe namespace {namespace}")
        }
        RefusalCause::Injector => "See what the injector does: linkerd-gate check".to_owned(),
        RefusalCause::NotInjected => {
            format!(
                "The injector's reason: kubectl get events --namespace {namespace} --field-selector reason=InjectionSkipped"
            )
        }
        RefusalCause::Admission => {
            format!("See who refused it below, and the limits: kubectl describe limitrange --namespace {namespace}")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::repair::Kind;

    const RESTRICTED: &str =
        "Error creating: pods \"web-x\" is forbidden: violates PodSecurity \"restricted:latest\": no";
    const GUARDED: &str =
        "Error creating: pods \"web-x\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' denied";

    fn web() -> OwnerReference {
        OwnerReference { kind: Kind::ReplicaSet, name: "web".to_owned(), uid: "o-1".to_owned() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn failed(second: i64, message: &str) -> FailedCreate {
        FailedCreate { at: at(second), message: message.to_owned() }
    }

    #[test]
    fn an_event_counts_for_the_very_owner_that_it_names() {
        let event = |changed: &[(&str, &str)]| -> Event {
            let mut about = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o-1"});
            for (field, value) in changed {
                about[*field] = json!(value);
            }
            serde_json::from_value(json!({
                "metadata": {"name": "web.1", "namespace": "shop"}, "involvedObject": about, "reason": "FailedCreate",
                "message": RESTRICTED, "lastTimestamp": at(1).to_string(),
            }))
            .unwrap()
        };
        assert_eq!(FailedCreate::of(&event(&[]), &web()), Some(failed(1, RESTRICTED)));
        for other in [("apiVersion", "example.com/v1"), ("kind", "StatefulSet"), ("name", "web-2"), ("uid", "o-2")] {
            assert_eq!(FailedCreate::of(&event(&[other]), &web()), None, "{other:?}");
        }
        let forged = Event { message: Some("no\nWARN \u{1b}[2Jforged".to_owned()), ..event(&[]) };
        assert_eq!(FailedCreate::of(&forged, &web()), Some(failed(1, "no WARN  [2Jforged")));
        let undated = Event { last_timestamp: None, ..event(&[]) };
        assert_eq!(FailedCreate::of(&undated, &web()), None);
    }

    #[test]
    fn the_latest_refusal_since_the_removal_counts() {
        let events = [failed(80, "old"), failed(101, "first"), failed(140, "latest"), failed(120, "second")];
        let latest = |since, proven| FailedCreate::latest(&events, at(since), at(proven)).map(|it| it.message.as_str());
        assert_eq!(latest(100, 0), Some("latest"));
        assert_eq!(latest(144, 0), Some("latest"), "its clock is behind");
        assert_eq!(latest(146, 0), None);
    }

    #[test]
    fn a_refusal_for_missing_injection_counts_since_the_proof() {
        let (guarded, restricted) = ([failed(101, GUARDED)], [failed(101, RESTRICTED)]);
        assert!(FailedCreate::latest(&guarded, at(100), at(90)).is_some());
        assert_eq!(FailedCreate::latest(&guarded, at(100), at(110)), None, "it was refused in the outage");
        assert!(FailedCreate::latest(&restricted, at(100), at(110)).is_some());
    }

    #[test]
    fn the_event_names_state_cause_and_next_command() {
        let refusal = Refusal { cause: RefusalCause::PodSecurity, words: RESTRICTED.to_owned() };
        assert_eq!(
            NotCreated::Refused(refusal).message("shop", &web()).unwrap(),
            format!(
                "ReplicaSet web did not create a pod again after the controller removed one: Pod Security refused it. Use Linkerd's \
                 CNI plug-in, or a lower level. The level: kubectl get namespace shop --show-labels. The refusal: {RESTRICTED}"
            )
        );
        assert_eq!(NotCreated::Unknown.message("shop", &web()), None);
    }

    #[test]
    fn each_cause_has_a_key_and_the_command_that_helps() {
        let causes = [
            (RefusalCause::PodSecurity, "pod_security", "kubectl get namespace shop --show-labels"),
            (RefusalCause::Quota, "quota", "kubectl describe resourcequota --namespace shop"),
            (RefusalCause::QuotaUndecided, "quota_undecided", "kubectl describe resourcequota --namespace shop"),
            (RefusalCause::Annotation, "annotation", "kubectl describe namespace shop"),
            (RefusalCause::Injector, "injector", "linkerd-gate check"),
            (RefusalCause::NotInjected, "not_injected", "--field-selector reason=InjectionSkipped"),
            (RefusalCause::Admission, "admission", "kubectl describe limitrange --namespace shop"),
        ];
        for (cause, key, command) in causes {
            let refused = NotCreated::Refused(Refusal { cause, words: "in its words".to_owned() });
            let message = refused.message("shop", &web()).unwrap();
            assert_eq!(refused.key(), key);
            assert!(message.contains(command) && message.ends_with("in its words"), "{key}: {message}");
        }
        let failed = NotCreated::Failed("timeout".to_owned());
        let message = failed.message("shop", &web()).unwrap();
        assert!(message.contains("linkerd-gate check") && message.ends_with("timeout"), "{message}");
        assert_eq!((failed.key(), NotCreated::Unknown.key()), ("failed", "unknown"));
    }
}
