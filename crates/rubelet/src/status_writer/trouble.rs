//! What a failed request to the API server means for the one that made it.
//!
//! Owns the sorting of errors into the few kinds that callers treat differently. Never retries and never logs.
//! Used by the status writer and the mirror task.

use std::time::Duration;

use kube::core::Status;

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// 404: there is no such object.
    #[error("not found: {0}")]
    Gone(String),
    /// 409, or a UID that is not the object's: what we assume is not so.
    #[error("conflict: {0}")]
    Conflict(String),
    /// 400, 403, 405, 413, 422 and the like: the same request will not be taken. Says the code.
    #[error("refused ({0}): {1}")]
    Refused(u16, String),
    /// A 5xx about this one request.
    #[error("the API server failed ({0}): {1}")]
    Failed(u16, String),
    /// Nobody gets through: no connection, no answer in time, 401, 429, 503, 504.
    #[error("the API server is not available: {message}")]
    Unavailable {
        /// For people.
        message: String,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
        /// The request may have been carried out all the same.
        uncertain: bool,
    },
    /// It was carried out and the answer cannot be read.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

impl Trouble {
    /// Sorts an error of the client.
    pub fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            kube::Error::SerdeError(_) => Self::Unreadable(crate::logging::chain(error)),
            _ => Self::Unavailable {
                message: crate::logging::chain(error),
                retry_after: None,
                uncertain: true,
            },
        }
    }

    /// No answer came in time.
    pub fn timeout(limit: Duration) -> Self {
        Self::Unavailable {
            message: format!("no answer within {} s", limit.as_secs()),
            retry_after: None,
            uncertain: true,
        }
    }

    fn of_status(status: &Status) -> Self {
        let message = status.message.clone();
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let wrong_uid = causes.into_iter().any(|cause| cause.field == "metadata.uid");
        match status.code {
            404 => Self::Gone(message),
            409 => Self::Conflict(message),
            422 if wrong_uid => Self::Conflict(message),
            401 | 408 | 429 | 503 | 504 => {
                let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                // Whoever asks for less, asks for a pause.
                let seconds = if status.code == 429 { asked.max(1) } else { asked };
                Self::Unavailable {
                    message: format!("{} {message}", status.code),
                    retry_after: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
                    uncertain: status.code == 504,
                }
            }
            code @ 400..500 => Self::Refused(code, message),
            code => Self::Failed(code, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(status: Value, expected: &str) {
        let status: Status = serde_json::from_value(status).unwrap();
        assert_eq!(Trouble::of(&kube::Error::Api(Box::new(status))).to_string(), expected);
    }

    #[test]
    fn errors_are_sorted_by_what_follows_from_them() {
        check(json!({"code": 404, "message": "no pod"}), "not found: no pod");
        check(json!({"code": 409, "message": "uid"}), "conflict: uid");
        check(json!({"code": 403, "message": "no"}), "refused (403): no");
        check(json!({"code": 422, "message": "bad"}), "refused (422): bad");
        check(
            json!({"code": 422, "message": "bad", "details": {"causes": [{"field": "metadata.uid"}]}}),
            "conflict: bad",
        );
        check(json!({"code": 500, "message": "oops"}), "the API server failed (500): oops");
        check(json!({"code": 429, "message": "slow"}), "the API server is not available: 429 slow");
        let slow = json!({"code": 429, "details": {"retryAfterSeconds": 7}});
        let slow = Trouble::of(&kube::Error::Api(Box::new(serde_json::from_value(slow).unwrap())));
        let Trouble::Unavailable { retry_after, uncertain, .. } = slow else { panic!("{slow:?}") };
        assert_eq!((retry_after, uncertain), (Some(Duration::from_secs(7)), false));
    }
}
