//! What makes the injector's own patch fail, so that a pod which asks is never meshed, however healthy Linkerd is.
//!
//! The patch is a text that the injector fills in (`charts/patch/templates/patch.json`). What it takes from annotations is not
//! escaped, so some values make it no JSON: the injector logs that it injected, the API server cannot apply the patch, and by
//! failure policy `Ignore` the pod is admitted bare, each time (*measured*, edge-26.8.3). Another value makes the injector
//! refuse, which no failure policy covers.

use super::annotation::{CONFIG, effective, is_inherited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::IgnoredAny;
use std::{collections::BTreeSet, fmt};

/// What is wrong with one annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchProblem {
    /// The annotation's key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Whether the namespace carries it, and not the pod.
    pub of_namespace: bool,
    /// What comes of it.
    pub outcome: PatchOutcome,
}

/// What comes of an annotation that the injector cannot digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOutcome {
    /// The patch is no JSON: with failure policy `Ignore` the pod is admitted without a proxy, with `Fail` it is refused.
    NoJson,

    /// The injector refuses the pod, whatever the failure policy.
    Refused,
}

/// The setting that is checked when the proxy's container is rendered (`charts/partials/templates/_proxy.tpl`).
const LOG_HTTP_HEADERS: &str = "proxy-log-http-headers";

/// Every annotation of a pod and its namespace that makes the injector's patch fail; none where it does its work.
///
/// The pod's annotations are those that it has before injection. This asks nothing about whether the injector is called.
pub fn patch_problems(pod: &ObjectMeta, namespace: &ObjectMeta) -> Vec<PatchProblem> {
    let mut problems = Vec::new();
    let handed_down =
        namespace.annotations.iter().flatten().map(|(key, _)| key.as_str()).filter(|key| is_inherited(key));
    // The proxy's version becomes an annotation of the pod, whoever sets it.
    let version = format!("{CONFIG}proxy-version");
    let copied: BTreeSet<&str> = handed_down.chain([version.as_str()]).collect();
    for key in copied {
        // What the namespace has is written once more where the pod has its own value.
        let Some((value, of_namespace)) = effective(pod, namespace, key) else { continue };
        if !fits(value) {
            let (key, value) = (key.to_owned(), value.to_owned());
            problems.push(PatchProblem { key, value, of_namespace, outcome: PatchOutcome::NoJson });
        }
    }
    let key = format!("{CONFIG}{LOG_HTTP_HEADERS}");
    if let Some((value, of_namespace)) = effective(pod, namespace, &key)
        && !["insecure", "off", ""].contains(&value)
    {
        let value = value.to_owned();
        // It fails before there is a patch.
        problems.insert(0, PatchProblem { key, value, of_namespace, outcome: PatchOutcome::Refused });
    }
    problems
}

/// Whether a value can stand between quotes in JSON as it is.
fn fits(value: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(&format!("{{\"value\":\"{value}\"}}")).is_ok()
}

// === impl PatchProblem ===

impl PatchProblem {
    /// A word for programs.
    pub const fn reason(&self) -> &'static str {
        match self.outcome {
            PatchOutcome::NoJson => "patch_is_no_json",
            PatchOutcome::Refused => "injector_refuses",
        }
    }

    /// What in the value does it.
    fn culprit(&self) -> &'static str {
        let has = |character: char| self.value.contains(character);
        if has('\n') {
            "a line feed (a YAML block scalar ends in one: write |- instead of |)"
        } else if self.value.contains(char::is_control) {
            "a control character"
        } else if has('"') {
            "a quote"
        } else {
            "a backslash"
        }
    }
}

impl fmt::Display for PatchProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.of_namespace { "namespace" } else { "pod" };
        let Self { key, value, .. } = self;
        match self.outcome {
            PatchOutcome::NoJson => write!(
                f,
                "the {whose}'s annotation {key} holds {}, which Linkerd's injector copies into its patch as it is: \
                 the patch is no JSON, and the API server cannot apply it",
                self.culprit()
            ),
            PatchOutcome::Refused => write!(
                f,
                "the {whose}'s annotation {key} says {value:?}: Linkerd's injector takes insecure and off, \
                 and refuses every pod with another value, whatever its failure policy"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(annotations: &[(&str, &str)]) -> ObjectMeta {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() }
    }

    fn reasons(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> Vec<(&'static str, bool)> {
        let problems = patch_problems(&with(pod), &with(namespace));
        problems.iter().map(|problem| (problem.reason(), problem.of_namespace)).collect()
    }

    #[test]
    fn what_a_namespace_hands_down_must_fit_between_quotes() {
        let ports = "config.linkerd.io/skip-outbound-ports";
        for value in ["4222,5432\n", "a\"b", "a\\qb", "tab\there", "a\\", "\u{1}"] {
            assert_eq!(reasons(&[], &[(ports, value)]), [("patch_is_no_json", true)], "{value:?}");
            // The pod's own value takes its place in the patch, and alone it is not in the patch at all.
            assert_eq!(reasons(&[(ports, "1")], &[(ports, value)]), [], "{value:?}");
            assert_eq!(reasons(&[(ports, value)], &[(ports, "1")]), [("patch_is_no_json", false)], "{value:?}");
            assert_eq!(reasons(&[(ports, value)], &[]), [], "{value:?}");
        }
        for value in ["4222,5432", "", "a\\nb", "ü", "{}", "a\u{7f}b", "\u{2028}"] {
            assert_eq!(reasons(&[], &[(ports, value)]), [], "{value:?}");
        }
        let env = "config.linkerd.io/proxy-additional-env";
        assert_eq!(reasons(&[], &[(env, "[{\"name\": \"A\", \"value\": \"b\"}]")]), [("patch_is_no_json", true)]);
        assert_eq!(reasons(&[(env, "[{\"name\": \"A\", \"value\": \"b\"}]")], &[]), []);
    }

    #[test]
    fn what_is_not_handed_down_does_no_harm() {
        for key in [
            "example.com/note",
            "config.linkerd.io/no-such-setting",
            "linkerd.io/inject",
            "config.beta.linkerd.io/proxy-enable-native-sidecar",
        ] {
            assert_eq!(reasons(&[], &[(key, "a\"b")]), [], "{key}");
        }
    }

    #[test]
    fn a_version_is_copied_from_wherever_it_is() {
        let version = "config.linkerd.io/proxy-version";
        assert_eq!(reasons(&[(version, "edge\"")], &[]), [("patch_is_no_json", false)]);
        assert_eq!(reasons(&[], &[(version, "edge\"")]), [("patch_is_no_json", true)]);
        assert_eq!(reasons(&[(version, "edge-26.8.3")], &[]), []);
    }

    #[test]
    fn logged_headers_are_insecure_or_off() {
        let headers = "config.linkerd.io/proxy-log-http-headers";
        for value in ["insecure", "off", ""] {
            assert_eq!(reasons(&[(headers, value)], &[]), [], "{value}");
        }
        for value in ["enabled", "Insecure", " off"] {
            assert_eq!(reasons(&[(headers, value)], &[]), [("injector_refuses", false)], "{value}");
            assert_eq!(reasons(&[], &[(headers, value)]), [("injector_refuses", true)], "{value}");
            assert_eq!(reasons(&[(headers, "off")], &[(headers, value)]), [], "{value}");
        }
        let problems = patch_problems(&with(&[]), &with(&[(headers, "all\"")]));
        let outcomes: Vec<_> = problems.iter().map(|problem| problem.outcome).collect();
        assert_eq!(outcomes, [PatchOutcome::Refused, PatchOutcome::NoJson]);
    }
}
