//! Other programs that wait for the same two parts, in the same run.
//!
//! | peer | how it learns | what it needs |
//! |---|---|---|
//! | `kubectl wait` | watches the parts' pods through the API server | a service account with rights to read them |
//! | `initium wait-for` | connects again and again, as `linkerd-gate wait` does in direct mode | nothing |
//!
//! Two more were looked for in vain: `linkerd-await` is on no registry, and the module proxy refuses `wait4x`.

mod initium;
mod kubectl;

use std::path::Path;

use anyhow::Result;
use tokio::process::Command;
use tokio::time::Instant;

use self::initium::Initium;
use self::kubectl::Kubectl;
use crate::table::Table;

/// Those that could be had.
#[derive(Default)]
pub struct Peers(Vec<Peer>);

/// Another program that waits, and the world that it looks at.
pub enum Peer {
    Kubectl(Box<Kubectl>),
    Initium(Initium),
}

// === impl Peers ===

impl Peers {
    /// Finds them; of one that cannot be had the table says why.
    pub async fn find(table: &mut Table) -> Self {
        let mut peers = Vec::new();
        match Kubectl::find().await {
            Ok(kubectl) => peers.push(Peer::Kubectl(Box::new(kubectl))),
            Err(why) => table.without("kubectl wait", &why),
        }
        match Initium::find().await {
            Ok(initium) => peers.push(Peer::Initium(initium)),
            Err(why) => table.without("initium", &why),
        }
        Self(peers)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.0.iter()
    }
}

// === impl Peer ===

impl Peer {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kubectl(_) => "kubectl wait",
            Self::Initium(_) => "initium",
        }
    }

    pub fn binary(&self) -> &Path {
        match self {
            Self::Kubectl(kubectl) => kubectl.binary(),
            Self::Initium(initium) => initium.binary(),
        }
    }

    /// How many of them are run at once: a `kubectl` takes ten times the memory, and a fifth of a second of CPU to start.
    pub fn batch(&self) -> usize {
        match self {
            Self::Kubectl(_) => 10,
            Self::Initium(_) => 25,
        }
    }

    /// A process that waits for both parts.
    pub fn wait(&self) -> Command {
        match self {
            Self::Kubectl(kubectl) => kubectl.wait(),
            Self::Initium(initium) => initium.wait(),
        }
    }

    /// Both parts go away.
    pub async fn fall(&self) -> Result<()> {
        match self {
            Self::Kubectl(kubectl) => kubectl.fall().await,
            Self::Initium(initium) => initium.fall().await,
        }
    }

    /// Both parts answer again, from the instant returned.
    pub async fn rise(&self) -> Result<Instant> {
        match self {
            Self::Kubectl(kubectl) => kubectl.rise().await,
            Self::Initium(initium) => initium.rise().await,
        }
    }
}
