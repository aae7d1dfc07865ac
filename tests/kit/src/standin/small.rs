//! Stand-ins that are little more than a port.

use super::{admin, fault::Fault, http, port::Conditions, process::Standin};
use ::http::StatusCode;
use anyhow::{Context as _, Result};
use std::net::SocketAddr;

/// `linkerd-destination`'s readiness, or its policy container's: an admin port and nothing else. The genuine ports are 9996
/// and 9990.
pub async fn readiness(address: SocketAddr) -> Result<Standin> {
    Standin::start("an admin port", None, (address, admin::serve(admin::controller)), Fault::needs_no_certificate)
        .await
        .context("the admin port does not start")
}

/// A workload: answers every request 200, "here\n".
pub async fn app(address: SocketAddr) -> Result<Standin> {
    let serve = http::serve_plain(|_, conditions: Conditions| async move {
        match conditions.at_request().await.and_then(http::fault_answer) {
            Some(answer) => answer,
            None => http::text(StatusCode::OK, "here\n"),
        }
    });
    Standin::start("the app", None, (address, serve), Fault::needs_no_certificate)
        .await
        .context("the app does not start")
}
