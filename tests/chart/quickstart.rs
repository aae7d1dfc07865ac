//! The README's quickstart, as a person types it: its commands are read from the page and run by a shell, and print what the page
//! shows. kwok plays the nodes, so pods run and rollouts go on; the controller is the genuine program, beside the cluster.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use linkerd_gate_kit::cluster::{Api as Cluster, ApiOptions, LoopbackAddress, until_any};
use linkerd_gate_kit::object::{namespace, pod, webhook_configuration};
use linkerd_gate_kit::standin::{Certificates, Fault, Injector, Namespaces, Sidecar, Standin};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::harness::{Harness, PATIENCE};
use crate::helm::{NAMESPACE, REPOSITORY, helm, root};

/// The mark above the blocks that are run here.
const MARK: &str = "<!-- run: tests/chart/quickstart.rs -->\n```console\n";

/// A command of the page, and what the page shows of its output.
struct Shown {
    command: String,
    output: Vec<String>,
}

/// The README's quickstart, on a cluster in which a boot has left pods outside the mesh.
#[tokio::test]
async fn the_quickstart_prints_what_the_readme_shows() -> Result<()> {
    let harness = Harness { cluster: Cluster::start_with(ApiOptions::default()).await? };
    let exercise = async {
        let injector = harness.boots_without_its_injector().await?;
        let [look, install, audit, mend, enforce, remove]: [Vec<Shown>; 6] =
            blocks()?.try_into().ok().context("the README has another number of blocks")?;
        harness.prints(look).await?;
        harness.prints(install).await?;
        let controller = harness.controller("audit").await?;
        harness.until_noted().await?;
        harness.prints(audit).await?;
        harness.prints(mend).await?;
        drop(controller);
        injector.standin.suffer(Fault::Absent).await?;
        harness.prints(enforce).await?;
        let (removed, hook) = tokio::join!(harness.prints(remove), harness.runs_the_hook());
        hook.and(removed)
    };
    harness.cluster.reported(&["shop"], exercise).await
}

/// The marked blocks of the README.
fn blocks() -> Result<Vec<Vec<Shown>>> {
    let page = std::fs::read_to_string(root().join("README.md"))?;
    page.split(MARK).skip(1).map(|rest| shown(rest.split("\n```").next().unwrap_or_default())).collect()
}

/// The commands of a block, each with the lines below it.
fn shown(block: &str) -> Result<Vec<Shown>> {
    let mut all: Vec<Shown> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), all.last_mut()) {
            (Some(command), _) => all.push(Shown { command: command.to_owned(), output: Vec::new() }),
            (None, Some(last)) if last.command.ends_with('\\') => {
                last.command.pop();
                last.command += line.trim();
            }
            (None, Some(last)) => last.output.push(line.to_owned()),
            (None, None) => anyhow::bail!("a block begins with {line:?}"),
        }
    }
    Ok(all)
}

/// Whether a line is what the page shows, up to a `…` at its end. What differs from cluster to cluster is the end of a generated
/// name, and a time.
fn same(shown: &str, printed: &str) -> bool {
    let is_hash = |part: &str| {
        part.len() >= 5
            && part.chars().all(|it| it.is_ascii_digit() || (it.is_ascii_lowercase() && !"aeiou".contains(it)))
    };
    let is_time = |word: &str| word.starts_with(|it: char| it.is_ascii_digit()) && word.ends_with(['s', 'm', 'h']);
    let normal = |word: &str| {
        if is_time(word) {
            return "TIME".to_owned();
        }
        let parts = word.split('-').map(|part| if is_hash(part) { "HASH" } else { part });
        parts.collect::<Vec<_>>().join("-")
    };
    let words = |line: &str| line.split_whitespace().map(normal).collect::<Vec<_>>();
    match shown.strip_suffix('…') {
        Some(beginning) => words(printed).starts_with(&words(beginning)),
        None => words(shown) == words(printed),
    }
}

/// Whether the lines were printed, in this order. A line `…` stands for any others.
fn check(shown: &[String], printed: &str) -> Result<()> {
    let mut lines = printed.lines().filter(|line| !line.trim().is_empty()).peekable();
    let mut skip = false;
    for wanted in shown.iter().filter(|line| !line.trim().is_empty()) {
        if wanted.trim() == "…" {
            skip = true;
            continue;
        }
        while skip && lines.peek().is_some_and(|line| !same(wanted, line)) {
            lines.next();
        }
        let next = lines.next();
        ensure!(
            next.is_some_and(|line| same(wanted, line)),
            "README shows {wanted:?}, and this was printed:\n{printed}"
        );
        skip = false;
    }
    let rest = lines.next();
    ensure!(skip || shown.is_empty() || rest.is_none(), "README does not show {rest:?} of\n{printed}");
    Ok(())
}

/// Linkerd's injector, and its address for as long.
struct Linkerd {
    standin: Standin,
    _address: LoopbackAddress,
}

// === impl Stage ===

impl Harness {
    /// The shop's pods run without a proxy, and the injector answers again.
    async fn boots_without_its_injector(&self) -> Result<Linkerd> {
        self.cluster.start_kwok().await?;
        self.cluster.fake_nodes(2).await?;
        for namespace in [namespace("linkerd").without_admission_webhooks(), namespace("shop").asking()] {
            self.cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
        }
        let (address, certificates) = (LoopbackAddress::claim()?, Certificates::for_injector("linkerd")?);
        let asking = Namespaces::any().asking("shop");
        let standin = Injector::new(certificates.clone(), &asking, Sidecar::genuine("linkerd"))
            .serving_on((address.ip(), 443).into())
            .start()
            .await?;
        standin.suffer(Fault::Absent).await?;
        self.cluster.expose("linkerd", "linkerd-proxy-injector", address.ip(), &[(443, 443)]).await?;
        let webhook = webhook_configuration("linkerd").ca_bundle(certificates.ca_bundle()).json();
        self.kubectl(&["create", "--filename=-"], &webhook.to_string()).await?;
        for (kind, name, replicas) in [("Deployment", "web", 3), ("StatefulSet", "db", 2)] {
            self.kubectl(&["create", "--filename=-"], &workload(kind, name, replicas).to_string()).await?;
        }
        self.until_pods("the shop runs", |pods| pods.len() == 5 && pods.iter().all(runs)).await?;
        standin.recover().await?;
        Ok(Linkerd { standin, _address: address })
    }

    async fn until_pods(&self, what: &str, condition: impl Fn(&[Pod]) -> bool) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, "shop");
        until_any(&pods, &ListParams::default(), what, PATIENCE, |pods| {
            condition(&pods.values().cloned().collect::<Vec<_>>()).then_some(())
        })
        .await
    }

    /// One replica, as the Deployment's, in the first pod's name.
    async fn controller(&self, mode: &str) -> Result<Child> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, NAMESPACE);
        let ours = ListParams::default().labels("app.kubernetes.io/component=controller");
        let pod = until_any(&pods, &ours, "a controller", PATIENCE, |pods| {
            pods.values().find(|pod| runs(pod)).map(|pod| pod.metadata.clone())
        })
        .await?;
        let name = pod.name.context("a name")?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let kubeconfig = self.cluster.kubeconfig_as_pod(NAMESPACE, &name).await?;
        let child = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"))
            .arg("controller")
            .env_clear()
            .env("LINKERD_GATE_KUBECONFIG", kubeconfig)
            .envs([
                ("LINKERD_GATE_TERMINATION_LOG", "/nonexistent"),
                ("LINKERD_GATE_NODE_NAME", "fake-0"),
                ("LINKERD_GATE_POD_NAME", &name),
                ("LINKERD_GATE_POD_NAMESPACE", NAMESPACE),
                ("LINKERD_GATE_POD_UID", &pod.uid.context("a uid")?),
                ("LINKERD_GATE_LISTEN_PORT", &port.to_string()),
                ("LINKERD_GATE_MODE", mode),
                ("LINKERD_GATE_API_SERVERS", &format!("{}:6443", self.cluster.address())),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(child)
    }

    /// An Event on each owner.
    async fn until_noted(&self) -> Result<()> {
        let events: Api<Event> = Api::namespaced(self.cluster.client().await?, "shop");
        let ours = ListParams::default().fields("reason=PodsOutsideMesh");
        until_any(&events, &ours, "an Event on each owner", PATIENCE, |events| (events.len() == 2).then_some(())).await
    }

    /// Policies count a moment after they were written: a pod that is tried now would be held.
    async fn until_it_holds(&self) -> Result<()> {
        let asking = pod("tried").in_namespace("shop").running("app:test").json();
        self.until_answer("pods are held", &asking, |stored, _| stored["spec"]["schedulingGates"].is_array()).await
    }

    /// What kubelet would do for the Job that Helm creates before it deletes anything: run the program, and say how it ended.
    async fn runs_the_hook(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, NAMESPACE);
        let hook = ListParams::default().labels("batch.kubernetes.io/job-name=linkerd-gate-uninstall");
        let pod =
            until_any(&pods, &hook, "the hook's pod", PATIENCE, |pods| pods.values().find(|pod| runs(pod)).cloned());
        let pod = pod.await?;
        let name = pod.metadata.name.context("a name")?;
        let spec = pod.spec.context("a spec")?;
        let container = spec.containers.first().context("a container")?;
        let account = spec.service_account_name.as_deref().context("an account")?;
        let mut program = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"));
        program.args(container.args.iter().flatten()).env_clear().kill_on_drop(true);
        program.env("KUBECONFIG", self.cluster.kubeconfig_as(NAMESPACE, account).await?);
        let output = program.output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let ended = json!({"status": {"phase": "Succeeded"}}).to_string();
        self.kubectl(
            &["patch", "pod", &name, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", &ended],
            "",
        )
        .await?;
        Ok(())
    }

    /// Runs commands of the page, each until it prints what the page shows: an API server, a controller and Helm are not done at once.
    async fn prints(&self, block: Vec<Shown>) -> Result<()> {
        for Shown { command, output } in block {
            let looks = ["linkerd-gate check", "linkerd-gate explain", "kubectl get"];
            let again = looks.iter().any(|start| command.starts_with(start));
            let trying = async {
                loop {
                    let (done, printed) = self.shell(&command).await?;
                    ensure!(done || !output.is_empty(), "{command} failed:\n{printed}");
                    match check(&output, &printed) {
                        Ok(()) => return anyhow::Ok(()),
                        Err(error) if !again => return Err(error),
                        Err(_) => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
                    }
                }
            };
            match tokio::time::timeout(PATIENCE, trying).await {
                Ok(outcome) => outcome.with_context(|| command.clone())?,
                Err(_) => check(&output, &self.shell(&command).await?.1).with_context(|| command.clone())?,
            }
            if command.starts_with("helm upgrade") {
                self.until_it_holds().await?;
            }
        }
        Ok(())
    }

    /// Whether a command of the page succeeded, and what it printed on both outputs.
    async fn shell(&self, command: &str) -> Result<(bool, String)> {
        let helm = helm();
        let programs = tempfile::tempdir()?;
        for (name, program) in [
            ("helm", std::path::Path::new(helm.get_program())),
            ("kubectl", self.cluster.kubectl()),
            ("linkerd-gate", std::path::Path::new(env!("CARGO_BIN_EXE_linkerd-gate"))),
        ] {
            std::os::unix::fs::symlink(program, programs.path().join(name))?;
        }
        let path = format!("{}:/usr/bin:/bin", programs.path().display());
        let mut shell = Command::new("bash");
        shell.args(["-euc", &format!("{command} 2>&1")]).current_dir(root()).env_clear();
        for (name, value) in helm.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        shell.env("PATH", path).env("KUBECONFIG", self.cluster.kubeconfig()).stdin(Stdio::null()).kill_on_drop(true);
        let output = shell.output().await?;
        Ok((output.status.success(), String::from_utf8(output.stdout)?))
    }
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// A workload of the shop.
fn workload(kind: &str, name: &str, replicas: u32) -> Value {
    let mut workload = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": format!("{REPOSITORY}/{name}:1")}]},
            },
        },
    });
    if kind == "StatefulSet" {
        workload["spec"]["serviceName"] = name.into();
    }
    workload
}

#[test]
fn what_the_page_shows_is_compared_line_by_line() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let printed = "NAME AGE\nweb-7d4b9c6f5d-x2x9z 12s\ndb-0 3m\n";
    assert!(check(&lines("NAME AGE\nweb-5f6c7d8b9b-zz2zz 1s\ndb-0 9m"), printed).is_ok());
    assert!(check(&lines("…\ndb-0 9m"), printed).is_ok());
    assert!(check(&lines("NAME AGE\n…"), printed).is_ok());
    assert!(check(&lines("NAME …\nweb-5f6c7d8b9b-zz2zz…\n…"), printed).is_ok());
    for wrong in ["NAME AGE", "NAME AGE\ndb-0 3m", "…\ndb-1 9m", "NAME AGE\nweb-7d4b9c6f5d-x2x9z none\n…"] {
        assert!(check(&lines(wrong), printed).is_err(), "{wrong}");
    }
}
