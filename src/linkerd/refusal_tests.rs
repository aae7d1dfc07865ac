use super::*;
use serde_json::{Value, json};

fn keys(pod: Value, namespace: Value, others: &[Value]) -> Vec<&'static str> {
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let namespace: ObjectMeta = serde_json::from_value(namespace).unwrap();
    let of_kind = |kind: &str| others.iter().filter(|other| other["kind"] == kind).cloned().collect::<Vec<_>>();
    let quotas: Vec<ResourceQuota> =
        of_kind("ResourceQuota").into_iter().map(|quota| serde_json::from_value(quota).unwrap()).collect();
    let limits: Vec<LimitRange> =
        of_kind("LimitRange").into_iter().map(|range| serde_json::from_value(range).unwrap()).collect();
    let (quotas, limits): (Vec<_>, Vec<_>) = (quotas.iter().collect(), limits.iter().collect());
    let found = refusals(&pod, &namespace, Surroundings { quotas: &quotas, limits: &limits });
    for refusal in &found {
        assert!(!refusal.to_string().is_empty() && !refusal.remedy().is_empty());
    }
    found.iter().map(Refusal::key).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "the literals are written where they are used")]
fn pod(annotations: Value, spec: Value) -> Value {
    let mut spec = spec;
    spec.as_object_mut().unwrap().entry("containers").or_insert_with(|| json!([{"name": "app"}]));
    json!({"metadata": {"annotations": annotations}, "spec": spec})
}

#[test]
fn an_ordinary_pod_in_an_ordinary_namespace_is_not_refused() {
    assert_eq!(keys(pod(json!({}), json!({})), json!({}), &[]), [""; 0]);
}

#[test]
fn names_must_not_be_those_that_are_added() {
    let named = |name: &str| json!({"containers": [{"name": name}]});
    let debug = json!({"config.linkerd.io/enable-debug-sidecar": "true"});
    assert_eq!(keys(pod(json!({}), named("linkerd-init")), json!({}), &[]), ["container_name"]);
    assert_eq!(keys(pod(json!({}), named("linkerd-debug")), json!({}), &[]), [""; 0]);
    assert_eq!(keys(pod(debug.clone(), named("linkerd-debug")), json!({}), &[]), ["container_name"]);
    assert_eq!(keys(pod(json!({}), named("linkerd-debug")), json!({"annotations": debug}), &[]), ["container_name"]);
    let off = json!({"config.linkerd.io/enable-debug-sidecar": "yes"});
    assert_eq!(keys(pod(off, named("linkerd-debug")), json!({}), &[]), [""; 0]);
    let volume = json!({"volumes": [{"name": "linkerd-identity-token", "emptyDir": {}}]});
    assert_eq!(keys(pod(json!({}), volume), json!({}), &[]), ["volume_name"]);
}

#[test]
fn windows_is_detected_by_os_node_selector_or_affinity() {
    let affinity = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    let term =
        |values: Value| json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": values}]});
    for (spec, wanted) in [
        (json!({"os": {"name": "windows"}, "nodeSelector": {"kubernetes.io/os": "windows"}}), vec!["windows"]),
        (json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), vec!["windows_nodes"]),
        (json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}), vec!["windows_nodes"]),
        (affinity(json!([term(json!(["windows"]))])), vec!["windows_nodes"]),
        (affinity(json!([term(json!(["windows", "linux"]))])), vec![]),
        (affinity(json!([term(json!(["windows"])), term(json!(["linux"]))])), vec![]),
        (json!({"nodeSelector": {"kubernetes.io/os": "linux"}, "os": {"name": "linux"}}), vec![]),
    ] {
        assert_eq!(keys(pod(json!({}), spec.clone()), json!({}), &[]), wanted, "{spec}");
    }
}

#[test]
fn a_proxy_request_must_not_exceed_its_limit_wherever_it_is_set() {
    let says = |request: &str, limit: &str| json!({"config.linkerd.io/proxy-cpu-request": request, "config.linkerd.io/proxy-cpu-limit": limit});
    assert_eq!(keys(pod(says("2", "1"), json!({})), json!({}), &[]), ["request_above_limit"]);
    assert_eq!(keys(pod(says("1000m", "1"), json!({})), json!({}), &[]), [""; 0]);
    // What is no amount is passed over.
    assert_eq!(keys(pod(says("2 cores", "1"), json!({})), json!({}), &[]), [""; 0]);
    let request = json!({"config.linkerd.io/proxy-memory-request": "1Gi"});
    let limit = json!({"annotations": {"config.linkerd.io/proxy-memory-limit": "512Mi"}});
    assert_eq!(keys(pod(request.clone(), json!({})), limit, &[]), ["request_above_limit"]);
    let range = json!({"kind": "LimitRange", "apiVersion": "v1", "metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "default": {"memory": "100Mi"}}]}});
    assert_eq!(keys(pod(request, json!({})), json!({}), &[range]), ["request_above_limit"]);
}

#[test]
fn namespace_pod_security_quota_and_limits_apply_to_the_proxy() {
    let enforce = |level: &str| json!({"labels": {"pod-security.kubernetes.io/enforce": level}});
    for (level, wanted) in
        [("restricted", vec!["pod_security"]), ("baseline", vec!["pod_security"]), ("privileged", vec![])]
    {
        assert_eq!(keys(pod(json!({}), json!({})), enforce(level), &[]), wanted, "{level}");
    }
    let warn = json!({"labels": {"pod-security.kubernetes.io/warn": "restricted"}});
    assert_eq!(keys(pod(json!({}), json!({})), warn, &[]), [""; 0]);

    let quota = |hard: Value| json!({"kind": "ResourceQuota", "apiVersion": "v1", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    let cpu = json!({"config.linkerd.io/proxy-cpu-limit": "1"});
    assert_eq!(keys(pod(json!({}), json!({})), json!({}), &[quota(json!({"limits.cpu": "4"}))]), ["quota"]);
    assert_eq!(keys(pod(cpu.clone(), json!({})), json!({}), &[quota(json!({"limits.cpu": "4", "cpu": "4"}))]), [""; 0]);
    assert_eq!(keys(pod(json!({}), json!({})), json!({}), &[quota(json!({"pods": "4"}))]), [""; 0]);
    let range = |item: Value| json!({"kind": "LimitRange", "apiVersion": "v1", "metadata": {"name": "l"}, "spec": {"limits": [item]}});
    let default = range(json!({"type": "Container", "default": {"cpu": "1"}}));
    assert_eq!(keys(pod(json!({}), json!({})), json!({}), &[quota(json!({"limits.cpu": "4"})), default]), [""; 0]);
    let most = range(json!({"type": "Container", "max": {"cpu": "500m"}}));
    assert_eq!(keys(pod(cpu, json!({})), json!({}), &[most]), ["limit_range"]);
}
