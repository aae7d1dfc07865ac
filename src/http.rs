//! The agent's HTTP face: `/gate` with its long poll, `/live`, `/ready`, `/metrics`. HTTP/1.1 only, and nothing can be written.
//!
//! It stands in a node's network namespace, where every pod reaches it. So everything a client can take is bounded: the number
//! of connections, in all and of one peer, the size and the time of a header, the time of a write, the time between two
//! requests, what the kernel keeps for it; and a body is refused. Who comes from elsewhere than the node learns what a waiting
//! pod needs, and no more.

mod connection_slots;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_io_timeout::TimeoutWriter;
use tracing::{debug, info, warn};

use self::connection_slots::{ConnectionSlot, ConnectionSlots};
use crate::decide::{GateStatus, ProbeResult};
use crate::metrics::Metrics;
use crate::retry::Schedule;

/// What the server shows: one writer, the agent's loop, and as many readers as there are connections.
///
/// The bodies of `/gate` are written once, here, however many wait for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Face {
    open: bool,
    /// For the node itself.
    gate: Bytes,
    /// For all other clients.
    gate_elsewhere: Bytes,
    readiness: ProbeResult,
}

/// What one client may take, and all of them together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once: for whoever comes on top another one makes room, or it is cut off. A node runs 110 pods by default,
    /// and each may be a `wait`. A connection takes about 20 KiB at most.
    pub connections: usize,
    /// Of these, what one address may have; the node's own may have them all. A `wait` has one.
    pub of_one_peer: usize,
    /// How long a connection may be silent before it makes room for another.
    pub grace: Duration,
    /// Connections on top of these that only the node itself may take, so that no crowd of pods can starve kubelet's probes
    /// and have the agent restarted for it.
    pub reserved: usize,
    /// How long a client may take to send a header, and how long a connection may be idle between two requests.
    pub header_time: Duration,
    /// Bytes of a header: at least 8,192, the least that hyper reads at once.
    pub header_size: usize,
    /// How long a client may leave what was sent to it unread.
    pub write_time: Duration,
    /// The longest long poll: who asks for more gets this.
    pub longest_poll: Duration,
    /// How long connections may take to end when the server does.
    pub drain_time: Duration,
}

/// How long a connection that makes room may take to send its last answer.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// How old the text of `/metrics` may be while there are many connections.
const METRICS_AGE: Duration = Duration::from_secs(1);

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error(
        "port {0} is taken on this node: another linkerd-gate agent still listens there (in an update the old one ends first), \
         or some other program of the node's network does; `ss -ltnp sport = :{0}` on the node names it"
    )]
    Taken(u16),
    /// The kernel has another reason.
    #[error("cannot listen on port {0}: {1}")]
    Refused(u16, #[source] io::Error),
}

/// What one connection needs to answer.
#[derive(Clone)]
struct Server {
    face: watch::Receiver<Face>,
    metrics: Arc<Metrics>,
    crowd: Arc<Crowd>,
    longest_poll: Duration,
    /// Its place, which it gives up when it ends.
    place: Arc<ConnectionSlot>,
    /// Whether it comes from the node itself.
    own: bool,
    /// Completes when the server ends: its sender is dropped then.
    ending: watch::Receiver<()>,
}

/// What connections share while there are many.
#[derive(Default)]
struct Crowd {
    many: AtomicBool,
    /// The latest text of `/metrics`, and when it was made: each that is sent slowly would hold another one.
    metrics: Mutex<Option<(Instant, Bytes)>>,
}

type Answered = Response<Full<Bytes>>;

// === impl Face ===

impl Face {
    /// What is shown while `answer` holds and the agent is `readiness`: ready once it has seen its node and the Lease.
    ///
    /// Two faces that look alike are equal, so a writer knows whether to wake readers:
    /// [`watch::Sender::send_if_modified`].
    pub fn new(answer: &GateStatus, readiness: ProbeResult) -> Self {
        // Strings, numbers and lists of them: there is nothing that JSON could refuse.
        let json = |answer: &GateStatus| {
            Bytes::from(
                serde_json::to_vec(answer).unwrap_or_else(|error| unreachable!("an answer is no JSON: {error}")),
            )
        };
        Self { open: answer.open, gate: json(answer), gate_elsewhere: json(&answer.for_elsewhere()), readiness }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            of_one_peer: 32,
            grace: Duration::from_millis(250),
            reserved: 16,
            header_time: Duration::from_secs(5),
            header_size: 8192,
            write_time: Duration::from_secs(7),
            longest_poll: Duration::from_mins(1),
            drain_time: Duration::from_secs(2),
        }
    }
}

/// Listens on every address of this node, by IPv6 and IPv4; by IPv4 alone where the kernel has no IPv6.
///
/// # Errors
/// A port that is taken, or another error of the kernel.
pub fn bind(port: u16) -> Result<std::net::TcpListener, BindError> {
    let every_address = listen(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    let without_ipv6 = |error: &io::Error| {
        // Off at the kernel's start, or by sysctl.
        [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL].map(Some).contains(&error.raw_os_error())
    };
    let bound = match every_address {
        Err(error) if without_ipv6(&error) => listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        bound => bound,
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken(port),
        _ => BindError::Refused(port, error),
    })
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    // The most that Linux lets wait in the queue by default (net.core.somaxconn): after a boot all pods of a node come at once.
    const QUEUE: i32 = 4096;
    // What the kernel keeps for a connection is the process's memory as well: a header at most, and an answer not yet sent.
    // (It doubles both. Connections inherit them.)
    const UNREAD: usize = 8 << 10;
    const UNSENT: usize = 32 << 10;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    // An agent that was restarted must not wait for its predecessor's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_recv_buffer_size(UNREAD)?;
    socket.set_send_buffer_size(UNSENT)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(QUEUE)?;
    Ok(socket.into())
}

/// Serves until `shutdown` completes, and then until every connection has ended or [`Limits::drain_time`] is over; whoever waits
/// is answered at once then.
///
/// # Errors
/// When the listener cannot be used at all. What a single client does, or too many of them, ends nothing.
pub async fn serve(
    listener: std::net::TcpListener,
    face: watch::Receiver<Face>,
    metrics: Arc<Metrics>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    allow_descriptors(limits.connections + limits.reserved);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_time).max_buf_size(limits.header_size);
    let (end, ending) = watch::channel(());
    let crowd = Arc::<Crowd>::default();
    let places = ConnectionSlots::new(limits);
    let mut connections = JoinSet::new();
    let mut accepting = Schedule::accept_retry();
    let mut pause = None;
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            // The end comes before whoever is still in the queue.
            () = &mut shutdown => break,
            // A place that is free again, before a connection is refused without one; and a descriptor, so no pause is left.
            Some(ended) = connections.join_next() => tell_of_fault(ended),
            accepted = accept(&listener, pause.take()) => match accepted {
                Ok((stream, peer)) => {
                    accepting.reset();
                    let own = stream.local_addr().is_ok_and(|local| local.ip() == peer.ip());
                    if let Some(place) = places.admit(peer.ip(), own, Instant::now()) {
                        crowd.many.store(places.taken() > limits.connections / 4, Ordering::Relaxed);
                        let (face, metrics, crowd) = (face.clone(), Arc::clone(&metrics), Arc::clone(&crowd));
                        let (longest_poll, ending) = (limits.longest_poll, ending.clone());
                        let server = Server { face, metrics, crowd, longest_poll, place, own, ending };
                        connections.spawn(converse(http.clone(), stream, server, limits.write_time));
                    } else {
                        metrics.refused_connections.inc();
                        debug!(%peer, connections = connections.len(), "connection refused: the limit is reached");
                    }
                }
                // A client that left while it was in the queue.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Most likely EMFILE. The client stays in the queue, so without a pause this would spin.
                    let next = accepting.next_pause();
                    warn!(%error, pause = ?next, "cannot accept a connection; retrying");
                    pause = Some(next);
                }
            },
        }
    }

    drop((listener, end, ending));
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            tell_of_fault(ended);
        }
    };
    if tokio::time::timeout(limits.drain_time, drained).await.is_err() {
        info!(connections = connections.len(), after = ?limits.drain_time, "cut off connections that did not end");
        connections.shutdown().await;
    }
    Ok(())
}

async fn accept(listener: &TcpListener, pause: Option<Duration>) -> io::Result<(TcpStream, SocketAddr)> {
    if let Some(pause) = pause {
        tokio::time::sleep(pause).await;
    }
    listener.accept().await
}

fn tell_of_fault(ended: Result<(), tokio::task::JoinError>) {
    if let Err(fault) = ended {
        warn!(error = %fault, "a defect of linkerd-gate ended a connection: please report it");
    }
}

/// Asks for as many file descriptors as there can be connections, and some for the rest of the agent. Container engines of
/// today start processes with 1,024, and leave it to the process to ask for more.
fn allow_descriptors(connections: usize) {
    const OTHERS: u64 = 256;
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHERS);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(now, most)| {
        if now >= wanted {
            return Ok(now);
        }
        let allowed = wanted.min(most);
        setrlimit(Resource::RLIMIT_NOFILE, allowed, most).map(|()| allowed)
    });
    match raised {
        Ok(allowed) if allowed >= wanted => {}
        Ok(allowed) => {
            warn!(allowed, connections, "the hard limit of file descriptors is too low for all clients");
        }
        Err(error) => warn!(%error, wanted, "cannot raise the limit of file descriptors"),
    }
}

/// One connection, from its first request to its end.
async fn converse(http: http1::Builder, stream: TcpStream, server: Server, write_time: Duration) {
    // An answer is one packet: nothing to wait for.
    let _slower_at_worst = stream.set_nodelay(true);
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(write_time));
    let mut ending = server.ending.clone();
    let place = Arc::clone(&server.place);
    let answer = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(Box::pin(stream)), answer));
    let ended = tokio::select! {
        biased;
        // The server ends: what is being answered is answered, with word that nothing will be after it. Before the answer,
        // which the same event brings about. (An error is how a dropped sender is seen.)
        _ = ending.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        // Another one needs the place: what is being answered is answered at once, and nothing after it.
        () = place.left() => {
            if !place.is_asked() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LEAVE_TIME, connection).await {
                Ok(ended) => ended,
                Err(_elapsed) => return,
            }
        }
        // The client has had enough, or was cut off.
        ended = &mut connection => ended,
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended");
    }
}

// === impl Server ===

impl Server {
    async fn answer(self, request: Request<Incoming>) -> Answered {
        // One that sends many requests at once has its turn like all others, for each.
        tokio::task::yield_now().await;
        self.place.asks(true);
        let place = Arc::clone(&self.place);
        let answered = self.answer_asked(request).await;
        place.asks(false);
        answered
    }

    async fn answer_asked(self, request: Request<Incoming>) -> Answered {
        let gate = request.uri().path() == "/gate";
        let with_body = !request.body().is_end_stream();
        let mut answered = if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: nothing can be written here\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        } else if with_body {
            text(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body\n")
        } else {
            // Nothing of the request is kept while it waits: its header holds on to the connection's buffer.
            let poll = poll(request.uri().query(), self.longest_poll);
            let path = request.uri().path().to_owned();
            drop(request);
            self.page(&path, poll).await
        };
        if with_body {
            // Otherwise the body would have to be read, to find the next request behind it.
            answered.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answered.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if gate {
            self.metrics.gate_answered(answered.status());
        }
        answered
    }

    async fn page(&self, path: &str, poll: Result<Option<Duration>, String>) -> Answered {
        match path {
            "/gate" => match poll {
                Ok(poll) => self.gate(poll).await,
                Err(complaint) => text(StatusCode::BAD_REQUEST, complaint),
            },
            // The writer of the face is the agent's loop: it is gone when the loop is.
            "/live" if self.face.has_changed().is_err() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "the agent's loop has ended\n")
            }
            "/live" => text(StatusCode::OK, "alive\n"),
            "/ready" => match &self.face.borrow().readiness {
                ProbeResult::Ready => text(StatusCode::OK, "ready\n"),
                not_ready if self.own => text(StatusCode::SERVICE_UNAVAILABLE, format!("{not_ready}\n")),
                _ => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            },
            "/metrics" => {
                typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", self.metrics_text())
            }
            _ => text(StatusCode::NOT_FOUND, "no such page: there are /gate, /live, /ready and /metrics\n"),
        }
    }

    /// What `/gate` says now, or, where that is closed, as soon as it is open and at the latest after `poll`.
    async fn gate(&self, poll: Option<Duration>) -> Answered {
        let (mut face, mut ending) = (self.face.clone(), self.ending.clone());
        let shown = face.borrow().clone();
        let shown = match poll {
            Some(poll) if !shown.open => {
                let _counted = self.metrics.one_more_waiter();
                let opened = tokio::select! {
                    biased;
                    // What all clients wait for. (An error is the end of the loop that could have opened it.)
                    opened = face.wait_for(|face| face.open) => opened.ok().map(|face| face.clone()),
                    // The server ends: the client learns what holds, and asks another agent.
                    _ = ending.changed() => None,
                    // Another one needs the place: it may ask again.
                    () = self.place.left() => None,
                    // The client's time is over.
                    () = tokio::time::sleep(poll) => None,
                };
                opened.unwrap_or_else(|| self.face.borrow().clone())
            }
            Some(_) | None => shown,
        };
        let status = if shown.open { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut answered = typed(status, "application/json", if self.own { shown.gate } else { shown.gate_elsewhere });
        if poll.is_some() && self.crowd.many.load(Ordering::Relaxed) {
            // Whoever opened many connections may have sent many requests on each, and all of them would be answered now.
            answered.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answered
    }

    fn metrics_text(&self) -> Bytes {
        let mut latest = self.crowd.metrics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let recent = latest.as_ref().filter(|(made, _)| made.elapsed() < METRICS_AGE);
        if let Some((_, text)) = recent
            && self.crowd.many.load(Ordering::Relaxed)
        {
            return text.clone();
        }
        let text = Bytes::from(self.metrics.text());
        *latest = Some((Instant::now(), text.clone()));
        text
    }
}

/// How long a client will wait, and `longest` at most: `wait=30s` in the query, or nothing. Other parameters are ignored.
fn poll(query: Option<&str>, longest: Duration) -> Result<Option<Duration>, String> {
    let Some(value) = query.and_then(|query| query.split('&').find_map(|parameter| parameter.strip_prefix("wait=")))
    else {
        return Ok(None);
    };
    let complaint = || {
        format!("wait={value:?} is not a duration in s and m, at most 60s of which are waited: for example wait=30s\n")
    };
    // Alone, humantime would take `5M` for five months.
    if value.contains(|character: char| !character.is_ascii_digit() && !"ms".contains(character))
        || value.contains("ms")
    {
        return Err(complaint());
    }
    humantime::parse_duration(value).map(|wait| Some(wait.min(longest))).map_err(|_| complaint())
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answered {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answered {
    let mut answered = Response::new(Full::new(body.into()));
    *answered.status_mut() = status;
    answered.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_time_is_seconds_or_minutes_and_errors_show_an_example() {
        let longest = Duration::from_mins(2);
        assert_eq!(poll(None, longest), Ok(None));
        assert_eq!(poll(Some("pretty"), longest), Ok(None));
        for (query, seconds) in
            [("wait=30s", 30), ("wait=1m30s", 90), ("x=1&wait=2m", 120), ("wait=0s", 0), ("wait=3m", 120)]
        {
            assert_eq!(poll(Some(query), longest), Ok(Some(Duration::from_secs(seconds))), "{query}");
        }
        for query in ["wait=", "wait=30", "wait=5M", "wait=100ms", "wait=-1s", "wait=1h", "wait=30%73", "wait=1 s"] {
            assert!(poll(Some(query), longest).unwrap_err().contains("for example wait=30s"), "{query}");
        }
        let endless = format!("wait={}s", "9".repeat(40));
        assert!(poll(Some(&endless), longest).is_err());
    }
}
