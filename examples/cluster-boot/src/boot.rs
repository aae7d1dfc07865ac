//! Plays one boot from its first instant to its last.

use crate::{
    api_server::ApiServer,
    kubelet,
    narrator::{Narrator, Tone},
    story::{self, Part, Variant},
    timeline::{PodLine, State, Timeline},
};
use anyhow::{Context as _, Result, bail};
use linkerd_gate_kit::{
    object::{gate, pod},
    standin::{Certificates, Identity, Injector, Namespaces, Sidecar, Standin, client::WebhookCaller},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// The exit code with which a gate asks for its pod to be created again.
const MUST_BE_REPLACED: i32 = 75;

/// How long after the story's end a pod may still take to run before something is wrong.
const GRACE: Duration = Duration::from_secs(5);

/// A boot about to be played.
pub struct Boot<'a> {
    variant: Variant,
    program: &'a Path,
    certificates: Certificates,
    /// The CA bundle, mounted into pods in a real cluster, and a termination log for each.
    files: TempDir,
}

/// What every pod of a boot shares.
struct Cluster {
    api_server: ApiServer,
    narrator: Narrator,
    program: PathBuf,
    /// Whose apps have not started yet.
    missing: Mutex<BTreeSet<&'static str>>,
}

// === impl Boot ===

impl<'a> Boot<'a> {
    /// Nothing runs yet.
    pub fn new(variant: Variant, program: &'a Path) -> Result<Self> {
        let files = TempDir::new().context("a place for the CA bundle")?;
        let certificates = Certificates::for_injector(story::LINKERD)?;
        fs::write(files.path().join("ca.crt"), certificates.ca_bundle())?;
        Ok(Self { variant, program, certificates, files })
    }

    /// Plays it.
    ///
    /// # Errors
    /// Something went otherwise than the story says: a gate that ended early, late or in another way than it may.
    pub async fn play(self) -> Result<Timeline> {
        let identity = Identity::new().start().await?;
        identity.stop().await?;
        let namespaces = Namespaces::none().asking(story::NAMESPACE);
        let sidecar = Sidecar::genuine(story::LINKERD).identity_at(&identity.address().to_string());
        let injector = Injector::new(self.certificates.clone(), &namespaces, sidecar).start().await?;
        injector.stop().await?;

        let webhook = WebhookCaller::new(injector.address(), story::LINKERD, self.certificates.ca_bundle())?;
        let specs: Vec<Value> =
            (0_u8..).zip(story::PODS).map(|(number, (name, _))| self.pod(name, number, &injector, &identity)).collect();
        let cluster = Arc::new(Cluster {
            api_server: ApiServer::new(story::NAMESPACE, webhook),
            narrator: Narrator::new(),
            program: self.program.to_owned(),
            missing: Mutex::new(story::PODS.iter().map(|(name, _)| *name).collect()),
        });
        cluster.narrator.say("nodes", Tone::Plain, "are back; Linkerd is not");

        let mut lives = JoinSet::new();
        for (index, ((name, at), spec)) in story::PODS.into_iter().zip(specs).enumerate() {
            fs::write(self.termination_log(name), "")?;
            let cluster = Arc::clone(&cluster);
            lives.spawn(async move {
                cluster.narrator.until(Duration::from_millis(at)).await;
                let line = cluster.live(name, &spec).await.with_context(|| name.to_owned())?;
                anyhow::Ok((index, line))
            });
        }
        let pods = async {
            let patience = tokio::time::timeout(story::END + GRACE, all(lives));
            patience.await.with_context(|| format!("the boot is over, and not started are: {}", cluster.missing()))?
        };
        let (linkerd, pods) = tokio::try_join!(linkerd_comes_up(&cluster.narrator, &injector, &identity), pods)?;
        cluster.narrator.until(story::END).await;
        Ok(Timeline { variant: self.variant, pods, linkerd })
    }

    /// The pod as its Job's template has it, and the addresses that its node will give it.
    fn pod(&self, name: &str, number: u8, injector: &Standin, identity: &Standin) -> Value {
        let plain = pod(name).in_namespace(story::NAMESPACE).running("shop:1");
        let mut object = match self.variant {
            Variant::WithoutGate => plain.json(),
            Variant::WithGate => {
                let path = |path: &Path| path.display().to_string();
                let gate = gate("linkerd-gate:demo")
                    .variable_from("LINKERD_GATE_POD_NAME", "metadata.name")
                    .variable_from("LINKERD_GATE_POD_NAMESPACE", "metadata.namespace")
                    .variable("LINKERD_GATE_ON_MISSED", "exit")
                    .variable("LINKERD_GATE_CA_FILE", &path(&self.files.path().join("ca.crt")))
                    .variable("LINKERD_GATE_TERMINATION_LOG", &path(&self.termination_log(name)))
                    .variable("LINKERD_GATE_LINKERD_NAMESPACE", story::LINKERD)
                    .variable("LINKERD_GATE_INJECTOR_ADDRESS", &injector.address().to_string())
                    .variable("LINKERD_GATE_IDENTITY_ADDRESS", &identity.address().to_string());
                plain.with_gate(gate).json()
            }
        };
        object["spec"]["restartPolicy"] = json!("Never");
        // The node's agent is asked there: on this very machine, whatever its network has at an address that looks like a node's.
        object["status"] = json!({"podIP": format!("10.244.0.{}", number + 2), "hostIP": "127.0.0.20"});
        object
    }

    fn termination_log(&self, pod: &str) -> PathBuf {
        self.files.path().join(format!("{pod}.termination-log"))
    }
}

/// Linkerd, as the story has it.
async fn linkerd_comes_up(
    narrator: &Narrator,
    injector: &Standin,
    identity: &Standin,
) -> Result<Vec<(Duration, Part, bool)>> {
    let mut changes = Vec::new();
    for change in story::LINKERD_COMES_UP {
        narrator.until(change.at).await;
        let part = match change.part {
            Part::Injector => injector,
            Part::Identity => identity,
        };
        if change.answers {
            part.start_again().await?;
        } else {
            part.stop().await?;
        }
        changes.push((narrator.now(), change.part, change.answers));
        narrator.say("linkerd", Tone::Plain, change.words);
    }
    Ok(changes)
}

/// The lines of all pods, in the story's order.
async fn all(mut running: JoinSet<Result<(usize, PodLine)>>) -> Result<Vec<PodLine>> {
    let mut lines = Vec::new();
    while let Some(life) = running.join_next().await {
        lines.push(life??);
    }
    lines.sort_by_key(|(index, _)| *index);
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

// === impl Cluster ===

impl Cluster {
    /// A pod's life, from its creation until its app runs: its Job makes another when its gate asks for that.
    async fn live(&self, name: &'static str, spec: &Value) -> Result<PodLine> {
        let mut line = PodLine { name, states: Vec::new(), created_again: None, gate_said: Vec::new() };
        while !self.start(spec, &mut line).await? {
            if line.created_again.is_some() {
                bail!("its gate wants it to be created a third time");
            }
            line.created_again = Some(self.narrator.now());
        }
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(line)
    }

    fn missing(&self) -> String {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.iter().copied().collect::<Vec<_>>().join(", ")
    }

    /// Creates the pod and runs it; false when it has to be created again.
    async fn start(&self, spec: &Value, line: &mut PodLine) -> Result<bool> {
        let created = self.narrator.now();
        let mut spec = spec.clone();
        let suffix = story::SUFFIXES[usize::from(line.created_again.is_some())];
        spec["metadata"]["name"] = json!(format!("{}-{suffix}", line.name));
        let admitted = self.api_server.create(&spec).await?;
        let pod = &admitted.pod;
        let mut proxy = None;
        for container in pod["spec"]["initContainers"].as_array().into_iter().flatten() {
            match container["name"].as_str() {
                // It writes firewall rules, which loopback can do without.
                Some("linkerd-init") => {}
                Some("linkerd-proxy") => {
                    line.states.push((created, State::Certifying));
                    if line.created_again.is_none() {
                        self.narrator.say(line.name, Tone::Waiting, "created with Linkerd's proxy");
                    }
                    proxy = Some(kubelet::run_proxy(container).await?);
                }
                Some("linkerd-gate") => {
                    if proxy.is_none() {
                        line.states.push((created, State::Held));
                        self.narrator.say(line.name, Tone::Waiting, "created bare; its gate holds it");
                    }
                    if !self.pass_gate(container, pod, proxy.is_some(), line).await? {
                        return Ok(false);
                    }
                }
                other => bail!("an init container {other:?} that is not in this story"),
            }
        }
        match (&admitted.missed, proxy.is_some()) {
            (None, true) => {
                line.states.push((self.narrator.now(), State::Inside));
                self.narrator.say(line.name, Tone::Good, "runs in the mesh");
            }
            (Some(why), false) => {
                line.states.push((created, State::Outside));
                self.narrator.say(line.name, Tone::Bad, &format!("runs OUTSIDE the mesh: created bare ({why})"));
            }
            (missed, meshed) => bail!("neither missed nor meshed: {missed:?}, {meshed}"),
        }
        Ok(true)
    }

    /// Runs the gate to its end and holds it to what it may do; false when the pod has to be created again.
    async fn pass_gate(&self, container: &Value, pod: &Value, meshed: bool, line: &mut PodLine) -> Result<bool> {
        let ended = kubelet::run_gate(&self.program, container, pod).await?;
        let ready = self.narrator.now() >= story::READY;
        if line.gate_said.is_empty() {
            line.gate_said.clone_from(&ended.said);
        }
        match ended.code {
            0 if meshed => Ok(true),
            MUST_BE_REPLACED if !meshed && ready => {
                self.narrator.say(line.name, Tone::Waiting, "its gate ends with code 75; its Job creates another pod");
                Ok(false)
            }
            code => bail!(
                "its gate ended with code {code} in a {} pod while Linkerd was {}; it said:\n  {}",
                if meshed { "meshed" } else { "bare" },
                if ready { "ready" } else { "not ready" },
                if ended.said.is_empty() { "nothing".to_owned() } else { ended.said.join("\n  ") }
            ),
        }
    }
}
