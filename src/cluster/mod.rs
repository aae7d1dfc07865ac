//! The only users of kube: what is asked of the API server, and what is written to it.

pub mod admission;
pub mod check;
mod client;
pub mod dry_run;
mod error;
pub mod event;
pub mod held_pod;
pub mod installation;
mod kubeconfig;
pub mod lease;
pub mod linkerd;
mod manual_override;
pub mod node;
mod own_pod;
mod pods;
pub mod raw;
mod reduced;
mod refused;
pub mod repair;
pub mod report;
mod self_replace;
pub mod successor;
pub mod tolerations;
pub mod uninstall;
pub mod versions;
pub mod watch;
pub mod workloads;

/// A client of the API server; the rest of the program hands it on.
pub use kube::Client;

pub use self::client::{Access, ClientError, Person, access_of_person, in_cluster, of_person};
pub use self::manual_override::{Annotated, OverrideError, OverrideTarget, annotate};
pub use self::own_pod::{Deletion, Rejection, RequestError, delete, get, prove};
pub use self::refused::Refused;
pub use self::self_replace::{NotReplaced, Replacing, replace};

/// How the API server remembers who set a field.
const FIELD_MANAGER: &str = "linkerd-gate";
