//! Plays one boot from its first instant to its last.

use crate::{
    admission::{Admission, Admitted},
    controller::Controller,
    kubelet,
    narrator::{Narrator, Tone},
    story::{self, Owner, Part, Variant},
    timeline::{PodLine, State, Timeline},
};
use anyhow::{Context as _, Result, bail};
use linkerd_gate::decide::hold;
use linkerd_gate_kit::{
    memory_api::{Key, MemoryApi},
    object::{endpoint_slice, namespace, pod, webhook_configuration},
    standin::{Certificates, Identity, Injector, Namespaces, Sidecar, Standin, client::WebhookCaller},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// How long after the story's end a pod may still take to run before something is wrong.
const GRACE: Duration = Duration::from_secs(10);

/// The ReplicaSet of every Deployment ends like this; genuine ones differ.
const TEMPLATE: &str = "7d9c5b8f6d";

/// What every pod of a boot shares.
struct Cluster {
    api_server: MemoryApi,
    admission: Arc<Admission>,
    narrator: Narrator,
    /// Whose apps have not started yet.
    missing: Mutex<BTreeSet<&'static str>>,
}

/// Plays it.
///
/// # Errors
/// Something went otherwise than the story says: an app that never started, a controller that ended.
pub async fn play(variant: Variant, program: &Path) -> Result<Timeline> {
    let files = TempDir::new().context("a place for the kubeconfig")?;
    let certificates = Certificates::for_injector(story::LINKERD)?;
    let identity = Identity::new().start().await?;
    identity.stop().await?;
    let namespaces = Namespaces::none().asking(story::NAMESPACE).asking(story::PROBES);
    let sidecar = Sidecar::genuine(story::LINKERD).identity_at(&identity.address().to_string());
    let injector = Injector::new(certificates.clone(), &namespaces, sidecar).start().await?;
    injector.stop().await?;

    let webhook = WebhookCaller::new(injector.address(), story::LINKERD, certificates.ca_bundle())?;
    let holds = variant == Variant::WithGate;
    let admission = Arc::new(Admission { webhook, holds });
    let api_server = MemoryApi::start(Arc::clone(&admission) as _).await?;
    furnish(&api_server, certificates.ca_bundle());
    let narrator = Narrator::new();
    let missing = Mutex::new(story::WORKLOADS.iter().map(|(name, ..)| *name).collect());
    let cluster = Arc::new(Cluster { api_server, admission, narrator, missing });
    narrator.say("nodes", Tone::Plain, "are back; Linkerd is not");
    let controller = match variant {
        Variant::WithoutGate => None,
        Variant::WithGate => {
            Some(Controller::start(program, files.path(), &cluster.api_server.kubeconfig(), narrator)?)
        }
    };

    let mut lives = JoinSet::new();
    for (index, (name, owner, at)) in story::WORKLOADS.into_iter().enumerate() {
        let cluster = Arc::clone(&cluster);
        lives.spawn(async move {
            cluster.narrator.until(Duration::from_millis(at)).await;
            let line = cluster.live(name, owner).await.with_context(|| name.to_owned())?;
            anyhow::Ok((index, line))
        });
    }
    let pods = async {
        let patience = tokio::time::timeout(story::END + GRACE, all(lives));
        patience.await.with_context(|| format!("the boot is over, and not started are: {}", cluster.missing()))?
    };
    let played = tokio::try_join!(linkerd_comes_up(&cluster, &injector, &identity), pods);
    if played.is_ok() {
        narrator.until(story::END).await;
    }
    let logged = match controller {
        None => Vec::new(),
        Some(controller) => controller.stop().await?,
    };
    let (linkerd, pods) = played.with_context(|| format!("the controller logged {}", in_lines(&logged)))?;
    Ok(Timeline { variant, pods, linkerd, logged })
}

fn in_lines(logged: &[String]) -> String {
    if logged.is_empty() { "nothing".to_owned() } else { format!("\n  {}", logged.join("\n  ")) }
}

/// What is in the cluster before anything happens.
fn furnish(api_server: &MemoryApi, ca_bundle: &str) {
    let store = api_server.store();
    let put = |collection: &str, object: Value| {
        store.put(&Key::of(collection, &object), object);
    };
    for name in [story::NAMESPACE, story::PROBES] {
        put("/api/v1/namespaces", namespace(name).asking().labelled("kubernetes.io/metadata.name", name).json());
    }
    for name in [story::LINKERD, story::GATE] {
        put("/api/v1/namespaces", namespace(name).labelled("kubernetes.io/metadata.name", name).json());
    }
    let webhook = webhook_configuration(story::LINKERD).ca_bundle(ca_bundle).json();
    put("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", webhook);
    put("/api/v1/nodes", json!({"metadata": {"name": "node-0"}, "spec": {}, "status": {}}));
    for part in [Part::Injector, Part::Identity] {
        answers(api_server, part, false);
    }
    for (name, owner, _) in story::WORKLOADS {
        let selector = json!({"matchLabels": {"app": name}});
        let metadata = json!({"name": name, "namespace": story::NAMESPACE});
        let spec = json!({"replicas": 1, "selector": selector});
        let (kind, collection) = match owner {
            Owner::Deployment => ("Deployment", "/apis/apps/v1/deployments"),
            Owner::StatefulSet => ("StatefulSet", "/apis/apps/v1/statefulsets"),
        };
        let owner_object = json!({"metadata": metadata, "spec": spec, "status": {"replicas": 1}});
        let stored = store.put(&Key::of(collection, &owner_object), owner_object);
        if owner == Owner::Deployment {
            let set = json!({
                "metadata": {
                    "name": format!("{name}-{TEMPLATE}"), "namespace": story::NAMESPACE,
                    "ownerReferences": [reference(kind, &stored)],
                },
                "spec": spec, "status": {"replicas": 1},
            });
            put("/apis/apps/v1/replicasets", set);
        }
    }
}

fn reference(kind: &str, owner: &Value) -> Value {
    let metadata = &owner["metadata"];
    json!({"apiVersion": "apps/v1", "kind": kind, "name": metadata["name"], "uid": metadata["uid"], "controller": true})
}

/// What the EndpointSlice of a part says.
fn answers(api_server: &MemoryApi, part: Part, ready: bool) {
    let (of, name, number) = match part {
        Part::Injector => ("linkerd-proxy-injector", "proxy-injector", 8443),
        Part::Identity => ("linkerd-identity", "grpc", 8080),
    };
    let endpoints = endpoint_slice(of).in_namespace(story::LINKERD).port(name, number);
    let object = if ready { endpoints.ready("10.244.0.2") } else { endpoints.not_ready("10.244.0.2") }.json();
    let key = Key::of("/apis/discovery.k8s.io/v1/endpointslices", &object);
    api_server.store().put(&key, object);
}

/// Linkerd, as the story has it.
async fn linkerd_comes_up(
    cluster: &Cluster,
    injector: &Standin,
    identity: &Standin,
) -> Result<Vec<(Duration, Part, bool)>> {
    let mut changes = Vec::new();
    for change in story::LINKERD_COMES_UP {
        cluster.narrator.until(change.at).await;
        let part = match change.part {
            Part::Injector => injector,
            Part::Identity => identity,
        };
        if change.answers {
            part.start_again().await?;
        } else {
            part.stop().await?;
        }
        answers(&cluster.api_server, change.part, change.answers);
        changes.push((cluster.narrator.now(), change.part, change.answers));
        cluster.narrator.say("linkerd", Tone::Plain, change.words);
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
    /// A workload's life until its app runs. As its controller does, it creates a pod whenever the one before is deleted.
    async fn live(&self, name: &'static str, owner: Owner) -> Result<PodLine> {
        let mut line = PodLine { name, states: Vec::new(), created_again: None };
        while !self.start(owner, &mut line).await? {
            if line.created_again.is_some() {
                bail!("its pod was deleted twice");
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

    /// Creates the pod and runs it; false when it was deleted instead.
    async fn start(&self, owner: Owner, line: &mut PodLine) -> Result<bool> {
        let created = self.narrator.now();
        let again = line.created_again.is_some();
        let Admitted { pod, missed, held } = self.create_pod(self.pod(line.name, owner, again)?).await?;
        if held {
            line.states.push((created, State::Held));
            self.narrator.say(line.name, Tone::Waiting, "created without a proxy; the API server holds it");
            self.until_it_is_deleted(&pod).await?;
            return Ok(false);
        }
        if missed.is_none() {
            line.states.push((created, State::Certifying));
            let words = if again { "created again, with a proxy" } else { "created with a proxy" };
            self.narrator.say(line.name, Tone::Waiting, words);
        }
        let proxy = kubelet::run_proxy(&pod).await?;
        self.runs(pod);
        match (&missed, proxy.is_some()) {
            (None, true) => {
                line.states.push((self.narrator.now(), State::Inside));
                self.narrator.say(line.name, Tone::Good, "runs in the mesh");
            }
            (Some(why), false) => {
                line.states.push((created, State::Outside));
                self.narrator.say(
                    line.name,
                    Tone::Bad,
                    &format!("runs OUTSIDE the mesh: created without a proxy ({why})"),
                );
            }
            (missed, meshed) => bail!("neither missed nor meshed: {missed:?}, {meshed}"),
        }
        Ok(true)
    }

    /// Creates a pod as every client does: admission has its say.
    async fn create_pod(&self, pod: Value) -> Result<Admitted> {
        let store = self.api_server.store();
        let admitted = self.admission.decide(store, pod).await?;
        let pod = store.put(&Key::of("/api/v1/pods", &admitted.pod), admitted.pod);
        Ok(Admitted { pod, ..admitted })
    }

    /// A held pod has no node, so that nothing of it starts. Whoever removes the gate instead of the pod breaks the promise.
    async fn until_it_is_deleted(&self, pod: &Value) -> Result<()> {
        let key = Key::of("/api/v1/pods", pod);
        let gated = |found: &Value| found["spec"]["schedulingGates"][0]["name"] == hold::GATE;
        let is_it = |found: &Value| found["metadata"]["uid"] == pod["metadata"]["uid"];
        let store = self.api_server.store();
        store.until(&key, |found| found.is_none_or(|found| !is_it(found) || !gated(found))).await;
        if store.get(&key).is_some_and(|found| is_it(&found)) {
            bail!("its scheduling gate was removed, so that it starts without a proxy");
        }
        Ok(())
    }

    /// The pod as its owner's template has it.
    fn pod(&self, name: &str, owner: Owner, again: bool) -> Result<Value> {
        let (kind, collection, owner_name, pod_name) = match owner {
            Owner::Deployment => {
                let set = format!("{name}-{TEMPLATE}");
                let pod = format!("{set}-{}", story::SUFFIXES[usize::from(again)]);
                ("ReplicaSet", "/apis/apps/v1/replicasets", set, pod)
            }
            Owner::StatefulSet => ("StatefulSet", "/apis/apps/v1/statefulsets", name.to_owned(), format!("{name}-0")),
        };
        let key = Key { collection: collection.to_owned(), namespace: story::NAMESPACE.to_owned(), name: owner_name };
        let owner = self.api_server.store().get(&key).context("its owner is not there")?;
        let mut object = pod(&pod_name).in_namespace(story::NAMESPACE).labelled("app", name).running("shop:1").json();
        object["metadata"]["ownerReferences"] = json!([reference(kind, &owner)]);
        object["status"] = json!({"phase": "Pending"});
        Ok(object)
    }

    /// Its app runs, and its kubelet says so.
    fn runs(&self, mut pod: Value) {
        pod["spec"]["nodeName"] = json!("node-0");
        let running = json!({"name": "app", "ready": true, "started": true, "restartCount": 0, "image": "shop:1",
            "imageID": "shop:1", "state": {"running": {}}});
        pod["status"] = json!({"phase": "Running", "containerStatuses": [running]});
        let key = Key::of("/api/v1/pods", &pod);
        self.api_server.store().put(&key, pod);
    }
}
