//! What can go wrong with a call to the runtime, and what it means for the caller.
//! Never decides to retry: it says what kind of failure it was. Made by [`crate::CriClient`] and by fakes.

use std::fmt;
use std::time::Duration;

/// A failed call to the runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {kind}: {message}")]
pub struct CriError {
    /// Name of the RPC, as in the protocol (`RunPodSandbox`).
    pub operation: &'static str,
    /// What kind of failure.
    pub kind: CriErrorKind,
    /// The gRPC code the runtime answered with; for failures on our side the code that fits.
    pub code: i32,
    /// The runtime's own words, or ours when it did not answer.
    pub message: String,
    /// How long the client will fail at once before it tries the socket again; only when unreachable.
    pub retry_in: Option<Duration>,
}

/// Kinds of failure. They follow the gRPC codes, except where the runtimes are known to mean another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CriErrorKind {
    /// No answer because there is no connection: the socket is missing, refused, forbidden, or broke in the call.
    Unreachable,
    /// No answer in time; whether the call took effect is not known.
    DeadlineExceeded,
    /// The object named in the call does not exist.
    NotFound,
    /// An object of that name exists already.
    AlreadyExists,
    /// The runtime does not know this call (an older version).
    Unimplemented,
    /// The runtime refuses the request as malformed: it will do so again.
    InvalidArgument,
    /// The runtime, or the size limit of a message, has no room for the call.
    ResourceExhausted,
    /// The call was given up, by us or by the runtime.
    Canceled,
    /// The object is in a state that does not allow the call.
    FailedPrecondition,
    /// The runtime forbids it (registry credentials, for one).
    PermissionDenied,
    /// Everything else, which for both runtimes is most failures.
    Unknown,
}

/// What a caller may make of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// May pass by itself; ask again with the caller's own back-off, not before this time.
    RetryAfter(Duration),
    /// Asking the same again gives the same answer: look at the world and decide anew.
    Terminal,
    /// The runtime cannot do this at all: do without.
    Unsupported,
    /// The agent asked for something malformed.
    Bug,
}

impl CriErrorKind {
    /// The kind that a gRPC code stands for.
    pub fn of_code(code: i32) -> Self {
        match code {
            1 => Self::Canceled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 | 16 => Self::PermissionDenied,
            // 11 (OutOfRange) is what tonic says of a message over the size limit.
            8 | 11 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            12 => Self::Unimplemented,
            14 => Self::Unreachable,
            _ => Self::Unknown,
        }
    }

    /// The gRPC code that stands for this kind.
    pub fn code(self) -> i32 {
        match self {
            Self::Canceled => 1,
            Self::Unknown => 2,
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition => 9,
            Self::Unimplemented => 12,
            Self::Unreachable => 14,
        }
    }
}

impl fmt::Display for CriErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "runtime unreachable",
            Self::DeadlineExceeded => "deadline exceeded",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Unimplemented => "not implemented by the runtime",
            Self::InvalidArgument => "invalid argument",
            Self::ResourceExhausted => "resource exhausted",
            Self::Canceled => "canceled",
            Self::FailedPrecondition => "failed precondition",
            Self::PermissionDenied => "permission denied",
            Self::Unknown => "failed",
        })
    }
}

impl CriError {
    /// A failure of a kind, in our own words.
    pub fn new(operation: &'static str, kind: CriErrorKind, message: impl Into<String>) -> Self {
        Self { operation, kind, code: kind.code(), message: message.into(), retry_in: None }
    }

    /// What the runtime answered, with the runtimes' known misuses of codes put right.
    pub fn from_answer(operation: &'static str, code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut kind = CriErrorKind::of_code(code);
        // containerd 1.6 and CRI-O report a command that ran out of its own time as Unknown.
        if operation == "ExecSync" && kind == CriErrorKind::Unknown {
            let text = message.to_ascii_lowercase();
            if text.contains("deadline exceeded") || text.contains("timed out") {
                kind = CriErrorKind::DeadlineExceeded;
            }
        }
        Self { operation, kind, code, message, retry_in: None }
    }

    /// What to make of it.
    pub fn disposition(&self) -> Disposition {
        use CriErrorKind::*;
        match self.kind {
            Unreachable => Disposition::RetryAfter(self.retry_in.unwrap_or_default()),
            DeadlineExceeded | ResourceExhausted | Canceled | FailedPrecondition | Unknown => {
                Disposition::RetryAfter(Duration::ZERO)
            }
            NotFound | AlreadyExists | PermissionDenied => Disposition::Terminal,
            Unimplemented => Disposition::Unsupported,
            InvalidArgument => Disposition::Bug,
        }
    }

    /// Whether the call may have taken effect although it failed: the world must be observed before the next step.
    pub fn effect_unknown(&self) -> bool {
        use CriErrorKind::*;
        matches!(self.kind, Unreachable | DeadlineExceeded | Canceled | Unknown)
    }

    /// Whether the object named in the call does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == CriErrorKind::NotFound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        operation: &'static str,
        code: i32,
        message: &str,
        kind: CriErrorKind,
        disposition: Disposition,
    ) {
        let error = CriError::from_answer(operation, code, message);
        assert_eq!(error.kind, kind, "{operation} {code}");
        assert_eq!(error.disposition(), disposition, "{operation} {code}");
        assert_eq!(error.code, code);
    }

    #[test]
    fn answers_are_classified() {
        use CriErrorKind::*;
        let again = Disposition::RetryAfter(Duration::ZERO);
        check("StopContainer", 5, "no such container", NotFound, Disposition::Terminal);
        check("RunPodSandbox", 6, "name is reserved", AlreadyExists, Disposition::Terminal);
        check("GetContainerEvents", 12, "unknown method", Unimplemented, Disposition::Unsupported);
        check("CreateContainer", 3, "bad mount", InvalidArgument, Disposition::Bug);
        check("PullImage", 16, "unauthorized", PermissionDenied, Disposition::Terminal);
        check("ListContainers", 8, "message larger than max", ResourceExhausted, again);
        check("StartContainer", 2, "runc: deadline exceeded", Unknown, again);
        check("ExecSync", 2, "timeout 1s exceeded: context deadline exceeded", DeadlineExceeded, again);
        check("ExecSync", 2, "command timed out", DeadlineExceeded, again);
        check("ExecSync", 2, "no such file", Unknown, again);
        check("ExecSync", 77, "from the future", Unknown, again);
    }

    #[test]
    fn every_kind_survives_its_code() {
        for code in 0..20 {
            let kind = CriErrorKind::of_code(code);
            assert_eq!(CriErrorKind::of_code(kind.code()), kind);
        }
    }

    #[test]
    fn text_names_operation_kind_and_words() {
        let error = CriError::new("Version", CriErrorKind::Unreachable, "/run/x.sock does not exist");
        assert_eq!(error.to_string(), "Version: runtime unreachable: /run/x.sock does not exist");
        assert!(error.effect_unknown());
        assert!(!CriError::new("Version", CriErrorKind::NotFound, "").effect_unknown());
    }
}
