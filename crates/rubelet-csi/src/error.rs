//! What can go wrong with a call of a driver, and whether the call may have had its effect all the same. Never decides
//! to retry. Made by [`crate::CsiClient`] and by fakes.

use std::error::Error as _;

use tonic::{Code, Status};

/// A failed call. Its text is that of gRPC for Go, which is what events of a kubelet hold and people search for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", code_name(*.code))]
pub struct CsiError {
    /// The driver that was called.
    pub driver: String,
    /// Name of the RPC, as in the protocol (`NodeStageVolume`).
    pub call: &'static str,
    /// The code the driver answered with; for failures on our side the code that fits.
    pub code: Code,
    /// The driver's own words, or ours when it did not answer.
    pub message: String,
    /// The operation has ended and is not in progress (upstream `isFinalError`). Where this is false, the volume must be
    /// taken for staged or published: this call, or one before it, may still carry it out.
    pub final_: bool,
    /// The driver may have got this very call. Where this is false nothing of it can take effect, though an earlier
    /// call still may.
    pub reached: bool,
}

impl CsiError {
    /// What a driver answered.
    pub fn answered(driver: &str, call: &'static str, code: Code, message: impl Into<String>) -> Self {
        Self {
            driver: driver.to_owned(),
            call,
            code,
            message: message.into(),
            final_: is_final(code),
            reached: true,
        }
    }

    /// A request that was not sent, because it makes no sense.
    pub fn nonsense(driver: &str, call: &'static str, message: impl Into<String>) -> Self {
        Self { reached: false, ..Self::answered(driver, call, Code::InvalidArgument, message) }
    }

    /// No connection could be made: nothing was sent.
    pub(crate) fn unreachable(driver: &str, call: &'static str, message: impl Into<String>) -> Self {
        Self { reached: false, ..Self::answered(driver, call, Code::Unavailable, message) }
    }

    /// No answer came in time. The words are those of Go's contexts.
    pub(crate) fn no_answer(driver: &str, call: &'static str) -> Self {
        Self::answered(driver, call, Code::DeadlineExceeded, "context deadline exceeded")
    }

    /// Tells apart what the driver answered and what went wrong on the way: what our own side makes up is never final,
    /// for the driver may have done what it was asked.
    pub(crate) fn of_status(driver: &str, call: &'static str, status: &Status) -> Self {
        let Some(source) = status.source() else {
            let mut error = Self::answered(driver, call, status.code(), status.message());
            error.final_ &= !is_made_here(status);
            return error;
        };
        let causes: Vec<_> = std::iter::successors(Some(source), |cause| (*cause).source()).collect();
        if causes.iter().any(|cause| cause.is::<tonic::TimeoutExpired>()) {
            return Self::no_answer(driver, call);
        }
        let detail = causes.last().map(ToString::to_string).unwrap_or_default();
        Self::answered(driver, call, Code::Unavailable, format!("connection error: {detail}"))
    }

    /// The driver does not know the volume.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

/// Whether a code says that the operation is not in progress: all but the ones with which a driver, or gRPC, says
/// that it may be (upstream `isFinalError`).
fn is_final(code: Code) -> bool {
    !matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
    )
}

/// Whether an answer came that could not be read: a message that is no protobuf, too long, missing or torn. The transport
/// puts that into codes which from a driver would be final.
fn is_made_here(status: &Status) -> bool {
    let text = status.message();
    let unreadable = text.contains("failed to decode Protobuf message")
        || text.contains("Missing response message")
        || text.starts_with("protocol error:")
        || text.starts_with("Unexpected EOF decoding stream");
    let too_long = status.code() == Code::OutOfRange && text.contains("decoded message length too large");
    // A server that is no gRPC server: the code was made of a status of HTTP.
    let no_grpc = text.contains("grpc-status header missing");
    (matches!(status.code(), Code::Internal | Code::Unknown) && unreadable) || too_long || no_grpc
}

/// A code as gRPC for Go writes it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_leave_the_operation_open_are_not_final() {
        let check = |code: i32, is: bool| {
            let error = CsiError::answered("d", "NodeStageVolume", Code::from_i32(code), "m");
            assert_eq!((error.final_, error.reached), (is, true), "{code}");
        };
        for open in [1, 4, 8, 10, 14] {
            check(open, false);
        }
        for done in [2, 3, 5, 6, 7, 9, 11, 12, 13, 15, 16] {
            check(done, true);
        }
    }

    #[test]
    fn an_answer_that_could_not_be_read_is_not_final() {
        let check = |status: Status, is: bool| {
            assert_eq!(CsiError::of_status("d", "NodeStageVolume", &status).final_, is, "{status:?}");
        };
        check(Status::internal("failed to decode Protobuf message: invalid tag value: 0"), false);
        check(Status::internal("Missing response message."), false);
        check(Status::out_of_range("Error, decoded message length too large: found 5 bytes"), false);
        check(Status::unimplemented("grpc-status header missing, mapped from HTTP status code 404"), false);
        check(Status::internal("mkfs failed"), true);
        check(Status::out_of_range("no such size"), true);
    }

    #[test]
    fn it_reads_as_people_know_it() {
        let error = CsiError::answered("d", "NodePublishVolume", Code::Internal, "mount failed");
        assert_eq!(error.to_string(), "rpc error: code = Internal desc = mount failed");
        let error = CsiError::nonsense("d", "NodePublishVolume", "missing volume id");
        assert!(error.final_ && !error.reached);
        assert!(!CsiError::unreachable("d", "NodePublishVolume", "").final_);
    }
}
