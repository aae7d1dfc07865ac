//! `wait` through the node's agent, whose HTTP face is the genuine one, and back to Linkerd itself where there is none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use linkerd_gate::decide::gate_status::{GateStatus, NodeStatus, VERSION};
use linkerd_gate::decide::{Basis, FailedProbe, Policy, Probe, ProbeResult};
use linkerd_gate::http::{self, Face, Limits};
use linkerd_gate::metrics::Metrics;
use linkerd_gate_kit::standin::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::missed;
use crate::support::{Linkerd, Wait};

const PATIENCE: Duration = Duration::from_mins(1);

/// What an agent shows, on a port of loopback.
struct Agent {
    port: u16,
    face: watch::Sender<Face>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

fn answer(open: bool, reason: &str) -> GateStatus {
    let failed_probe = FailedProbe { probe: Probe::Injector, result: ProbeResult::not_ready("x") };
    GateStatus {
        version: VERSION,
        open,
        basis: open.then_some(Basis::Proven),
        reason: reason.to_owned(),
        failed_probes: if open { Vec::new() } else { vec![failed_probe] },
        required: Policy::proven().required().to_vec(),
        manual_override: None,
        verdict_stale: false,
        prover: Some("node-1".to_owned()),
        node: NodeStatus { name: "node-0".to_owned(), state: "open".to_owned(), reason: "proven".to_owned() },
    }
}

fn closed() -> GateStatus {
    answer(false, "closed: injector not ready: none of its endpoints is ready")
}

fn open() -> GateStatus {
    answer(true, "open: proven by an injected dry-run pod")
}

// === impl Agent ===

impl Agent {
    fn start(said: &GateStatus) -> Self {
        Self::start_at(0, said)
    }

    fn start_at(port: u16, said: &GateStatus) -> Self {
        let listener = http::bind(port).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (face, shown) = watch::channel(Face::new(said, ProbeResult::Ready));
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let metrics = Arc::new(Metrics::default());
        let task = tokio::spawn(http::serve(listener, shown, metrics, Limits::default(), shutdown));
        Self { port, face, stop, task }
    }

    fn say(&self, answer: &GateStatus) {
        self.face.send_replace(Face::new(answer, ProbeResult::Ready));
    }

    async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Until a pod waits here for the gate to open: one question after the other, without a pause.
    async fn until_a_pod_waits(&self) {
        let waiting = async { while !self.metrics().await.contains("\nlinkerd_gate_gate_waiting_requests 1\n") {} };
        tokio::time::timeout(PATIENCE, waiting).await.expect("nobody waits");
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it does not end").unwrap().unwrap();
    }
}

/// A `wait` in a bare pod on that agent's node.
fn following(agent: &Agent, linkerd: &Linkerd) -> Wait {
    missed().asking(linkerd).with("AGENT_ADDRESS", format!("127.0.0.1:{}", agent.port))
}

async fn gone() -> Linkerd {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    linkerd.identity.suffer(Fault::Absent).await.unwrap();
    linkerd
}

fn linkerd_was_not_probed(linkerd: &Linkerd) {
    assert_eq!((linkerd.injector.connections(), linkerd.identity.connections()), (0, 0), "Linkerd itself was asked");
}

#[tokio::test]
async fn the_agents_answer_is_enough_and_each_pod_applies_its_setting() {
    let (agent, linkerd) = (Agent::start(&open()), Linkerd::start().await);
    assert_eq!(following(&agent, &linkerd).with("ON_MISSED", "exit").end().await.code, 75);

    let ended = following(&agent, &linkerd).with("INJECT", "disabled").end().await;
    assert_eq!(ended.code, 0);
    assert!(ended.said.contains("proven by an injected dry-run pod, says this node's agent"), "{}", ended.said);

    let ended = following(&agent, &linkerd).with("ON_MISSED", "open").end().await;
    assert_eq!(ended.code, 0);
    assert!(ended.said.contains("WARN") && ended.said.contains("OUTSIDE the mesh"), "{}", ended.said);

    let mut run = following(&agent, &linkerd).start();
    run.until("Linkerd is ready (proven by an injected dry-run pod), and").await;
    assert!(run.is_running());
    linkerd_was_not_probed(&linkerd);
}

#[tokio::test]
async fn a_pod_logs_the_agents_reason_and_is_released_when_it_opens() {
    let (agent, linkerd) = (Agent::start(&closed()), Linkerd::start().await);
    let mut run = following(&agent, &linkerd).with("ON_MISSED", "exit").start();
    run.until("waiting: injector not ready: none of its endpoints is ready (says the agent on node node-0)").await;
    run.while_it_holds(agent.until_a_pod_waits()).await;
    agent.say(&open());
    assert_eq!(run.end().await.code, 75);
    linkerd_was_not_probed(&linkerd);
}

#[tokio::test]
async fn without_an_agent_wait_probes_linkerd_and_logs_one_line() {
    let linkerd = Linkerd::start().await;
    let port = http::bind(0).unwrap().local_addr().unwrap().port();
    for variable in [("AGENT_ADDRESS", format!("127.0.0.1:{port}")), ("AGENT_ADDRESS", "none".to_owned())] {
        let expected = usize::from(variable.1 != "none");
        let ended = missed().asking(&linkerd).with("ON_MISSED", "exit").with(variable.0, variable.1).end().await;
        assert_eq!(ended.code, 75);
        let found = ended.said.lines().filter(|line| line.contains("probing Linkerd itself")).count();
        assert_eq!(found, expected, "{}", ended.said);
    }
}

#[tokio::test]
async fn a_pod_follows_a_new_agent_and_probes_when_it_is_gone() {
    let linkerd = gone().await;
    let port = http::bind(0).unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut run = missed().asking(&linkerd).with("ON_MISSED", "exit").with("AGENT_ADDRESS", address).start();
    run.until("probing Linkerd itself until this node\'s agent answers").await;
    run.until("injector not ready").await;

    let agent = Agent::start_at(port, &closed());
    run.until("following the agent: it answers on node node-0").await;
    run.while_it_holds(agent.until_a_pod_waits()).await;
    agent.end().await;
    let line = run.until("probing Linkerd itself").await;
    assert!(line.contains("WARN"), "{line}");
    linkerd.injector.recover().await.unwrap();
    linkerd.identity.recover().await.unwrap();
    let ended = run.end().await;
    assert_eq!(ended.code, 75, "{}", ended.said);
    assert_eq!(ended.said.lines().filter(|line| line.contains("probing Linkerd itself")).count(), 2, "{}", ended.said);
}

/// Answers every connection with these bytes, and keeps it open where there are none.
async fn stranger(answer: &'static str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            if answer.is_empty() {
                kept.push(stream);
            }
        }
    });
    (address, task)
}

#[tokio::test]
async fn an_invalid_agent_answer_is_reported_and_opens_nothing() {
    let too_long: &str = format!("HTTP/1.1 503 x\r\ncontent-length: 20000\r\n\r\n{}", " ".repeat(20_000)).leak();
    for (bytes, found) in [
        ("", "accepted the question and did not answer it in 700ms"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "it answered HTTP 404"),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", "it answered HTTP 302"),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhere\n", "its answer cannot be read"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "its answer cannot be read"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{", "closed the connection unanswered"),
        (too_long, "its answer is longer than 16384 bytes"),
        ("SSH-2.0-x\r\n", "did not give a whole answer"),
    ] {
        let linkerd = gone().await;
        let (address, task) = stranger(bytes).await;
        let mut run =
            missed().asking(&linkerd).with("ON_MISSED", "exit").with("AGENT_ADDRESS", address.to_string()).start();
        let line = run.until("probing Linkerd itself").await;
        assert!(line.contains(found), "{bytes:?}: {line}");
        run.until("injector not ready").await;
        assert!(run.is_running());
        linkerd.injector.recover().await.unwrap();
        linkerd.identity.recover().await.unwrap();
        assert_eq!(run.end().await.code, 75);
        task.abort();
    }
}

#[tokio::test]
async fn an_agent_with_fewer_probes_than_required_is_not_followed() {
    let (agent, linkerd) = (Agent::start(&open()), Linkerd::start().await);
    let mut run = following(&agent, &linkerd)
        .with("ON_MISSED", "exit")
        .with("REQUIRE", "injector,identity,destination")
        .with("DESTINATION_ADDRESS", "127.0.0.1:9")
        .start();
    let line = run.until("probing Linkerd itself").await;
    assert!(line.contains("it does not look at destination"), "{line}");
    run.until("destination not ready").await;
    assert!(run.is_running());

    let more = GateStatus { required: Policy::proven().and(Probe::Destination).required().to_vec(), ..open() };
    agent.say(&more);
    let run = following(&agent, &linkerd).with("ON_MISSED", "exit").with("REQUIRE", "injector,identity,destination");
    assert_eq!(run.end().await.code, 75);
}

#[tokio::test]
async fn an_open_override_starts_a_missed_pod_with_a_warning() {
    let linkerd = gone().await;
    let agent = Agent::start(&closed().overridden(true, "open 2026-01-01T06:00:00Z".to_owned()));
    for on_missed in ["hold", "exit", "open"] {
        // A person's word holds also for who requires more than the agent looks at.
        let wait = following(&agent, &linkerd).with("ON_MISSED", on_missed).with("REQUIRE", "injector,policy");
        let ended = wait.end().await;
        assert_eq!(ended.code, 0, "{}", ended.said);
        let line = ended.said.lines().last().unwrap();
        assert!(line.contains("WARN") && line.contains("open: manual override (open 2026-01-01T06:00:00Z)"), "{line}");
        assert!(line.contains("OUTSIDE the mesh"), "{line}");
    }
    let ended = following(&agent, &linkerd).with("INJECT", "disabled").end().await;
    assert_eq!(ended.code, 0);
    assert!(!ended.said.contains("WARN") && ended.said.contains("open: manual override"), "{}", ended.said);
}

#[tokio::test]
async fn a_closed_override_holds_a_pod_despite_the_evidence() {
    let linkerd = Linkerd::start().await;
    let agent = Agent::start(&open().overridden(false, "closed 2026-01-01T06:00:00Z".to_owned()));
    let mut run = following(&agent, &linkerd).with("ON_MISSED", "open").start();
    run.until("waiting: manual override (closed 2026-01-01T06:00:00Z)").await;
    run.while_it_holds(agent.until_a_pod_waits()).await;
    linkerd_was_not_probed(&linkerd);
    agent.say(&open());
    assert_eq!(run.end().await.code, 0);
}

#[tokio::test]
async fn without_linkerd_a_missed_pod_is_held_and_others_start() {
    let linkerd = gone().await;
    let agent = Agent::start(&GateStatus { basis: Some(Basis::NotInstalled), ..open() });
    let mut run = following(&agent, &linkerd).with("ON_MISSED", "exit").start();
    run.until("this pod cannot be injected: Linkerd is not installed, says this node\'s agent").await;
    assert!(run.is_running());
    let ended = following(&agent, &linkerd).with("INJECT", "disabled").end().await;
    assert_eq!(ended.code, 0);
    assert!(ended.said.contains("Linkerd is not installed"), "{}", ended.said);
    agent.say(&open());
    assert_eq!(run.end().await.code, 75);
}

#[tokio::test]
async fn a_meshed_pod_asks_identity_itself_whatever_the_agent_says() {
    let (agent, linkerd) = (Agent::start(&closed()), Linkerd::start().await);
    let ended = following(&agent, &linkerd).meshed().with("WHEN_MESHED", "identity").end().await;
    assert_eq!(ended.code, 0, "{}", ended.said);
    let metrics = agent.metrics().await;
    assert!(metrics.contains("\nlinkerd_gate_gate_requests_total{code=\"503\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_signal_and_the_timeout_end_a_long_poll() {
    let (agent, linkerd) = (Agent::start(&closed()), Linkerd::start().await);
    let mut run = following(&agent, &linkerd).with("ON_MISSED", "open").start();
    run.while_it_holds(agent.until_a_pod_waits()).await;
    run.terminate();
    let ended = run.end().await;
    assert_eq!(ended.code, 143);
    assert!(ended.termination_log.contains("none of its endpoints is ready"), "{}", ended.termination_log);

    let ended = following(&agent, &linkerd).with("TIMEOUT", "1s").end().await;
    assert_eq!(ended.code, 69);
    assert!(ended.termination_log.contains("none of its endpoints is ready"), "{}", ended.termination_log);
    linkerd_was_not_probed(&linkerd);
}
