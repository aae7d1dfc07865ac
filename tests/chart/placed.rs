//! What an operator may add to objects and pods: labels, annotations, secrets, placement, limits, and a NetworkPolicy.

use std::collections::BTreeSet;

use linkerd_gate::linkerd::names::port::{DESTINATION_ADMIN, IDENTITY_ADMIN, IDENTITY_GRPC, POLICY_ADMIN};
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, Setting, all_on, refusal, render, set};

/// What is rendered with everything on, and these.
fn rendered(settings: &[Setting]) -> Vec<Value> {
    let settings = [&all_on()[..], settings].concat();
    render(NAMESPACE, &settings).iter().map(crate::helm::Document::value).collect()
}

/// The pod templates, with what each is of.
fn pods(documents: &[Value]) -> Vec<(String, Value)> {
    let template = |document: &Value| {
        let paths = ["/spec/template", "/spec/jobTemplate/spec/template"];
        let template = paths.iter().find_map(|path| document.pointer(path))?;
        Some((format!("{} {}", document["kind"], document["metadata"]["name"]), template.clone()))
    };
    let found: Vec<_> = documents.iter().filter_map(template).collect();
    assert!(found.len() >= 3, "{found:?}");
    found
}

fn named<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
    documents.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn common_labels_are_on_every_object_and_pod() {
    let documents =
        rendered(&[set("commonLabels", json!({"team": "platform"})), set("agent.podLabels", json!({"team": "mesh"}))]);
    for document in documents.iter().filter(|document| document["kind"] != "Namespace") {
        assert_eq!(document["metadata"]["labels"]["team"], "platform", "{document:#}");
        // A selector cannot be changed later.
        assert!(document["spec"]["selector"]["matchLabels"].get("team").is_none(), "{document:#}");
    }
    for (of, pod) in pods(&documents) {
        let team = if of.contains("DaemonSet") { "mesh" } else { "platform" };
        assert_eq!(pod["metadata"]["labels"]["team"], team, "{of}");
    }
    for key in
        ["app.kubernetes.io/name", "helm.sh/chart", "linkerd-gate/admission", "config.linkerd.io/admission-webhooks"]
    {
        let said = refusal(NAMESPACE, &[set("commonLabels", json!({key: "x"}))]);
        assert!(said.contains(&format!("'{key}'")), "{key}: {said}");
    }
}

/// Agents and policies find objects by their names, so another name is refused with the reason.
#[test]
fn a_name_override_is_refused_with_the_reason() {
    for name in ["nameOverride", "fullnameOverride"] {
        let said = refusal(NAMESPACE, &[set(name, "mesh-gate")]);
        assert!(
            said.contains("nameOverride and fullnameOverride have no effect") && said.contains("commonLabels"),
            "{said}"
        );
    }
}

#[test]
fn every_pod_has_the_pull_secrets() {
    let secrets = json!([{"name": "registry"}, {"name": "mirror"}]);
    for (of, pod) in pods(&rendered(&[set("imagePullSecrets", secrets.clone())])) {
        assert_eq!(pod["spec"]["imagePullSecrets"], secrets, "{of}");
    }
    let said = refusal(NAMESPACE, &[set("imagePullSecrets", json!(["registry"]))]);
    assert!(said.contains("imagePullSecrets"), "{said}");
}

#[test]
fn service_accounts_have_their_annotations() {
    let role = json!({"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/gate"});
    let both = ["agent", "controller"].map(|part| set(&format!("{part}.serviceAccountAnnotations"), role.clone()));
    for name in ["linkerd-gate-agent", "linkerd-gate-controller"] {
        assert_eq!(named(&rendered(&both), "ServiceAccount", name)["metadata"]["annotations"], role);
        assert!(named(&rendered(&[]), "ServiceAccount", name)["metadata"].get("annotations").is_none());
    }
}

#[test]
fn pods_are_placed_as_the_values_say() {
    let tolerations = json!([{"key": "dedicated", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}]);
    let spread = json!([{"maxSkew": 2, "topologyKey": "example.com/rack", "whenUnsatisfiable": "DoNotSchedule"}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "example.com/pool", "operator": "Exists"}]}],
    }}});
    let documents = rendered(&[
        set("agent.tolerations", tolerations.clone()),
        set("agent.affinity", affinity.clone()),
        set("controller.tolerations", tolerations.clone()),
        set("controller.affinity", affinity.clone()),
        set("controller.topologySpreadConstraints", spread.clone()),
    ]);
    let agent = &named(&documents, "DaemonSet", "linkerd-gate")["spec"]["template"]["spec"];
    assert_eq!((&agent["tolerations"], &agent["affinity"]), (&tolerations, &affinity));
    let controller = &named(&documents, "Deployment", "linkerd-gate-controller")["spec"]["template"]["spec"];
    assert_eq!((&controller["affinity"], &controller["topologySpreadConstraints"]), (&affinity, &spread));
    // It must run on closed nodes, whatever else it tolerates.
    let own = json!({"key": "linkerd-gate/closed", "operator": "Exists", "effect": "NoSchedule"});
    assert_eq!(controller["tolerations"], json!([own, tolerations[0]]));
    // The check has the controller's node selector, so it needs its tolerations too.
    let check = &named(&documents, "CronJob", "linkerd-gate-check")["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(check["tolerations"], controller["tolerations"]);
    for wrong in [json!([{"toleratn": "x"}]), json!([{"operator": "Is"}])] {
        for part in ["agent", "controller"] {
            let said = refusal(NAMESPACE, &[set(&format!("{part}.tolerations"), wrong.clone())]);
            assert!(said.contains("tolerations"), "{said}");
        }
    }
}

/// Kubernetes would leave out what it does not know, with no more than a warning.
#[test]
fn a_misspelt_field_is_refused_by_its_name() {
    for (value, wrong) in [
        ("affinity", json!({"nodeAfinity": {}})),
        ("extraEnv", json!([{"name": "A", "valueFrom": {"secretKeyReff": {}}}])),
        ("extraVolumeMounts", json!([{"name": "a", "mountPath": "/a", "readonly": true}])),
    ] {
        for part in ["agent", "controller"] {
            let said = refusal(NAMESPACE, &[set(&format!("{part}.{value}"), wrong.clone())]);
            assert!(said.contains(&format!("'/{part}/{value}")), "{said}");
        }
    }
    let wrong = json!([{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"app": "x"},
    }]);
    let said = refusal(NAMESPACE, &[set("controller.topologySpreadConstraints", wrong)]);
    assert!(said.contains("'/controller/topologySpreadConstraints/0/labelSelector"), "{said}");
}

/// A misspelt limit would be none.
#[test]
fn resources_are_closed() {
    for part in ["agent", "controller", "check"] {
        for wrong in [
            json!({"limit": {"memory": "1Gi"}}),
            json!({"limits": {"memory": "1 Gi"}}),
            json!({"limits": {"cpu": true}}),
        ] {
            let said = refusal(NAMESPACE, &[set(&format!("{part}.resources"), wrong)]);
            assert!(said.contains("resources"), "{part}: {said}");
        }
        render(
            NAMESPACE,
            &[set(&format!("{part}.resources"), json!({"limits": {"cpu": 1, "ephemeral-storage": "1Gi"}}))],
        );
    }
}

/// Those of API servers, and those that the program's probes send to.
#[test]
fn the_network_policy_has_every_port() {
    let servers = set("agent.apiServers", json!(["10.0.0.11:7443", "[fd00::12]:6443"]));
    let documents = rendered(&[set("controller.networkPolicy", true), set("controller.listenPort", 4300), servers]);
    let policy = &named(&documents, "NetworkPolicy", "linkerd-gate-controller")["spec"];
    let deployment = &named(&documents, "Deployment", "linkerd-gate-controller")["spec"];
    assert_eq!(policy["podSelector"], deployment["selector"]);
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["ingress"], json!([{"ports": [{"protocol": "TCP", "port": 4300}]}]));
    let rules = policy["egress"].as_array().into_iter().flatten();
    let ports = rules.flat_map(|rule| rule["ports"].as_array().into_iter().flatten());
    let ports: Vec<u64> = ports.filter_map(|port| port["port"].as_u64()).collect();
    let once: BTreeSet<u64> = ports.iter().copied().collect();
    assert_eq!(ports.len(), once.len(), "a port is there twice: {ports:?}");
    let linkerd = [IDENTITY_GRPC, IDENTITY_ADMIN, DESTINATION_ADMIN, POLICY_ADMIN].map(u64::from).into_iter();
    assert_eq!(once, linkerd.chain([443, 6443, 7443]).collect());
    assert!(rendered(&[]).iter().all(|document| document["kind"] != "NetworkPolicy"));
}
