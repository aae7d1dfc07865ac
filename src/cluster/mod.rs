//! The only users of kube: what is asked of the API server, and what is written to it.

pub mod admission;
mod by_hand;
pub mod check;
mod client;
pub mod essential;
pub mod event;
mod failure;
pub mod held_pod;
pub mod installation;
pub mod lease;
pub mod linkerd;
pub mod node;
mod own_pod;
mod pods;
pub mod probe;
pub mod raw;
mod reduced;
mod refused;
pub mod repair;
mod replace;
pub mod successor;
pub mod uninstall;
pub mod versions;
pub mod watch;
pub mod workload;

pub use self::by_hand::{Annotated, NotSaid, Subject, annotate};
pub use self::client::{Access, ClientError, Person, access_of_person, in_cluster, of_person};
pub use self::own_pod::{Deletion, Refusal, RequestError, delete, get, prove};
pub use self::refused::Refused;
pub use self::replace::{NotReplaced, Replacing, replace};
/// A client of the API server; the rest of the program hands it on.
pub use kube::Client;

/// How the API server remembers who set a field.
const FIELD_MANAGER: &str = "linkerd-gate";
