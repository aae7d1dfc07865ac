//! How a person names a pod: `pod/web`, as `kubectl get --output name` prints it, or `web`.

use crate::check::clean::is_name;

/// A pod's name.
///
/// # Errors
/// What cannot be the name of any pod, and what is accepted.
pub fn pod(text: &str) -> Result<String, String> {
    let name = ["pod/", "pods/", "po/"].iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
    if name.contains('/') {
        return Err("this is no pod: give pod/NAME, as `kubectl get pods --output name` prints it".to_owned());
    }
    if !is_name(name) {
        return Err(
            "no pod can have this name: it holds lower case letters, digits, `-` and `.`; give pod/NAME".to_owned()
        );
    }
    Ok(name.to_owned())
}

/// The name of an object of any kind.
///
/// # Errors
/// What would lead to another object, or to none.
pub fn name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("no object of this kind can have this name".to_owned()) }
}

/// A namespace's name.
///
/// # Errors
/// What cannot be the name of any namespace.
pub fn namespace(text: &str) -> Result<String, String> {
    if !is_name(text) || text.contains('.') {
        return Err("no namespace can have this name: it holds lower case letters, digits and `-`".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_as_kubectl_prints_it_or_by_its_name_alone() {
        for text in ["pod/web-0", "pods/web-0", "po/web-0", "web-0"] {
            assert_eq!(pod(text), Ok("web-0".to_owned()), "{text}");
        }
    }

    #[test]
    fn what_would_lead_to_another_object_is_refused() {
        for wrong in
            ["", "pod/", "deployment/web", "web/status", "a?x=y", "..%2f", "Web", "pod/web/eviction", "..", "pod/."]
        {
            assert!(pod(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "a.b", "shop/pods", "Shop"] {
            assert!(namespace(wrong).is_err(), "{wrong}");
        }
    }
}
