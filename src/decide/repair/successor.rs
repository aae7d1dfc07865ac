//! Before a pod that runs is evicted: what a dry-run of the pod that would be made instead says.

use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::quota::{Exceeded, Room};
use crate::decide::readiness::dry_run::INJECTOR_WEBHOOK;
use crate::linkerd::patch_problems;

/// What the dry-run says of the eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// The new pod would be taken, and would have a proxy.
    Accepted,
    /// It would be, once the evicted pod has made room in a quota that is full now.
    QuotaFreed,
    /// It would not be: for this cause, and a sentence about it.
    Refused(RefusalCause, String),
    /// This could not be found out, for this reason.
    Failed(String),
}

/// What refuses the pod that would be made instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCause {
    /// Pod Security, for what the injector adds or for the pod's own.
    PodSecurity,
    /// A quota that stays full though the pod is gone, or that wants requests or limits.
    Quota,
    /// A quota that is full, of which it cannot be decided whether it stays so.
    QuotaUndecided,
    /// An annotation that makes Linkerd's patch fail.
    Annotation,
    /// The injector itself, or the call to it.
    Injector,
    /// No one: the pod would come without a proxy.
    NotInjected,
    /// Another part of admission: a limit range, another program's webhook or policy.
    Admission,
}

/// Who refused a dry-run, by the API server's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// RBAC: the controller may not try it.
    Rights,
    /// A full quota: whether the eviction makes room is decided by [`full_quota`].
    FullQuota(Exceeded),
    /// The injector or the call to it, or the API server itself: the annotations may tell more, see [`not_injected`].
    InjectorOrServer,
    /// A refusal whose text says enough.
    Known(RefusalCause, String),
}

/// Who refused a dry-run with this HTTP code and message.
pub fn refused_by(code: u16, message: &str) -> RefusedBy {
    let known = |cause, who: &str| RefusedBy::Known(cause, format!("not evicted: {who}: {message}"));
    if code == 403 && message.contains("cannot create resource") {
        RefusedBy::Rights
    } else if code == 403 && message.contains("violates PodSecurity") {
        known(RefusalCause::PodSecurity, "Pod Security would refuse the pod that would be made instead")
    } else if let Some(exceeded) = Exceeded::read(message) {
        RefusedBy::FullQuota(exceeded)
    } else if message.contains("failed quota: ") {
        known(RefusalCause::Quota, "a quota would refuse the pod that would be made instead")
    } else if message.contains(INJECTOR_WEBHOOK) || code >= 500 && !message.contains("admission webhook") {
        RefusedBy::InjectorOrServer
    } else {
        known(RefusalCause::Admission, "the pod that would be made instead would be refused")
    }
}

/// What a full quota means for the eviction of `evicted`, which is nothing where that pod is gone.
///
/// Of all admission the quotas come last, so nothing else refused the pod. Whether it had a proxy by then the API server does not
/// say: that is by the proof, and by the annotations.
pub fn full_quota(
    exceeded: &Exceeded,
    quotas: &[ResourceQuota],
    namespace: &ObjectMeta,
    evicted: Option<&Pod>,
    successor: &Pod,
) -> Trial {
    if let Some(refused) = broken_patch(successor, namespace) {
        return refused;
    }
    let room = match (evicted, &successor.spec) {
        (Some(evicted), Some(spec)) => exceeded.after_eviction(quotas, evicted, spec),
        _ => Room::Undecided("the pod is gone".to_owned()),
    };
    match room {
        Room::Enough => Trial::QuotaFreed,
        Room::TooLittle(why) => Trial::Refused(
            RefusalCause::Quota,
            format!(
                "not evicted: the eviction would not make room in a full quota for the pod that would be made instead: {why}"
            ),
        ),
        Room::Undecided(why) => Trial::Refused(
            RefusalCause::QuotaUndecided,
            format!("not evicted: whether the eviction makes room in a full quota cannot be decided: {why}"),
        ),
    }
}

/// Why a dry-run pod has no proxy, or was refused by the injector or the API server with `refusal`: by the annotations of the
/// pod and its namespace, where one makes the injector's patch fail.
pub fn not_injected(sent: &Pod, namespace: Option<&ObjectMeta>, refusal: Option<(u16, &str)>) -> Trial {
    if let Some(refused) = namespace.and_then(|namespace| broken_patch(sent, namespace)) {
        return refused;
    }
    match refusal {
        None => Trial::Refused(
            RefusalCause::NotInjected,
            "not evicted: a dry-run of the pod that would be made instead came back without Linkerd's proxy; \
             linkerd-gate explain says why"
                .to_owned(),
        ),
        Some((_, message)) if message.contains(INJECTOR_WEBHOOK) => Trial::Refused(
            RefusalCause::Injector,
            format!("not evicted: Linkerd's injector would refuse the pod that would be made instead: {message}"),
        ),
        Some((code, message)) => Trial::Failed(format!(
            "not evicted: cannot try out the pod that would be made instead (HTTP {code}): {message}"
        )),
    }
}

fn broken_patch(sent: &Pod, namespace: &ObjectMeta) -> Option<Trial> {
    let problem = patch_problems(&sent.metadata, namespace).into_iter().next()?;
    let why = format!("not evicted: Linkerd could not inject the pod that would be made instead: {problem}");
    Some(Trial::Refused(RefusalCause::Annotation, why))
}

// === impl Trial ===

impl Trial {
    /// A word for the metric.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::QuotaFreed => "quota_freed",
            Self::Refused(cause, _) => cause.key(),
            Self::Failed(_) => "failed",
        }
    }
}

// === impl RefusalCause ===

impl RefusalCause {
    const fn key(self) -> &'static str {
        match self {
            Self::PodSecurity => "pod_security",
            Self::Quota => "quota",
            Self::QuotaUndecided => "quota_undecided",
            Self::Annotation => "annotation",
            Self::Injector => "injector",
            Self::NotInjected => "not_injected",
            Self::Admission => "admission",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_refusal_is_classified_by_its_text() {
        let cause = |code, message: &str| match refused_by(code, message) {
            RefusedBy::Known(cause, why) => {
                assert!(why.starts_with("not evicted: ") && why.ends_with(message), "{why}");
                cause
            }
            other => panic!("{other:?}"),
        };
        let security =
            "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": (container \"linkerd-init\")";
        assert_eq!(cause(403, security), RefusalCause::PodSecurity);
        let wants = "pods \"a\" is forbidden: failed quota: few: must specify limits.cpu for: linkerd-proxy";
        assert_eq!(cause(403, wants), RefusalCause::Quota);
        let range = "pods \"a\" is forbidden: maximum cpu usage per Container is 1, but limit is 2";
        assert_eq!(cause(403, range), RefusalCause::Admission);
        let other = "admission webhook \"policy.example.com\" denied the request: no";
        assert_eq!((cause(400, other), cause(500, other)), (RefusalCause::Admission, RefusalCause::Admission));

        let full = "pods \"a\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1";
        assert!(matches!(refused_by(403, full), RefusedBy::FullQuota(_)));
        let rights =
            "pods is forbidden: User \"x\" cannot create resource \"pods\" in API group \"\" in the namespace \"shop\"";
        assert_eq!(refused_by(403, rights), RefusedBy::Rights);
        let injector = "admission webhook \"linkerd-proxy-injector.linkerd.io\" denied the request: bad";
        assert_eq!(refused_by(400, injector), RefusedBy::InjectorOrServer);
        assert_eq!(refused_by(500, "etcdserver: request timed out"), RefusedBy::InjectorOrServer);
    }

    #[test]
    fn an_annotation_that_breaks_the_patch_is_named_first() {
        let metadata = |annotations: serde_json::Value| -> ObjectMeta {
            serde_json::from_value(json!({"annotations": annotations})).unwrap()
        };
        let broken = metadata(json!({"config.linkerd.io/proxy-log-level": "warn,\"linkerd\"=debug"}));
        let sound = metadata(json!({}));
        let key = |namespace, refusal| not_injected(&Pod::default(), namespace, refusal).key();
        let denied = Some((400, "admission webhook \"linkerd-proxy-injector.linkerd.io\" denied the request: bad"));
        for refusal in [None, denied, Some((500, "Internal error occurred: invalid character 'l'"))] {
            assert_eq!(key(Some(&broken), refusal), "annotation");
            let Trial::Refused(_, why) = not_injected(&Pod::default(), Some(&broken), refusal) else { panic!() };
            assert!(
                why.contains("the namespace's annotation config.linkerd.io/proxy-log-level holds a quote"),
                "{why}"
            );
        }
        let exceeded = Exceeded::read("exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1").unwrap();
        let full = |namespace| full_quota(&exceeded, &[], namespace, None, &Pod::default()).key();
        assert_eq!((full(&broken), full(&sound)), ("annotation", "quota_undecided"));
        assert_eq!(key(Some(&sound), None), "not_injected");
        assert_eq!(key(None, denied), "injector");
        assert_eq!(key(Some(&sound), Some((503, "etcdserver: no leader"))), "failed");
    }
}
