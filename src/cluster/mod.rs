//! The only users of kube: what is asked of the API server, and what is written to it.

mod client;
mod own_pod;
mod replace;

pub use self::client::{ClientError, in_cluster};
pub use self::own_pod::{Deletion, Refusal, RequestError, delete, get, prove};
pub use self::replace::{NotReplaced, Replacing, replace};
