//! Whether an eviction itself makes room in a quota that is full now.
//!
//! The API server refuses a dry-run pod for a full quota in these words (k8s.io/apiserver `pkg/admission/plugin/resourcequota`):
//! `exceeded quota: NAME, requested: pods=1, used: pods=2, limited: pods=2`. It names one quota, and of that one what would exceed it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceQuota, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::linkerd::billionths;

/// A quota that would be exceeded: by resource, in Kubernetes' amounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exceeded {
    /// Its name.
    pub quota: String,
    requested: BTreeMap<String, String>,
    used: BTreeMap<String, String>,
    limited: BTreeMap<String, String>,
}

/// What an eviction makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// Once the evicted pod is gone, its replacement fits.
    Enough,
    /// Even then it does not fit, for this reason.
    TooLittle(String),
    /// This cannot be decided, for this reason.
    Undecided(String),
}

/// What a proxy may ask for, by annotations and by Linkerd's own settings.
const OF_A_PROXY: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// One, in billionths: the finest amount that Kubernetes keeps.
const ONE: i128 = 1_000_000_000;

// === impl Exceeded ===

impl Exceeded {
    /// Reads the API server's message; nothing where it is not about a full quota.
    pub fn read(message: &str) -> Option<Self> {
        let (_, rest) = message.split_once("exceeded quota: ")?;
        let (quota, rest) = rest.lines().next()?.split_once(", requested: ")?;
        let (requested, rest) = rest.split_once(", used: ")?;
        let (used, limited) = rest.split_once(", limited: ")?;
        let amounts = |text: &str| {
            let each = text.split(',').filter_map(|each| each.trim().split_once('='));
            each.map(|(resource, amount)| (resource.to_owned(), amount.to_owned())).collect::<BTreeMap<_, _>>()
        };
        let (requested, used, limited) = (amounts(requested), amounts(used), amounts(limited));
        Some(Self { quota: quota.to_owned(), requested, used, limited })
    }

    /// Whether `successor`, as its owner's template has it, finds room once `evicted` is gone. `quotas` are all of the namespace.
    pub fn after_eviction(&self, quotas: &[ResourceQuota], evicted: &Pod, successor: &PodSpec) -> Room {
        let Some(spec) = &evicted.spec else { return Room::Undecided("the pod has no spec".to_owned()) };
        let name = &self.quota;
        if let Some(what) = scoped_otherwise(spec, successor) {
            return Room::Undecided(format!("quota {name}: its owner's template has another {what} than the pod"));
        }
        let best_effort = evicted.status.as_ref().and_then(|status| status.qos_class.as_deref()) == Some("BestEffort");
        for (resource, requested) in &self.requested {
            let (used, limited) = (self.used.get(resource), self.limited.get(resource));
            let room = room(resource, billionths(requested), used, limited, spec);
            if room != Room::Enough {
                return of_quota(name, room);
            }
        }
        if !quotas.iter().any(|quota| quota.metadata.name.as_ref() == Some(name)) {
            return Room::Undecided(format!("quota {name} was deleted"));
        }
        for quota in quotas {
            let other = quota.metadata.name.clone().unwrap_or_default();
            if best_effort && is_of_a_quality_of_service(quota) {
                // The proxy may take the new pod out of that class, and the quota counts one class of the two.
                return Room::Undecided(format!("quota {other} has a scope BestEffort or NotBestEffort"));
            }
            if other == *name {
                continue;
            }
            let status = quota.status.clone().unwrap_or_default();
            let amount = |map: &Option<BTreeMap<String, Quantity>>, resource: &str| {
                map.as_ref().and_then(|map| map.get(resource)).map(|Quantity(amount)| amount.clone())
            };
            let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
            for resource in hard.into_iter().flatten().map(|(resource, _)| resource).filter(|resource| counts(resource))
            {
                let requested = self.requested.get(resource).and_then(|amount| billionths(amount));
                let requested = requested.or_else(|| needs_without_proxy(resource, successor));
                let (used, limited) = (amount(&status.used, resource), amount(&status.hard, resource));
                let room = room(resource, requested, used.as_ref(), limited.as_ref(), spec);
                if room != Room::Enough {
                    return of_quota(&other, room);
                }
            }
        }
        Room::Enough
    }
}

fn of_quota(name: &str, room: Room) -> Room {
    match room {
        Room::Enough => Room::Enough,
        Room::TooLittle(why) => Room::TooLittle(format!("quota {name}: {why}")),
        Room::Undecided(why) => Room::Undecided(format!("quota {name}: {why}")),
    }
}

fn room(
    resource: &str,
    needs: Option<i128>,
    used: Option<&String>,
    limited: Option<&String>,
    evicted: &PodSpec,
) -> Room {
    let Some(frees) = frees(resource, evicted) else {
        return Room::Undecided(format!("what the pod frees of {resource} is not known"));
    };
    let Some(needs) = needs else {
        return Room::Undecided(format!("what the pod that would be made instead needs of {resource} is not known"));
    };
    let (Some((used, is_used)), Some((limited, limit))) = (amount(used), amount(limited)) else {
        return Room::Undecided(format!("how much of {resource} is used is not known"));
    };
    if is_used - frees + needs <= limit {
        return Room::Enough;
    }
    Room::TooLittle(format!(
        "{resource}: {used} used, {limited} limited, and the eviction frees less than the new pod needs"
    ))
}

fn amount(text: Option<&String>) -> Option<(&str, i128)> {
    text.and_then(|text| Some((text.as_str(), billionths(text)?)))
}

/// What a pod needs of it whether it has a proxy or not; nothing where a proxy may need some.
fn needs_without_proxy(resource: &str, successor: &PodSpec) -> Option<i128> {
    let of_a_proxy = of_containers(resource).is_some_and(|(_, name)| OF_A_PROXY.contains(&name));
    (!of_a_proxy).then(|| frees(resource, successor)).flatten()
}

fn is_count(resource: &str) -> bool {
    matches!(resource, "pods" | "count/pods")
}

/// Whether a quota counts this of pods.
fn counts(resource: &str) -> bool {
    is_count(resource) || of_containers(resource).is_some_and(|(_, name)| name != "storage")
}

/// Whether it is about limits, and what a container calls it.
fn of_containers(resource: &str) -> Option<(bool, &str)> {
    if let Some(name) = resource.strip_prefix("limits.") {
        return Some((true, name));
    }
    if let Some(name) = resource.strip_prefix("requests.") {
        return Some((false, name));
    }
    let plain = matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-");
    plain.then_some((false, resource))
}

/// How much a quota counts less of it once this pod is gone, at least; nothing where that is not known.
fn frees(resource: &str, pod: &PodSpec) -> Option<i128> {
    if is_count(resource) {
        return Some(ONE);
    }
    let (limits, name) = of_containers(resource)?;
    if pod.resources.is_some() {
        return None;
    }
    let amount = |map: Option<&BTreeMap<String, Quantity>>| match map.and_then(|map| map.get(name)) {
        Some(Quantity(amount)) => billionths(amount),
        None => Some(0),
    };
    let of = |requirements: Option<&ResourceRequirements>| {
        let of_limits = requirements.and_then(|all| all.limits.as_ref());
        amount(if limits { of_limits } else { requirements.and_then(|all| all.requests.as_ref()) })
    };
    let mut together = 0;
    for container in &pod.containers {
        together += of(container.resources.as_ref())?;
    }
    // Init containers run before that, each beside the sidecars that came before it.
    let (mut sidecars, mut most) = (0, 0);
    for container in pod.init_containers.iter().flatten() {
        let own = of(container.resources.as_ref())?;
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += own;
            most = most.max(sidecars);
        } else {
            most = most.max(sidecars + own);
        }
    }
    let overhead = if limits { 0 } else { amount(pod.overhead.as_ref())? };
    Some((together + sidecars).max(most) + overhead)
}

/// What puts the two pods into different scopes of quotas, if anything does.
fn scoped_otherwise(evicted: &PodSpec, successor: &PodSpec) -> Option<&'static str> {
    let affinity = |spec: &PodSpec| {
        let affinity = spec.affinity.clone().unwrap_or_default();
        (affinity.pod_affinity, affinity.pod_anti_affinity)
    };
    // What a template does not say, admission fills in for both.
    let class = &successor.priority_class_name;
    if class.as_ref().is_some_and(|class| !class.is_empty()) && *class != evicted.priority_class_name {
        return Some("priority class");
    }
    if evicted.active_deadline_seconds.is_some() != successor.active_deadline_seconds.is_some() {
        return Some("deadline");
    }
    (affinity(evicted) != affinity(successor)).then_some("pod affinity")
}

fn is_of_a_quality_of_service(quota: &ResourceQuota) -> bool {
    let Some(spec) = &quota.spec else { return false };
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    let mut scopes = spec.scopes.iter().flatten().chain(selected.map(|term| &term.scope_name));
    scopes.any(|scope| scope.ends_with("BestEffort"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PODS: &str =
        "pods \"only-\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1";

    fn object<T: serde::de::DeserializeOwned>(json: Value) -> T {
        serde_json::from_value(json).unwrap()
    }

    fn quota(name: &str, hard: &Value, used: &Value) -> ResourceQuota {
        object(json!({"metadata": {"name": name}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}}))
    }

    fn few() -> ResourceQuota {
        quota("few", &json!({"pods": "1"}), &json!({"pods": "1"}))
    }

    fn pod(cpu: &str) -> Pod {
        object(json!({"spec": {"containers": [
            {"name": "app", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "1"}}},
        ]}}))
    }

    fn after(message: &str, quotas: &[ResourceQuota], evicted: &Pod) -> Room {
        Exceeded::read(message).unwrap().after_eviction(quotas, evicted, &pod("100m").spec.unwrap())
    }

    fn exceeds(resource: &str, requested: &str, used: &str, limited: &str) -> String {
        format!(
            "exceeded quota: few, requested: {resource}={requested}, used: {resource}={used}, limited: {resource}={limited}"
        )
    }

    #[test]
    fn a_message_about_a_full_quota_is_read_and_no_other() {
        let read = Exceeded::read(PODS).unwrap();
        assert_eq!((read.quota.as_str(), read.requested["pods"].as_str()), ("few", "1"));
        assert_eq!(Exceeded::read("failed quota: few: must specify limits.cpu for: app"), None);
        assert_eq!(Exceeded::read("exceeded quota: few"), None);
    }

    #[test]
    fn a_quota_of_pods_has_room_once_the_pod_is_gone() {
        assert_eq!(after(PODS, &[few()], &pod("100m")), Room::Enough);
        let over = PODS.replace("used: pods=1", "used: pods=2");
        assert!(
            matches!(after(&over, &[few()], &pod("100m")), Room::TooLittle(why) if why.contains("quota few: pods: 2 used, 1 limited"))
        );
    }

    #[test]
    fn what_the_proxy_needs_beside_has_to_fit_as_well() {
        let few = || [quota("few", &json!({"requests.cpu": "1"}), &json!({"requests.cpu": "950m"}))];
        for resource in ["cpu", "requests.cpu"] {
            assert_eq!(after(&exceeds(resource, "150m", "950m", "1"), &few(), &pod("100m")), Room::Enough);
            assert!(matches!(after(&exceeds(resource, "151m", "950m", "1"), &few(), &pod("100m")), Room::TooLittle(_)));
        }
        assert_eq!(after(&exceeds("limits.cpu", "2", "3", "4"), &few(), &pod("100m")), Room::Enough);
        assert!(matches!(after(&exceeds("limits.memory", "1Gi", "1Gi", "1Gi"), &few(), &pod("1")), Room::TooLittle(_)));
    }

    #[test]
    fn init_containers_and_sidecars_count_as_a_quota_counts_them() {
        let requests = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod: Pod = object(json!({"spec": {
            "initContainers": [
                {"name": "first", "resources": requests("700m")},
                {"name": "sidecar", "restartPolicy": "Always", "resources": requests("100m")},
                {"name": "second", "resources": requests("50m")},
            ],
            "containers": [{"name": "one", "resources": requests("300m")}, {"name": "other"}],
            "overhead": {"cpu": "10m"},
        }}));
        assert_eq!(frees("requests.cpu", pod.spec.as_ref().unwrap()), billionths("710m"));
        assert_eq!(frees("limits.cpu", pod.spec.as_ref().unwrap()), Some(0));
    }

    #[test]
    fn what_cannot_be_decided_says_so_by_name() {
        let undecided = |quotas: &[ResourceQuota], evicted: &Pod, name: &str| match after(PODS, quotas, evicted) {
            Room::Undecided(why) => assert!(why.contains(name), "{why}"),
            other => panic!("{other:?}"),
        };
        undecided(&[], &pod("1"), "quota few was deleted");
        // Another quota that the API server did not name counts what only the injected pod tells.
        let other = quota("memory", &json!({"requests.memory": "1Gi"}), &json!({"requests.memory": "1Mi"}));
        undecided(
            &[few(), other],
            &pod("1"),
            "quota memory: what the pod that would be made instead needs of requests.memory",
        );
        let scoped: ResourceQuota = object(json!({
            "metadata": {"name": "best"}, "spec": {"hard": {"pods": "9"}, "scopes": ["BestEffort"]},
        }));
        let mut best = pod("1");
        best.status = object(json!({"qosClass": "BestEffort"}));
        undecided(&[few(), scoped], &best, "quota best has a scope");
        let mut whole = pod("1");
        whole.spec.as_mut().unwrap().resources = object(json!({"requests": {"cpu": "1"}}));
        let of_cpu = exceeds("requests.cpu", "1", "1", "1");
        assert!(matches!(after(&of_cpu, &[few()], &whole), Room::Undecided(why) if why.contains("requests.cpu")));
        let mut timed = pod("1");
        timed.spec.as_mut().unwrap().active_deadline_seconds = Some(5);
        undecided(&[few()], &timed, "another deadline");
    }

    #[test]
    fn what_a_proxy_never_asks_for_is_decided_by_the_template() {
        let gpus = |used: &str| {
            quota("gpus", &json!({"requests.example.com/gpu": "1"}), &json!({"requests.example.com/gpu": used}))
        };
        assert_eq!(after(PODS, &[few(), gpus("1")], &pod("1")), Room::Enough, "neither pod has one");
        assert!(
            matches!(after(PODS, &[few(), gpus("2")], &pod("1")), Room::TooLittle(why) if why.starts_with("quota gpus"))
        );
    }

    #[test]
    fn a_second_quota_that_is_fuller_is_found() {
        let other = quota("fewer", &json!({"count/pods": "1"}), &json!({"count/pods": "2"}));
        assert!(
            matches!(after(PODS, &[few(), other], &pod("1")), Room::TooLittle(why) if why.starts_with("quota fewer: count/pods"))
        );
        let claims = quota("claims", &json!({"requests.storage": "1Gi", "services": "2"}), &json!({}));
        assert_eq!(after(PODS, &[few(), claims], &pod("1")), Room::Enough, "which counts nothing of pods");
    }
}
