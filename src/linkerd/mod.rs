//! What Linkerd is: the names it uses, the webhook it registers, the pods it injects.
//!
//! Pure: Kubernetes objects in, values out. The facts are read from Linkerd edge-26.8.3 and, where a line says *measured*,
//! from its genuine injector behind a genuine API server (1.36.3).
//!
//! - [`names`]: keys, names and ports.
//! - [`selector`]: label selectors, evaluated as the API server does.
//! - [`endpoints`]: where the parts of the control plane listen.
//! - [`webhook`]: the injector's webhook configuration, reduced to what decisions need.
//! - [`mod@injection`]: whether the injector would be called for a pod, and what it would do.
//! - [`injection_input`]: the same of what is left of a pod when only that is kept which decides.
//! - [`annotation`]: its other annotations: which there are, and which are handed down.
//! - [`patch`]: which of them make the injector's patch fail.
//! - [`refusal`]: what an API server refuses of an injected pod.
//! - [`mesh_state`]: whether a pod is meshed, missed, held.

pub mod annotation;
pub mod endpoints;
pub mod injection;
pub mod injection_input;
pub mod mesh_state;
pub mod names;
pub mod patch;
mod quantity;
pub mod refusal;
pub mod selector;
pub mod webhook;

pub use self::injection::{AskedBy, Injection, NotCalled, SkipReason, TokenProjection, injection};
pub use self::injection_input::{NamespaceInput, PodInput};
pub use self::mesh_state::{Meshing, Started, held, meshed, missed};
pub use self::patch::{PatchOutcome, PatchProblem, patch_problems};
pub(crate) use self::quantity::billionths;
pub use self::refusal::{Refusal, Surroundings, refusals};
pub use self::webhook::{InjectorWebhook, WebhookView};

#[cfg(test)]
mod properties;
