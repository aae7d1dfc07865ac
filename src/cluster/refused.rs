//! Why the API server did not do what a person's command asked, in words for that person.

use kube::Error;

use super::error::{innermost, is_failed_test, is_missing_right};

/// A write or a look that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The object is not there (any more).
    #[error("there is no such object: {0}")]
    NotFound(String),
    /// It is there already, or has changed since it was read.
    #[error("it has changed in the same moment: {0}")]
    Conflict(String),
    /// RBAC does not let this user do it.
    #[error("you may not do this: {message}; the right it takes: {right}")]
    Forbidden {
        /// The API server's own words: they name the user, the verb and the resource.
        message: String,
        /// What to grant, and by which command.
        right: String,
    },
    /// The API server does not know the user.
    #[error("the API server does not know who you are (401): {0}; check the kubeconfig's user, or sign in again")]
    Unauthorized(String),
    /// An admission policy, a webhook, a quota or a validation said no.
    #[error("the API server refused it ({code}): {message}")]
    Denied {
        /// The HTTP code.
        code: u16,
        /// The API server's own words: they name who refused.
        message: String,
    },
    /// It did not answer.
    #[error("the API server could not be asked: {0}; check the kubeconfig's `server`, and `kubectl version`")]
    Unreachable(String),
}

// === impl Refused ===

impl Refused {
    /// What `error` means to whoever lacks `right`.
    pub(super) fn of(error: &Error, right: &str) -> Self {
        let Error::Api(status) = error else { return Self::Unreachable(innermost(error)) };
        let message = status.message.clone();
        match status.code {
            401 => Self::Unauthorized(message),
            _ if is_missing_right(status) => Self::Forbidden { message, right: right.to_owned() },
            404 => Self::NotFound(message),
            409 => Self::Conflict(message),
            _ if is_failed_test(status) => Self::Conflict(message),
            code => Self::Denied { code, message },
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16, message: &str) -> Refused {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        Refused::of(&Error::Api(Box::new(status)), "patch on pods")
    }

    #[test]
    fn a_missing_right_differs_from_a_denying_policy() {
        let rbac = "pods \"web\" is forbidden: User \"jane\" cannot patch resource \"pods\" in API group \"\"";
        let text = refused(403, rbac).to_string();
        assert!(text.contains("User \"jane\"") && text.ends_with("the right it takes: patch on pods"), "{text}");
        let rbac = "forbidden: User \"jane\" cannot get path \"/version\"";
        assert!(matches!(refused(403, rbac), Refused::Forbidden { .. }));
        let policy = "pods \"web\" is forbidden: ValidatingAdmissionPolicy 'x' with binding 'x' denied request: no";
        let webhook = "admission webhook \"paths.example.com\" denied the request: you cannot use hostPath";
        for message in [policy, webhook] {
            assert_eq!(refused(403, message), Refused::Denied { code: 403, message: message.to_owned() });
        }
    }

    #[test]
    fn a_failed_json_patch_test_is_a_conflict_and_other_422_are_not() {
        assert!(matches!(refused(422, super::super::error::TEST_FAILED), Refused::Conflict(_)));
        assert!(matches!(refused(422, "Pod \"web\" is invalid: …"), Refused::Denied { code: 422, .. }));
    }
}
