//! Termination messages: how much of a file or log becomes the message of a container that ended.
//!
//! Functions on bytes; reading files is the observer's. Limits are upstream's `MaxContainerTermination*` and
//! `MaxPodTerminationMessageLogLength`.

/// Most bytes of a termination message file; its end counts.
pub const MAX_MESSAGE_BYTES: usize = 4096;
/// Most bytes taken from the end of a log.
pub const MAX_LOG_BYTES: usize = 2048;
/// Most lines taken from the end of a log.
pub const MAX_LOG_LINES: usize = 80;
/// Most bytes of all messages of a pod together.
pub const MAX_POD_BYTES: usize = 12 * 1024;

/// Where the message of an ended container comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageSource {
    /// This text.
    Text(String),
    /// The end of the container's log: give it to [`message_from_log`].
    Log,
}

/// Chooses the message. `file` is the content (or its last [`MAX_MESSAGE_BYTES`]) of the termination message
/// file, `None` when there is none; `policy` is `terminationMessagePolicy`.
pub fn choose_message(file: Option<&[u8]>, policy: &str, exit_code: i32, reason: &str) -> MessageSource {
    let _ = (file, policy, exit_code, reason);
    MessageSource::Text(String::new())
}

/// The message from the end of a CRI log: the last [`MAX_LOG_LINES`] lines, of which the last
/// [`MAX_LOG_BYTES`]. `raw` may begin in the middle of a line.
pub fn message_from_log(raw: &[u8]) -> String {
    let _ = raw;
    String::new()
}

/// The message of the API: what the runtime says and what the container wrote, joined with `: `.
pub fn join_messages(runtime: &str, container: &str) -> String {
    let _ = (runtime, container);
    String::new()
}

/// Share of [`MAX_POD_BYTES`] for each of a pod's `containers`.
pub fn bytes_per_container(containers: usize) -> usize {
    MAX_POD_BYTES / containers.max(1)
}

/// One line of a CRI log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CriLogLine<'a> {
    /// RFC 3339 with nanoseconds.
    pub timestamp: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The line goes on in the next entry of the same stream.
    pub partial: bool,
    /// Content, without a line break.
    pub content: &'a [u8],
}

/// Parses `<time> <stream> <P|F[:tags]> <content>` without its line break.
pub fn parse_cri_line(line: &[u8]) -> Option<CriLogLine<'_>> {
    let _ = line;
    None
}
