//! What the labels of an object say of it.

use std::collections::BTreeMap;

use crate::linkerd::names;

/// Whether these are the labels of a part of ours.
pub fn is_ours(labels: Option<&BTreeMap<String, String>>, component: &str) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    label("app.kubernetes.io/name") == Some("linkerd-gate") && label("app.kubernetes.io/component") == Some(component)
}

/// The part of Linkerd's control plane that these labels say.
pub fn component(labels: Option<&BTreeMap<String, String>>) -> Option<&str> {
    labels?.get(names::label::CONTROL_PLANE_COMPONENT).map(String::as_str)
}
