//! What a failed request means: the kind of problem for people, the class for the machine. Pure.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

/// Kinds of problems a watch can have. Each is told once until the watch recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// 401: the server does not know who we are.
    Unauthorized,
    /// 403: the server knows us and says no.
    Forbidden,
    /// 404: the server has no such collection.
    NotServed,
    /// 429: the server asks for patience.
    Throttled,
    /// Another 4xx.
    Refused,
    /// 5xx.
    ServerFault,
    /// No connection, or one that broke.
    Unreachable,
    /// An answer that did not come, or not to its end, in time.
    Stalled,
    /// An answer that is not what an API server says.
    Garbled,
    /// Streams that end as soon as they have begun.
    Interrupted,
}

impl ProblemKind {
    /// Whether nobody answers: what was known last is then the best there is.
    pub fn is_away(self) -> bool {
        matches!(self, Self::Unreachable | Self::Stalled)
    }

    /// What to do about it, as the end of a sentence. A server that cannot be reached is everybody's trouble: the
    /// connection tells what to do.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Unauthorized => {
                "; check that the kubeconfig's credentials are valid and its CA is the cluster's"
            }
            Self::Forbidden => {
                "; check that the API server runs with --authorization-mode=Node,RBAC and that the certificate's \
                 name is system:node:<node name> in group system:nodes"
            }
            Self::NotServed => {
                "; check that the kubeconfig's server is a Kubernetes API server of a fitting version"
            }
            Self::Throttled => "; the API server is busy",
            Self::Refused => "; the API server refuses the request; this is likely a version mismatch",
            Self::ServerFault => "; the API server has trouble; its log tells more",
            Self::Unreachable => "",
            Self::Stalled => "; the API server or the network is too slow",
            Self::Garbled => {
                "; check that the kubeconfig's server is a Kubernetes API server, not a proxy's error page"
            }
            Self::Interrupted => "; check what between this node and the API server cuts long connections",
        }
    }
}

/// How the machine reacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The resource version or continue token is too old: list anew.
    Expired,
    /// The resource version is newer than anything the server knows: list what it has.
    TooNew,
    /// Try the same again, later.
    Transient,
    /// The request as it is will not work; list anew, later.
    Hopeless,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub kind: ProblemKind,
    pub class: Class,
    pub message: String,
    /// The server's wish, from `Retry-After` or the status's details.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self::local(ProblemKind::Unreachable, message)
    }

    pub(super) fn stalled(what: &str, deadline: Duration) -> Self {
        Self::local(ProblemKind::Stalled, format!("{what} within {} s", deadline.as_secs()))
    }

    pub(super) fn garbled(message: impl fmt::Display) -> Self {
        Self::local(ProblemKind::Garbled, format!("the answer makes no sense: {message}"))
    }

    fn local(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, class: Class::Transient, message: message.into(), retry_after: None }
    }

    /// From an answer that is not 2xx. `body` should be a `metav1.Status` but can be anything.
    pub(super) fn from_answer(code: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut failure = Self::from_status(code, &status);
        if failure.message.is_empty() {
            let text = String::from_utf8_lossy(body);
            let text: String = text.trim().chars().take(200).collect();
            failure.message =
                if text.is_empty() { format!("HTTP {code}") } else { format!("HTTP {code}: {text}") };
        }
        failure.retry_after = retry_after.or(failure.retry_after);
        failure
    }

    /// From the status object of an ERROR event.
    pub(super) fn from_event(status: &Value) -> Self {
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or_default();
        let mut failure = Self::from_status(code, status);
        if failure.message.is_empty() {
            failure.message = format!("the watch ended with an error without a message (code {code})");
        }
        failure
    }

    fn from_status(code: u16, status: &Value) -> Self {
        let reason = status["reason"].as_str().unwrap_or_default();
        let message = status["message"].as_str().unwrap_or_default();
        let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let too_new = causes.iter().any(|cause| cause["reason"] == "ResourceVersionTooLarge")
            || message.starts_with("Too large resource version");
        let (kind, class) = match (code, reason) {
            _ if too_new => (ProblemKind::ServerFault, Class::TooNew),
            (410, _) | (_, "Expired" | "Gone") => (ProblemKind::Refused, Class::Expired),
            (401, _) => (ProblemKind::Unauthorized, Class::Transient),
            (403, _) => (ProblemKind::Forbidden, Class::Transient),
            (404, _) => (ProblemKind::NotServed, Class::Transient),
            (408, _) => (ProblemKind::Stalled, Class::Transient),
            (429, _) => (ProblemKind::Throttled, Class::Transient),
            (500..=599, _) => (ProblemKind::ServerFault, Class::Transient),
            (400..=499, _) => (ProblemKind::Refused, Class::Hopeless),
            _ => (ProblemKind::Garbled, Class::Hopeless),
        };
        let retry_after = status["details"]["retryAfterSeconds"].as_u64().map(Duration::from_secs);
        Self { kind, class, message: message.to_owned(), retry_after }
    }
}
