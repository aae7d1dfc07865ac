//! The admin ports of Linkerd's programs: `/ready`, `/ping`, `/live`.

use super::{
    fault::Fault,
    http::{self, Answer},
    port::{Conditions, Serve},
};
use ::http::StatusCode;

/// A status and its body.
pub(super) type Readiness = (StatusCode, &'static str);

/// What a proxy says before and after it is certified (linkerd2-proxy, app/admin/src/server/readiness.rs).
pub(super) const UNREADY_PROXY: Readiness = (StatusCode::SERVICE_UNAVAILABLE, "not ready\n");
pub(super) const READY_PROXY: Readiness = (StatusCode::OK, "ready\n");

/// The readiness of Linkerd's Go controllers (linkerd2 pkg/admin/admin.go) and, in the same words, of the policy controller.
pub(super) fn controller(fault: Option<Fault>) -> Readiness {
    if fault == Some(Fault::NotReady) {
        (StatusCode::INTERNAL_SERVER_ERROR, "not ready\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// Serves an admin port whose `/ready` says what this function makes of the fault of the moment.
pub(super) fn serve(readiness: impl Fn(Option<Fault>) -> Readiness + Clone + Send + Sync + 'static) -> Serve {
    http::serve_plain(move |request, conditions: Conditions| {
        let readiness = readiness.clone();
        async move {
            let fault = conditions.at_request().await;
            if let Some(answer) = fault.and_then(http::fault_answer) {
                return answer;
            }
            answer(request.uri().path(), || readiness(fault))
        }
    })
}

fn answer(path: &str, readiness: impl FnOnce() -> Readiness) -> Answer {
    match path {
        "/ping" => http::text(StatusCode::OK, "pong\n"),
        "/live" => http::text(StatusCode::OK, "live\n"),
        "/ready" => {
            let (status, body) = readiness();
            http::text(status, body)
        }
        _ => http::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}
