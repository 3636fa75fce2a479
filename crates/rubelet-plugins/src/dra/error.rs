//! What can go wrong with a call of a driver. Its text is that of gRPC for Go, which is what events of a kubelet hold and
//! people search for. Never decides to retry.

use std::error::Error as _;

use tonic::{Code, Status};

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", code_name(*.code))]
pub struct DraError {
    /// The driver's code; for failures on our side the code that fits.
    pub code: Code,
    /// The driver's words, or ours when it did not answer.
    pub message: String,
}

impl DraError {
    /// No connection could be made, or it broke.
    pub(crate) fn unreachable(reason: &str) -> Self {
        Self { code: Code::Unavailable, message: format!("connection error: {reason}") }
    }

    /// No answer came in time. The words are those of Go's contexts.
    pub(crate) fn too_late() -> Self {
        Self { code: Code::DeadlineExceeded, message: "context deadline exceeded".to_owned() }
    }

    pub(crate) fn of_status(status: &Status) -> Self {
        let causes = std::iter::successors(status.source(), |cause| (*cause).source());
        match causes.last() {
            None => Self { code: status.code(), message: status.message().to_owned() },
            Some(cause) if cause.is::<tonic::TimeoutExpired>() => Self::too_late(),
            Some(cause) => Self::unreachable(&cause.to_string()),
        }
    }
}

/// A code as gRPC for Go writes it.
pub fn code_name(code: Code) -> String {
    match code {
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_people_know_it() {
        let error = DraError::of_status(&Status::failed_precondition("no such device"));
        assert_eq!(error.to_string(), "rpc error: code = FailedPrecondition desc = no such device");
        let late = "rpc error: code = DeadlineExceeded desc = context deadline exceeded";
        assert_eq!(DraError::too_late().to_string(), late);
        assert_eq!(
            (code_name(Code::Ok), code_name(Code::Cancelled)),
            ("OK".to_owned(), "Canceled".to_owned())
        );
    }
}
