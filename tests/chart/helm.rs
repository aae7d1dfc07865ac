//! Helm, and what it makes of the chart.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::LazyLock;

use linkerd_gate_kit::parts::find_helm;
use serde_json::Value;

/// The namespace that everything is rendered for unless a test says another one.
pub const NAMESPACE: &str = "linkerd-gate";

/// What the manifests have in place of an image, which has no default. No registry can be called that.
pub const REPOSITORY: &str = "REGISTRY/linkerd-gate";

/// One value: where it stands, and what.
pub type Setting = (String, Value);

/// For which Kubernetes the chart is rendered, where no cluster tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubernetes {
    /// One that has MutatingAdmissionPolicies: 1.36 and newer.
    Newer,
    /// One that has none.
    Older,
}

/// One document of what was rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The template that it comes from, below `templates`.
    pub template: String,
    /// As it was rendered, comments and all.
    pub text: String,
}

// === impl Document ===

impl Document {
    /// What it says.
    pub fn value(&self) -> Value {
        serde_saphyr::from_str(&self.text).unwrap_or_else(|error| panic!("{}: {error}\n{}", self.template, self.text))
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The chart's directory.
pub fn chart() -> PathBuf {
    root().join("deploy/chart")
}

/// Helm. It is built where this is the first test that asks for it. What is in the user's own configuration counts for nothing.
pub fn helm() -> Command {
    static HELM: LazyLock<PathBuf> = LazyLock::new(|| find_helm().unwrap_or_else(|error| panic!("{error:#}")));
    let mut helm = Command::new(&*HELM);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HELM_")) {
        helm.env_remove(name);
    }
    // Where Helm writes, a file, so that nobody can make a directory of it and leave something there.
    for name in ["KUBECACHEDIR", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        helm.env(name, "/dev/null");
    }
    for name in ["HOME", "KUBECONFIG", "HELM_CONFIG_HOME"] {
        helm.env(name, "/nonexistent");
    }
    helm
}

/// A setting, where it is known.
pub fn set(path: &str, value: impl Into<Value>) -> Setting {
    (path.to_owned(), value.into())
}

/// What `helm template` makes of the chart for a namespace on such a Kubernetes, as it printed it.
pub fn template_on(kubernetes: Kubernetes, namespace: &str, settings: &[Setting]) -> Output {
    let mut helm = helm();
    helm.args(["template", "linkerd-gate"]).arg(chart()).args(["--namespace", namespace]);
    if kubernetes == Kubernetes::Newer {
        helm.args(["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"]);
    }
    for (path, value) in with_image(settings) {
        helm.arg("--set-json").arg(format!("{path}={value}"));
    }
    helm.output().unwrap()
}

/// These settings, and an image where they name none.
pub fn with_image(settings: &[Setting]) -> Vec<Setting> {
    let mut settings = settings.to_vec();
    if settings.iter().all(|(path, _)| path != "image.repository") {
        settings.push(set("image.repository", REPOSITORY));
    }
    settings
}

/// The same on a newer Kubernetes.
pub fn template(namespace: &str, settings: &[Setting]) -> Output {
    template_on(Kubernetes::Newer, namespace, settings)
}

/// The documents that come of the chart on a newer Kubernetes, in the order in which Helm installs them.
pub fn render(namespace: &str, settings: &[Setting]) -> Vec<Document> {
    render_on(Kubernetes::Newer, namespace, settings)
}

/// The documents that come of the chart on such a Kubernetes.
pub fn render_on(kubernetes: Kubernetes, namespace: &str, settings: &[Setting]) -> Vec<Document> {
    let output = template_on(kubernetes, namespace, settings);
    assert!(output.status.success(), "{settings:?}: {}", String::from_utf8_lossy(&output.stderr));
    documents(&String::from_utf8(output.stdout).unwrap())
}

/// Why Helm refuses to render.
pub fn refusal(namespace: &str, settings: &[Setting]) -> String {
    let output = template(namespace, settings);
    assert!(!output.status.success(), "it rendered {settings:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The values that the chart comes with.
pub fn values() -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap()
}

/// What the chart says of the value at a path.
pub fn schema(path: &str) -> Value {
    let text = std::fs::read_to_string(chart().join("values.schema.json")).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    path.split('.').fold(whole, |schema, name| {
        let found = schema["properties"].get(name);
        found.unwrap_or_else(|| panic!("values.schema.json does not know {path}")).clone()
    })
}

/// Where each value of values.yaml stands, `agent.mode` for instance. A map is one value where the schema names no parts of it.
pub fn leaves() -> Vec<String> {
    fn below(path: &str, value: &Value, leaves: &mut Vec<String>) {
        for (name, value) in value.as_object().expect("a map") {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if schema(&path).get("properties").is_some() {
                below(&path, value, leaves);
            } else {
                leaves.push(path);
            }
        }
    }
    let mut leaves = Vec::new();
    below("", &values(), &mut leaves);
    assert!(leaves.len() > 20, "{leaves:?}");
    leaves
}

/// The default of the value at a path.
pub fn default_of(path: &str) -> Value {
    path.split('.').fold(values(), |value, name| value[name].clone())
}

/// Another value than the default, which the chart takes: what the schema gives as an example, or the opposite.
pub fn another(path: &str) -> Value {
    let default = default_of(path);
    let other = match default.as_bool() {
        Some(default) => Value::Bool(!default),
        None => schema(path)["examples"][0].clone(),
    };
    assert!(
        !other.is_null() && other != default,
        "values.schema.json has no example for {path} that is not its default"
    );
    other
}

/// Everything that can be switched on.
pub fn all_on() -> Vec<Setting> {
    let switches = leaves().into_iter().filter(|path| path.ends_with(".enabled") || path == "agent.bornClosed");
    switches.map(|path| (path, Value::Bool(true))).collect()
}

fn documents(rendered: &str) -> Vec<Document> {
    let document = |text: &str| {
        let (template, text) = text.strip_prefix("# Source: linkerd-gate/templates/")?.split_once('\n')?;
        Some(Document { template: template.to_owned(), text: format!("{}\n", text.trim()) })
    };
    rendered
        .split("---\n")
        .filter(|text| !text.trim().is_empty())
        .map(|text| document(text).unwrap_or_else(|| panic!("Helm does not say where this comes from:\n{text}")))
        .collect()
}
