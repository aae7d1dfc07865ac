//! Linkerd's annotations besides the one that asks: which there are, which a namespace hands down to its pods, and which are
//! written almost right.

use super::names::annotation::{INJECT, PROXY_VERSION};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The prefix of the annotations that configure a proxy.
pub const CONFIG: &str = "config.linkerd.io/";

/// The prefix of those that are not settled yet.
const CONFIG_ALPHA: &str = "config.alpha.linkerd.io/";

/// What follows [`CONFIG`] in annotations that a namespace hands down (`ProxyAnnotations` in `pkg/inject/inject.go`, with the
/// keys of `pkg/k8s/labels.go`).
const INHERITED: [&str; 49] = [
    "access-log",
    "admin-port",
    "close-wait-timeout",
    "control-port",
    "debug-image",
    "debug-image-pull-policy",
    "debug-image-version",
    "default-inbound-policy",
    "enable-debug-sidecar",
    "enable-external-profiles",
    "enable-gateway",
    "image-pull-policy",
    "inbound-port",
    "init-image",
    "init-image-version",
    "opaque-ports",
    "outbound-port",
    "pod-inbound-ports",
    "proxy-additional-env",
    "proxy-admin-shutdown",
    "proxy-await",
    "proxy-cpu-limit",
    "proxy-cpu-ratio-limit",
    "proxy-cpu-request",
    "proxy-disable-inbound-protocol-detect-timeout",
    "proxy-disable-outbound-protocol-detect-timeout",
    "proxy-enable-hostname-labels",
    "proxy-enable-native-sidecar",
    "proxy-ephemeral-storage-limit",
    "proxy-ephemeral-storage-request",
    "proxy-gid",
    "proxy-image",
    "proxy-inbound-connect-timeout",
    "proxy-inbound-discovery-cache-unused-timeout",
    "proxy-log-format",
    "proxy-log-http-headers",
    "proxy-log-level",
    "proxy-memory-limit",
    "proxy-memory-request",
    "proxy-outbound-connect-timeout",
    "proxy-outbound-discovery-cache-unused-timeout",
    "proxy-outbound-metrics-hostname-labels",
    "proxy-require-identity-inbound-ports",
    "proxy-uid",
    "proxy-version",
    "shutdown-grace-period",
    "skip-inbound-ports",
    "skip-outbound-ports",
    "skip-subnets",
];

/// What follows [`CONFIG_ALPHA`] in those that a namespace hands down (`ProxyAlphaConfigAnnotations`).
const INHERITED_ALPHA: [&str; 2] = ["proxy-enable-native-sidecar", "proxy-wait-before-exit-seconds"];

/// Whether the injector copies this annotation of a namespace to the pods that it injects there.
pub fn is_inherited(key: &str) -> bool {
    let within = |prefix: &str, known: &[&str]| key.strip_prefix(prefix).is_some_and(|rest| known.contains(&rest));
    within(CONFIG, &INHERITED) || within(CONFIG_ALPHA, &INHERITED_ALPHA)
}

/// An annotation's value on the object itself.
pub(super) fn own<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The value that configures a pod: its own, else its namespace's, where that one is handed down. With it: whether it is the
/// namespace's.
pub fn effective<'a>(pod: &'a ObjectMeta, namespace: &'a ObjectMeta, key: &str) -> Option<(&'a str, bool)> {
    let inherited = || own(namespace, key).filter(|_| is_inherited(key)).map(|value| (value, true));
    own(pod, key).map(|value| (value, false)).or_else(inherited)
}

/// The annotation of Linkerd's that is probably meant by a key that is none of them, and that nothing reads.
pub fn meant_by(key: &str) -> Option<String> {
    // The injector writes its version itself, under the name of a setting.
    if key == INJECT || key == PROXY_VERSION || is_inherited(key) {
        return None;
    }
    let lower = key.trim().to_ascii_lowercase();
    let looks = ["linkerd.io/", "linkerd/", "linkerd.", "linker.io/", "linkerd-", "inject"]
        .iter()
        .any(|part| lower.contains(part));
    // Others' annotations for injection are theirs, and what the injector writes itself is no mistake.
    let foreign =
        ["istio", "vault", "hashicorp", "dapr", "linkerd-gate/", "opentelemetry", "cert-manager", "kuma", "consul"];
    if !looks || foreign.iter().any(|other| lower.contains(other)) {
        return None;
    }
    let ask = [
        INJECT,
        "linkerd.io/injected",
        "linkerd.io/injection",
        "linkerd.io/enabled",
        "linkerd.io/inject-proxy",
        "linkerd.io/sidecar-inject",
        "linkerd.io/sidecar-injection",
        "sidecar.linkerd.io/inject",
        "config.linkerd.io/inject",
        "inject.linkerd.io",
        "linkerd/inject",
        "linkerd-inject",
        "linkerd.inject",
        "linkerd.io.inject",
        "linkerd.io-inject",
        "linkerd.com/inject",
        "inject.linkerd.io/enabled",
    ];
    // `linkerd.io/created-by` and the like are Linkerd's own: only what is close to asking is taken for it.
    if ask.contains(&lower.as_str()) || is_near(&lower, INJECT) {
        return Some(INJECT.to_owned());
    }
    let (prefix, rest) = lower.split_once('/')?;
    if !is_near(prefix, "config.linkerd.io") && prefix != "linkerd.io" {
        return None;
    }
    // The stages of a setting share their last part: what is known under another prefix is no typo of it.
    let settled = ["alpha", "beta"].iter().any(|stage| prefix.contains(stage));
    let nearest = INHERITED.iter().map(|known| (strsim::damerau_levenshtein(rest, known), *known)).min()?;
    match nearest {
        (0, _) if settled => None,
        (0..=2, known) if rest.len() > 5 => Some(format!("{CONFIG}{known}")),
        _ => None,
    }
}

/// Whether at most two letters differ. A difference in length is one in letters, and spares the comparison of most keys.
fn is_near(text: &str, known: &str) -> bool {
    text.chars().count().abs_diff(known.len()) <= 2 && strsim::damerau_levenshtein(text, known) <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_annotation_suggests_the_right_one() {
        for (written, meant) in [
            ("linkerd.io/Inject", INJECT),
            ("linkerd.io/injet", INJECT),
            ("linkerd.io/injected", INJECT),
            ("linkerd.io/inject ", INJECT),
            ("linkerd/inject", INJECT),
            ("linkerd.io.inject", INJECT),
            ("config.linkerd.io/inject", INJECT),
            ("config.linkerd.io/skip-outbound-port", "config.linkerd.io/skip-outbound-ports"),
            ("config.linkerd.io/proxy-cpu-limits", "config.linkerd.io/proxy-cpu-limit"),
            ("linkerd.io/proxy-log-level", "config.linkerd.io/proxy-log-level"),
            ("confg.linkerd.io/opaque-ports", "config.linkerd.io/opaque-ports"),
        ] {
            assert_eq!(meant_by(written).as_deref(), Some(meant), "{written}");
        }
        for right in [
            INJECT,
            "linkerd.io/created-by",
            "linkerd.io/trust-root-sha256",
            "linkerd.io/proxy-version",
            "config.linkerd.io/opaque-ports",
            "config.alpha.linkerd.io/proxy-wait-before-exit-seconds",
            "config.beta.linkerd.io/proxy-enable-native-sidecar",
            "sidecar.istio.io/inject",
            "vault.hashicorp.com/agent-inject",
            "linkerd-gate/repair",
            "app.kubernetes.io/name",
        ] {
            assert_eq!(meant_by(right), None, "{right}");
        }
    }

    #[test]
    fn the_lists_are_in_order_and_hold_nothing_twice() {
        assert!(INHERITED.is_sorted_by(|one, next| one < next));
        assert!(INHERITED_ALPHA.is_sorted_by(|one, next| one < next));
    }
}
