//! A cluster, hold and guard in it, and what they make of a pod.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::{Method, Request};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate::linkerd::webhook::chart_default;
use linkerd_gate::linkerd::{TokenProjection, WebhookView, missed, names};
use linkerd_gate_kit::cluster::{Api as Cluster, ApiOptions};
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};

use crate::answer::{Answer, dry_run};

/// How long anything here may take that is awaited.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Where the kinds of our policies are.
pub const API: &str = "/apis/admissionregistration.k8s.io/v1";

/// A cluster and its administrator.
pub struct Harness {
    /// The cluster.
    pub cluster: Cluster,
    /// May do everything.
    pub admin: Client,
}

/// What is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Hold and guard: the default from Kubernetes 1.36 on.
    Hold,
    /// The guard alone.
    Refuse,
}

/// Which webhook configurations both look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// Those with Linkerd's label: what the files say.
    Labelled,
    /// Every one. No value says that; but one that is named is looked at without its label in the same way.
    All,
}

/// What the policies and Rust are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Admitted,
    Held,
    Missed,
}

/// The directory of the files.
pub fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests")
}

/// A file's documents.
pub fn documents(file: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(&std::fs::read_to_string(manifests().join(file))?)?)
}

/// The policy and the binding of a file, for a Linkerd whose proxies bring their own token or do not, and these parameters.
pub fn policy(file: &str, token_projection: bool, parameters: Parameters) -> Result<[Value; 2]> {
    let [mut policy, mut binding]: [Value; 2] = documents(file)?.try_into().ok().context("a policy and a binding")?;
    let variables = policy["spec"]["variables"].as_array_mut().context("variables")?.iter_mut();
    let mut found: Vec<_> = variables.filter(|variable| variable["name"] == "tokenProjection").collect();
    let [variable] = found.as_mut_slice() else { bail!("one variable tokenProjection") };
    ensure!(variable["expression"] == "true", "Linkerd's default");
    variable["expression"] = token_projection.to_string().into();
    let reference = &mut binding["spec"]["paramRef"];
    ensure!(reference["selector"]["matchLabels"].is_object(), "by label");
    if parameters == Parameters::All {
        reference["selector"] = json!({});
    }
    Ok([policy, binding])
}

/// What Rust makes of these webhook configurations, as far as they are looked at.
pub fn view(configurations: &[MutatingWebhookConfiguration], parameters: Parameters) -> Result<WebhookView> {
    let component = |configuration: &&MutatingWebhookConfiguration| {
        let labels = configuration.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(names::label::CONTROL_PLANE_COMPONENT)).map(String::as_str)
            == Some(names::component::PROXY_INJECTOR)
    };
    let seen = configurations.iter().filter(|other| parameters == Parameters::All || component(other));
    Ok(WebhookView::new(seen)?)
}

// === impl Admission ===

impl Admission {
    /// What becomes of a pod, as admission shows it, by Rust's rules.
    pub fn expects(self, pod: &Pod, namespace: &Namespace, view: &WebhookView, token_projection: bool) -> Expected {
        let projection = if token_projection { TokenProjection::Enabled } else { TokenProjection::Disabled };
        // Neither looks there: Linkerd, and so every pod that asks for it, waits for this one.
        let spared = namespace.metadata.name.as_deref() == Some("kube-system");
        let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        match (missed(pod, namespace, view, projection) && !spared, self) {
            (false, _) => Expected::Admitted,
            (true, Self::Hold) if !has_node => Expected::Held,
            (true, _) => Expected::Missed,
        }
    }
}

// === impl Expected ===

impl Expected {
    pub fn is(self, answer: &Answer) -> bool {
        match self {
            Self::Admitted => answer.is_admitted(),
            Self::Held => answer.is_held(),
            Self::Missed => answer.is_missed(),
        }
    }
}

// === impl Stage ===

impl Harness {
    /// A cluster without policies and without Linkerd.
    pub async fn set() -> Result<Self> {
        Self::set_with(ApiOptions::default()).await
    }

    /// The same with other options.
    pub async fn set_with(options: ApiOptions) -> Result<Self> {
        let cluster = Cluster::start_with(options).await?;
        let admin = cluster.client().await?;
        let harness = Self { cluster, admin };
        harness.watch_parameters().await?;
        Ok(harness)
    }

    /// Applies one of the files as a person does, and takes no field for granted.
    pub async fn kubectl_apply(&self, file: &str) -> Result<()> {
        let path = manifests().join(file).display().to_string();
        let output = self.kubectl(&["apply", "--validate=strict", "--filename", &path]).await?;
        ensure!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Runs kubectl as the administrator.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = tokio::process::Command::new(self.cluster.kubectl());
        Ok(command.args(arguments).stdin(Stdio::null()).output().await?)
    }

    /// A namespace.
    pub async fn namespace(&self, namespace: linkerd_gate_kit::object::Namespace) -> Result<()> {
        self.cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
        Ok(())
    }

    /// Puts an object of admission's there, or another one in its place.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let kind = object["kind"].as_str().context("a kind")?.to_lowercase();
        let plural = if kind.ends_with('y') { format!("{}ies", &kind[..kind.len() - 1]) } else { format!("{kind}s") };
        let name = object["metadata"]["name"].as_str().context("a name")?;
        let path = format!("{API}/{plural}/{name}?fieldManager=admission-test&force=true");
        self.request(Method::PATCH, &path, "application/apply-patch+yaml", object).await?;
        Ok(())
    }

    /// Takes an object of admission's away: `mutatingadmissionpolicybindings/linkerd-gate-hold`.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.request(Method::DELETE, &format!("{API}/{path}"), "application/json", &json!({})).await?;
        Ok(())
    }

    /// One request with a body of JSON, and what is answered.
    pub async fn request(&self, method: Method, path: &str, content_type: &str, body: &Value) -> Result<Value> {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        self.admin.request(request.body(body.to_string().into_bytes())?).await.with_context(|| path.to_owned())
    }

    /// Installs this for a Linkerd whose proxies bring their own token, or do not, behind the chart's webhook, and waits for it
    /// by pods whose answers depend on it.
    pub async fn await_admission(
        &self,
        admission: Admission,
        token_projection: bool,
        parameters: Parameters,
    ) -> Result<()> {
        let mut objects = policy("61-admission-guard.yaml", token_projection, parameters)?.to_vec();
        let hold = policy("60-admission-hold.yaml", token_projection, parameters)?;
        match admission {
            Admission::Hold => objects.extend(hold),
            Admission::Refuse => {
                let bindings = self.kubectl(&["get", "mutatingadmissionpolicybindings", "--output=name"]).await?;
                if String::from_utf8_lossy(&bindings.stdout).contains("linkerd-gate-hold") {
                    self.delete("mutatingadmissionpolicybindings/linkerd-gate-hold").await?;
                }
            }
        }
        for object in objects {
            self.apply(&object).await?;
        }
        self.install(&[chart_default()]).await?;
        let what = format!("{admission:?}, with token projection {token_projection}");
        let asking = pod("asking").asking().running("app:test").in_namespace("default");
        let tokenless = asking.clone().spec_field("automountServiceAccountToken", false);
        let expected = if admission == Admission::Hold { Expected::Held } else { Expected::Missed };
        let seen = |seen: bool| if seen { expected } else { Expected::Admitted };
        let asking: Pod = serde_json::from_value(asking.json())?;
        self.until(&what, &asking, |answer| expected.is(answer)).await?;
        self.install(&[unlabelled(chart_default())]).await?;
        let all = seen(parameters == Parameters::All);
        self.until(&what, &asking, |answer| all.is(answer)).await?;
        self.install(&[chart_default()]).await?;
        let tokenless = serde_json::from_value(tokenless.json())?;
        self.until(&what, &tokenless, |answer| seen(token_projection).is(answer)).await
    }

    /// Installs these webhook configurations and no others, and waits until admission has them. They fail open, whatever else
    /// they say: what is looked for is the policies' own answer.
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
            "metadata": {"name": "which", "namespace": "default", "labels": {"admission-test": "parameters"}},
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
    /// moment, each in which version. Ours have the same: an API server reads parameters of one kind once for all policies.
    async fn watch_parameters(&self) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "admission-test-parameters"},
            "spec": {
                "paramKind": {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"},
                "matchConstraints": {
                    "objectSelector": {"matchLabels": {"admission-test": "parameters"}},
                    "resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
                    ],
                },
                "validations": [{
                    "expression": "false",
                    "messageExpression": "params.metadata.name + '@' + params.metadata.resourceVersion",
                }],
            },
        }))
        .await?;
        self.apply(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "admission-test-parameters"},
            "spec": {
                "policyName": "admission-test-parameters",
                "paramRef": {"selector": {}, "parameterNotFoundAction": "Allow"},
                "validationActions": ["Warn"],
            },
        }))
        .await
    }
}

/// Known by its webhook's name alone.
fn unlabelled(mut configuration: MutatingWebhookConfiguration) -> MutatingWebhookConfiguration {
    configuration.metadata.labels = None;
    configuration
}

fn name(metadata: &ObjectMeta) -> Result<&str> {
    metadata.name.as_deref().context("an object without a name")
}
