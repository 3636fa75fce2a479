//! Texts as upstream's tools write them, so that what people search for is found. Used by the probes of this crate.

use std::time::Duration;

use tonic::Code;

/// A duration as Go prints it, in whole milliseconds: `1s`, `1m30s`, `1.5s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let fraction = match millis {
        0 => String::new(),
        millis => format!(".{millis:03}").trim_end_matches('0').to_owned(),
    };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) if millis > 0 => format!("{millis}ms"),
        (0, 0, s) => format!("{s}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{fraction}s"),
    }
}

/// An error of a call as gRPC for Go prints it.
pub(crate) fn rpc_error(code: Code, description: &str) -> String {
    format!("rpc error: code = {} desc = {description}", rubelet_cri::code_name(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (millis, expected) in [
            (0, "0s"),
            (250, "250ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (60_000, "1m0s"),
            (90_050, "1m30.05s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn errors_of_calls_name_their_code() {
        assert_eq!(rpc_error(Code::Cancelled, "gone"), "rpc error: code = Canceled desc = gone");
    }
}
