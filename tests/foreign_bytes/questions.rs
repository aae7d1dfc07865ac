//! What pods ask the agent: the query of `/gate`, as bytes that the shipped server gets.

use std::sync::Arc;
use std::time::Duration;

use linkerd_gate::decide::gate_status::NodeStatus;
use linkerd_gate::decide::{Basis, Gate, GateStatus, Policy, ProbeResult};
use linkerd_gate::http::{self, Face, Limits};
use linkerd_gate::metrics::Metrics;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::broken::broken;
use super::{hold, is_harmless};

/// Nothing waits for it but a test that fails: the server answers within a millisecond or a fifth of a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent's HTTP face that shows this gate.
struct Server {
    port: u16,
    _face: watch::Sender<Face>,
}

// === impl Server ===

impl Server {
    fn start(runtime: &Runtime, open: bool) -> Self {
        let node = NodeStatus { name: "node-1".to_owned(), state: "closed".to_owned(), reason: "no proof".to_owned() };
        let closed = GateStatus::of(&Gate::closed(), &Policy::proven(), None, node);
        let answer = GateStatus { open, basis: open.then_some(Basis::Proven), ..closed };
        let (face, shown) = watch::channel(Face::new(&answer, ProbeResult::Ready));
        let listener = http::bind(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (header_time, longest_poll) = (Duration::from_millis(200), Duration::from_millis(1));
        let limits = Limits { header_time, longest_poll, ..Limits::default() };
        runtime.spawn(http::serve(listener, shown, Arc::<Metrics>::default(), limits, std::future::pending()));
        Self { port, _face: face }
    }

    /// The status and the body that a request for this target gets; the status is 0 where the connection ends without one.
    async fn ask(&self, target: &str) -> (u16, String) {
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nhost: node-1\r\nconnection: close\r\n\r\n");
            let mut answer = Vec::new();
            // A server that has refused the beginning need not take the rest.
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("no answer to {target:?}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        (status, body.to_owned())
    }
}

/// What both servers may answer, the one with a closed gate and the one with an open one.
fn expected(target: &str) -> &'static [(u16, u16)] {
    const REFUSED: (u16, u16) = (400, 400);
    const ANSWERED: (u16, u16) = (503, 200);
    if !is_question(target) {
        // Another page, or no HTTP at all.
        return &[(0, 0), REFUSED, (404, 404), ANSWERED];
    }
    let query = target.split('#').next().and_then(|target| target.split_once('?')).map(|(_, query)| query);
    let wait = query.and_then(|query| query.split('&').find_map(|parameter| parameter.strip_prefix("wait=")));
    match wait {
        None => &[ANSWERED],
        Some(wait) if wait.bytes().any(|byte| !b"0123456789ms".contains(&byte)) => &[REFUSED],
        Some(wait) if !wait.bytes().any(|byte| byte.is_ascii_digit()) => &[REFUSED],
        Some(_) => &[REFUSED, ANSWERED],
    }
}

/// Whether a target is one of `/gate`, in one word of printable ASCII.
fn is_question(target: &str) -> bool {
    let target = target.split('#').next().unwrap_or_default();
    let is_plain = target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/?&=_.-".contains(&byte));
    is_plain && target.split('?').next() == Some("/gate")
}

/// A closed gate answers garbage as one that is open does, and neither waits for longer than it is set to.
#[test]
fn a_broken_question_is_refused_and_opens_nothing() {
    let runtime = Runtime::new().unwrap();
    let (closed, open) = (Server::start(&runtime, false), Server::start(&runtime, true));
    let genuine = ["/gate", "/gate?wait=30s", "/gate?wait=1m30s", "/gate?x=1&wait=2m", "/gate?wait=60s&x"];
    hold("gate-question", broken(genuine.map(ToOwned::to_owned).to_vec()), |target| {
        let (by_closed, by_open) = runtime.block_on(async { tokio::join!(closed.ask(target), open.ask(target)) });
        let expected = expected(target);
        prop_assert!(expected.contains(&(by_closed.0, by_open.0)), "{:?} and {:?}", by_closed, by_open);
        if by_closed.0 == 400 && is_question(target) {
            prop_assert!(by_closed.1.contains("for example wait=30s"), "{}", by_closed.1);
        }
        if by_closed.0 == 400 {
            prop_assert_eq!(&by_closed.1, &by_open.1);
            is_harmless(&by_closed.1)?;
        }
        Ok(())
    });
}
