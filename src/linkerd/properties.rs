//! The rules against a model of their own: the guard's CEL, said again in the plainest Rust.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{MatchCondition, MutatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::injection::{Injection, NotCalled, SkipReason, TokenProjection, injection};
use super::mesh_state::{meshed, missed};
use super::names;
use super::selector::Selector;
use super::webhook::{WebhookView, chart_default};

type Labels = BTreeMap<String, String>;

fn of(items: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(items).prop_map(ToOwned::to_owned)
}

fn labels() -> impl Strategy<Value = Labels> {
    const KEYS: &[&str] = &["a", "b", names::label::CONTROL_PLANE_NS, names::label::CNI_RESOURCE];
    btree_map(of(KEYS), of(&["", "x", "y"]), 0..3)
}

fn metadata() -> impl Strategy<Value = ObjectMeta> {
    const VALUES: &[&str] = &["", "enabled", "ingress", "disabled", "Enabled", "true", " enabled"];
    let annotations = option::of(of(VALUES))
        .prop_map(|value| value.map(|value| [(names::annotation::INJECT.to_owned(), value)].into()));
    (annotations, option::of(labels()), option::of(of(&["kube-system", "cert-manager", "apps"])))
        .prop_map(|(annotations, labels, name)| ObjectMeta { annotations, labels, name, ..ObjectMeta::default() })
}

fn container() -> impl Strategy<Value = Container> {
    const NAMES: &[&str] = &["app", "app", "app", "linkerd-proxy", "istio-proxy", "linkerd-init", "istio-init"];
    const IMAGES: &[&str] = &[
        "app:1",
        "app:2",
        "app:3",
        "cr.l5d.io/linkerd/proxy:v1",
        "cr.l5d.io/linkerd/proxy@sha256:0",
        "mirror/cr.l5d.io/linkerd/proxy:v1",
        "gcr.io/istio-release/proxyv2:1",
        "docker.io/istio/proxyv2:1",
        "cr.l5d.io/linkerd/proxy-init:v1",
        "gcr.io/istio-release/proxy_init:1",
    ];
    let mounts = option::of(of(&["/data", names::path::SERVICE_ACCOUNT]))
        .prop_map(|path| path.map(|mount_path| vec![VolumeMount { mount_path, ..VolumeMount::default() }]));
    (of(NAMES), option::of(of(IMAGES)), mounts).prop_map(|(name, image, volume_mounts)| Container {
        name,
        image,
        volume_mounts,
        ..Container::default()
    })
}

fn pod() -> impl Strategy<Value = Pod> {
    let spec = (
        option::of(vec(container(), 0..2)),
        vec(container(), 1..3),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
    )
        .prop_map(|(init_containers, containers, host_network, automount_service_account_token)| PodSpec {
            init_containers,
            containers,
            host_network,
            automount_service_account_token,
            ..PodSpec::default()
        });
    (metadata(), spec).prop_map(|(metadata, spec)| Pod { metadata, spec: Some(spec), status: None })
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let expression = (of(&["a", "b"]), of(&["In", "NotIn", "Exists", "DoesNotExist"]), vec(of(&["", "x", "y"]), 1..3))
        .prop_map(|(key, operator, values)| LabelSelectorRequirement {
            values: operator.ends_with("In").then_some(values),
            key,
            operator,
        });
    (option::of(btree_map(of(&["a", "b"]), of(&["", "x"]), 0..2)), option::of(vec(expression, 0..3)))
        .prop_map(|(match_labels, match_expressions)| LabelSelector { match_labels, match_expressions })
}

/// The chart's configuration, or one with one or two webhooks whose selectors are anything.
fn configuration() -> impl Strategy<Value = MutatingWebhookConfiguration> {
    let selectors = (option::of(selector()), option::of(selector()), any::<bool>());
    prop_oneof![
        Just(chart_default()),
        vec(selectors, 1..3).prop_map(|selectors| {
            let mut configuration = chart_default();
            let webhook = configuration.webhooks.take().unwrap().remove(0);
            configuration.webhooks = Some(
                selectors
                    .into_iter()
                    .map(|(namespace_selector, object_selector, called_for_pods)| {
                        let mut webhook = webhook.clone();
                        webhook.namespace_selector = namespace_selector;
                        webhook.object_selector = object_selector;
                        if !called_for_pods {
                            webhook.rules = None;
                        }
                        webhook
                    })
                    .collect(),
            );
            configuration
        }),
    ]
}

/// `labels.Selector` by the words of the documentation: one question per operator.
fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return true };
    for (key, value) in selector.match_labels.iter().flatten() {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for LabelSelectorRequirement { key, operator, values } in selector.match_expressions.iter().flatten() {
        let mut listed = false;
        for value in values.iter().flatten() {
            listed |= labels.contains_key(key) && labels[key] == *value;
        }
        let met = match operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => labels.contains_key(key),
            "DoesNotExist" => !labels.contains_key(key),
            other => panic!("no operator {other} is drawn"),
        };
        if !met {
            return false;
        }
    }
    true
}

/// The guard: called, wanted, and no sidecar, as its CEL says it.
fn guard_refuses(pod: &Pod, namespace: &Namespace, configuration: &MutatingWebhookConfiguration) -> bool {
    let empty = Labels::new();
    let mut namespace_labels = namespace.metadata.labels.clone().unwrap_or_default();
    if let Some(name) = &namespace.metadata.name {
        namespace_labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
    }
    let pod_labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    let called = configuration.webhooks.iter().flatten().any(|webhook| {
        webhook.rules.is_some()
            && selects(webhook.namespace_selector.as_ref(), &namespace_labels)
            && selects(webhook.object_selector.as_ref(), pod_labels)
    });

    let annotation = |metadata: &ObjectMeta| {
        let annotations = metadata.annotations.clone().unwrap_or_default();
        annotations.get("linkerd.io/inject").cloned().unwrap_or_default()
    };
    let (at_namespace, at_pod) = (annotation(&namespace.metadata), annotation(&pod.metadata));
    let spec = pod.spec.as_ref().unwrap();
    let wanted = (["enabled", "ingress"].contains(&at_namespace.as_str())
        && ["", "enabled", "ingress"].contains(&at_pod.as_str())
        || ["", "disabled"].contains(&at_namespace.as_str()) && ["enabled", "ingress"].contains(&at_pod.as_str()))
        && spec.host_network != Some(true);

    let none = Vec::new();
    let inits = spec.init_containers.as_ref().unwrap_or(&none);
    let image = |container: &Container, prefix: &str| container.image.clone().unwrap_or_default().starts_with(prefix);
    let sidecar = spec.containers.iter().chain(inits).any(|container| {
        container.name == "linkerd-proxy"
            || container.name == "istio-proxy"
            || image(container, "cr.l5d.io/linkerd/proxy:")
            || image(container, "gcr.io/istio-release/proxyv2:")
    }) || inits.iter().any(|container| {
        container.name == "linkerd-init"
            || container.name == "istio-init"
            || image(container, "cr.l5d.io/linkerd/proxy-init:")
            || image(container, "gcr.io/istio-release/proxy_init:")
    });
    called && wanted && !sidecar
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn selectors_agree_with_a_naive_model(selector in option::of(selector()), labels in labels()) {
        let read = Selector::new(selector.as_ref()).unwrap();
        prop_assert_eq!(read.matches(&labels), selects(selector.as_ref(), &labels));
        prop_assert_eq!(read.unmet(&labels).next().is_none(), read.matches(&labels));
    }

    #[test]
    fn the_injector_injects_exactly_what_the_guard_refuses_bare(
        pod in pod(),
        metadata in metadata(),
        configuration in configuration(),
    ) {
        let namespace = Namespace { metadata, ..Namespace::default() };
        let view = WebhookView::new([&configuration]).unwrap();
        let decision = injection(&pod, &namespace, &view, TokenProjection::Enabled);
        prop_assert_eq!(decision.is_inject(), guard_refuses(&pod, &namespace, &configuration), "{:?}", decision);
        prop_assert_eq!(
            missed(&pod, &namespace, &view, TokenProjection::Enabled),
            decision.is_inject() && !meshed(&pod)
        );
    }

    #[test]
    fn skip_reasons_are_unique_justified_and_in_linkerds_order(
        pod in pod(),
        metadata in metadata(),
        configuration in configuration(),
        projection in select(&[TokenProjection::Enabled, TokenProjection::Disabled][..]),
    ) {
        let namespace = Namespace { metadata, ..Namespace::default() };
        let view = WebhookView::new([&configuration]).unwrap();
        match injection(&pod, &namespace, &view, projection) {
            Injection::Inject(_) | Injection::Conditional(_) => {}
            Injection::Skip(reasons) => {
                prop_assert!(!reasons.is_empty());
                prop_assert!(reasons.is_sorted_by(|one, next| one < next), "{:?}", reasons);
                prop_assert!(projection == TokenProjection::Disabled || !reasons.contains(&SkipReason::NoServiceAccountToken));
            }
            Injection::NotCalled(NotCalled::NotInstalled) => prop_assert!(view.is_empty()),
            Injection::NotCalled(NotCalled::Excluded(excluded)) => {
                prop_assert_eq!(excluded.len(), view.webhooks.len());
                prop_assert!(excluded.iter().all(|excluded| !excluded.by.is_empty()));
            }
        }
    }

    #[test]
    fn without_token_projection_a_pod_also_needs_a_token(pod in pod(), metadata in metadata()) {
        let namespace = Namespace { metadata, ..Namespace::default() };
        let view = WebhookView::chart_default();
        let spec = pod.spec.as_ref().unwrap();
        let token = spec.automount_service_account_token != Some(false)
            && spec.containers[0].volume_mounts.iter().flatten().any(|mount| mount.mount_path.starts_with("/var"));
        let with = injection(&pod, &namespace, &view, TokenProjection::Enabled);
        let without = injection(&pod, &namespace, &view, TokenProjection::Disabled);
        match with {
            Injection::NotCalled(_) => prop_assert_eq!(without, with),
            Injection::Inject(_) if token => prop_assert_eq!(without, with),
            Injection::Inject(_) => prop_assert_eq!(without, Injection::Skip(vec![SkipReason::NoServiceAccountToken])),
            Injection::Skip(mut reasons) => {
                reasons.extend((!token).then_some(SkipReason::NoServiceAccountToken));
                prop_assert_eq!(without, Injection::Skip(reasons));
            }
            Injection::Conditional(_) => prop_assert!(false, "the chart has no match conditions"),
        }
    }

    /// A condition may stop a call, never cause one: with conditions on every webhook the answer is as without, except that
    /// "inject" becomes "if they hold".
    #[test]
    fn match_conditions_only_turn_inject_into_conditional(
        pod in pod(),
        metadata in metadata(),
        configuration in configuration(),
    ) {
        let namespace = Namespace { metadata, ..Namespace::default() };
        let mut conditioned = configuration.clone();
        for webhook in conditioned.webhooks.iter_mut().flatten() {
            webhook.match_conditions = Some(vec![MatchCondition { name: "c".to_owned(), expression: "true".to_owned() }]);
        }
        let view = WebhookView::new([&configuration]).unwrap();
        let conditioned = WebhookView::new([&conditioned]).unwrap();
        let plain = injection(&pod, &namespace, &view, TokenProjection::Enabled);
        let conditional = injection(&pod, &namespace, &conditioned, TokenProjection::Enabled);
        if plain.is_inject() {
            prop_assert!(matches!(conditional, Injection::Conditional(_)));
            prop_assert!(!missed(&pod, &namespace, &conditioned, TokenProjection::Enabled));
        } else {
            prop_assert_eq!(conditional, plain);
        }
    }
}
