//! Fields that stand where nothing reads them.

use crate::command::explain::read::Node;

/// The fields of ObjectMeta, for which a typo is so easily made and so hard to see.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Fields that belong into metadata and are easily written beside it.
const MISPLACED: [&str; 2] = ["annotations", "labels"];

/// Fields of a pod or of its template that Kubernetes does not know, as far as they look like metadata.
pub(super) fn unknown_fields(node: &Node, within: &str) -> Vec<String> {
    let metadata = node.get("metadata").into_iter().flat_map(Node::fields).map(|(name, _)| name);
    let metadata = metadata.filter(|name| !METADATA.contains(name)).map(|name| format!("{within}metadata.{name}"));
    let beside = |path: &'static str| {
        let fields = if path.is_empty() { Some(node) } else { node.get(path) };
        let fields = fields.into_iter().flat_map(Node::fields).map(|(name, _)| name);
        let dot = if path.is_empty() { "" } else { "." };
        fields.filter(|name| MISPLACED.contains(name)).map(move |name| format!("{within}{path}{dot}{name}"))
    };
    metadata.chain(beside("")).chain(beside("spec")).collect()
}
