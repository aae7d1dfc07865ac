//! A running stand-in: a serving port, an admin port, and the faults of both.

use super::{
    fault::Fault,
    port::{Port, Serve},
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

/// Longer than anything that a test awaits here may take on the slowest machine, and short enough for somebody who waits for
/// the failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// Whether a stand-in can have this fault.
pub(super) type Suffers = fn(Fault) -> bool;

/// A stand-in at work. Dropping it stops it.
pub struct Standin {
    ports: Arc<Ports>,
    flapping: Mutex<Option<Flapping>>,
}

/// Ends between two changes, never within one, when its sender is dropped.
struct Flapping {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

struct Ports {
    name: &'static str,
    /// `None` for stand-ins that are nothing but an admin port.
    serving: Option<Port>,
    admin: Port,
    suffers: Suffers,
}

// === impl Standin ===

impl Standin {
    pub(super) async fn start(
        name: &'static str,
        serving: Option<(SocketAddr, Serve)>,
        (admin_address, admin): (SocketAddr, Serve),
        suffers: Suffers,
    ) -> io::Result<Self> {
        let ports = Ports {
            name,
            serving: serving.map(|(address, serve)| Port::bind(address, serve)).transpose()?,
            admin: Port::bind(admin_address, admin)?,
            suffers,
        };
        ports.suffer(None).await?;
        Ok(Self { ports: Arc::new(ports), flapping: Mutex::new(None) })
    }

    /// Where it serves (its admin port, if it has no other). The port stays the same whatever happens to the server.
    pub fn address(&self) -> SocketAddr {
        self.ports.main().address()
    }

    /// Where `/ready`, `/ping` and `/live` are.
    pub fn admin_address(&self) -> SocketAddr {
        self.ports.admin.address()
    }

    /// The fault that shows now; under [`Fault::Flap`] that is `None` and [`Fault::Absent`] in turn.
    pub fn fault(&self) -> Option<Fault> {
        self.ports.main().fault()
    }

    /// Takes a fault on in place of the one before. When this returns, the change shows from outside.
    ///
    /// # Errors
    /// The port cannot be opened again, or this stand-in cannot have that fault (a bad certificate without TLS, for instance).
    pub async fn suffer(&self, fault: Fault) -> io::Result<()> {
        self.change(Some(fault)).await
    }

    /// Ends the fault.
    pub async fn recover(&self) -> io::Result<()> {
        self.change(None).await
    }

    /// Ends the process: [`Fault::Absent`] by another name.
    pub async fn stop(&self) -> io::Result<()> {
        self.suffer(Fault::Absent).await
    }

    /// Starts it again, healthy, on the ports it had: [`Standin::recover`] by another name.
    pub async fn start_again(&self) -> io::Result<()> {
        self.recover().await
    }

    /// Connections accepted on the serving port so far.
    pub fn connections(&self) -> u64 {
        *self.ports.main().connections().borrow()
    }

    /// Requests received on the serving port so far, answered or not.
    pub fn requests(&self) -> u64 {
        *self.ports.main().requests().borrow()
    }

    /// Waits until the serving port has accepted this many connections in all.
    ///
    /// # Panics
    /// They do not come within a minute.
    pub async fn until_connections(&self, count: u64) {
        self.reach(self.ports.main().connections(), count, "connections").await;
    }

    /// Waits until the serving port has received this many requests in all.
    ///
    /// # Panics
    /// They do not come within a minute.
    pub async fn until_requests(&self, count: u64) {
        self.reach(self.ports.main().requests(), count, "requests").await;
    }

    async fn reach(&self, mut counter: watch::Receiver<u64>, count: u64, what: &str) {
        // The sender lives as long as the stand-in, which we borrow: the only error is the time.
        let reached = timeout(PATIENCE, counter.wait_for(|now| *now >= count)).await.is_ok();
        let (name, now) = (self.ports.name, *counter.borrow());
        assert!(reached, "{name} saw {now} {what} of the {count} awaited, and no more within {PATIENCE:?}");
    }

    async fn change(&self, fault: Option<Fault>) -> io::Result<()> {
        if let Some(fault) = fault.filter(|fault| !(self.ports.suffers)(*fault)) {
            // A fault that does nothing would let a test pass that shows nothing.
            return Err(io::Error::other(format!("{} cannot suffer {fault}", self.ports.name)));
        }
        let mut flapping = self.flapping.lock().await;
        if let Some(Flapping { stop, task }) = flapping.take() {
            drop(stop);
            // A panic in there is an assertion's business; what matters here is that it changes nothing after this.
            let _ = task.await;
        }
        if let Some(Fault::Flap { up, down }) = fault {
            self.ports.suffer(None).await?;
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(flap(Arc::clone(&self.ports), up, down, stopped));
            *flapping = Some(Flapping { stop, task });
            return Ok(());
        }
        self.ports.suffer(fault).await
    }
}

async fn flap(ports: Arc<Ports>, up: Duration, down: Duration, mut stopped: oneshot::Receiver<()>) {
    for (wait, next) in [(up, Some(Fault::Absent)), (down, None)].into_iter().cycle() {
        tokio::select! {
            biased;
            // The fault is over, or the stand-in was dropped.
            _ = &mut stopped => return,
            () = tokio::time::sleep(wait) => {}
        }
        // Only a port that somebody else took while it was closed can fail: the test sees it stay absent.
        if ports.suffer(next).await.is_err() {
            return;
        }
    }
}

// === impl Ports ===

impl Ports {
    fn main(&self) -> &Port {
        self.serving.as_ref().unwrap_or(&self.admin)
    }

    async fn suffer(&self, fault: Option<Fault>) -> io::Result<()> {
        if let Some(serving) = &self.serving {
            serving.suffer(fault).await?;
            self.admin.suffer(fault.and_then(Fault::on_admin_port)).await
        } else {
            self.admin.suffer(fault).await
        }
    }
}
