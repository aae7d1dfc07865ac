//! Where pods come from: kinds that are known to make pods, and any object with a pod's template in it.

use super::read::{Node, Value};
use std::collections::BTreeMap;

/// Kinds of Kubernetes' own groups that make pods, and the path of the pod's template.
const WORKLOADS: [(&str, &str, &str); 8] = [
    ("Deployment", "apps", "spec.template"),
    ("ReplicaSet", "apps", "spec.template"),
    ("StatefulSet", "apps", "spec.template"),
    ("DaemonSet", "apps", "spec.template"),
    ("ReplicationController", "", "spec.template"),
    ("Job", "batch", "spec.template"),
    ("CronJob", "batch", "spec.jobTemplate.spec.template"),
    ("PodTemplate", "", "template"),
];

/// Kinds that make no pods, beside kinds of their groups that do.
const WITHOUT_PODS: [(&str, &str); 13] = [
    ("", "Binding"),
    ("", "ConfigMap"),
    ("", "Endpoints"),
    ("", "Event"),
    ("", "LimitRange"),
    ("", "Node"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("", "ResourceQuota"),
    ("", "Secret"),
    ("", "Service"),
    ("", "ServiceAccount"),
    ("apps", "ControllerRevision"),
];

/// Kubernetes' own groups without any kind that makes pods: <https://kubernetes.io/docs/reference/kubernetes-api/>.
const GROUPS_WITHOUT_PODS: [&str; 13] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "autoscaling",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// What stands for the value of a label that a controller chooses.
const CHOSEN: &str = "chosen-by-its-controller";

/// A version of an API that servers no longer have: <https://kubernetes.io/docs/reference/using-api/deprecation-guide/>.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removed {
    /// As it is written.
    pub(super) version: String,
    /// The release without it; nothing where no release ever had it.
    pub(super) since: Option<&'static str>,
    /// What to write instead.
    pub(super) instead: &'static str,
}

/// A kind of Kubernetes' own that makes pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) template: &'static str,
    pub(super) removed: Option<Removed>,
}

/// Finds a kind of Kubernetes' own among those that make pods, in whatever version.
pub(super) fn workload(version: &str, kind: &str) -> Option<Workload> {
    let (group, bare) = version.split_once('/').unwrap_or(("", version));
    let home = if group == "extensions" { "apps" } else { group };
    let (_, _, template) = WORKLOADS.into_iter().find(|(known, of, _)| *known == kind && *of == home)?;
    let instead = match home {
        "apps" => "apps/v1",
        "batch" => "batch/v1",
        _ => "v1",
    };
    let since = match (group, bare) {
        ("extensions", _) | ("apps", "v1beta1" | "v1beta2") => Some("1.16"),
        ("batch", "v1beta1") => Some("1.25"),
        ("batch", "v2alpha1") => Some("1.21"),
        _ => None,
    };
    let removed = (version != instead).then(|| Removed { version: version.to_owned(), since, instead });
    Some(Workload { template, removed })
}

/// Whether a kind of Kubernetes' own makes no pods.
pub(super) fn makes_no_pods(group: &str, kind: &str) -> bool {
    GROUPS_WITHOUT_PODS.contains(&group) || WITHOUT_PODS.contains(&(group, kind))
}

/// The paths of all pod templates in an object: maps under a name that ends in `template`, with `spec.containers` in them.
///
/// So has it every kind that embeds Kubernetes' PodTemplateSpec: Argo's Rollout, Knative's Service, KEDA's ScaledJob
/// (`spec.jobTargetRef.template`), OpenKruise's CloneSet, AdvancedCronJob and UnitedDeployment, Kubeflow's jobs
/// (`spec.*ReplicaSpecs.*.template`), Ray's clusters, JobSet, LeaderWorkerSet, Volcano's Job, Agones' Fleet, and others.
pub(super) fn templates(root: &Node) -> Vec<(String, &Node)> {
    let mut found = Vec::new();
    for (name, node) in root.fields().filter(|(name, _)| !["metadata", "status"].contains(name)) {
        search(name.to_owned(), name, node, &mut found);
    }
    found
}

fn search<'a>(path: String, name: &str, node: &'a Node, found: &mut Vec<(String, &'a Node)>) {
    let is_template = name.len() >= 8 && name.to_ascii_lowercase().ends_with("template") && has_containers(node);
    if is_template {
        found.push((path, node));
        return;
    }
    match &node.value {
        Value::Map(_) => {
            for (name, node) in node.fields() {
                search(format!("{path}.{name}"), name, node, found);
            }
        }
        Value::List(items) => {
            for (index, node) in items.iter().enumerate() {
                search(format!("{path}[{index}]"), "", node, found);
            }
        }
        _ => {}
    }
}

fn has_containers(node: &Node) -> bool {
    node.at("spec.containers").is_some_and(|containers| {
        matches!(&containers.value, Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Map(_))))
    })
}

/// The steps of an Argo Workflow, of a template of one, or of a schedule of them: each runs in a pod of its kind.
///
/// <https://argo-workflows.readthedocs.io/en/latest/fields/>
pub(super) fn workflow_steps(version: &str, kind: &str, root: &Node) -> Vec<(String, Node)> {
    let spec = match kind {
        "Workflow" | "WorkflowTemplate" | "ClusterWorkflowTemplate" => "spec",
        "CronWorkflow" => "spec.workflowSpec",
        _ => return Vec::new(),
    };
    let Some(spec_node) = root.at(spec).filter(|_| version.starts_with("argoproj.io/")) else { return Vec::new() };
    let Some(Value::List(steps)) = spec_node.get("templates").map(|templates| &templates.value) else {
        return Vec::new();
    };
    let pod_of = |step: &Node| {
        let containers: Vec<Node> =
            match (step.get("container"), step.get("script"), step.at("containerSet.containers")) {
                (Some(one), ..) | (None, Some(one), _) => vec![one.clone()],
                (None, None, Some(Node { value: Value::List(several), .. })) => several.clone(),
                _ => return None,
            };
        let line = step.line;
        let node = |value| Node { line, plain: None, value };
        let mut spec = vec![("containers".to_owned(), node(Value::List(containers)))];
        for field in
            ["initContainers", "nodeSelector", "hostNetwork", "volumes", "automountServiceAccountToken", "affinity"]
        {
            if let Some(value) = step.get(field).or_else(|| spec_node.get(field)) {
                spec.push((field.to_owned(), value.clone()));
            }
        }
        let metadata = ["annotations", "labels"].map(|field| {
            let both = [spec_node.at(&format!("podMetadata.{field}")), step.at(&format!("metadata.{field}"))];
            let mut merged = Vec::new();
            for (key, value) in both.into_iter().flatten().flat_map(Node::fields) {
                merged.retain(|(known, _)| known != key);
                merged.push((key.to_owned(), value.clone()));
            }
            (field.to_owned(), node(Value::Map(merged)))
        });
        let fields = vec![
            ("metadata".to_owned(), node(Value::Map(metadata.into()))),
            ("spec".to_owned(), node(Value::Map(spec))),
        ];
        Some(node(Value::Map(fields)))
    };
    let steps = steps.iter().enumerate();
    steps.filter_map(|(index, step)| Some((format!("{spec}.templates[{index}]"), pod_of(step)?))).collect()
}

/// The labels that controllers and the API server add to the pods of a kind, by which webhooks may select as well.
///
/// Job: `generateSelector` in pkg/registry/batch/job/strategy.go; others: their controllers in k8s.io/kubernetes
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/>). A value that is not known before stands as a word.
pub(super) fn added_labels(kind: &str, name: &str, root: &Node) -> BTreeMap<String, String> {
    let name = if name.ends_with('*') { CHOSEN } else { name };
    let is = |path: &str, wanted: &Value| root.at(path).is_some_and(|node| node.value == *wanted);
    let labels: Vec<(&str, &str)> = match kind {
        "Job" | "CronJob" => {
            let (spec, name) = if kind == "Job" { ("spec", name) } else { ("spec.jobTemplate.spec", CHOSEN) };
            let mut labels = Vec::new();
            if !is(&format!("{spec}.manualSelector"), &Value::Bool(true)) {
                labels.extend([
                    ("batch.kubernetes.io/controller-uid", CHOSEN),
                    ("batch.kubernetes.io/job-name", name),
                    ("controller-uid", CHOSEN),
                    ("job-name", name),
                ]);
            }
            if is(&format!("{spec}.completionMode"), &Value::String("Indexed".to_owned())) {
                labels.push(("batch.kubernetes.io/job-completion-index", CHOSEN));
            }
            labels
        }
        "Deployment" => vec![("pod-template-hash", CHOSEN)],
        "StatefulSet" => vec![
            ("apps.kubernetes.io/pod-index", CHOSEN),
            ("controller-revision-hash", CHOSEN),
            ("statefulset.kubernetes.io/pod-name", CHOSEN),
        ],
        "DaemonSet" => vec![("controller-revision-hash", CHOSEN), ("pod-template-generation", CHOSEN)],
        "Rollout" => vec![("rollouts-pod-template-hash", CHOSEN)],
        "CloneSet" => vec![
            ("apps.kruise.io/cloneset-instance-id", CHOSEN),
            ("controller-revision-hash", CHOSEN),
            ("pod-template-hash", CHOSEN),
        ],
        "Service" | "Configuration" => vec![
            ("app", CHOSEN),
            ("pod-template-hash", CHOSEN),
            ("serving.knative.dev/configuration", name),
            ("serving.knative.dev/revision", CHOSEN),
            ("serving.knative.dev/service", name),
        ],
        "ScaledJob" => vec![
            ("batch.kubernetes.io/controller-uid", CHOSEN),
            ("batch.kubernetes.io/job-name", CHOSEN),
            ("controller-uid", CHOSEN),
            ("job-name", CHOSEN),
        ],
        "Workflow" | "CronWorkflow" => {
            vec![("workflows.argoproj.io/completed", "false"), ("workflows.argoproj.io/workflow", CHOSEN)]
        }
        _ => Vec::new(),
    };
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
