//! The two programs of the image, as pods run them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::linkerd::Linkerd;

/// The programs under measurement.
pub struct Gate {
    /// What users' pods run.
    waiting: PathBuf,
    /// What everything else runs.
    full: PathBuf,
}

/// What becomes of the pod once Linkerd is ready.
#[derive(Clone, Copy)]
pub enum OnMissed {
    /// It starts: the wait ends.
    Open,
    /// It is held all the same, until it is replaced.
    Hold,
}

// === impl Gate ===

impl Gate {
    /// The full program at this path, and the waiting program beside it.
    pub fn new(full: PathBuf) -> Self {
        Self { waiting: full.with_file_name("gate-wait"), full }
    }

    /// The program that users' pods run.
    pub fn waiting(&self) -> &Path {
        &self.waiting
    }

    /// The program of agents, controllers and people.
    pub fn full(&self) -> &Path {
        &self.full
    }

    /// A wait in a pod that was created bare, asking Linkerd where the stand-ins are.
    pub fn wait(&self, linkerd: &Linkerd, on_missed: OnMissed) -> Command {
        let mut command = Command::new(&self.waiting);
        command.arg("wait");
        asking(command, linkerd, on_missed)
    }

    /// A wait in a pod that was created bare and starts once the node's agent says open.
    pub fn wait_on_agent(&self, agent: SocketAddr) -> Command {
        let mut command = Command::new(&self.waiting);
        command.arg("wait");
        let mut command = bare(command, OnMissed::Open);
        command.env("LINKERD_GATE_AGENT_ADDRESS", agent.to_string());
        command
    }

    /// A wait in a pod that is meshed: it has nothing to wait for.
    pub fn pass(&self) -> Command {
        let mut command = Command::new(&self.waiting);
        command.arg("wait").env_clear().env("LINKERD_GATE_INJECTED_BY", "linkerd");
        command
    }
}

/// Tells `command` that its pod was created bare, and nothing else: it asks Linkerd where Linkerd is by default.
pub fn bare(mut command: Command, on_missed: OnMissed) -> Command {
    let on_missed = match on_missed {
        OnMissed::Open => "open",
        OnMissed::Hold => "hold",
    };
    command.env_clear().env("LINKERD_GATE_INJECTED_BY", "").env("LINKERD_GATE_ON_MISSED", on_missed);
    command
}

/// Likewise, but it asks where the stand-ins are.
pub fn asking(command: Command, linkerd: &Linkerd, on_missed: OnMissed) -> Command {
    let mut command = bare(command, on_missed);
    command
        .env("LINKERD_GATE_INJECTOR_ADDRESS", linkerd.injector.address().to_string())
        .env("LINKERD_GATE_IDENTITY_ADDRESS", linkerd.identity.address().to_string());
    command
}
