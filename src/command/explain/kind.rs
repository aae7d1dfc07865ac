//! The kinds of objects that `explain` takes by name.

/// A kind that makes pods, or is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub(super) plural: &'static str,
    group: &'static str,
    names: &'static [&'static str],
}

/// The kinds that are asked for by name; any other goes by way of a file.
const KINDS: [Kind; 8] = [
    Kind { plural: "pods", group: "api/v1", names: &["pod", "pods", "po"] },
    Kind { plural: "deployments", group: "apis/apps/v1", names: &["deployment", "deployments", "deploy"] },
    Kind { plural: "statefulsets", group: "apis/apps/v1", names: &["statefulset", "statefulsets", "sts"] },
    Kind { plural: "daemonsets", group: "apis/apps/v1", names: &["daemonset", "daemonsets", "ds"] },
    Kind { plural: "replicasets", group: "apis/apps/v1", names: &["replicaset", "replicasets", "rs"] },
    Kind {
        plural: "replicationcontrollers",
        group: "api/v1",
        names: &["replicationcontroller", "replicationcontrollers", "rc"],
    },
    Kind { plural: "jobs", group: "apis/batch/v1", names: &["job", "jobs"] },
    Kind { plural: "cronjobs", group: "apis/batch/v1", names: &["cronjob", "cronjobs", "cj"] },
];

// === impl Kind ===

impl Kind {
    /// Pods.
    pub const PODS: Self = KINDS[0];

    /// By a name that kubectl takes: `deploy`, or `deployment.apps`.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        KINDS.into_iter().find(|kind| kind.names.contains(&name.as_str()))
    }

    /// As `kubectl get` takes it.
    pub fn name(self) -> &'static str {
        self.names[0]
    }

    pub(super) fn path(self, namespace: Option<&str>) -> String {
        let Self { plural, group, .. } = self;
        match namespace {
            Some(namespace) => format!("/{group}/namespaces/{namespace}/{plural}"),
            None => format!("/{group}/{plural}"),
        }
    }
}
