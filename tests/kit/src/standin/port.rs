//! A TCP port that keeps its number while it opens, closes and misbehaves.

use super::fault::Fault;
use std::{
    future::{self, Future},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Mutex, mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
};

/// Serves one accepted connection until it ends.
pub(super) type Serve = Arc<dyn Fn(Wire, Conditions) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// One port of a stand-in, and the fault it suffers now.
pub(super) struct Port {
    address: SocketAddr,
    /// Bound, never listening: the number stays ours while the port is closed. Linux lets a second socket with
    /// `SO_REUSEADDR` bind and listen beside it, answers a connect with a reset while none does, and gives the number to
    /// nobody who asks for any free port.
    _reservation: TcpSocket,
    serve: Serve,
    /// Shared with the connections: under [`Fault::Once`] the request that is answered ends it.
    fault: watch::Sender<Option<Fault>>,
    resets: Arc<AtomicBool>,
    connections: watch::Sender<u64>,
    requests: watch::Sender<u64>,
    accepting: Mutex<Option<Accepting>>,
}

/// What a connection needs to know about its server.
#[derive(Clone)]
pub(super) struct Conditions {
    fault: watch::Sender<Option<Fault>>,
    requests: watch::Sender<u64>,
    commands: mpsc::Sender<Command>,
}

/// A TCP stream that ends in a reset where the fault says so.
pub(super) struct Wire {
    stream: TcpStream,
    resets: Arc<AtomicBool>,
}

struct Accepting {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

enum Command {
    /// Close every connection, go on listening.
    Cut(oneshot::Sender<()>),
    /// Stop listening, leave the connections.
    Deafen(oneshot::Sender<()>),
    /// Stop listening, close every connection.
    Close,
}

// === impl Port ===

impl Port {
    /// Binds without listening: [`Port::suffer`] opens it.
    pub(super) fn bind(address: SocketAddr, serve: Serve) -> io::Result<Self> {
        let reservation = socket(address)?;
        Ok(Self {
            address: reservation.local_addr()?,
            _reservation: reservation,
            serve,
            fault: watch::Sender::new(Some(Fault::Absent)),
            resets: Arc::default(),
            connections: watch::Sender::new(0),
            requests: watch::Sender::new(0),
            accepting: Mutex::new(None),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        *self.fault.borrow()
    }

    /// Connections accepted so far; the receiver tells of each further one.
    pub(super) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// Requests received so far; the receiver tells of each further one.
    pub(super) fn requests(&self) -> watch::Receiver<u64> {
        self.requests.subscribe()
    }

    /// Takes the fault on, or recovers with `None`. When this returns the change shows from outside.
    pub(super) async fn suffer(&self, fault: Option<Fault>) -> io::Result<()> {
        let mut accepting = self.accepting.lock().await;
        self.resets.store(fault == Some(Fault::Reset), Ordering::Relaxed);
        let before = self.fault.send_replace(fault);
        let closes = fault.is_some_and(Fault::closes_port);
        if before == Some(Fault::Refuse)
            && let Some(deaf) = accepting.take()
        {
            // `Fault::Once`, and it answered: what it left open ends with it.
            deaf.close().await;
        }
        // Whatever was served in the clear, or by a stranger, was served by another program than the one that comes now.
        let cuts = before != fault
            && (fault.is_some_and(Fault::cuts_connections)
                || matches!(before, Some(Fault::PlainHttp | Fault::Stranger)));
        match accepting.as_ref() {
            Some(_) if closes => {
                if let Some(open) = accepting.take() {
                    open.close().await;
                }
            }
            Some(open) if cuts => open.cut().await,
            None if !closes => *accepting = Some(self.open()?),
            _ => {}
        }
        Ok(())
    }

    fn open(&self) -> io::Result<Accepting> {
        let listener = socket(self.address)?.listen(1024)?;
        let (commands, receiver) = mpsc::channel(1);
        let task = tokio::spawn(accept(
            listener,
            receiver,
            Arc::clone(&self.serve),
            Conditions { fault: self.fault.clone(), requests: self.requests.clone(), commands: commands.clone() },
            Arc::clone(&self.resets),
            self.connections.clone(),
        ));
        Ok(Accepting { commands, task })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(open) = self.accepting.get_mut() {
            // The connections are in a set that the task owns: they end with it.
            open.task.abort();
        }
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(
    listener: TcpListener,
    mut commands: mpsc::Receiver<Command>,
    serve: Serve,
    conditions: Conditions,
    resets: Arc<AtomicBool>,
    count: watch::Sender<u64>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // The test changed the fault: it waits for us.
            command = commands.recv() => match command {
                Some(Command::Cut(done)) => {
                    connections.shutdown().await;
                    // The waiting side may have been cancelled; then nobody needs the answer.
                    let _ = done.send(());
                }
                Some(Command::Deafen(done)) => {
                    listener = None;
                    let _ = done.send(());
                }
                Some(Command::Close) | None => break,
            },
            // Connections that ended, so that the set does not grow.
            Some(_) = connections.join_next() => {}
            // A new caller. An error here is the caller's (it went away before it was accepted).
            accepted = next_caller(listener.as_ref()) => if let Ok((stream, _)) = accepted {
                count.send_modify(|count| *count += 1);
                // Small answers at once: none of ours is worth a delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                let wire = Wire { stream, resets: Arc::clone(&resets) };
                connections.spawn(connection(Arc::clone(&serve), wire, conditions.clone()));
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn next_caller(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => future::pending().await,
    }
}

/// Runs one connection, except while the server is frozen: a future that is not polled reads, writes and answers nothing.
async fn connection(serve: Serve, wire: Wire, conditions: Conditions) {
    if conditions.now() == Some(Fault::Reset) {
        return;
    }
    let mut fault = conditions.fault.subscribe();
    let mut thaw = conditions.fault.subscribe();
    let frozen = |fault: &Option<Fault>| *fault == Some(Fault::Hang);
    let mut serving = None;
    let mut start = Some((serve, wire, conditions));
    loop {
        if thaw.wait_for(|fault| !frozen(fault)).await.is_err() {
            return;
        }
        if let Some((serve, wire, conditions)) = start.take() {
            serving = Some(serve(wire, conditions));
        }
        let Some(running) = serving.as_mut() else { return };
        let mut running = pin!(running);
        tokio::select! {
            biased;
            // Frozen, or the server is gone.
            freeze = fault.wait_for(frozen) => if freeze.is_err() { return },
            // The connection is over.
            () = &mut running => return,
        }
    }
}

// === impl Accepting ===

impl Accepting {
    async fn cut(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Cut(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    async fn close(self) {
        let _ = self.commands.send(Command::Close).await;
        let _ = self.task.await;
    }
}

// === impl Conditions ===

impl Conditions {
    /// The fault at this moment.
    pub(super) fn now(&self) -> Option<Fault> {
        *self.fault.borrow()
    }

    /// To be called once per request, before it is answered: counts it, holds it while answers hang or are slow, and says
    /// which fault the answer has to show.
    pub(super) async fn at_request(&self) -> Option<Fault> {
        let spent = self.spend();
        self.requests.send_modify(|count| *count += 1);
        match spent {
            Some(true) => {
                self.deafen().await;
                return None;
            }
            Some(false) => return future::pending().await,
            None => {}
        }
        if let Some(Fault::Slow(delay)) = self.now() {
            tokio::time::sleep(delay).await;
        }
        let mut fault = self.fault.subscribe();
        // An error means that the server is being dropped, and this connection with it.
        let _ = fault.wait_for(|fault| *fault != Some(Fault::HangAfterHandshake)).await;
        self.now()
    }

    /// Whether this request is the one of [`Fault::Once`], or one too many; `None` where there is no such limit.
    fn spend(&self) -> Option<bool> {
        let is_the_one = self.fault.send_if_modified(|fault| {
            let once = *fault == Some(Fault::Once);
            if once {
                *fault = Some(Fault::Refuse);
            }
            once
        });
        match self.now() {
            _ if is_the_one => Some(true),
            // A port that refuses has no connections but those that the one request left.
            Some(Fault::Refuse) => Some(false),
            _ => None,
        }
    }

    /// Returns when nobody listens any more.
    async fn deafen(&self) {
        let (done, wait) = oneshot::channel();
        // Where nobody takes the command the port is being closed, and this connection with it.
        if self.commands.send(Command::Deafen(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

// === impl Wire ===

impl Wire {
    /// Waits for the client's first byte and looks at it without taking it: a method, in capitals, but not HTTP/2's `PRI`.
    pub(super) async fn begins_with_http1(&self) -> bool {
        let mut first = [0; 3];
        matches!(self.stream.peek(&mut first).await, Ok(1..) if first[0].is_ascii_uppercase() && first != *b"PRI")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.resets.load(Ordering::Relaxed) {
            // Where it fails the socket is closed already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
