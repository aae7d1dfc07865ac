//! The only users of kube: what is asked of the API server, and what is written to it.

mod by_hand;
mod client;
mod own_pod;
mod replace;

pub use self::by_hand::{Annotated, NotSaid, Subject, annotate};
pub use self::client::{Access, ClientError, in_cluster, of_person};
pub use self::own_pod::{Deletion, Refusal, RequestError, delete, get, prove};
pub use self::replace::{NotReplaced, Replacing, replace};
/// A client of the API server; the rest of the program hands it on.
pub use kube::Client;
