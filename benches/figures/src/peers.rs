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

pub use self::initium::Initium;
pub use self::kubectl::Kubectl;

/// A `kubectl` takes ten times the memory of the others and a fifth of a second of CPU to start, and its latency does not
/// depend on a pause between looks.
pub const KUBECTL_BATCHES: (u32, u32) = (2, 10);

/// Another program that waits, and the world that it looks at.
pub enum Peer {
    Kubectl(Box<Kubectl>),
    Initium(Initium),
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

    /// How often, and how many of them at once.
    pub fn batches(&self) -> (u32, u32) {
        match self {
            Self::Kubectl(_) => KUBECTL_BATCHES,
            Self::Initium(_) => (4, 25),
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
