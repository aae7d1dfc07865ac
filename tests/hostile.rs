//! Every pod of a node reaches its agent, and nothing keeps it from misbehaving: the program itself, against an API server that
//! says what the test wants, among thousands of hostile connections on a real socket.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Longer than anything here takes; nothing waits for it but a test that fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// As many connections as are held, by one peer or by as many.
const HOSTILE: usize = 4096;

/// Pods that wait as `wait` does: half of them were there before.
const WAITS: usize = 100;

/// How soon all of them are released once the agent may open.
const RELEASED: Duration = Duration::from_secs(1);

/// What the crowd may cost the agent: at rest the release binary takes 8.4 MiB (docs/figures.md), and 32 in all are its due.
const COST: u64 = 23 << 20;

/// What an agent writes, whatever pods send: its own Node, Leases, and Events on its Node.
const OWN: [&str; 4] = ["/nodes/node-0", "/leases", "/leases/linkerd-gate", "/namespaces/default/events"];

/// Until when a person's word holds here.
static UNTIL: LazyLock<Timestamp> = LazyLock::new(|| Timestamp::now() + SignedDuration::from_hours(1));

/// What a connection does.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Silent,
    Slow,
    BigHeader,
    Pipelined,
    Unread,
    HalfOpen,
}

const KINDS: [Kind; 6] = [Kind::Silent, Kind::Slow, Kind::BigHeader, Kind::Pipelined, Kind::Unread, Kind::HalfOpen];

/// An API server that knows one Node and one Lease, on which a person's word stands.
struct Api {
    address: SocketAddr,
    word: watch::Sender<&'static str>,
    /// What was asked: method and path.
    asked: Arc<Mutex<BTreeSet<String>>>,
    _tasks: JoinSet<()>,
}

/// The program.
struct Agent {
    child: Child,
    address: SocketAddr,
    _files: [tempfile::NamedTempFile; 2],
}

// === impl Api ===

impl Api {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (word, said) = watch::channel("closed");
        let asked = Arc::<Mutex<BTreeSet<String>>>::default();
        let mut tasks = JoinSet::new();
        let seen = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(converse(stream, said.clone(), Arc::clone(&seen)));
            }
        });
        Self { address, word, asked, _tasks: tasks }
    }

    fn asked(&self) -> BTreeSet<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// One of the agent's connections; it ends when the agent ends it.
async fn converse(stream: TcpStream, mut word: watch::Receiver<&'static str>, asked: Arc<Mutex<BTreeSet<String>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            if !stream.read_line(&mut head).await.is_ok_and(|read| read > 0) {
                return;
            }
            if let Some((name, value)) = head[from..].split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        asked.lock().unwrap().insert(format!("{method} {path}"));
        let is_lease = path.ends_with("/leases");
        if query.contains("watch=true") {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.get_mut().write_all(head.as_bytes()).await.unwrap();
            while is_lease && word.changed().await.is_ok() {
                let event = json!({"type": "MODIFIED", "object": lease(*word.borrow_and_update())}).to_string();
                let chunk = format!("{:x}\r\n{event}\n\r\n", event.len() + 1);
                if stream.get_mut().write_all(chunk.as_bytes()).await.is_err() {
                    return;
                }
            }
            // Nothing ever happens to anything else.
            let _until_it_ends = stream.read(&mut [0; 1]).await;
            return;
        }
        let (status, body) = match (method, path) {
            ("GET", "/api/v1/nodes") => (200, list(&[node()])),
            ("GET", _) if is_lease => (200, list(&[lease(*word.borrow_and_update())])),
            ("GET", _) => (200, list(&[])),
            _ => (409, json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409})),
        };
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.get_mut().write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

fn list(items: &[Value]) -> Value {
    json!({"metadata": {"resourceVersion": "1"}, "items": items})
}

fn node() -> Value {
    json!({"metadata": {"name": "node-0", "uid": "uid-of-the-node", "resourceVersion": "1"}, "spec": {}, "status": {}})
}

fn lease(word: &str) -> Value {
    json!({"metadata": {
        "name": "linkerd-gate", "namespace": "linkerd-gate", "resourceVersion": "1",
        "annotations": {"linkerd-gate/override": format!("{word} {}", *UNTIL)},
    }})
}

// === impl Agent ===

impl Agent {
    fn start(api: &Api) -> Self {
        let files = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        let kubeconfig = json!({
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", api.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        std::fs::write(files[0].path(), kubeconfig.to_string()).unwrap();
        std::fs::write(files[1].path(), "b2f5e6a0-5b1c-4a39-8d5a-0d2f3b3f9c11\n").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"))
            .arg("agent")
            .env_clear()
            .envs([
                ("LINKERD_GATE_KUBECONFIG", files[0].path().to_str().unwrap()),
                ("LINKERD_GATE_BOOT_ID_FILE", files[1].path().to_str().unwrap()),
                ("LINKERD_GATE_TERMINATION_LOG", "/nonexistent"),
                ("LINKERD_GATE_NODE_NAME", "node-0"),
                ("LINKERD_GATE_POD_NAME", "linkerd-gate-x2x9z"),
                ("LINKERD_GATE_POD_NAMESPACE", "linkerd-gate"),
                ("LINKERD_GATE_LISTEN_PORT", &port.to_string()),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, address: (Ipv4Addr::LOCALHOST, port).into(), _files: files }
    }

    /// In bytes, by the kernel's word.
    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// What `/gate` says to the node itself; nothing while it is not served.
    async fn gate(&self) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        stream.write_all(b"GET /gate HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Waits until the person's word has arrived.
    async fn until_override(&self, status: u16) -> String {
        let asking = async {
            loop {
                if let Some((_, body)) =
                    self.gate().await.filter(|(code, body)| *code == status && body.contains("override"))
                {
                    return body;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, asking).await.expect("the agent does not hear the person's word")
    }
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

const POLL: &[u8] = b"GET /gate?wait=60s HTTP/1.1\r\nhost: node\r\n\r\n";

/// One connection after the other, for ever, each held for as long as the agent lets it.
async fn hostile(kind: Kind, from: Ipv4Addr, agent: SocketAddr, came: Arc<AtomicUsize>) {
    let mut first = true;
    loop {
        // Cut off, in the middle of it: that is the point.
        let _cut_off = misbehave(kind, from, agent).await;
        if std::mem::take(&mut first) {
            came.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_secs(5)).await;
    }
}

async fn misbehave(kind: Kind, from: Ipv4Addr, agent: SocketAddr) -> std::io::Result<()> {
    let mut stream = connect(from, agent).await?;
    match kind {
        Kind::Silent => {}
        Kind::Slow => {
            stream.write_all(b"GET /gate?wait=60s HTTP/1.1\r\nx-slow: ").await?;
            for _ in 0..100 {
                stream.write_all(b"x").await?;
                sleep(Duration::from_millis(700)).await;
            }
        }
        Kind::BigHeader => {
            stream.write_all(b"GET /gate?wait=60s HTTP/1.1\r\n").await?;
            stream.write_all("x-many: x\r\n".repeat(700).as_bytes()).await?;
        }
        Kind::Pipelined => stream.write_all(&POLL.repeat(1000)).await?,
        Kind::Unread => {
            let question = b"GET /metrics HTTP/1.1\r\nhost: node\r\n\r\n";
            for _ in 0..1000 {
                stream.write_all(question).await?;
            }
        }
        Kind::HalfOpen => {
            stream.write_all(POLL).await?;
            stream.shutdown().await?;
        }
    }
    let mut answers = [0; 1024];
    while stream.read(&mut answers).await? > 0 {}
    Ok(())
}

/// A pod that waits as `wait` does: it asks again where it is not answered, or not yet open. Returns when it was released.
async fn wait(from: Ipv4Addr, agent: SocketAddr, asked: Arc<AtomicUsize>) -> Instant {
    let mut first = true;
    loop {
        let answered = async {
            let mut stream = connect(from, agent).await?;
            stream.write_all(b"GET /gate?wait=30s HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").await?;
            if std::mem::take(&mut first) {
                asked.fetch_add(1, Ordering::Relaxed);
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        match answered.await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => return Instant::now(),
            Ok(_) | Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The address of so many a pod, other than the node's own.
fn pod(net: u8, number: usize) -> Ipv4Addr {
    let [.., high, low] = u32::try_from(number).unwrap().to_be_bytes();
    Ipv4Addr::new(127, net, high, low)
}

async fn until(count: &AtomicUsize, at_least: usize, what: &str) {
    let counting = async {
        while count.load(Ordering::Relaxed) < at_least {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, counting).await.unwrap_or_else(|_| panic!("{what}: {count:?} of {at_least}"));
}

/// A crowd comes, and the waits of the same node are released as if it were not there.
async fn endure(agent: &Agent, api: &Api, what: &str, peer: impl Fn(usize) -> Ipv4Addr) {
    api.word.send_replace("closed");
    let before = agent.until_override(503).await;
    let (asked, came) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let mut waits = JoinSet::new();
    let more = |waits: &mut JoinSet<Instant>, from: usize| {
        for number in from..from + WAITS / 2 {
            waits.spawn(wait(pod(7, number), agent.address, Arc::clone(&asked)));
        }
    };
    more(&mut waits, 0);
    until(&asked, WAITS / 2, "waits").await;
    let mut crowd = JoinSet::new();
    for number in 0..HOSTILE {
        let kind = KINDS[number % KINDS.len()];
        crowd.spawn(hostile(kind, peer(number), agent.address, Arc::clone(&came)));
    }
    // Most of them are cut off, or leave no place to others: there is no more to come than that.
    until(&came, HOSTILE / 2, "hostile connections").await;
    more(&mut waits, WAITS / 2);
    until(&asked, WAITS, "waits among hostile connections").await;
    let during = agent.until_override(503).await;
    assert_eq!(during, before, "{what}: what pods send changes nothing of what an agent says");
    let written: Vec<_> = api.asked().into_iter().filter(|asked| !asked.starts_with("GET ")).collect();
    let own = |write: &String| OWN.iter().any(|own| write.ends_with(own));
    assert!(written.iter().all(own), "{what}: nor of what it writes: {written:?}");

    let opened = Instant::now();
    api.word.send_replace("open");
    let released = timeout(PATIENCE, waits.join_all()).await.expect("waits that are never released");
    assert_eq!(released.len(), WAITS);
    let slowest = released.into_iter().max().unwrap().duration_since(opened);
    let most = agent.memory("VmHWM") >> 10;
    eprintln!("{what}: {WAITS} waits released in {slowest:?} among {HOSTILE}; the agent's memory: {most} KiB at most");
    assert!(slowest <= RELEASED, "{what}: {slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_connections_cost_little_and_delay_no_wait() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(16_384), most).unwrap();
    let api = Api::start().await;
    let agent = Agent::start(&api);
    agent.until_override(503).await;
    let rest = agent.memory("VmHWM");

    endure(&agent, &api, "one peer", |_| pod(66, 1)).await;
    endure(&agent, &api, "many peers", |number| pod(66, number + 1)).await;
    let cost = agent.memory("VmHWM").saturating_sub(rest);
    eprintln!("the agent's memory at rest: {} KiB; the crowds cost {} KiB", rest >> 10, cost >> 10);
    assert!(cost <= COST, "{} KiB", cost >> 10);
}
