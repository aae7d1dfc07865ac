//! A cluster, the guard in it, and what an API server says to a pod.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::Request;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate::linkerd::webhook::chart_default;
use linkerd_gate::linkerd::{WebhookView, names};
use linkerd_gate_kit::cluster::{Api as Cluster, ApiOptions};
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};

/// How long anything here may take that is awaited.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A cluster and its administrator.
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// May do everything.
    pub admin: Client,
}

/// What an API server said to a pod.
#[derive(Clone)]
pub enum Answer {
    /// It takes the pod, as shown, with these warnings.
    Admitted(Box<Pod>, Vec<String>),
    /// The guard's rule refuses the pod, in these words.
    Missed(String),
    /// Refused, but not by that rule: by somebody else, or because an expression failed.
    Otherwise(String),
    /// No answer, or none about the pod: the server is overloaded, or on its way up or down.
    Unanswered(String),
}

/// Which webhook configurations the guard looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// Those with Linkerd's label: what its file says.
    Labelled,
    /// Every one: what its file says that can be said instead.
    All,
}

/// The directory of the guard's files.
pub fn optional() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests/optional")
}

/// The guard's policy and its binding.
pub fn guard() -> Result<(ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding)> {
    let text = std::fs::read_to_string(optional().join("50-guard.yaml"))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let [policy, binding] = documents.try_into().ok().context("a policy and a binding")?;
    Ok((serde_json::from_value(policy)?, serde_json::from_value(binding)?))
}

/// The binding, for these parameters.
pub fn binding(parameters: Parameters) -> Result<ValidatingAdmissionPolicyBinding> {
    let mut binding = guard()?.1;
    let reference = binding.spec.as_mut().and_then(|spec| spec.param_ref.as_mut()).context("a paramRef")?;
    ensure!(reference.selector.as_ref().is_some_and(|selector| selector.match_labels.is_some()), "by label");
    if parameters == Parameters::All {
        reference.selector = Some(LabelSelector::default());
    }
    Ok(binding)
}

/// What Rust makes of these webhook configurations, as far as the guard looks at them.
pub fn view(configurations: &[MutatingWebhookConfiguration], parameters: Parameters) -> Result<WebhookView> {
    let component = |configuration: &&MutatingWebhookConfiguration| {
        let labels = configuration.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(names::label::CONTROL_PLANE_COMPONENT)).map(String::as_str)
            == Some(names::component::PROXY_INJECTOR)
    };
    let seen = configurations.iter().filter(|other| parameters == Parameters::All || component(other));
    Ok(WebhookView::new(seen)?)
}

/// The policy for a Linkerd whose proxies bring their own token, or do not.
pub fn policy(token_projection: bool) -> Result<ValidatingAdmissionPolicy> {
    let mut policy = guard()?.0;
    let variables = policy.spec.iter_mut().flat_map(|spec| spec.variables.iter_mut().flatten());
    let mut found: Vec<_> = variables.filter(|variable| variable.name == "tokenProjection").collect();
    let [variable] = found.as_mut_slice() else { bail!("one variable tokenProjection") };
    ensure!(variable.expression == "true", "Linkerd's default");
    variable.expression = token_projection.to_string();
    Ok(policy)
}

// === impl Answer ===

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted(_, warnings) => write!(f, "admitted with warnings {warnings:?}"),
            Self::Missed(words) => write!(f, "refused as missed: {words}"),
            Self::Otherwise(words) => write!(f, "refused otherwise: {words}"),
            Self::Unanswered(error) => write!(f, "not answered: {error}"),
        }
    }
}

// === impl Stage ===

impl Stage {
    /// A cluster without the guard and without Linkerd.
    pub async fn set() -> Result<Self> {
        Self::set_with(ApiOptions::default()).await
    }

    /// The same with other options.
    pub async fn set_with(options: ApiOptions) -> Result<Self> {
        let cluster = Cluster::start_with(options).await?;
        let admin = cluster.client().await?;
        let stage = Self { cluster, admin };
        stage.watch_parameters().await?;
        Ok(stage)
    }

    /// Applies one of the guard's files as a person does, and takes no field for granted.
    pub async fn kubectl_apply(&self, file: &str) -> Result<()> {
        let path = optional().join(file).display().to_string();
        let output = self.kubectl(&["apply", "--validate=strict", "--filename", &path]).await?;
        ensure!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Runs kubectl as the administrator.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = tokio::process::Command::new(self.cluster.kubectl());
        Ok(command.args(arguments).stdin(Stdio::null()).output().await?)
    }

    /// Puts the guard there, or another policy in its place.
    pub async fn apply(
        &self,
        policy: &ValidatingAdmissionPolicy,
        binding: &ValidatingAdmissionPolicyBinding,
    ) -> Result<()> {
        let manager = PatchParams::apply("guard-test").force();
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.admin.clone());
        policies.patch(name(&policy.metadata)?, &manager, &Patch::Apply(policy)).await?;
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.admin.clone());
        bindings.patch(name(&binding.metadata)?, &manager, &Patch::Apply(binding)).await?;
        Ok(())
    }

    /// Installs the guard for a Linkerd whose proxies bring their own token, or do not, behind the chart's webhook, and waits
    /// for it by pods whose answers depend on it.
    pub async fn await_guard(&self, token_projection: bool, parameters: Parameters) -> Result<()> {
        self.apply(&policy(token_projection)?, &binding(parameters)?).await?;
        self.install(&[chart_default()]).await?;
        let what = format!("the guard, with token projection {token_projection}");
        let asking = pod("asking").asking().running("app:test").in_namespace("default");
        let tokenless = asking.clone().spec_field("automountServiceAccountToken", false);
        let missed = |answer: &Answer| matches!(answer, Answer::Missed(_));
        self.until(&what, &serde_json::from_value(asking.clone().json())?, missed).await?;
        self.install(&[unlabelled(chart_default())]).await?;
        self.until(&what, &serde_json::from_value(asking.json())?, |answer| {
            missed(answer) == (parameters == Parameters::All)
        })
        .await?;
        self.install(&[chart_default()]).await?;
        self.until(&what, &serde_json::from_value(tokenless.json())?, |answer| missed(answer) == token_projection).await
    }

    /// Installs these webhook configurations and no others, and waits until admission has them. Nobody answers them: they fail
    /// open, whatever else they say, since what is looked for is the guard's own answer.
    pub async fn install(&self, configurations: &[MutatingWebhookConfiguration]) -> Result<()> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.admin.clone());
        for old in api.list(&ListParams::default()).await? {
            api.delete(name(&old.metadata)?, &DeleteParams::default()).await?;
        }
        let mut installed = BTreeSet::new();
        for configuration in configurations {
            let mut configuration = configuration.clone();
            for webhook in configuration.webhooks.iter_mut().flatten() {
                webhook.failure_policy = Some("Ignore".to_owned());
            }
            let created = api.create(&PostParams::default(), &configuration).await?.metadata;
            installed.insert(format!("{}@{}", name(&created)?, created.resource_version.clone().unwrap_or_default()));
        }
        let pod = json!({
            "metadata": {"name": "which", "namespace": "default", "labels": {"guard-test": "parameters"}},
            "spec": {"containers": [{"name": "app", "image": "app:test"}]},
        });
        self.until(&format!("admission has {installed:?}"), &serde_json::from_value(pod)?, |answer| match answer {
            Answer::Admitted(_, warnings) => {
                let seen = warnings.iter().filter_map(|warning| Some(warning.rsplit_once(' ')?.1.to_owned()));
                seen.collect::<BTreeSet<_>>() == installed
            }
            _ => false,
        })
        .await
    }

    /// Has the API server mount no tokens into this namespace's pods, where they do not ask for it: then one container can have
    /// one and another not.
    pub async fn mount_no_tokens(&self, namespace: &str) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), namespace);
        let patch = Patch::Merge(json!({"automountServiceAccountToken": false}));
        accounts.patch("default", &PatchParams::default(), &patch).await?;
        let any = pod("any").in_namespace(namespace).running("app:test").json();
        let mountless = |answer: &Answer| match answer {
            Answer::Admitted(pod, _) => {
                pod.spec.as_ref().is_some_and(|spec| spec.containers[0].volume_mounts.is_none())
            }
            _ => false,
        };
        self.until("no token is mounted", &serde_json::from_value(any)?, mountless).await
    }

    /// Asks by dry-runs until the answer to a pod is such.
    pub async fn until(&self, what: &str, pod: &Pod, condition: impl Fn(&Answer) -> bool) -> Result<()> {
        let mut last = None;
        let asking = async {
            loop {
                let answer = dry_run(&self.admin, pod).await?;
                if condition(&answer) {
                    return anyhow::Ok(());
                }
                last = Some(answer);
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("{what}: not so after {} s; last: {last:?}", PATIENCE.as_secs()),
        }
    }

    /// A policy that tells, in warnings about pods with a label of its own, which webhook configurations admission has at that
    /// moment, each in which version. The guard has the same: an API server reads parameters of one kind once for all policies.
    async fn watch_parameters(&self) -> Result<()> {
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "guard-test-parameters"},
            "spec": {
                "paramKind": {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"},
                "matchConstraints": {
                    "objectSelector": {"matchLabels": {"guard-test": "parameters"}},
                    "resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
                    ],
                },
                "validations": [{
                    "expression": "false",
                    "messageExpression": "params.metadata.name + '@' + params.metadata.resourceVersion",
                }],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "guard-test-parameters"},
            "spec": {
                "policyName": "guard-test-parameters",
                "paramRef": {"selector": {}, "parameterNotFoundAction": "Allow"},
                "validationActions": ["Warn"],
            },
        });
        self.apply(&serde_json::from_value(policy)?, &serde_json::from_value(binding)?).await
    }
}

/// Known by its webhook's name alone.
fn unlabelled(mut configuration: MutatingWebhookConfiguration) -> MutatingWebhookConfiguration {
    configuration.metadata.labels = None;
    configuration
}

/// Creates a pod in its namespace.
pub async fn create(client: &Client, pod: &Pod) -> Result<Answer> {
    send(client, pod, "").await
}

/// Asks what would become of a pod.
pub async fn dry_run(client: &Client, pod: &Pod) -> Result<Answer> {
    send(client, pod, "?dryRun=All").await
}

async fn send(client: &Client, pod: &Pod, parameters: &str) -> Result<Answer> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods{parameters}"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(pod)?.into())?;
    let response = match client.send(request).await {
        Ok(response) => response,
        Err(error) => return Ok(Answer::Unanswered(error.to_string())),
    };
    let (head, body) = response.into_parts();
    let body = match body.collect_bytes().await {
        Ok(body) => body,
        Err(error) => return Ok(Answer::Unanswered(error.to_string())),
    };
    if head.status.is_success() {
        let warnings = head.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok());
        let warnings = warnings.map(|text| text.trim_end_matches('"').to_owned()).collect();
        return Ok(Answer::Admitted(serde_json::from_slice(&body)?, warnings));
    }
    let status: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message =
        status["message"].as_str().map_or_else(|| String::from_utf8_lossy(&body).into_owned(), ToOwned::to_owned);
    // Exactly this refusal: an expression that failed is told in the policy's name as well.
    let by_the_guard = "ValidatingAdmissionPolicy 'linkerd-gate' with binding 'linkerd-gate' denied request: ";
    match message.split_once(by_the_guard) {
        Some((_, words)) if head.status == 403 && words.starts_with("pod ") && status["reason"] == "Forbidden" => {
            Ok(Answer::Missed(words.to_owned()))
        }
        _ if head.status.is_server_error() || head.status == 429 => {
            Ok(Answer::Unanswered(format!("{}: {message}", head.status)))
        }
        _ => Ok(Answer::Otherwise(format!("{}: {message}", head.status))),
    }
}

fn name(metadata: &ObjectMeta) -> Result<&str> {
    metadata.name.as_deref().context("an object without a name")
}
