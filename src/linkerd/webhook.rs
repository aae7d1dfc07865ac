//! The injector's webhook configuration, reduced to what decisions need.

use super::{
    names,
    selector::{Requirement, Selector, SelectorError},
};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference, WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{collections::BTreeMap, fmt, time::Duration};

/// All webhooks of Linkerd's injector; none where Linkerd is not installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookView {
    /// In the order of the configurations they came from.
    pub webhooks: Vec<InjectorWebhook>,
}

/// One webhook of the injector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectorWebhook {
    /// The name of the configuration it is in.
    pub configuration: String,

    /// Its own name.
    pub name: String,

    /// Whether one of its rules matches the creation of a pod.
    pub rules_match_pods: bool,

    /// Which namespaces it is called for.
    pub namespace_selector: Selector,

    /// Which pods it is called for.
    pub object_selector: Selector,

    /// The names of its match conditions: CEL, which only the API server evaluates. Linkerd's chart has none.
    pub match_conditions: Vec<String>,

    /// What the API server does with a pod when the call fails.
    pub failure_policy: FailurePolicy,

    /// How long the API server waits for an answer.
    pub timeout: Duration,

    /// Where the API server sends the call.
    pub endpoint: Endpoint,

    /// What the API server trusts there.
    pub ca: CaBundle,
}

/// What the API server does with a pod when a call fails. A *refusal* by the injector is no failure: it always counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// Admits the pod as it is. The chart's default.
    Ignore,

    /// Refuses the pod.
    Fail,
}

/// Where the API server sends its calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// To a service of this cluster.
    Service {
        /// The namespace of the service: the control plane's.
        namespace: String,
        /// Its name.
        name: String,
        /// Its port: 443 unless the configuration says otherwise.
        port: u16,
        /// The path of the request: `/` unless the configuration says otherwise.
        path: String,
    },

    /// To somewhere else. Linkerd's chart cannot render this.
    Url(String),
}

/// The certificates that the API server trusts at the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaBundle {
    /// There is none yet. No call can succeed: the API server falls back on its system's roots.
    Absent,

    /// Nothing but white space: what cert-manager's documentation has people put there until its injector fills it in
    /// (<https://cert-manager.io/docs/concepts/ca-injector/>; `Cg==` is one line feed).
    Placeholder,

    /// Something, but no certificate that parses.
    Unusable(String),

    /// At least one certificate. What else stands in the bundle is passed over, as the API server does.
    Certificates(Vec<CertificateDer<'static>>),
}

/// Whether the API server would call a webhook for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Yes.
    Called,

    /// If these match conditions hold, which cannot be known here.
    Conditional(Vec<String>),

    /// No, for each of these reasons: at least one.
    Excluded(Vec<Exclusion>),
}

/// One reason why the API server does not call a webhook for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Its rules do not match the creation of pods.
    Rules,

    /// The namespace's labels do not meet this.
    Namespace(Requirement),

    /// The pod's labels do not meet this.
    Pod(Requirement),
}

/// Why a webhook configuration cannot be read. The API server would have refused such a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("webhook {webhook:?} in {configuration:?}: {problem}")]
pub struct ViewError {
    /// The configuration.
    pub configuration: String,
    /// The webhook in it.
    pub webhook: String,
    /// What is wrong with it.
    pub problem: ViewProblem,
}

/// What is wrong with a webhook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewProblem {
    /// Its `namespaceSelector`.
    #[error("namespaceSelector: {0}")]
    NamespaceSelector(#[source] SelectorError),

    /// Its `objectSelector`.
    #[error("objectSelector: {0}")]
    ObjectSelector(#[source] SelectorError),

    /// Its `failurePolicy`.
    #[error("failurePolicy: {0:?} is neither Ignore nor Fail")]
    FailurePolicy(String),

    /// Its `timeoutSeconds`.
    #[error("timeoutSeconds: {0} is not between 1 and 30")]
    Timeout(i32),

    /// Its `clientConfig.service.port`.
    #[error("clientConfig.service.port: {0} is no port")]
    Port(i32),

    /// Its `clientConfig`.
    #[error("clientConfig: exactly one of service and url is needed")]
    ClientConfig,
}

// === impl WebhookView ===

impl WebhookView {
    /// The injector's webhooks among these configurations; webhooks of other programs are skipped.
    ///
    /// A webhook is the injector's by its name, or because its configuration carries the chart's label: a person who splits
    /// the webhook in two, or renames it, keeps the label, and Linkerd's own tools find the configuration by it.
    pub fn new<'a>(
        configurations: impl IntoIterator<Item = &'a MutatingWebhookConfiguration>,
    ) -> Result<Self, ViewError> {
        let mut webhooks = Vec::new();
        for configuration in configurations {
            let MutatingWebhookConfiguration { metadata, webhooks: all } = configuration;
            let labelled = metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(names::label::CONTROL_PLANE_COMPONENT))
                .is_some_and(|component| component == names::component::PROXY_INJECTOR);
            for webhook in all.iter().flatten() {
                if labelled || webhook.name == names::webhook::NAME {
                    let configuration = metadata.name.as_deref().unwrap_or_default();
                    webhooks.push(InjectorWebhook::new(configuration, webhook)?);
                }
            }
        }
        Ok(Self { webhooks })
    }

    /// What the chart installs by default, used without a live configuration: namespace `linkerd`, failure policy `Ignore`.
    ///
    /// High availability changes the failure policy only, so *which pods* are called for is the same.
    pub fn chart_default() -> Self {
        let configuration = chart_default();
        // The chart's own webhook is valid: a test holds this, and an empty view would only say "not installed".
        Self::new([&configuration]).unwrap_or_default()
    }

    /// Whether a webhook of the injector is in this configuration.
    pub fn is_of(&self, configuration: &MutatingWebhookConfiguration) -> bool {
        self.webhooks.iter().any(|webhook| Some(&webhook.configuration) == configuration.metadata.name.as_ref())
    }

    /// Whether there is no webhook of the injector at all.
    pub fn is_empty(&self) -> bool {
        self.webhooks.is_empty()
    }
}

// === impl InjectorWebhook ===

impl InjectorWebhook {
    fn new(configuration: &str, webhook: &MutatingWebhook) -> Result<Self, ViewError> {
        let error =
            |problem| ViewError { configuration: configuration.to_owned(), webhook: webhook.name.clone(), problem };

        // Defaults below are the API server's for admissionregistration.k8s.io/v1.
        let failure_policy = match webhook.failure_policy.as_deref() {
            Some("Ignore") => FailurePolicy::Ignore,
            Some("Fail") | None => FailurePolicy::Fail,
            Some(other) => return Err(error(ViewProblem::FailurePolicy(other.to_owned()))),
        };
        let seconds = webhook.timeout_seconds.unwrap_or(10);
        let timeout = match u64::try_from(seconds) {
            Ok(seconds @ 1..=30) => Duration::from_secs(seconds),
            Ok(_) | Err(_) => return Err(error(ViewProblem::Timeout(seconds))),
        };
        Ok(Self {
            configuration: configuration.to_owned(),
            name: webhook.name.clone(),
            rules_match_pods: webhook.rules.iter().flatten().any(matches_pod_creation),
            namespace_selector: Selector::new(webhook.namespace_selector.as_ref())
                .map_err(|source| error(ViewProblem::NamespaceSelector(source)))?,
            object_selector: Selector::new(webhook.object_selector.as_ref())
                .map_err(|source| error(ViewProblem::ObjectSelector(source)))?,
            match_conditions: webhook
                .match_conditions
                .iter()
                .flatten()
                .map(|condition| condition.name.clone())
                .collect(),
            failure_policy,
            timeout,
            endpoint: Endpoint::new(&webhook.client_config).map_err(error)?,
            ca: CaBundle::new(webhook.client_config.ca_bundle.as_ref().map_or(&[], |ByteString(bytes)| bytes)),
        })
    }

    /// Whether the API server would call this webhook for the creation of a pod with these labels in such a namespace.
    pub fn call(&self, namespace: &BTreeMap<String, String>, pod: &BTreeMap<String, String>) -> Call {
        let rules = (!self.rules_match_pods).then_some(Exclusion::Rules);
        let namespace = self.namespace_selector.unmet(namespace).cloned().map(Exclusion::Namespace);
        let pod = self.object_selector.unmet(pod).cloned().map(Exclusion::Pod);
        let exclusions: Vec<_> = rules.into_iter().chain(namespace).chain(pod).collect();
        if !exclusions.is_empty() {
            Call::Excluded(exclusions)
        } else if self.match_conditions.is_empty() {
            Call::Called
        } else {
            Call::Conditional(self.match_conditions.clone())
        }
    }

    /// Whether this one is called for every pod that `other` is called for, as far as selectors tell. Match conditions are CEL, which is
    /// not looked into: the same names, of the same webhook by its name, count as the same.
    pub fn covers(&self, other: &Self) -> bool {
        (self.rules_match_pods || !other.rules_match_pods)
            && self.namespace_selector.covers(&other.namespace_selector)
            && self.object_selector.covers(&other.object_selector)
            && (self.match_conditions.is_empty()
                || self.name == other.name && self.match_conditions == other.match_conditions)
    }
}

/// Whether a rule matches `CREATE` of `pods` in `v1` of the core group, as `rules.Matcher` of k8s.io/apiserver decides.
fn matches_pod_creation(rule: &RuleWithOperations) -> bool {
    let any_of =
        |items: &Option<Vec<String>>, wanted: &str| items.iter().flatten().any(|item| item == "*" || item == wanted);
    let resource = |item: &String| {
        let (resource, subresource) = item.split_once('/').unwrap_or((item, ""));
        // `pods/*` matches pods themselves too, not only what is below them.
        (resource == "*" || resource == "pods") && (subresource == "*" || subresource.is_empty())
    };
    matches!(rule.scope.as_deref(), None | Some("*" | "Namespaced"))
        && any_of(&rule.operations, "CREATE")
        && any_of(&rule.api_groups, "")
        && any_of(&rule.api_versions, "v1")
        && rule.resources.iter().flatten().any(resource)
}

// === impl Endpoint ===

impl Endpoint {
    fn new(client: &WebhookClientConfig) -> Result<Self, ViewProblem> {
        match (&client.service, &client.url) {
            (Some(service), None) => {
                let port = service.port.unwrap_or(443);
                Ok(Self::Service {
                    namespace: service.namespace.clone(),
                    name: service.name.clone(),
                    port: u16::try_from(port).ok().filter(|port| *port > 0).ok_or(ViewProblem::Port(port))?,
                    path: service.path.clone().unwrap_or_else(|| "/".to_owned()),
                })
            }
            (None, Some(url)) => Ok(Self::Url(url.clone())),
            (None, None) | (Some(_), Some(_)) => Err(ViewProblem::ClientConfig),
        }
    }

    /// The name that the API server wants to see in the served certificate, where the endpoint is a service: without the
    /// cluster's domain (k8s.io/apiserver, `util/webhook/client.go`).
    pub fn server_name(&self) -> Option<String> {
        match self {
            Self::Service { namespace, name, .. } => Some(format!("{name}.{namespace}.svc")),
            Self::Url(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { namespace, name, port, path } => write!(f, "https://{name}.{namespace}.svc:{port}{path}"),
            Self::Url(url) => f.write_str(url),
        }
    }
}

// === impl CaBundle ===

impl CaBundle {
    /// Reads a bundle as the API server does: PEM, and every block that is no certificate is passed over.
    pub fn new(bundle: &[u8]) -> Self {
        if bundle.is_empty() {
            return Self::Absent;
        }
        if bundle.iter().all(u8::is_ascii_whitespace) {
            return Self::Placeholder;
        }
        let mut certificates = Vec::new();
        let mut problem = None;
        for certificate in CertificateDer::pem_slice_iter(bundle) {
            match certificate {
                Ok(certificate) => match RootCertStore::empty().add(certificate.clone()) {
                    Ok(()) => certificates.push(certificate),
                    Err(error) => problem = Some(format!("its certificate does not parse: {error}")),
                },
                Err(error) => problem = Some(format!("its PEM does not parse: {error}")),
            }
        }
        if certificates.is_empty() {
            Self::Unusable(problem.unwrap_or_else(|| "it holds no certificate".to_owned()))
        } else {
            Self::Certificates(certificates)
        }
    }

    /// Why no call can succeed with this bundle; nothing where one can.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Absent => Some("there is no CA bundle yet".to_owned()),
            Self::Placeholder => Some("the CA bundle is still a placeholder".to_owned()),
            Self::Unusable(problem) => Some(format!("the CA bundle cannot be used: {problem}")),
            Self::Certificates(_) => None,
        }
    }
}

// === impl Exclusion ===

impl Exclusion {
    /// One word for JSON and metrics.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Namespace(_) => "namespace_selector",
            Self::Pod(_) => "object_selector",
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules => f.write_str("its rules do not match the creation of pods"),
            Self::Namespace(requirement) => write!(f, "it wants of the namespace's labels: {requirement}"),
            Self::Pod(requirement) => write!(f, "it wants of the pod's labels: {requirement}"),
        }
    }
}

/// The injector's webhook configuration as the chart renders it by default, but for its CA bundle: that one is generated again at
/// each rendering (`charts/linkerd-control-plane/templates/proxy-injector-rbac.yaml`, `values.yaml`).
pub fn chart_default() -> MutatingWebhookConfiguration {
    let strings = |items: &[&str]| Some(items.iter().map(ToString::to_string).collect());
    let expression = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: strings(values).filter(|values: &Vec<_>| !values.is_empty()),
    };
    let selector = |expressions| LabelSelector { match_labels: None, match_expressions: Some(expressions) };
    let labels = [
        (names::label::CONTROL_PLANE_COMPONENT, names::component::PROXY_INJECTOR),
        (names::label::CONTROL_PLANE_NS, names::DEFAULT_NAMESPACE),
    ];
    MutatingWebhookConfiguration {
        metadata: ObjectMeta {
            name: Some(names::webhook::CONFIGURATION.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        webhooks: Some(vec![MutatingWebhook {
            name: names::webhook::NAME.to_owned(),
            admission_review_versions: vec!["v1".to_owned(), "v1beta1".to_owned()],
            client_config: WebhookClientConfig {
                ca_bundle: None,
                service: Some(ServiceReference {
                    name: names::service::PROXY_INJECTOR.to_owned(),
                    namespace: names::DEFAULT_NAMESPACE.to_owned(),
                    path: Some("/".to_owned()),
                    port: None,
                }),
                url: None,
            },
            failure_policy: Some("Ignore".to_owned()),
            match_conditions: None,
            match_policy: None,
            namespace_selector: Some(selector(vec![
                expression(names::label::ADMISSION_WEBHOOKS, "NotIn", &[names::inject::DISABLED]),
                expression(names::label::METADATA_NAME, "NotIn", &["kube-system", "cert-manager"]),
            ])),
            object_selector: Some(selector(vec![
                expression(names::label::CONTROL_PLANE_COMPONENT, "DoesNotExist", &[]),
                expression(names::label::CNI_RESOURCE, "DoesNotExist", &[]),
            ])),
            reinvocation_policy: None,
            rules: Some(vec![RuleWithOperations {
                api_groups: strings(&[""]),
                api_versions: strings(&["v1"]),
                operations: strings(&["CREATE"]),
                resources: strings(&["pods", "services"]),
                scope: Some("Namespaced".to_owned()),
            }]),
            side_effects: "None".to_owned(),
            timeout_seconds: Some(10),
        }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::admissionregistration::v1::MatchCondition;

    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIB4jCCAYigAwIBAgIUaw9oTRU3KzS2QUwVdgBogeExOZwwCgYIKoZIzj0EAwIw
LTErMCkGA1UEAwwibGlua2VyZC1wcm94eS1pbmplY3Rvci5saW5rZXJkLnN2YzAg
Fw0yNjExMjMxODM0MTdaGA8yMTI2MTAzMDE4MzQxN1owLTErMCkGA1UEAwwibGlu
a2VyZC1wcm94eS1pbmplY3Rvci5saW5rZXJkLnN2YzBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABGv1devFvu0IP8YUXBU8si2xj54en+j8WvhJrmQkeJPZWOfiHoJ4
kcrunntWEZX95/hxaqyuON4bzc/24C2+lWqjgYMwgYAwHQYDVR0OBBYEFIIjEKJT
wX5ZWr1DLNqoSa7NmjQPMB8GA1UdIwQYMBaAFIIjEKJTwX5ZWr1DLNqoSa7NmjQP
MA8GA1UdEwEB/wQFMAMBAf8wLQYDVR0RBCYwJIIibGlua2VyZC1wcm94eS1pbmpl
Y3Rvci5saW5rZXJkLnN2YzAKBggqhkjOPQQDAgNIADBFAiEA8/zUkR3hkAKSZh0m
tHrTmU57Co3V7vSPn7hnEqJoZwsCIFQb16LcRbUwYvo7gOqDkau6BDvkINKDeaUf
bBoWOrvs
-----END CERTIFICATE-----
";

    fn labels<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// The chart's configuration with its only webhook changed.
    fn changed(change: impl FnOnce(&mut MutatingWebhook)) -> MutatingWebhookConfiguration {
        let mut configuration = chart_default();
        change(&mut configuration.webhooks.as_mut().unwrap()[0]);
        configuration
    }

    fn only(configuration: &MutatingWebhookConfiguration) -> InjectorWebhook {
        let mut view = WebhookView::new([configuration]).unwrap();
        assert_eq!(view.webhooks.len(), 1);
        view.webhooks.remove(0)
    }

    #[test]
    fn the_charts_webhook_is_read_as_linkerds_sources_define_it() {
        let webhook = only(&chart_default());
        assert_eq!(WebhookView::chart_default().webhooks, std::slice::from_ref(&webhook));
        assert_eq!(webhook.failure_policy, FailurePolicy::Ignore);
        assert_eq!(webhook.timeout, Duration::from_secs(10));
        assert_eq!(webhook.endpoint.to_string(), "https://linkerd-proxy-injector.linkerd.svc:443/");
        assert_eq!(webhook.endpoint.server_name().as_deref(), Some("linkerd-proxy-injector.linkerd.svc"));
        assert_eq!(webhook.call(&labels([]), &labels([])), Call::Called);
    }

    #[test]
    fn every_exclusion_is_reported_in_the_api_servers_terms() {
        let webhook = only(&changed(|webhook| webhook.rules = None));
        let Call::Excluded(exclusions) = webhook.call(
            &labels([(names::label::ADMISSION_WEBHOOKS, "disabled"), (names::label::METADATA_NAME, "kube-system")]),
            &labels([(names::label::CNI_RESOURCE, "true")]),
        ) else {
            panic!("excluded four times over");
        };
        assert_eq!(
            exclusions.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "its rules do not match the creation of pods",
                "it wants of the namespace's labels: config.linkerd.io/admission-webhooks NotIn [disabled]",
                "it wants of the namespace's labels: kubernetes.io/metadata.name NotIn [kube-system, cert-manager]",
                "it wants of the pod's labels: linkerd.io/cni-resource DoesNotExist",
            ]
        );
    }

    #[test]
    fn match_conditions_are_conditional_but_hide_no_exclusion() {
        let webhook = only(&changed(|webhook| {
            webhook.match_conditions =
                Some(vec![MatchCondition { name: "not-mine".to_owned(), expression: "false".to_owned() }]);
        }));
        assert_eq!(webhook.call(&labels([]), &labels([])), Call::Conditional(vec!["not-mine".to_owned()]));
        let excluded = webhook.call(&labels([]), &labels([(names::label::CNI_RESOURCE, "")]));
        assert!(matches!(excluded, Call::Excluded(_)));
    }

    #[test]
    fn rules_match_pod_creation_as_the_api_servers_matcher_does() {
        let strings = |item: &str| Some(vec!["other".to_owned(), item.to_owned()]);
        let rule = || RuleWithOperations {
            api_groups: strings(""),
            api_versions: strings("v1"),
            operations: strings("CREATE"),
            resources: strings("pods"),
            scope: None,
        };
        for (matches, what, rule) in [
            (true, "the plain rule", rule()),
            (true, "any group", RuleWithOperations { api_groups: strings("*"), ..rule() }),
            (false, "another group", RuleWithOperations { api_groups: strings("apps"), ..rule() }),
            (true, "any version", RuleWithOperations { api_versions: strings("*"), ..rule() }),
            (false, "another version", RuleWithOperations { api_versions: strings("v1beta1"), ..rule() }),
            (true, "any operation", RuleWithOperations { operations: strings("*"), ..rule() }),
            (false, "another operation", RuleWithOperations { operations: strings("UPDATE"), ..rule() }),
            (false, "no operation", RuleWithOperations { operations: None, ..rule() }),
            (true, "any resource", RuleWithOperations { resources: strings("*"), ..rule() }),
            (true, "any resource and subresource", RuleWithOperations { resources: strings("*/*"), ..rule() }),
            (true, "pods and what is below", RuleWithOperations { resources: strings("pods/*"), ..rule() }),
            (false, "below pods only", RuleWithOperations { resources: strings("pods/exec"), ..rule() }),
            (false, "below anything only", RuleWithOperations { resources: strings("*/scale"), ..rule() }),
            (false, "services only", RuleWithOperations { resources: strings("services"), ..rule() }),
            (true, "any scope", RuleWithOperations { scope: Some("*".to_owned()), ..rule() }),
            (true, "namespaced", RuleWithOperations { scope: Some("Namespaced".to_owned()), ..rule() }),
            (false, "cluster", RuleWithOperations { scope: Some("Cluster".to_owned()), ..rule() }),
        ] {
            assert_eq!(matches_pod_creation(&rule), matches, "{what}");
        }
    }

    #[test]
    fn the_injectors_webhooks_are_found_by_name_or_by_label() {
        let mut split = changed(|webhook| webhook.name = "pods.example.com".to_owned());
        let renamed = MutatingWebhookConfiguration {
            metadata: ObjectMeta { name: Some("mine".to_owned()), ..ObjectMeta::default() },
            ..chart_default()
        };
        let mut foreign = split.clone();
        foreign.metadata.labels = None;
        split.webhooks.as_mut().unwrap().extend(chart_default().webhooks.unwrap());

        let view = WebhookView::new([&split, &renamed, &foreign]).unwrap();
        let names: Vec<_> =
            view.webhooks.iter().map(|webhook| (webhook.configuration.as_str(), webhook.name.as_str())).collect();
        assert_eq!(
            names,
            [
                (names::webhook::CONFIGURATION, "pods.example.com"),
                (names::webhook::CONFIGURATION, names::webhook::NAME),
                ("mine", names::webhook::NAME),
            ]
        );
        assert!(WebhookView::new([&foreign]).unwrap().is_empty());
    }

    #[test]
    fn what_is_left_out_is_what_the_api_server_fills_in() {
        let webhook = only(&changed(|webhook| {
            webhook.failure_policy = None;
            webhook.timeout_seconds = None;
            webhook.namespace_selector = None;
            webhook.object_selector = None;
            webhook.client_config.service.as_mut().unwrap().path = None;
        }));
        assert_eq!(webhook.failure_policy, FailurePolicy::Fail);
        assert_eq!(webhook.timeout, Duration::from_secs(10));
        assert_eq!(webhook.endpoint.to_string(), "https://linkerd-proxy-injector.linkerd.svc:443/");
        assert_eq!(webhook.call(&labels([(names::label::METADATA_NAME, "kube-system")]), &labels([])), Call::Called);
    }

    #[test]
    fn an_invalid_webhook_is_refused_with_its_name_and_field() {
        type Change = fn(&mut MutatingWebhook);
        let cases: [(Change, &str); 6] = [
            (|webhook| webhook.failure_policy = Some("ignore".to_owned()), "failurePolicy: \"ignore\""),
            (|webhook| webhook.timeout_seconds = Some(31), "timeoutSeconds: 31"),
            (|webhook| webhook.client_config.service.as_mut().unwrap().port = Some(65536), "port: 65536"),
            (|webhook| webhook.client_config.url = Some("https://x".to_owned()), "clientConfig: exactly one"),
            (
                |webhook| {
                    webhook.namespace_selector.as_mut().unwrap().match_expressions.as_mut().unwrap()[0].values = None;
                },
                "namespaceSelector: NotIn of",
            ),
            (
                |webhook| {
                    webhook.object_selector.as_mut().unwrap().match_expressions.as_mut().unwrap()[0].operator =
                        "Gt".to_owned();
                },
                "objectSelector: \"Gt\"",
            ),
        ];
        for (change, expected) in cases {
            let error = WebhookView::new([&changed(change)]).unwrap_err().to_string();
            assert!(error.starts_with("webhook \"linkerd-proxy-injector.linkerd.io\" in "), "{error}");
            assert!(error.contains(expected), "{error} does not say {expected}");
        }
    }

    #[test]
    fn a_ca_bundle_is_absent_a_placeholder_unusable_or_certificates() {
        let body: String = CERTIFICATE.lines().filter(|line| !line.starts_with('-')).collect();
        let broken = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", &body[..64]);
        for (what, bundle, usable, problem) in [
            ("nothing", String::new(), 0, Some("there is no CA bundle yet")),
            ("a line feed", "\n".to_owned(), 0, Some("a placeholder")),
            ("prose", "TBD".to_owned(), 0, Some("it holds no certificate")),
            ("half a certificate", broken.clone(), 0, Some("does not parse")),
            ("no end", "-----BEGIN CERTIFICATE-----\nMIIB".to_owned(), 0, Some("cannot be used")),
            ("one", CERTIFICATE.to_owned(), 1, None),
            ("two with remarks", format!("# old\n{CERTIFICATE}\n# new\n{CERTIFICATE}"), 2, None),
            ("one good, one broken", format!("{broken}{CERTIFICATE}"), 1, None),
        ] {
            let ca = CaBundle::new(bundle.as_bytes());
            let certificates = match &ca {
                CaBundle::Certificates(certificates) => certificates.len(),
                CaBundle::Absent | CaBundle::Placeholder | CaBundle::Unusable(_) => 0,
            };
            assert_eq!(certificates, usable, "{what}: {ca:?}");
            match (ca.problem(), problem) {
                (None, None) => {}
                (Some(expected), Some(part)) => assert!(expected.contains(part), "{what}: {expected}"),
                (expected, part) => panic!("{what}: {expected:?} instead of {part:?}"),
            }
        }
    }

    #[test]
    fn an_endpoint_is_a_service_with_a_name_or_a_url_without() {
        let endpoint = |service: bool, url: Option<&str>| {
            let mut client = chart_default().webhooks.unwrap().remove(0).client_config;
            client.service = client.service.filter(|_| service);
            client.url = url.map(str::to_owned);
            Endpoint::new(&client)
        };
        let url = endpoint(false, Some("https://127.0.0.1:8443/inject")).unwrap();
        assert_eq!((url.to_string().as_str(), url.server_name()), ("https://127.0.0.1:8443/inject", None));
        assert!(endpoint(true, None).unwrap().server_name().is_some());
        assert_eq!(endpoint(false, None), Err(ViewProblem::ClientConfig));
        assert_eq!(endpoint(true, Some("https://127.0.0.1")), Err(ViewProblem::ClientConfig));
    }
}
