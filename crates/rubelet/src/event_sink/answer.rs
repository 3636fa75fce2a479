//! What an answer of the API server to an Event means for it. Pure; used by the sink alone.

use kube::core::Status;

/// What became of an attempt to write an Event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there.
    Written,
    /// The Event to change is gone.
    Gone,
    /// The server will never take it. Expected refusals, of a namespace that is going, are not worth a warning.
    Refused { code: u16, expected: bool, message: String },
    /// Nobody knows; the same again may work.
    Failed(String),
}

/// The cause by which the API server refuses new objects in a namespace that is being deleted.
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

pub(super) fn outcome<T>(answer: Result<T, kube::Error>) -> Outcome {
    match answer {
        Ok(_) => Outcome::Written,
        Err(kube::Error::Api(status)) => of_status(&status),
        // The same request would be built again.
        Err(error @ kube::Error::BuildRequest(_)) => {
            Outcome::Refused { code: 0, expected: false, message: error.to_string() }
        }
        Err(error) => Outcome::Failed(crate::logging::chain(&error)),
    }
}

fn of_status(status: &Status) -> Outcome {
    let message = status.message.clone();
    let terminating = status
        .details
        .as_ref()
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == NAMESPACE_TERMINATING));
    match status.code {
        404 => Outcome::Gone,
        // An earlier attempt got through and its answer did not.
        409 if status.reason == "AlreadyExists" => Outcome::Written,
        // An identity that has just expired is renewed, a conflict and an overload pass.
        401 | 409 | 429 | 500.. => Outcome::Failed(format!("{} ({})", message, status.code)),
        code => Outcome::Refused { code, expected: terminating, message },
    }
}

#[cfg(test)]
mod tests {
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    fn status(code: u16, reason: &str, cause: &str) -> Status {
        let cause = StatusCause { reason: cause.to_owned(), message: String::new(), field: String::new() };
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: vec![cause],
            retry_after_seconds: 0,
        };
        Status {
            status: None,
            code,
            message: "m".to_owned(),
            metadata: None,
            reason: reason.to_owned(),
            details: Some(details),
        }
    }

    #[test]
    fn answers() {
        let check = |code, reason: &str, cause: &str, expected: Outcome| {
            assert_eq!(of_status(&status(code, reason, cause)), expected, "{code} {reason}");
        };
        let refused = |code, expected| Outcome::Refused { code, expected, message: "m".to_owned() };
        let failed = |code: u16| Outcome::Failed(format!("m ({code})"));
        check(404, "NotFound", "", Outcome::Gone);
        check(409, "AlreadyExists", "", Outcome::Written);
        check(409, "Conflict", "", failed(409));
        check(403, "Forbidden", "", refused(403, false));
        check(403, "Forbidden", NAMESPACE_TERMINATING, refused(403, true));
        check(422, "Invalid", "", refused(422, false));
        check(400, "BadRequest", "", refused(400, false));
        for code in [401, 429, 500, 503, 504] {
            check(code, "", "", failed(code));
        }
    }
}
