//! Direct mode: `wait` asks Linkerd itself, by cluster DNS, with no rights at all.

use std::time::Duration;

use super::identity::Identity;
use super::injector::Injector;
use super::names::Names;
use super::ready::Admin;
use super::tls::CaFileError;
use crate::config::{Component, Linkerd};
use crate::decide::{Evidence, Outcome, Probe};

/// Looks at the parts of Linkerd that are required, and at no others.
pub struct Direct {
    names: Names,
    injector: Option<Injector>,
    identity: Option<Identity>,
    destination: Option<Admin>,
    policy: Option<Admin>,
}

/// Why looking cannot even begin.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// The CA bundle cannot be used.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The HTTP client cannot be made.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

// === impl Direct ===

impl Direct {
    /// Prepares to look at what `linkerd` requires. Reads the CA bundle, sends nothing.
    pub fn new(linkerd: &Linkerd, require: impl Fn(Component) -> bool) -> Result<Self, DirectError> {
        let required = |component: Component| require(component).then_some(());
        let ca_file = linkerd.ca_file.clone();
        Ok(Self {
            names: Names::default(),
            injector: required(Component::Injector)
                .map(|()| Injector::new(linkerd.injector.clone(), &linkerd.injector_name, ca_file))
                .transpose()?,
            identity: required(Component::Identity).map(|()| Identity::new(linkerd.identity.clone())).transpose()?,
            destination: required(Component::Destination)
                .map(|()| Admin::new(linkerd.destination.clone()))
                .transpose()?,
            policy: required(Component::Policy).map(|()| Admin::new(linkerd.policy.clone())).transpose()?,
        })
    }

    /// Whether the injector's certificate is held against a CA bundle.
    pub fn verifies_issuer(&self) -> bool {
        self.injector.as_ref().is_some_and(Injector::verifies_issuer)
    }

    /// One look at everything, all at once; `taken` is the caller's clock. Ends by its own limits within seconds;
    /// dropping the future ends it at once, DNS queries and TLS handshakes included.
    pub async fn look(&mut self, taken: Duration) -> Evidence {
        let names = &self.names;
        let (injector, identity, destination, policy) = tokio::join!(
            async { Some(self.injector.as_mut()?.look(names).await) },
            async { Some(self.identity.as_ref()?.look(names).await) },
            async { Some(self.destination.as_ref()?.look(names).await) },
            async { Some(self.policy.as_ref()?.look(names).await) },
        );
        let found: [(Probe, Option<Outcome>); 4] = [
            (Probe::Injector, injector),
            (Probe::Identity, identity),
            (Probe::Destination, destination),
            (Probe::Policy, policy),
        ];
        found.into_iter().fold(Evidence::at(taken), |evidence, (probe, outcome)| match outcome {
            Some(outcome) => evidence.with(probe, outcome),
            None => evidence,
        })
    }
}
