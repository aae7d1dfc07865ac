//! What `wait` makes of its pod, and of what it hears of Linkerd: whether the pod starts, is held, or has to be created again.

pub mod pod_class;
pub mod status;

pub use self::pod_class::{OnMissed, OwnPod, PodClass, Then};
pub use self::status::{Opening, Status};
