//! The parts of Linkerd that a wait asks.

use anyhow::Result;
use linkerd_gate_kit::standin::{Certificates, Fault, Identity, Injector, Namespaces, Sidecar, Standin};
use tokio::time::Instant;

/// An injector and an identity on loopback.
pub struct Linkerd {
    pub injector: Standin,
    pub identity: Standin,
}

// === impl Linkerd ===

impl Linkerd {
    /// Starts both, healthy.
    pub async fn start() -> Result<Self> {
        let certificates = Certificates::for_injector("linkerd")?;
        let injector = Injector::new(certificates, &Namespaces::any(), Sidecar::genuine("linkerd"));
        Ok(Self { injector: injector.start().await?, identity: Identity::new().start().await? })
    }

    /// Both suffer `fault` from now on.
    pub async fn suffer(&self, fault: Fault) -> Result<()> {
        self.injector.suffer(fault).await?;
        Ok(self.identity.suffer(fault).await?)
    }

    /// Both answer again. Returns the instant just before the second of them did, so that a latency errs to the long side.
    pub async fn recover(&self) -> Result<Instant> {
        self.injector.recover().await?;
        let instant = Instant::now();
        self.identity.recover().await?;
        Ok(instant)
    }
}
