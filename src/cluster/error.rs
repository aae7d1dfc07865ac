//! Why a request to the API server failed, in words for people.

use kube::Error;
use kube::client::AuthError;
use kube::core::Status;

use super::kubeconfig;
use crate::check::Unread;

/// What went wrong with "`act`": `list nodes`, say.
pub(super) fn describe(act: &str, error: &Error) -> String {
    match error {
        Error::Api(status) if status.is_forbidden() => {
            format!("the API server forbids to {act}: {}", status.message)
        }
        Error::Api(status) => format!("the API server did not {act}: HTTP {}, {}", status.code, status.message),
        other => format!("the API server cannot be asked to {act}: {}", innermost(other)),
    }
}

/// The same of what `check` reads: a missing right is one of its findings.
pub(super) fn unread(error: &Error, act: &str) -> Unread {
    match error {
        Error::Api(status) if status.is_forbidden() => Unread::Forbidden(act.to_owned()),
        Error::Api(status) => {
            Unread::Failed(format!("the API server did not {act}: HTTP {}, {}", status.code, status.message))
        }
        other => Unread::Failed(format!("the API server did not answer ({act}): {}", innermost(other))),
    }
}

/// Whether a `test` of a JSON patch did not hold: what was read is not what is there.
pub(super) fn is_failed_test(status: &Status) -> bool {
    status.code == 422 && status.message == TEST_FAILED
}

/// What an API server says of a patch whose `test` fails, and of it alone (k8s.io/apimachinery, `NewGenericServerResponse`).
pub(super) const TEST_FAILED: &str = "the server rejected our request due to an error in our request";

/// Whether RBAC denies it. Admission says 403 as well, in any words; only RBAC says what a user "cannot" do to which "resource" or "path".
pub(super) fn is_missing_right(status: &Status) -> bool {
    status.code == 403
        && status.message.contains("cannot ")
        && ["resource", "path"].iter().any(|what| status.message.contains(&format!(" {what} \"")))
}

/// Whether nothing came for as long as is waited for.
pub(super) fn is_silence(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(link) = cause {
        if link.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
            return true;
        }
        cause = link.source();
    }
    false
}

/// The first cause: "Connection refused", not "client error (Connect)".
pub(super) fn innermost(error: &Error) -> String {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(words) = cause.downcast_ref::<AuthError>().and_then(kubeconfig::of_credentials) {
            return words;
        }
        match cause.source() {
            Some(next) => cause = next,
            None => return cause.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn an_api_error_names_the_operation_and_the_servers_message() {
        let status = |code, reason: &str| {
            Error::Api(Box::new(Status {
                code,
                message: "nodes \"n\" …".to_owned(),
                reason: reason.to_owned(),
                ..Status::default()
            }))
        };
        assert_eq!(
            describe("patch node n", &status(403, "Forbidden")),
            "the API server forbids to patch node n: nodes \"n\" …"
        );
        assert_eq!(
            describe("patch node n", &status(409, "Conflict")),
            "the API server did not patch node n: HTTP 409, nodes \"n\" …"
        );
    }
}
