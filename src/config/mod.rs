//! Configuration: the environment, read once, turned into meaning. Bad input is reported before any I/O, all of it at once.

mod agent;
mod controller;
pub mod fix;
mod log_filter;
mod problem;
mod proving;
mod reader;
pub mod table;
mod value;
mod wait;

pub use self::agent::AgentSettings;
pub use self::controller::ControllerSettings;
pub use self::log_filter::LogFilter;
pub use self::problem::{Problem, Problems};
pub use self::proving::Proving;
pub use self::value::{Address, Component, DnsName, IdentityBy, LogFormat, Mode, OnTimeout, WhenMeshed};
pub use self::wait::{AGENT_PORT, Linkerd, Wait};
pub use crate::decide::wait::{OnMissed, OwnPod};
