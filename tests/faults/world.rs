//! One cluster: an API server in memory, owners that create pods, and Linkerd, which is back.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::jiff::Timestamp;
use linkerd_gate::decide::hold;
use linkerd_gate::decide::repair::object::JOB_TRACKING;
use linkerd_gate::linkerd::{self, TokenProjection, WebhookView};
use linkerd_gate_kit::memory_api::{Admission, Faults, Key, MemoryApi, Selection, Store};
use linkerd_gate_kit::object::{endpoint_slice, job, namespace, pod, webhook_configuration};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const SHOP: &str = "shop";
const PROBES: &str = "linkerd-gate-probe";

/// Owners with one pod each, all of which are held at first.
const OWNERS: [(&str, &str, &str); 4] = [
    ("ReplicaSet", "/apis/apps/v1/replicasets", "web-7d9c5b8f6d"),
    ("ReplicaSet", "/apis/apps/v1/replicasets", "cart-5b8f6d7d9c"),
    ("StatefulSet", "/apis/apps/v1/statefulsets", "db"),
    ("DaemonSet", "/apis/apps/v1/daemonsets", "logs"),
];

/// What refuses the pods of these owners, in their order, in a world where their injected pods are refused; the words of a log and an
/// Event.
pub const REFUSALS: [(&str, &str); 4] = [
    (
        "is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false",
        "Pod Security refused it",
    ),
    ("is forbidden: exceeded quota: few, requested: pods=1, used: pods=9, limited: pods=9", "a quota refused it"),
    ("is forbidden: maximum cpu usage per Container is 10m, but limit is 1", "admission refused it"),
    (
        "is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding 'linkerd-gate-guard' denied request: no proxy",
        "Linkerd could not inject it",
    ),
];

/// What a prover looks at of Linkerd.
const SERVICES: [&str; 2] = ["linkerd-identity", "linkerd-proxy-injector"];
const PODS: &str = "/api/v1/pods";
const EVENTS: &str = "/api/v1/events";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// How many of these pods are held.
pub const HELD: usize = OWNERS.len();

const JOBS: &str = "/apis/batch/v1/jobs";

/// Jobs with one pod each: one that the controller suspends, and one that Kueue suspends and resumes, so that the controller takes a
/// finalizer off its pod and deletes it.
const OWN_JOBS: [&str; 2] = ["migrate", "night"];

/// How many pods are held where there are Jobs as well.
pub const HELD_WITH_JOBS: usize = HELD + OWN_JOBS.len();

/// Pods that the controller leaves alone by default: one that never asked, and one that runs.
const BYSTANDERS: [&str; 2] = ["opted-out", "runs-bare"];

/// Nothing waits for it but a test that fails. A Lease whose holder was killed takes 20 s of it.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// From one thing that happens to the next: each then comes as a separate event, and not in the first lists.
pub const TEMPO: Duration = Duration::from_millis(250);

/// A cluster; it ends with this value.
pub struct World {
    api: Arc<MemoryApi>,
    deleted: Arc<AtomicUsize>,
    held: usize,
    /// How many pods Jobs count as failed.
    failed: Arc<AtomicUsize>,
    files: TempDir,
    _owners: JoinSet<()>,
}

/// What makes the pods of a Job, and counts how they end.
struct JobController {
    api: Arc<MemoryApi>,
    linkerd: Arc<Linkerd>,
    key: Key,
    deleted: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

/// A controller's or an agent's process.
pub struct Process {
    child: tokio::sync::Mutex<Child>,
}

/// Linkerd's injector, which answers from some instant on, and the hold policy.
#[derive(Default)]
pub struct Linkerd {
    answers: AtomicBool,
}

#[async_trait]
impl Admission for Linkerd {
    async fn admit(&self, _: &Store, mut pod: Value) -> Result<Value> {
        if !requests_injection(&pod)? {
            return Ok(pod);
        }
        if self.answers.load(Ordering::Relaxed) {
            pod["metadata"]["labels"]["linkerd.io/control-plane-ns"] = json!("linkerd");
            let proxy = json!({"name": "linkerd-proxy", "image": "cr.l5d.io/linkerd/proxy:edge-26.8.3", "restartPolicy": "Always"});
            pod["spec"]["initContainers"] = json!([proxy]);
        } else {
            pod["spec"]["schedulingGates"] = json!([{"name": hold::GATE}]);
        }
        Ok(pod)
    }
}

fn asking() -> Value {
    namespace(SHOP).asking().labelled("kubernetes.io/metadata.name", SHOP).json()
}

/// What there is of Linkerd and of linkerd-gate before Linkerd answers, and the namespace of applications.
pub fn install(store: &Store, applications: Value) -> Result<()> {
    let put = |collection: &str, object: Value| store.put(&Key::of(collection, &object), object);
    put("/api/v1/namespaces", applications);
    put("/api/v1/namespaces", namespace(PROBES).asking().labelled("kubernetes.io/metadata.name", PROBES).json());
    for name in ["linkerd", "linkerd-gate"] {
        put("/api/v1/namespaces", namespace(name).json());
    }
    let authority = rcgen::generate_simple_self_signed(vec!["linkerd-proxy-injector.linkerd.svc".to_owned()])?;
    let webhook = webhook_configuration("linkerd").ca_bundle(&authority.cert.pem()).json();
    put("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", webhook);
    for service in SERVICES {
        put(SLICES, endpoint_slice(service).in_namespace("linkerd").not_ready("10.244.0.2").json());
    }
    Ok(())
}

/// From now on Linkerd answers.
pub fn answer(store: &Store, linkerd: &Linkerd) {
    linkerd.answers.store(true, Ordering::Relaxed);
    for service in SERVICES {
        let slice = endpoint_slice(service).in_namespace("linkerd").port("port", 8443).ready("10.244.0.2").json();
        store.put(&Key::of(SLICES, &slice), slice);
    }
}

/// By an annotation that Linkerd copies into its patch as it is.
fn breaking_the_patch(mut namespace: Value) -> Value {
    namespace["metadata"]["annotations"]["config.linkerd.io/proxy-log-level"] = json!("warn,\"linkerd\"");
    namespace
}

/// What the owner's controller says where its create is refused.
fn refuse(store: &Store, collection: &str, owner: &Value, refusal: &str) {
    let mut lacking = owner.clone();
    lacking["status"] = json!({"replicas": 0, "currentNumberScheduled": 0, "desiredNumberScheduled": 1});
    let lacking = store.put(&Key::of(collection, owner), lacking);
    let (metadata, kind) =
        (&lacking["metadata"], OWNERS.iter().find(|(.., name)| lacking["metadata"]["name"] == *name));
    let name = metadata["name"].as_str().unwrap_or_default();
    let event = json!({
        "metadata": {"name": format!("{name}.1"), "namespace": SHOP}, "reason": "FailedCreate", "type": "Warning",
        "involvedObject": {"apiVersion": "apps/v1", "kind": kind.map(|(kind, ..)| kind), "namespace": SHOP, "name": name,
            "uid": metadata["uid"]},
        "message": format!("Error creating: pods \"{name}-x\" {refusal}"),
        "lastTimestamp": Timestamp::now().to_string(),
    });
    store.put(&Key::of(EVENTS, &event), event);
}

fn requests_injection(pod: &Value) -> Result<bool> {
    let namespace: Namespace = serde_json::from_value(asking())?;
    let pod: Pod = serde_json::from_value(pod.clone())?;
    Ok(linkerd::missed(&pod, &namespace, &WebhookView::chart_default(), TokenProjection::Enabled))
}

/// What comes in time, or an error.
pub async fn within_patience<T>(what: impl Future<Output = T>) -> Result<T> {
    timeout(PATIENCE, what).await.context("nothing happened")
}

// === impl World ===

impl World {
    /// Once a controller watches, the owners create their pods, one after the other; then Linkerd answers.
    pub async fn start(faults: Faults) -> Result<Self> {
        Self::start_with(faults, false).await
    }

    /// The same without faults, but whatever the owners create once Linkerd answers is refused.
    pub async fn start_refusing() -> Result<Self> {
        Self::start_with(Faults::default(), true).await
    }

    async fn start_with(faults: Faults, refuses: bool) -> Result<Self> {
        let linkerd = Arc::new(Linkerd::default());
        let api = Arc::new(MemoryApi::start_with(Arc::clone(&linkerd) as _, faults).await?);
        let store = api.store();
        let put = |collection: &str, object: Value| store.put(&Key::of(collection, &object), object);
        install(store, if refuses { breaking_the_patch(asking()) } else { asking() })?;
        put("/api/v1/nodes", json!({"metadata": {"name": "node-0"}, "spec": {}, "status": {}}));
        for bystander in BYSTANDERS {
            let plain = pod(bystander).in_namespace(SHOP).running("shop:1");
            let plain = if bystander == "opted-out" { plain.not_asking() } else { plain };
            put(PODS, started(plain.json()));
        }
        let (deleted, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut owners = JoinSet::new();
        let mut created = Vec::new();
        for ((kind, collection, name), (refusal, _)) in OWNERS.into_iter().zip(REFUSALS) {
            let selector = json!({"matchLabels": {"app": name}});
            let object = json!({"metadata": {"name": name, "namespace": SHOP}, "spec": {"replicas": 1, "selector": selector},
                "status": {"replicas": 1, "currentNumberScheduled": 1, "desiredNumberScheduled": 1}});
            let owner = put(collection, object);
            let (begin, turn) = oneshot::channel::<()>();
            let (done, first) = oneshot::channel::<()>();
            created.push((begin, first));
            let (api, linkerd, deleted) = (Arc::clone(&api), Arc::clone(&linkerd), Arc::clone(&deleted));
            owners.spawn(async move {
                let mut done = Some(done);
                // The story ended before it began.
                let Ok(()) = turn.await else { return };
                for number in 0.. {
                    // This one's admission never fails.
                    let Ok(pod) = linkerd.admit(api.store(), owned(kind, name, &owner, number)).await else { return };
                    let pod = if is_meshed(&pod) { started(pod) } else { pod };
                    let last = api.store().put(&Key::of(PODS, &pod), pod);
                    let _ = done.take().map(|done| done.send(())); // Nothing waits where the story has ended.
                    let (key, uid) = (Key::of(PODS, &last), last["metadata"]["uid"].clone());
                    api.store().until(&key, |found| found.is_none_or(|found| found["metadata"]["uid"] != uid)).await;
                    deleted.fetch_add(1, Ordering::Relaxed);
                    if refuses {
                        refuse(api.store(), collection, &owner, refusal);
                        return;
                    }
                }
            });
        }
        for name in OWN_JOBS.into_iter().filter(|_| !refuses) {
            let job = job_object(name);
            put(JOBS, job.clone());
            let (begin, turn) = oneshot::channel::<()>();
            let (done, first) = oneshot::channel::<()>();
            created.push((begin, first));
            let controller = JobController {
                api: Arc::clone(&api),
                linkerd: Arc::clone(&linkerd),
                key: Key::of(JOBS, &job),
                deleted: Arc::clone(&deleted),
                failed: Arc::clone(&failed),
            };
            owners.spawn(async move {
                if turn.await.is_ok() {
                    controller.run(done).await;
                }
            });
        }
        let played = Arc::clone(&api);
        owners.spawn(async move {
            played.faults().until_watched(&[PODS, SLICES]).await;
            for (begin, first) in created {
                sleep(TEMPO).await;
                let _ = begin.send(()); // An owner lives as long as this.
                let _ = first.await;
            }
            sleep(TEMPO).await;
            answer(played.store(), &linkerd);
        });
        let held = if refuses { HELD } else { HELD_WITH_JOBS };
        Ok(Self { api, deleted, held, failed, files: TempDir::new()?, _owners: owners })
    }

    /// Starts the controller, as its pod's kubelet does: again under the same name after it was killed.
    pub fn controller(&self) -> Result<Process> {
        let variables = [
            ("LINKERD_GATE_POD_NAME", "linkerd-gate-controller-x2x9z"),
            ("LINKERD_GATE_POD_UID", "0b6f9e52-9b1f-4e0a-8d5a-0d2f3b3f9c11"),
        ];
        Process::start("controller", &self.api, self.files.path(), &variables)
    }

    /// Waits until each owner's pod has a proxy.
    pub async fn until_all_are_meshed(&self, controller: &Process) -> Result<()> {
        let store = self.api.store();
        let meshed = async {
            let (mut pods, mut version) = self.pods();
            while !pods.iter().all(|pod| is_bystander(pod) || is_meshed(pod))
                || pods.len() != self.held + BYSTANDERS.len()
            {
                (_, version) = store.changes(&selection(), version).await;
                (pods, _) = self.pods();
            }
        };
        if timeout(PATIENCE, meshed).await.is_err() {
            bail!(
                "pods are not in the mesh: {:#?}; the controller logged:\n{}",
                self.pods().0,
                controller.end().await?
            );
        }
        Ok(())
    }

    /// Waits until an Event on each owner says what refused its pod, and returns what the controller logged.
    pub async fn until_refusals_are_reported(&self, controller: &Process) -> Result<String> {
        let store = self.api.store();
        let events =
            Selection { collection: EVENTS.to_owned(), namespace: Some(SHOP.to_owned()), ..Selection::default() };
        let reported = async {
            let (mut found, mut version) = store.list(&events);
            let says = |event: &Value, name: &str, cause: &str| {
                event["reason"] == "NotCreatedAgain"
                    && event["involvedObject"]["name"] == name
                    && event["message"].as_str().is_some_and(|message| message.contains(cause))
            };
            let all = |found: &[Value]| {
                let mut owners = OWNERS.iter().zip(REFUSALS);
                owners.all(|((.., name), (_, cause))| found.iter().any(|event| says(event, name, cause)))
            };
            while !all(&found) {
                (_, version) = store.changes(&events, version).await;
                (found, _) = store.list(&events);
            }
        };
        let reported = timeout(PATIENCE, reported).await;
        let logged = controller.end().await?;
        ensure!(reported.is_ok(), "{:#?}; the controller logged:\n{logged}", store.list(&events).0);
        Ok(logged)
    }

    /// What holds whatever went wrong.
    pub fn check(&self) -> Result<()> {
        ensure!(self.deleted() == self.held, "{} pods were deleted, and {} were held", self.deleted(), self.held);
        ensure!(self.failed.load(Ordering::Relaxed) == 0, "a Job counts a removal as a failure");
        for name in OWN_JOBS.into_iter().filter(|_| self.held > HELD) {
            let job = self.api.store().get(&Key::of(JOBS, &job_object(name))).context("a Job is gone")?;
            let marks = job["metadata"]["annotations"].as_object().map_or(0, serde_json::Map::len);
            ensure!(job["spec"]["suspend"] != true && marks == 0, "{name} is left suspended, or marked: {job}");
        }
        let (pods, _) = self.pods();
        for bystander in BYSTANDERS {
            let found = pods.iter().find(|pod| pod["metadata"]["name"] == bystander);
            let found = found.with_context(|| format!("{bystander} was deleted"))?;
            ensure!(found["status"]["phase"] == "Running", "{found}");
        }
        Ok(())
    }

    fn pods(&self) -> (Vec<Value>, usize) {
        self.api.store().list(&selection())
    }

    /// How many of the owners' pods were deleted so far.
    pub fn deleted(&self) -> usize {
        self.deleted.load(Ordering::Relaxed)
    }

    /// What can go wrong, and what clients have done so far.
    pub fn faults(&self) -> &Faults {
        self.api.faults()
    }
}

// === impl JobController ===

impl JobController {
    /// Creates the Job's pod, and another one for each that is gone, as long as it is not suspended.
    async fn run(self, first: oneshot::Sender<()>) {
        let (store, mut first) = (self.api.store(), Some(first));
        for number in 0.. {
            store.until(&self.key, |job| job.is_none_or(|job| !is_suspended(job))).await;
            let Some(job) = store.get(&self.key) else { return };
            let mut pod = owned("Job", &self.key.name, &job, number);
            pod["metadata"]["finalizers"] = json!([JOB_TRACKING]);
            // This one's admission never fails.
            let Ok(pod) = self.linkerd.admit(store, pod).await else { return };
            let pod = if is_meshed(&pod) { started(pod) } else { pod };
            let (_, since) = store.list(&selection());
            let pod = store.put(&Key::of(PODS, &pod), pod);
            self.count(1);
            let _ = first.take().map(|first| first.send(())); // Nothing waits where the story has ended.
            tokio::select! {
                last = self.last_of(&pod, since) => {
                    // It learns of a pod's end by the finalizer, and of nothing where that is gone.
                    if last["metadata"]["finalizers"].is_array() {
                        self.failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                () = store.until(&self.key, |job| job.is_none_or(is_suspended)) => {
                    store.delete(&Key::of(PODS, &pod), |_| true);
                }
            }
            self.deleted.fetch_add(1, Ordering::Relaxed);
            self.count(0);
        }
    }

    /// The pod as it was when it was deleted.
    async fn last_of(&self, pod: &Value, mut since: usize) -> Value {
        loop {
            let (changes, version) = self.api.store().changes(&selection(), since).await;
            let is_it = |object: &Value| object["metadata"]["uid"] == pod["metadata"]["uid"];
            if let Some(last) = changes.into_iter().find(|change| change.kind == "DELETED" && is_it(&change.object)) {
                return last.object;
            }
            since = version;
        }
    }

    fn count(&self, active: u32) {
        let store = self.api.store();
        if let Some(mut job) = store.get(&self.key) {
            job["status"] = json!({"active": active});
            store.put(&self.key, job);
        }
    }
}

// === impl Process ===

impl Process {
    /// Starts this role beside the API server, with files in this directory.
    pub fn start(role: &str, api: &MemoryApi, files: &Path, variables: &[(&str, &str)]) -> Result<Self> {
        let at = |name: &str| files.join(name);
        std::fs::write(at("kubeconfig"), api.kubeconfig())?;
        std::fs::write(at("termination-log"), "")?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"))
            .arg(role)
            .env_clear()
            .env("LINKERD_GATE_KUBECONFIG", at("kubeconfig"))
            .env("LINKERD_GATE_TERMINATION_LOG", at("termination-log"))
            .env("LINKERD_GATE_POD_NAMESPACE", "linkerd-gate")
            .env("LINKERD_GATE_NODE_NAME", "node-0")
            .env("LINKERD_GATE_LISTEN_PORT", port.to_string())
            .env("LINKERD_GATE_IDENTITY", "endpoints")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("the {role}"))?;
        Ok(Self { child: tokio::sync::Mutex::new(child) })
    }

    /// Kills it, wherever it is.
    pub async fn kill(&self) -> Result<()> {
        Ok(self.child.lock().await.kill().await?)
    }

    /// Kills it, and returns what it logged.
    pub async fn end(&self) -> Result<String> {
        self.kill().await?;
        let mut logged = String::new();
        if let Some(mut log) = self.child.lock().await.stderr.take() {
            log.read_to_string(&mut logged).await?;
        }
        Ok(logged)
    }
}

fn job_object(name: &str) -> Value {
    let whole = job(name).in_namespace(SHOP).of(pod(name).running("shop:1")).backoff_limit(0);
    if name == "night" { whole.labelled("kueue.x-k8s.io/queue-name", "night").json() } else { whole.json() }
}

fn is_suspended(job: &Value) -> bool {
    job["spec"]["suspend"] == true
}

fn selection() -> Selection {
    Selection { collection: PODS.to_owned(), namespace: Some(SHOP.to_owned()), ..Selection::default() }
}

fn is_bystander(pod: &Value) -> bool {
    BYSTANDERS.iter().any(|name| pod["metadata"]["name"] == *name)
}

fn is_meshed(pod: &Value) -> bool {
    serde_json::from_value::<Pod>(pod.clone()).is_ok_and(|pod| linkerd::meshed(&pod))
}

fn owned(kind: &str, name: &str, owner: &Value, number: usize) -> Value {
    let suffix = if kind == "StatefulSet" { "0".to_owned() } else { format!("{number:05}") };
    let mut object = pod(&format!("{name}-{suffix}")).in_namespace(SHOP).labelled("app", name).running("shop:1").json();
    let metadata = &owner["metadata"];
    let group = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    object["metadata"]["ownerReferences"] = json!([{"apiVersion": group, "kind": kind, "name": metadata["name"],
        "uid": metadata["uid"], "controller": true}]);
    object["status"] = json!({"phase": "Pending"});
    object
}

/// As its kubelet reports it.
fn started(mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = json!("node-0");
    let running = json!({"name": "app", "ready": true, "started": true, "restartCount": 0, "image": "shop:1", "imageID": "shop:1",
        "state": {"running": {}}});
    pod["status"] = json!({"phase": "Running", "containerStatuses": [running]});
    pod
}
