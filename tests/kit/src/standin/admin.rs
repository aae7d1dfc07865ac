//! The admin port of Linkerd's controllers: `/ready`, `/ping`, `/live`.

use super::{
    fault::Fault,
    http::{self, Answer},
    port::{Conditions, Serve},
};
use ::http::StatusCode;

/// How a program words its readiness.
#[derive(Clone, Copy)]
pub(super) struct Readiness {
    /// Body of `/ready` once ready, with status 200.
    pub(super) ready: &'static str,
    /// Body of `/ready` before that, with status 500.
    pub(super) not_ready: &'static str,
}

/// What Linkerd's Go controllers say (linkerd2 pkg/admin/admin.go).
pub(super) const GO_CONTROLLER: Readiness = Readiness { ready: "ok\n", not_ready: "not ready\n" };

pub(super) fn serve(readiness: Readiness) -> Serve {
    http::serve_plain(move |request, conditions: Conditions| async move {
        let fault = conditions.at_request().await;
        if let Some(answer) = fault.and_then(http::fault_answer) {
            return answer;
        }
        answer(readiness, request.uri().path(), fault == Some(Fault::NotReady))
    })
}

fn answer(readiness: Readiness, path: &str, not_ready: bool) -> Answer {
    match path {
        "/ping" => http::text(StatusCode::OK, "pong\n"),
        "/live" => http::text(StatusCode::OK, "alive\n"),
        "/ready" if not_ready => http::text(StatusCode::INTERNAL_SERVER_ERROR, readiness.not_ready),
        "/ready" => http::text(StatusCode::OK, readiness.ready),
        _ => http::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}
