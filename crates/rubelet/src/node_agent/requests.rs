//! Requests of the node agent: each has a deadline, and each failure says what to do about it.

use std::time::Duration;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// No answer in time.
    #[error("no answer from the API server within {}", humane(*.0))]
    Timeout(Duration),
    /// The server refused.
    #[error("{message} ({code}){}", advice(*.code))]
    Refused {
        /// HTTP status.
        code: u16,
        /// What it said.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The request did not get through, or the answer made no sense.
    #[error("{0}")]
    Transport(String),
}

impl RequestError {
    /// The HTTP status, if there was an answer.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Timeout(_) | Self::Transport(_) => None,
        }
    }

    /// Whether the server asked for patience, or trying again at once cannot help.
    pub(super) fn ends_tries(&self) -> bool {
        match self {
            Self::Refused { code, retry_after, .. } => {
                matches!(code, 401 | 403 | 404 | 422 | 429) || retry_after.is_some()
            }
            Self::Timeout(_) | Self::Transport(_) => false,
        }
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Timeout(_) | Self::Transport(_) => None,
        }
    }
}

fn humane(limit: Duration) -> String {
    if limit.subsec_millis() == 0 {
        format!("{} s", limit.as_secs())
    } else {
        format!("{} ms", limit.as_millis())
    }
}

fn advice(code: u16) -> &'static str {
    match code {
        401 => {
            "; the server does not accept the agent's credentials: look at the client certificate or token in the kubeconfig"
        }
        403 => {
            "; a node may do this as user system:node:<node name> in group system:nodes only: look at the name in the client certificate"
        }
        _ => "",
    }
}

/// Waits for an answer, at most `limit`.
pub(super) async fn ask<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RequestError> {
    match tokio::time::timeout(limit, request).await {
        Err(_) => Err(RequestError::Timeout(limit)),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(RequestError::Refused {
            code: status.code,
            retry_after: status
                .details
                .as_ref()
                .map(|details| Duration::from_secs(details.retry_after_seconds.into()))
                .filter(|wait| !wait.is_zero()),
            message: if status.message.is_empty() { status.reason } else { status.message },
        }),
        Ok(Err(error)) => Err(RequestError::Transport(crate::logging::chain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let refused =
            |code, message: &str| RequestError::Refused { code, message: message.into(), retry_after: None };
        let text = refused(401, "Unauthorized").to_string();
        assert!(text.starts_with("Unauthorized (401); the server does not accept"), "{text}");
        assert_eq!(refused(500, "oops").to_string(), "oops (500)");
        assert!(refused(404, "").ends_tries() && !refused(409, "").ends_tries());
        assert_eq!(
            RequestError::Timeout(Duration::from_secs(10)).to_string(),
            "no answer from the API server within 10 s"
        );
    }
}
