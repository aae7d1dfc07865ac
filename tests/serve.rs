//! The agent's HTTP face, over real connections on loopback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use linkerd_gate::decide::gate_status::NodeStatus;
use linkerd_gate::decide::{Basis, Gate, GateStatus, Policy, ProbeResult};
use linkerd_gate::http::{self, Face, Limits};
use linkerd_gate::metrics::Metrics;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// Far longer than anything here takes; nothing waits for it but a test that fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server on a port of its own.
struct Served {
    port: u16,
    face: watch::Sender<Face>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

/// A connection to it.
struct Client(BufReader<TcpStream>);

/// What came back.
#[derive(Debug)]
struct Answered {
    status: u16,
    header: String,
    body: String,
}

fn closed() -> GateStatus {
    let node = NodeStatus { name: "node-0".to_owned(), state: "closed".to_owned(), reason: "no verdict".to_owned() };
    GateStatus::of(&Gate::closed(), &Policy::proven(), None, node)
}

fn open() -> GateStatus {
    GateStatus { open: true, basis: Some(Basis::Proven), reason: "open: proven".to_owned(), ..closed() }
}

fn face(answer: &GateStatus) -> Face {
    Face::new(answer, ProbeResult::Ready)
}

async fn in_time<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.expect("it takes for ever")
}

// === impl Served ===

impl Served {
    fn start(answer: &GateStatus, limits: Limits) -> Self {
        let listener = http::bind(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (face, shown) = watch::channel(face(answer));
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(http::serve(listener, shown, Arc::new(Metrics::default()), limits, shutdown));
        Self { port, face, stop, task }
    }

    async fn connect(&self) -> Client {
        Client(BufReader::new(in_time(TcpStream::connect(("127.0.0.1", self.port))).await.unwrap()))
    }

    /// A connection from another of loopback's addresses, as a pod's is from the node's point of view.
    async fn connect_from_elsewhere(&self) -> Client {
        self.connect_from("127.0.0.2").await
    }

    async fn connect_from(&self, address: &str) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let server = format!("127.0.0.1:{}", self.port).parse().unwrap();
        Client(BufReader::new(in_time(socket.connect(server)).await.unwrap()))
    }

    async fn get(&self, path: &str) -> Answered {
        self.connect().await.get(path).await
    }

    /// Asks `/metrics` until it says so: one question after the other, without a pause.
    async fn until_metric(&self, line: &str) {
        let mut client = self.connect().await;
        in_time(async { while !client.get("/metrics").await.body.lines().any(|found| found == line) {} }).await;
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        in_time(self.task).await.unwrap().unwrap();
    }
}

// === impl Client ===

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    async fn ask(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: node\r\n\r\n")).await;
    }

    async fn get(&mut self, path: &str) -> Answered {
        self.ask(path).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Answered {
        let mut answered = in_time(self.header()).await;
        let length = answered.field("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        in_time(self.0.read_exact(&mut body)).await.unwrap();
        answered.body = String::from_utf8(body).unwrap();
        answered
    }

    async fn header(&mut self) -> Answered {
        let mut header = String::new();
        while !header.ends_with("\r\n\r\n") {
            let read = self.0.read_line(&mut header).await.unwrap();
            assert_ne!(read, 0, "the connection ended after {header:?}");
        }
        let status = header.split(' ').nth(1).unwrap().parse().unwrap();
        Answered { status, header: header.to_lowercase(), body: String::new() }
    }

    /// Everything until the server ends the connection.
    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        match in_time(self.0.read_to_string(&mut rest)).await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        rest
    }
}

// === impl Answered ===

impl Answered {
    fn field(&self, name: &str) -> Option<&str> {
        self.header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

#[tokio::test]
async fn the_gate_endpoint_answers_by_http_status_and_json() {
    let served = Served::start(&closed(), Limits::default());
    let answered = served.get("/gate").await;
    assert_eq!(answered.status, 503);
    assert_eq!(answered.field("content-type"), Some("application/json"));
    assert_eq!(answered.field("cache-control"), Some("no-store"));
    assert_eq!(serde_json::from_str::<GateStatus>(&answered.body).unwrap(), closed());

    served.face.send_replace(face(&open()));
    let answered = served.get("/gate").await;
    assert_eq!(answered.status, 200);
    assert_eq!(serde_json::from_str::<GateStatus>(&answered.body).unwrap(), open());
    served.end().await;
}

#[tokio::test]
async fn ready_names_its_reason_and_live_lasts_as_long_as_the_loop() {
    let served = Served::start(&closed(), Limits::default());
    assert_eq!(served.get("/ready").await.status, 200);
    assert_eq!(served.get("/live").await.status, 200);

    served.face.send_replace(Face::new(&closed(), ProbeResult::unknown("the API server does not answer")));
    let answered = served.get("/ready").await;
    assert_eq!((answered.status, answered.body.as_str()), (503, "unknown: the API server does not answer\n"));
    assert_eq!(served.get("/live").await.status, 200);

    let (mut waiting, mut asking) = (served.connect().await, served.connect().await);
    waiting.ask("/gate?wait=60s").await;
    served.until_metric("linkerd_gate_gate_waiting_requests 1").await;
    drop(served.face);
    assert_eq!(waiting.answer().await.status, 503, "nobody is left who could open it");
    assert_eq!(asking.get("/live").await.status, 503);
}

#[tokio::test]
async fn what_is_counted_is_openmetrics() {
    let served = Served::start(&closed(), Limits::default());
    served.get("/gate").await;
    served.get("/gate?wait=x").await;
    let answered = served.get("/metrics").await;
    assert!(answered.field("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(answered.body.ends_with("# EOF\n"));
    for line in ["linkerd_gate_gate_requests_total{code=\"503\"} 1", "linkerd_gate_gate_requests_total{code=\"400\"} 1"]
    {
        assert!(answered.body.lines().any(|found| found == line), "{}", answered.body);
    }
}

#[tokio::test]
async fn other_pages_methods_and_bodies_are_refused_each_in_its_way() {
    let served = Served::start(&open(), Limits::default());
    for path in ["/", "/gates", "/gate/", "/live/x", "/%67ate", "//gate"] {
        assert_eq!(served.get(path).await.status, 404, "{path}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "OPEN"] {
        let mut client = served.connect().await;
        client.send(&format!("{method} /gate HTTP/1.1\r\nhost: node\r\n\r\n")).await;
        let answered = client.answer().await;
        assert_eq!((answered.status, answered.field("allow")), (405, Some("get, head")), "{method}");
        assert_eq!(client.get("/gate").await.status, 200, "the connection goes on");
    }
    for (method, status) in [("GET", 413), ("POST", 405)] {
        for body in ["content-length: 5\r\n\r\nhello", "content-length: 5\r\nexpect: 100-continue\r\n\r\n", CHUNKED] {
            let mut client = served.connect().await;
            client.send(&format!("{method} /gate HTTP/1.1\r\nhost: node\r\n{body}")).await;
            assert_eq!(client.answer().await.status, status, "{method} {body:?}");
            assert_eq!(client.rest().await, "", "what follows is not taken for a request");
        }
    }
    served.end().await;
}

const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

#[tokio::test]
async fn head_is_answered_as_get_without_the_body() {
    let served = Served::start(&open(), Limits::default());
    for path in ["/gate", "/live", "/ready", "/metrics", "/nothing"] {
        let mut client = served.connect().await;
        client.send(&format!("HEAD {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")).await;
        let head = client.header().await;
        assert_eq!(client.rest().await, "", "{path}");
        assert_eq!(head.status, served.get(path).await.status, "{path}");
    }
}

#[tokio::test]
async fn a_bad_wait_parameter_is_refused_with_a_sentence() {
    let served = Served::start(&open(), Limits::default());
    let answered = served.get("/gate?wait=5M").await;
    assert_eq!(answered.status, 400);
    assert!(answered.body.starts_with("wait=\"5M\" is not a duration in s and m"), "{}", answered.body);
}

#[tokio::test]
async fn a_long_poll_of_an_open_gate_is_answered_at_once() {
    let served = Served::start(&open(), Limits::default());
    assert_eq!(served.get("/gate?wait=60s").await.status, 200);
    // The server can end at once: nobody waits.
    served.end().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_by_the_opening_only() {
    let served = Served::start(&closed(), Limits::default());
    let mut client = served.connect().await;
    client.ask("/gate?wait=60s").await;
    served.until_metric("linkerd_gate_gate_waiting_requests 1").await;
    for reason in ["one", "other"] {
        served.face.send_replace(face(&GateStatus { reason: reason.to_owned(), ..closed() }));
        // Two more connections, made and answered after it: a waiter that had been woken would be gone by now.
        served.get("/gate").await;
        served.until_metric("linkerd_gate_gate_waiting_requests 1").await;
    }
    served.face.send_replace(face(&open()));
    let answered = client.answer().await;
    assert_eq!(answered.status, 200);
    assert_eq!(serde_json::from_str::<GateStatus>(&answered.body).unwrap(), open());
    served.until_metric("linkerd_gate_gate_waiting_requests 0").await;
}

#[tokio::test]
async fn a_long_poll_ends_by_its_own_time_or_by_the_servers() {
    for (path, longest_poll) in [("/gate?wait=60s", Duration::from_millis(30)), ("/gate?wait=1s", PATIENCE)] {
        let served = Served::start(&closed(), Limits { longest_poll, ..Limits::default() });
        let mut client = served.connect().await;
        client.ask(path).await;
        served.until_metric("linkerd_gate_gate_waiting_requests 1").await;
        served.face.send_replace(face(&GateStatus { reason: "news".to_owned(), ..closed() }));
        let answered = client.answer().await;
        assert_eq!(answered.status, 503);
        assert!(answered.body.contains("news"), "it tells what holds now: {}", answered.body);
    }
}

#[tokio::test]
async fn a_thousand_waiters_are_released_at_once() {
    const WAITERS: usize = 1000;
    let served = Served::start(&closed(), Limits::default());
    let mut clients = Vec::new();
    for _ in 0..WAITERS {
        let mut client = served.connect().await;
        client.ask("/gate?wait=60s").await;
        clients.push(client);
    }
    served.until_metric("linkerd_gate_gate_waiting_requests 1000").await;

    let opened = Instant::now();
    served.face.send_replace(face(&open()));
    let mut answers: JoinSet<_> = clients
        .into_iter()
        .map(|mut client| async move {
            let answered = client.answer().await;
            (answered.status, client)
        })
        .collect();
    let mut kept = Vec::new();
    while let Some(answered) = answers.join_next().await {
        let (status, client) = answered.unwrap();
        assert_eq!(status, 200);
        kept.push(client);
    }
    // One thread, not optimised, serves and asks: a figure is what the benchmark makes. Here it must not be seconds.
    assert!(opened.elapsed() < Duration::from_secs(5), "{:?}", opened.elapsed());
    served.until_metric("linkerd_gate_gate_waiting_requests 0").await;
}

#[tokio::test]
async fn a_closed_long_poll_connection_is_no_longer_counted() {
    let served = Served::start(&closed(), Limits::default());
    let mut client = served.connect().await;
    client.ask("/gate?wait=60s").await;
    served.until_metric("linkerd_gate_gate_waiting_requests 1").await;
    drop(client);
    served.until_metric("linkerd_gate_gate_waiting_requests 0").await;
}

#[tokio::test]
async fn a_slow_header_and_an_idle_connection_are_cut_off() {
    let served = Served::start(&open(), Limits { header_time: Duration::from_millis(50), ..Limits::default() });
    for said in ["", "GET /gate HT", "GET /gate HTTP/1.1\r\nhost: node\r\nx-slow: "] {
        let mut client = served.connect().await;
        client.send(said).await;
        client.rest().await;
    }
    // One that was answered, and then idles.
    let mut client = served.connect().await;
    assert_eq!(client.get("/live").await.status, 200);
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_long_poll_is_not_an_idle_connection() {
    let limits = Limits {
        header_time: Duration::from_millis(20),
        longest_poll: Duration::from_millis(200),
        ..Limits::default()
    };
    let served = Served::start(&closed(), limits);
    assert_eq!(served.get("/gate?wait=60s").await.status, 503);
}

#[tokio::test]
async fn a_header_that_is_too_long_is_refused() {
    let served = Served::start(&open(), Limits::default());
    for header in [format!("x-long: {}", "x".repeat(10_000)), "x-many: x\r\n".repeat(2_000)] {
        let mut client = served.connect().await;
        // The server may have ended the connection before all of it is sent.
        let _ = client.0.get_mut().write_all(format!("GET /gate HTTP/1.1\r\n{header}\r\n\r\n").as_bytes()).await;
        let answered = client.rest().await;
        assert!(answered.is_empty() || answered.starts_with("HTTP/1.1 431 "), "{answered}");
    }
    assert_eq!(served.get("/gate").await.status, 200);
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_nothing_else() {
    let served = Served::start(&open(), Limits::default());
    for garbage in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}\r\n\r\n"] {
        let mut client = served.connect().await;
        client.send(garbage).await;
        let answered = client.rest().await;
        assert!(answered.is_empty() || answered.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answered}");
    }
    assert_eq!(served.get("/gate").await.status, 200);
}

#[tokio::test]
async fn requests_that_come_together_are_answered_in_order() {
    let served = Served::start(&open(), Limits::default());
    let mut client = served.connect().await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: node\r\n\r\n");
    client.send(&[request("/live"), request("/nothing"), request("/gate?wait=60s")].concat()).await;
    let statuses = [client.answer().await.status, client.answer().await.status, client.answer().await.status];
    assert_eq!(statuses, [200, 404, 200]);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_cut_off() {
    let served = Served::start(&open(), Limits { write_time: Duration::from_millis(50), ..Limits::default() });
    let mut client = served.connect().await;
    let request = b"GET /metrics HTTP/1.1\r\nhost: node\r\n\r\n";
    let cut_off = in_time(async {
        loop {
            if let Err(error) = client.0.get_mut().write_all(request).await {
                return error;
            }
        }
    });
    let kind = cut_off.await.kind();
    assert!([std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe].contains(&kind), "{kind}");
    assert_eq!(served.get("/gate").await.status, 200);
}

#[tokio::test]
async fn both_families_of_addresses_are_served() {
    let served = Served::start(&open(), Limits::default());
    let mut hosts = vec!["127.0.0.1"];
    // A machine may have no IPv6; then there is nothing to listen on.
    hosts.extend(std::net::TcpListener::bind("[::1]:0").is_ok().then_some("::1"));
    for host in hosts {
        let stream = in_time(TcpStream::connect((host, served.port))).await.unwrap();
        assert_eq!(Client(BufReader::new(stream)).get("/gate").await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn connections_are_bounded_and_a_free_place_is_reused() {
    let served = Served::start(&open(), Limits { connections: 2, reserved: 0, grace: PATIENCE, ..Limits::default() });
    let (mut first, mut second) = (served.connect().await, served.connect().await);
    assert_eq!((first.get("/live").await.status, second.get("/live").await.status), (200, 200));
    assert_eq!(served.connect().await.rest().await, "", "cut off, unanswered");

    drop(second);
    // The server learns of it a moment later; until then one is cut off, and after that no more.
    in_time(async {
        loop {
            let mut next = served.connect().await;
            let _cut_off_already = next.0.get_mut().write_all(b"GET /live HTTP/1.0\r\n\r\n").await;
            if next.rest().await.starts_with("HTTP/1.0 200 ") {
                break;
            }
        }
    })
    .await;
    let metrics = first.get("/metrics").await.body;
    let refused = metrics.lines().find_map(|line| line.strip_prefix("linkerd_gate_refused_connections_total "));
    assert!(refused.unwrap().parse::<u32>().unwrap() >= 1, "{metrics}");
}

#[tokio::test]
async fn a_crowd_from_elsewhere_does_not_starve_the_nodes_own_probes() {
    let served = Served::start(&open(), Limits { connections: 1, reserved: 1, grace: PATIENCE, ..Limits::default() });
    let mut pod = served.connect_from_elsewhere().await;
    assert_eq!(pod.get("/live").await.status, 200);
    assert_eq!(served.connect_from_elsewhere().await.rest().await, "");
    let mut kubelet = served.connect().await;
    assert_eq!(kubelet.get("/live").await.status, 200);
    assert_eq!(served.connect().await.rest().await, "", "what is reserved is bounded as well");
}

#[tokio::test]
async fn one_peer_has_few_places_and_the_node_itself_all() {
    let served = Served::start(&open(), Limits { of_one_peer: 2, ..Limits::default() });
    let mut held = vec![served.connect_from_elsewhere().await, served.connect_from_elsewhere().await];
    for client in &mut held {
        assert_eq!(client.get("/live").await.status, 200);
    }
    assert_eq!(served.connect_from_elsewhere().await.rest().await, "", "cut off, unanswered");
    assert_eq!(served.connect_from("127.0.0.3").await.get("/live").await.status, 200);
    for _ in 0..3 {
        let mut own = served.connect().await;
        assert_eq!(own.get("/live").await.status, 200);
        held.push(own);
    }
}

#[tokio::test]
async fn the_longest_poll_is_answered_early_to_free_its_place() {
    let served = Served::start(&closed(), Limits { connections: 2, reserved: 1, ..Limits::default() });
    let mut polls = Vec::new();
    for peer in ["127.0.0.2", "127.0.0.3"] {
        let mut poll = served.connect_from(peer).await;
        poll.ask("/gate?wait=60s").await;
        polls.push(poll);
        served.until_metric(&format!("linkerd_gate_gate_waiting_requests {}", polls.len())).await;
    }
    let mut newcomer = served.connect_from("127.0.0.4").await;
    newcomer.ask("/gate?wait=60s").await;
    let answered = polls.remove(0).answer().await;
    assert_eq!((answered.status, answered.field("connection")), (503, Some("close")), "it may ask again");
    served.until_metric("linkerd_gate_gate_waiting_requests 2").await;
    served.face.send_replace(face(&open()));
    assert_eq!(newcomer.answer().await.status, 200);
    assert_eq!(polls.remove(0).answer().await.status, 200, "the other one was left alone");
}

#[tokio::test]
async fn a_silent_connection_makes_room_for_one_that_asks() {
    let limits = Limits { connections: 1, reserved: 0, grace: Duration::ZERO, ..Limits::default() };
    let served = Served::start(&open(), limits);
    let mut silent = served.connect_from("127.0.0.2").await;
    silent.send("GET /live HT").await;
    assert_eq!(served.connect_from("127.0.0.3").await.get("/live").await.status, 200);
    assert_eq!(silent.rest().await, "");
}

#[tokio::test]
async fn a_remote_client_receives_no_details() {
    let node = NodeStatus { reason: "secret".to_owned(), ..closed().node };
    let answer =
        GateStatus { reason: "closed: secret".to_owned(), prover: Some("secret".to_owned()), node, ..closed() };
    let served = Served::start(&answer, Limits::default());
    served.face.send_replace(Face::new(&answer, ProbeResult::unknown("secret")));
    for path in ["/gate", "/gate?wait=0s", "/ready"] {
        let (own, elsewhere) = (served.get(path).await, served.connect_from_elsewhere().await.get(path).await);
        assert_eq!((own.status, elsewhere.status), (503, 503), "{path}");
        assert!(own.body.contains("secret") && !elsewhere.body.contains("secret"), "{path}: {}", elsewhere.body);
    }
    let received = served.connect_from_elsewhere().await.get("/gate").await.body;
    let received = serde_json::from_str::<GateStatus>(&received).unwrap();
    assert_eq!((received.open, received.required, received.node.name), (false, answer.required, answer.node.name));
}

#[tokio::test]
async fn the_end_answers_those_who_wait_and_cuts_off_those_who_dawdle() {
    let served = Served::start(&closed(), Limits { drain_time: Duration::from_millis(50), ..Limits::default() });
    let mut waiting = served.connect().await;
    waiting.ask("/gate?wait=60s").await;
    served.until_metric("linkerd_gate_gate_waiting_requests 1").await;
    let mut idle = served.connect().await;
    assert_eq!(idle.get("/live").await.status, 200);
    let mut dawdling = served.connect().await;
    dawdling.send("GET /gate HT").await;
    let port = served.port;

    served.end().await;
    let answered = waiting.answer().await;
    assert_eq!((answered.status, answered.field("connection")), (503, Some("close")));
    for client in [&mut waiting, &mut idle, &mut dawdling] {
        assert_eq!(client.rest().await, "");
    }
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "nobody listens any more");
}

#[test]
fn a_port_in_use_is_reported_with_the_command_to_inspect_it() {
    let listener = http::bind(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = http::bind(port).unwrap_err().to_string();
    assert!(received.contains(&format!("port {port} is taken")) && received.contains("ss -ltnp"), "{received}");

    // Also where only one address of it is taken.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(http::bind(holder.local_addr().unwrap().port()).is_err());
}
