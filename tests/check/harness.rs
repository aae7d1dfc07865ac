//! A cluster without kubelets, Linkerd's injector, and the program.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use linkerd_gate_kit::cluster::{Api as Cluster, ApiOptions, LoopbackAddress};
use linkerd_gate_kit::object::{namespace, service, webhook_configuration};
use linkerd_gate_kit::parts::{Release, find_helm};
use linkerd_gate_kit::standin::{Certificates, Injector, Namespaces, Sidecar, Standin};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

/// The image that is installed.
pub const IMAGE: &str = "registry.example.com/linkerd-gate:0.1.0";

/// Where the agents and the controller are.
pub const OURS: &str = "linkerd-gate";

/// A cluster whose Deployments, DaemonSets and nodes are what the test writes.
pub struct Harness {
    pub cluster: Cluster,
    pub admin: Client,
    pub injector: Standin,
    pub certificates: Certificates,
    address: LoopbackAddress,
}

/// What the program did.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

// === impl Stage ===

impl Harness {
    /// A cluster without Linkerd.
    pub async fn set() -> Result<Self> {
        Self::of(Release::Current).await
    }

    /// The same, with an API server of that release.
    pub async fn of(release: Release) -> Result<Self> {
        let off = [
            "daemonset-controller",
            "deployment-controller",
            "replicaset-controller",
            "node-lifecycle-controller",
            "garbage-collector-controller",
            "pod-garbage-collector-controller",
        ];
        let off = off.map(|name| format!(",-{name}")).concat();
        let controller_manager = vec![format!("--controllers=*{off}")];
        let options = ApiOptions { release, controller_manager, ..ApiOptions::default() };
        let cluster = Cluster::start_with(options).await?;
        let address = LoopbackAddress::claim()?;
        let certificates = Certificates::for_injector("linkerd")?;
        let known = Namespaces::any().asking("shop");
        let injector = Injector::new(certificates.clone(), &known, Sidecar::genuine("linkerd"))
            .serving_on((address.ip(), 443).into())
            .start()
            .await?;
        let admin = cluster.client().await?;
        Ok(Self { cluster, admin, injector, certificates, address })
    }

    /// Linkerd: its namespace, its injector's Service, its webhook, its control plane's Deployments, with two replicas each.
    pub async fn install_linkerd(&self) -> Result<()> {
        let ip = self.address.ip().to_string();
        self.cluster
            .create_namespace(&serde_json::from_value(namespace("linkerd").without_admission_webhooks().json())?)
            .await?;
        self.apply(&service("linkerd-proxy-injector").in_namespace("linkerd").external_name(&ip).json()).await?;
        for part in ["proxy-injector", "identity", "destination"] {
            self.apply(&control_plane(part, 2, "edge-26.8.3")).await?;
        }
        self.apply(&self.webhook()).await
    }

    /// Another Linkerd in another namespace, whose webhook calls the same injector.
    pub async fn install_second_linkerd(&self, namespace_name: &str) -> Result<()> {
        let namespace = namespace(namespace_name).without_admission_webhooks();
        self.cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
        let ip = self.address.ip().to_string();
        self.apply(&service("linkerd-proxy-injector").in_namespace(namespace_name).external_name(&ip).json()).await?;
        let second = webhook_configuration(namespace_name).named(&format!("{namespace_name}-injector"));
        self.apply(&second.ca_bundle(self.certificates.ca_bundle()).json()).await
    }

    /// Types the fix of that finding, as a person pastes it into a shell in a checkout of this repository.
    pub async fn paste(&self, report: &Value, code: &str) -> Result<()> {
        let checks = report["categories"].as_array().into_iter().flatten().filter_map(|it| it["checks"].as_array());
        let found = checks.flatten().find(|check| check["code"] == code && check["result"] != "success");
        let fix =
            found.and_then(|check| check["fix"].as_str()).with_context(|| format!("{code} has no fix: {report:#}"))?;
        let folder =
            |program: &std::path::Path| program.parent().map(|it| it.display().to_string()).unwrap_or_default();
        let helm = tokio::task::spawn_blocking(find_helm).await??;
        let ours = std::path::Path::new(env!("CARGO_BIN_EXE_linkerd-gate"));
        let path = [folder(self.cluster.kubectl()), folder(&helm), folder(ours), "/usr/bin:/bin".to_owned()].join(":");
        let home = tempfile::tempdir()?;
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", fix]).env_clear().env("PATH", path).env("HOME", home.path());
        shell.env("KUBECONFIG", self.cluster.kubeconfig()).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = spoken_to(shell, "").await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success() && !err.to_lowercase().contains("error"), "{code}: {fix}\n{out}{err}");
        Ok(())
    }

    /// Linkerd's webhook as it should be.
    pub fn webhook(&self) -> Value {
        webhook_configuration("linkerd").ca_bundle(self.certificates.ca_bundle()).json()
    }

    /// Puts an object there, or another one in its place.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename=-"], &object.to_string()).await?;
        Ok(())
    }

    /// What kubectl prints.
    pub async fn kubectl(&self, words: &[&str], input: &str) -> Result<String> {
        let mut kubectl = tokio::process::Command::new(self.cluster.kubectl());
        kubectl.args(words);
        let output = spoken_to(kubectl, input).await?;
        ensure!(output.status.success(), "kubectl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs the program as the administrator, or as somebody else by `--as`.
    pub async fn run(&self, words: &[&str]) -> Result<Ran> {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_linkerd-gate"));
        program.args(words).env_clear().env("KUBECONFIG", self.cluster.kubeconfig());
        let output = spoken_to(program, "").await?;
        Ok(Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    /// Checks, and holds what is wrong to exactly these: `LG701 error`. Policies and webhooks count a moment after they were
    /// written, so it looks until it is so.
    pub async fn finds(&self, state: &str, words: &[&str], expected: &[&str]) -> Result<Value> {
        let expected: BTreeSet<String> = expected.iter().map(|it| (*it).to_owned()).collect();
        let words: Vec<&str> = ["check", "-o", "json"].into_iter().chain(words.iter().copied()).collect();
        let mut last = BTreeSet::new();
        let mut text = String::new();
        for _ in 0..PATIENCE_LOOKS {
            let Ran { code, out, err } = self.run(&words).await?;
            let report: Value = serde_json::from_str(&out).with_context(|| format!("{state}: {out}{err}"))?;
            last = found(&report);
            if last == expected {
                let is_error = expected.iter().any(|it| it.ends_with(" error"));
                ensure!(code == Some(i32::from(is_error)), "{state}: exit code {code:?}");
                ensure!(report["success"] == !is_error, "{state}: {report:#}");
                is_as_linkerd_reads_it(&report).with_context(|| state.to_owned())?;
                is_mended_by_commands(&report).with_context(|| state.to_owned())?;
                return Ok(report);
            }
            text = format!("{report:#}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        bail!("{state}: found {last:?}, not {expected:?}:\n{text}")
    }

    /// The page that a person reads of this state, as it is committed; `UPDATE_GOLDEN=1` rewrites it.
    pub async fn page(&self, name: &str, words: &[&str]) -> Result<()> {
        let words: Vec<&str> = ["check"].into_iter().chain(words.iter().copied()).collect();
        self.pages(name, &[&words]).await
    }

    /// The same of several commands, one after the other, as they stand in a terminal.
    pub async fn pages(&self, name: &str, commands: &[&[&str]]) -> Result<()> {
        let (mut out, mut err) = (String::new(), String::new());
        for words in commands {
            let ran = self.run(words).await?;
            if commands.len() > 1 {
                writeln!(out, "$ linkerd-gate {}", words.join(" "))?;
            }
            out.push_str(&without_chance(&ran.out));
            if commands.len() > 1 {
                writeln!(out, "{}", without_chance(&ran.err))?;
            }
            err.push_str(&ran.err);
        }
        is_golden(name, &out).with_context(|| err)
    }

    /// A pod, with this status.
    pub async fn pod(&self, pod: &Value, status: Value) -> Result<Pod> {
        let namespace = pod["metadata"]["namespace"].as_str().context("a namespace")?;
        let pods: Api<Pod> = Api::namespaced(self.admin.clone(), namespace);
        let created = pods.create(&PostParams::default(), &serde_json::from_value(pod.clone())?).await?;
        let name = created.metadata.name.as_deref().context("a name")?;
        let patch = Patch::Merge(json!({"status": status}));
        Ok(pods.patch_status(name, &PatchParams::default(), &patch).await?)
    }

    /// A node that is ready.
    pub async fn node(&self, name: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.admin.clone());
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-29T10:00:00Z",
            "lastHeartbeatTime": "2026-11-29T10:00:00Z", "reason": "KubeletReady", "message": "ready"});
        let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
        nodes.patch_status(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

/// A page as it is committed; `UPDATE_GOLDEN=1` rewrites it.
pub fn is_golden(name: &str, page: &str) -> Result<()> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check/golden").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(&path, page)?;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(page == expected, "{} expects\n{expected}\nbut found\n{page}", path.display());
    Ok(())
}

/// How often a state is looked at until it is as expected.
const PATIENCE_LOOKS: usize = 40;

/// Without what is of this moment: times.
fn without_chance(page: &str) -> String {
    let is_time = |word: &str| word.len() >= 20 && word.starts_with("20") && word.contains('T') && word.ends_with('Z');
    let words = |line: &str| {
        let words = line.split(' ').map(|word| {
            let bare = word.trim_matches(|character| "(),;:".contains(character));
            if is_time(bare) { word.replace(bare, "TIME") } else { word.to_owned() }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    page.lines().map(|line| words(line) + "\n").collect()
}

/// What is not as it should be.
fn found(report: &Value) -> BTreeSet<String> {
    let categories = report["categories"].as_array().into_iter().flatten();
    let checks = categories.flat_map(|category| category["checks"].as_array().into_iter().flatten());
    checks
        .filter(|check| check["result"] != "success")
        .map(|check| format!("{} {}", check["code"].as_str().unwrap_or("?"), check["result"].as_str().unwrap_or("?")))
        .collect()
}

/// Each finding has a command to paste, with the names of what it is about in it.
pub fn is_mended_by_commands(report: &Value) -> Result<()> {
    for check in
        report["categories"].as_array().into_iter().flatten().filter_map(|it| it["checks"].as_array()).flatten()
    {
        if check["result"] == "success" {
            continue;
        }
        let fix = check["fix"].as_str().with_context(|| format!("no fix: {check:#}"))?;
        let words = ["kubectl ", "linkerd ", "linkerd-gate ", "helm "];
        ensure!(words.iter().any(|word| fix.starts_with(word)), "no command: {check:#}");
        let (command, note) = fix.split_once("   # ").unwrap_or((fix, ""));
        for placeholder in ["…", " NODE", "NAME", "NAMESPACE", "KEY", "USER"] {
            ensure!(!command.contains(placeholder), "{placeholder} is left to fill in: {check:#}");
        }
        ensure!(!command.contains("IMAGE") || note.contains("IMAGE is "), "IMAGE is not explained: {check:#}");
    }
    Ok(())
}

/// As linkerd2's `pkg/healthcheck/healthcheck_output.go` reads it: without `error`, an error would be shown as success.
pub fn is_as_linkerd_reads_it(report: &Value) -> Result<()> {
    for category in report["categories"].as_array().context("categories")? {
        ensure!(category["categoryName"].is_string(), "{category:#}");
        for check in category["checks"].as_array().context("checks")? {
            ensure!(check["description"].is_string(), "{check:#}");
            let wrong = ["warning", "error"].contains(&check["result"].as_str().context("result")?);
            ensure!(wrong == check["error"].is_string(), "{check:#}");
            ensure!(wrong == check["hint"].as_str().is_some_and(|hint| hint.starts_with("https://")), "{check:#}");
        }
    }
    Ok(())
}

/// A Deployment of Linkerd's.
pub fn control_plane(part: &str, replicas: u32, version: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": format!("linkerd-{part}"), "namespace": "linkerd",
            "labels": {"linkerd.io/control-plane-component": part},
            "annotations": {"linkerd.io/created-by": format!("linkerd/helm {version}")},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"linkerd.io/control-plane-component": part}},
            "template": {
                "metadata": {"labels": {"linkerd.io/control-plane-component": part}},
                "spec": {"containers": [{"name": part, "image": "linkerd:test"}]},
            },
        },
    })
}

/// A status of a pod that runs.
pub fn running() -> Value {
    json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-29T10:00:00Z"}],
    })
}

async fn spoken_to(mut program: tokio::process::Command, input: &str) -> Result<Output> {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn()?;
    // What does not read, is done before.
    let _ = child.stdin.take().context("no stdin")?.write_all(input.as_bytes()).await;
    Ok(child.wait_with_output().await?)
}
