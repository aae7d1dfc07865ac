//! What refuses the pod that an owner makes instead of a removed one: by a dry-run, before a pod that runs is evicted; by the
//! owner's Events, after a pod was removed and no other came.

use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::quota::{Exceeded, Room};
use super::retry::GUARD;
use crate::decide::readiness::dry_run::INJECTOR_WEBHOOK;
use crate::linkerd::patch_problems;

/// Why a pod is refused: by what, and in whose words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// By what.
    pub cause: RefusalCause,
    /// The API server's words, or which annotation it is.
    pub words: String,
}

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

/// What refuses the pod that is made instead.
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
    /// No other than our guard, if it is bound: the pod would come without a proxy.
    NotInjected,
    /// Another part of admission: a limit range, another program's webhook or policy.
    Admission,
}

/// Who refused a pod, by the API server's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusedBy<'a> {
    /// RBAC: whoever creates the pod may not.
    Rights,
    /// A full quota: whether an eviction makes room is decided by [`full_quota`].
    FullQuota(Exceeded),
    /// Our guard, the injector or the call to it, or the API server itself: the annotations may tell more, see [`not_injected`].
    Unclear(u16, &'a str),
    /// What the words name.
    Known(RefusalCause),
}

/// Who refused a pod with this HTTP code and message.
pub fn refused_by(code: u16, message: &str) -> RefusedBy<'_> {
    let unclear = message.contains(GUARD)
        || message.contains(INJECTOR_WEBHOOK)
        || code >= 500 && !message.contains("admission webhook");
    if code == 403 && message.contains("cannot create resource") {
        RefusedBy::Rights
    } else if code == 403 && message.contains("violates PodSecurity") {
        RefusedBy::Known(RefusalCause::PodSecurity)
    } else if let Some(exceeded) = Exceeded::read(message) {
        RefusedBy::FullQuota(exceeded)
    } else if message.contains("failed quota: ") {
        RefusedBy::Known(RefusalCause::Quota)
    } else if unclear {
        RefusedBy::Unclear(code, message)
    } else {
        RefusedBy::Known(RefusalCause::Admission)
    }
}

/// The HTTP code of a refusal of which only the message is known, as in an Event: 500 where the API server neither forbids nor denies
/// nor finds the pod invalid.
pub fn code_of(message: &str) -> u16 {
    if message.contains(" is forbidden: ") {
        403
    } else if message.contains(" is invalid: ") {
        422
    } else if message.contains(" denied the request") {
        400
    } else {
        500
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
    if let Some(refusal) = broken_patch(&successor.metadata, namespace) {
        return refusal.into();
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

/// Why a pod has no proxy, or was refused with `refused` by our guard, the injector or the API server: by the annotations of the
/// pod and its namespace, where one makes the injector's patch fail. Nothing where only the API server is to blame.
pub fn not_injected(
    sent: Option<&ObjectMeta>,
    namespace: Option<&ObjectMeta>,
    refused: Option<(u16, &str)>,
) -> Option<Refusal> {
    if let Some(refusal) = sent.zip(namespace).and_then(|(sent, namespace)| broken_patch(sent, namespace)) {
        return Some(refusal);
    }
    let (cause, words) = match refused {
        None => (RefusalCause::NotInjected, "it came back so from a dry-run; linkerd-gate explain says why"),
        Some((_, message)) if message.contains(GUARD) => (RefusalCause::NotInjected, message),
        Some((_, message)) if message.contains(INJECTOR_WEBHOOK) => (RefusalCause::Injector, message),
        Some(_) => return None,
    };
    Some(Refusal { cause, words: words.to_owned() })
}

fn broken_patch(sent: &ObjectMeta, namespace: &ObjectMeta) -> Option<Refusal> {
    let problem = patch_problems(sent, namespace).into_iter().next()?;
    Some(Refusal { cause: RefusalCause::Annotation, words: problem.to_string() })
}

// === impl Refusal ===

impl Refusal {
    /// For a pod that is not evicted.
    pub fn not_evicted(&self) -> String {
        let Self { cause, words } = self;
        let pod = "the pod that would be made instead";
        match cause {
            RefusalCause::Annotation => format!("not evicted: Linkerd could not inject {pod}: {words}"),
            RefusalCause::NotInjected => format!("not evicted: {pod} would have no proxy: {words}"),
            by => format!("not evicted: {} would refuse {pod}: {words}", by.name()),
        }
    }

    /// For a pod that did not come: what was so.
    pub fn not_created(&self) -> String {
        match self.cause {
            RefusalCause::Annotation => "Linkerd could not inject it".to_owned(),
            RefusalCause::NotInjected => "it would have no proxy".to_owned(),
            by => format!("{} refused it", by.name()),
        }
    }
}

impl From<Refusal> for Trial {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.cause, refusal.not_evicted())
    }
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
    /// As the subject of "refuses".
    const fn name(self) -> &'static str {
        match self {
            Self::PodSecurity => "Pod Security",
            Self::Quota | Self::QuotaUndecided => "a quota",
            Self::Annotation | Self::Injector => "Linkerd's injector",
            Self::NotInjected => "the policy linkerd-gate-guard",
            Self::Admission => "admission",
        }
    }

    /// A word for metrics.
    pub const fn key(self) -> &'static str {
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

    const GUARDED: &str = "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding \
                           'linkerd-gate-guard' denied request: the pod requests injection and has no proxy";
    const DENIED: &str = "admission webhook \"linkerd-proxy-injector.linkerd.io\" denied the request: bad";
    const UNANSWERED: &str =
        "Internal error occurred: failed calling webhook \"linkerd-proxy-injector.linkerd.io\": timeout";
    const FULL: &str = "pods \"a\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1";

    /// Refusals with their codes, of which an Event has the words only.
    #[test]
    fn each_refusal_is_classified_by_its_text() {
        use RefusalCause::{Admission, PodSecurity, Quota};
        let known = |cause| Some(RefusedBy::Known(cause));
        for (code, message, expected) in [
            (
                403,
                "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": (container \"linkerd-init\")",
                known(PodSecurity),
            ),
            (
                403,
                "pods \"a\" is forbidden: failed quota: few: must specify limits.cpu for: linkerd-proxy",
                known(Quota),
            ),
            (403, "pods \"a\" is forbidden: maximum cpu usage per Container is 1, but limit is 2", known(Admission)),
            (422, "Pod \"a\" is invalid: spec.containers[0].image: Required value", known(Admission)),
            (400, "admission webhook \"policy.example.com\" denied the request: no", known(Admission)),
            (403, FULL, Exceeded::read(FULL).map(RefusedBy::FullQuota)),
            (
                403,
                "pods is forbidden: User \"x\" cannot create resource \"pods\" in API group \"\" in the namespace \"shop\"",
                Some(RefusedBy::Rights),
            ),
            (403, GUARDED, None),
            (400, DENIED, None),
            (500, UNANSWERED, None),
            (500, "etcdserver: request timed out", None),
        ] {
            let expected = expected.unwrap_or(RefusedBy::Unclear(code, message));
            assert_eq!(refused_by(code, message), expected, "{message}");
            assert_eq!(code_of(message), code, "{message}");
        }
        let other = "admission webhook \"policy.example.com\" denied the request: no";
        assert_eq!(refused_by(500, other), RefusedBy::Known(Admission));
    }

    #[test]
    fn an_annotation_that_breaks_the_patch_is_named_first() {
        let metadata = |annotations: serde_json::Value| -> ObjectMeta {
            serde_json::from_value(json!({"annotations": annotations})).unwrap()
        };
        let broken = metadata(json!({"config.linkerd.io/proxy-log-level": "warn,\"linkerd\"=debug"}));
        let (sound, sent) = (metadata(json!({})), ObjectMeta::default());
        let key = |namespace, refused| not_injected(Some(&sent), Some(namespace), refused).map(|it| it.cause.key());
        let denied = Some((400, DENIED));
        for refused in
            [None, denied, Some((403, GUARDED)), Some((500, "Internal error occurred: invalid character 'l'"))]
        {
            assert_eq!(key(&broken, refused), Some("annotation"));
            let why = not_injected(Some(&sent), Some(&broken), refused).unwrap().not_evicted();
            assert!(
                why.contains("the namespace's annotation config.linkerd.io/proxy-log-level holds a quote"),
                "{why}"
            );
        }
        let exceeded = Exceeded::read(FULL).unwrap();
        let full = |namespace| full_quota(&exceeded, &[], namespace, None, &Pod::default()).key();
        assert_eq!((full(&broken), full(&sound)), ("annotation", "quota_undecided"));
        assert_eq!(key(&sound, None), Some("not_injected"));
        assert_eq!(key(&sound, Some((403, GUARDED))), Some("not_injected"));
        assert_eq!(key(&sound, denied), Some("injector"));
        assert_eq!(key(&sound, Some((503, "etcdserver: no leader"))), None);
        assert_eq!(not_injected(None, Some(&broken), denied).map(|it| it.cause.key()), Some("injector"));
    }

    #[test]
    fn each_cause_has_a_sentence_for_before_and_after() {
        let refusal = |cause| Refusal { cause, words: "its words".to_owned() };
        for (cause, before, after) in [
            (
                RefusalCause::PodSecurity,
                "not evicted: Pod Security would refuse the pod that would be made instead: its words",
                "Pod Security refused it",
            ),
            (
                RefusalCause::Annotation,
                "not evicted: Linkerd could not inject the pod that would be made instead: its words",
                "Linkerd could not inject it",
            ),
            (
                RefusalCause::NotInjected,
                "not evicted: the pod that would be made instead would have no proxy: its words",
                "it would have no proxy",
            ),
        ] {
            assert_eq!(refusal(cause).not_evicted(), before);
            assert_eq!(refusal(cause).not_created(), after);
        }
    }

    #[test]
    fn a_full_quota_refuses_what_an_eviction_makes_no_room_for() {
        let object = |spec: serde_json::Value| serde_json::from_value::<Pod>(json!({ "spec": spec })).unwrap();
        let pod = object(json!({"containers": [{"name": "app"}]}));
        let few = |used: &str| -> ResourceQuota {
            let (hard, used) = (json!({"pods": "1"}), json!({"pods": used}));
            let quota =
                json!({"metadata": {"name": "few"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}});
            serde_json::from_value(quota).unwrap()
        };
        let trial = |used: &str| {
            let exceeded = Exceeded::read(&FULL.replace("used: pods=1", &format!("used: pods={used}"))).unwrap();
            full_quota(&exceeded, &[few(used)], &ObjectMeta::default(), Some(&pod), &pod)
        };
        assert_eq!(trial("1"), Trial::QuotaFreed);
        let Trial::Refused(cause, words) = trial("2") else { panic!("{:?}", trial("2")) };
        assert_eq!(cause, RefusalCause::Quota);
        assert!(words.starts_with("not evicted: the eviction would not make room in a full quota"), "{words}");
        let keys = [trial("1"), trial("2"), Trial::Accepted, Trial::Failed("timeout".to_owned())].map(|it| it.key());
        assert_eq!(keys, ["quota_freed", "quota", "accepted", "failed"]);
    }
}
