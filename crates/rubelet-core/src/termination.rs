//! Termination messages: how much of a file or log becomes the message of a container that ended.
//!
//! Functions on bytes; reading files is the observer's. Limits are upstream's `MaxContainerTermination*` and
//! `MaxPodTerminationMessageLogLength`.

use std::borrow::Cow;

/// Most bytes of a termination message file; its end counts.
pub const MAX_MESSAGE_BYTES: usize = 4096;
/// Most bytes taken from the end of a log.
pub const MAX_LOG_BYTES: usize = 2048;
/// Most lines taken from the end of a log.
pub const MAX_LOG_LINES: usize = 80;
/// Most bytes of all messages of a pod together.
pub const MAX_POD_BYTES: usize = 12 * 1024;

/// An entry without its beginning that is longer than this holds at least [`MAX_LOG_BYTES`] of content: what runtimes
/// write before the content is much shorter.
const CUT_ENTRY_BYTES: usize = 2 * MAX_LOG_BYTES;

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
///
/// The log speaks only for a container that failed, has said nothing in its file, and got as far as to run
/// (upstream `getTerminationMessage`).
pub fn choose_message(file: Option<&[u8]>, policy: &str, exit_code: i32, reason: &str) -> MessageSource {
    let file = file.unwrap_or_default();
    if file.is_empty()
        && policy == "FallbackToLogsOnError"
        && exit_code != 0
        && reason != "ContainerCannotRun"
    {
        return MessageSource::Log;
    }
    MessageSource::Text(String::from_utf8_lossy(tail(file, MAX_MESSAGE_BYTES)).into_owned())
}

/// The message from the end of a log: the last [`MAX_LOG_LINES`] lines, of which the last [`MAX_LOG_BYTES`]. `raw` may
/// begin in the middle of a line.
///
/// Partial entries are joined to the line they belong to; entries that are neither in CRI's format nor docker's are
/// left out. An entry whose beginning is not there counts when it is so long that its end is content for sure.
pub fn message_from_log(raw: &[u8]) -> String {
    let mut lines = raw.split(|byte| *byte == b'\n');
    let mut entries: Vec<_> = Vec::new();
    if let Some(first) = lines.next() {
        let cut_off = || {
            let content = Cow::Borrowed(tail(first, MAX_LOG_BYTES));
            (first.len() > CUT_ENTRY_BYTES).then_some(LogEntry { partial: false, content })
        };
        entries.extend(parse_entry(first).or_else(cut_off));
    }
    entries.extend(lines.filter_map(parse_entry));
    let is_end = |entry: &LogEntry<'_>| !entry.partial;
    let ends = entries.iter().filter(|entry| is_end(entry)).count();
    let unfinished = usize::from(entries.last().is_some_and(|last| last.partial));
    let skip_lines = (ends + unfinished).saturating_sub(MAX_LOG_LINES);
    let mut passed = 0;
    let mut text = Vec::new();
    for entry in &entries {
        if passed >= skip_lines {
            text.extend_from_slice(&entry.content);
            if is_end(entry) {
                text.push(b'\n');
            }
        }
        passed += usize::from(is_end(entry));
    }
    String::from_utf8_lossy(tail(&text, MAX_LOG_BYTES)).into_owned()
}

/// Whether the end of a log says all that a message may hold: then what was written before does not matter.
pub fn is_full_message(message: &str) -> bool {
    message.len() >= MAX_LOG_BYTES || message.lines().count() >= MAX_LOG_LINES
}

/// The message of the API: what the runtime says and what the container wrote, joined with `: `.
pub fn join_messages(runtime: &str, container: &str) -> String {
    match (runtime.is_empty(), container.is_empty()) {
        (false, false) => format!("{runtime}: {container}"),
        (false, true) => runtime.to_owned(),
        _ => container.to_owned(),
    }
}

/// Share of [`MAX_POD_BYTES`] for each of a pod's `containers`.
pub fn bytes_per_container(containers: usize) -> usize {
    MAX_POD_BYTES / containers.max(1)
}

/// Cuts a text to at most `limit` bytes, at a character boundary.
pub(crate) fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
    }
}

/// The last `limit` bytes.
fn tail(bytes: &[u8], limit: usize) -> &[u8] {
    &bytes[bytes.len().saturating_sub(limit)..]
}

/// What an entry of a log adds to a message.
struct LogEntry<'a> {
    partial: bool,
    content: Cow<'a, [u8]>,
}

fn parse_entry(line: &[u8]) -> Option<LogEntry<'_>> {
    if let Some(line) = parse_cri_line(line) {
        return Some(LogEntry { partial: line.partial, content: Cow::Borrowed(line.content) });
    }
    // docker's json-file: the line break is a part of the content, and where there is none the line goes on.
    let entry: DockerLogLine = line.starts_with(b"{").then(|| serde_json::from_slice(line).ok())??;
    let (text, partial) = match entry.log.strip_suffix('\n') {
        Some(text) => (text, false),
        None => (entry.log.as_str(), true),
    };
    Some(LogEntry { partial, content: Cow::Owned(text.as_bytes().to_owned()) })
}

/// One line of docker's json-file log (upstream `JSONLog`).
#[derive(serde::Deserialize)]
struct DockerLogLine {
    log: String,
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

/// Parses `<time> <stream> <P|F[:tags]> <content>` without its line break. `None` for anything else, such as
/// the rest of a line whose beginning was cut off.
pub fn parse_cri_line(line: &[u8]) -> Option<CriLogLine<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let timestamp = std::str::from_utf8(parts.next()?).ok()?;
    timestamp.parse::<jiff::Timestamp>().ok()?;
    let stream = match parts.next()? {
        b"stdout" => "stdout",
        b"stderr" => "stderr",
        _ => return None,
    };
    let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(CriLogLine { timestamp, stream, partial, content: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026-01-02T03:04:05.000000006Z";

    #[test]
    fn the_message_comes_from_the_file_and_from_the_log_only_after_a_failure_without_one() {
        let fallback = "FallbackToLogsOnError";
        let check =
            |file: Option<&str>, policy: &str, exit_code: i32, reason: &str, expected: Option<&str>| {
                let expected = match expected {
                    Some(text) => MessageSource::Text(text.to_owned()),
                    None => MessageSource::Log,
                };
                assert_eq!(choose_message(file.map(str::as_bytes), policy, exit_code, reason), expected);
            };
        check(Some("bye"), "File", 0, "Completed", Some("bye"));
        check(Some("bye"), fallback, 1, "Error", Some("bye"));
        check(Some(""), fallback, 1, "Error", None);
        check(None, fallback, 1, "Error", None);
        check(None, fallback, 0, "Completed", Some(""));
        check(None, "File", 1, "Error", Some(""));
        check(None, fallback, 128, "ContainerCannotRun", Some(""));
    }

    #[test]
    fn only_the_end_of_a_long_file_counts() {
        let file = [vec![b'a'; 10], vec![b'b'; MAX_MESSAGE_BYTES]].concat();
        let expected = MessageSource::Text("b".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(choose_message(Some(&file), "File", 1, "Error"), expected);
    }

    #[test]
    fn a_log_gives_its_last_lines_and_bytes() {
        let check = |raw: &str, expected: &str| assert_eq!(message_from_log(raw.as_bytes()), expected);
        check("", "");
        check(&format!("{LINE} stdout F one\n{LINE} stderr F two\n"), "one\ntwo\n");
        check(&format!("{LINE} stdout P on\n{LINE} stdout F e\n"), "one\n");
        check(&format!("03:04Z stdout F cut\n{LINE} stdout F whole\n"), "whole\n");
        check(&format!("{LINE} stdout P unfinished"), "unfinished");
        check(&format!("{LINE} stdout F:tag \n"), "\n");
        let many: String = (0..100).map(|n| format!("{LINE} stdout F {n}\n")).collect();
        let last: String = (20..100).map(|n| format!("{n}\n")).collect();
        check(&many, &last);
        let wide = format!("{LINE} stdout F {}\n", "x".repeat(5000));
        check(&wide, &format!("{}\n", "x".repeat(MAX_LOG_BYTES - 1)));
    }

    #[test]
    fn odd_logs_give_what_can_be_read() {
        let check = |raw: &[u8], expected: &str| assert_eq!(message_from_log(raw), expected);
        // An entry longer than what is read of a log: its beginning is not there.
        let end = "y".repeat(MAX_LOG_BYTES);
        let long = format!("{}{end}", "x".repeat(5000));
        check(long.as_bytes(), &format!("{}\n", &end[1..]));
        check(format!("{long}\n{LINE} stdout F one\n").as_bytes(), &format!("{}\none\n", &end[5..]));
        check(format!("{}\n{LINE} stdout F one\n", "x".repeat(4000)).as_bytes(), "one\n");
        let not_text =
            [LINE.as_bytes(), b" stdout F a\xff\0b\n\xfe\xfe\n\n", LINE.as_bytes(), b" stdout F c\n"]
                .concat();
        check(&not_text, "a\u{fffd}\0b\nc\n");
        check(b"{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"x\"}\n{\"log\":\"tw\"}\n{\"log\":\"o\\n\"}\n{\"lo\n{}\n", "one\ntwo\n");
        let full =
            |lines: usize, width: usize| is_full_message(&format!("{}\n", "x".repeat(width)).repeat(lines));
        assert_eq!([full(79, 1), full(80, 1), full(1, 2046), full(1, 2047)], [false, true, false, true]);
    }

    proptest::proptest! {
        #[test]
        fn any_log_is_survived(raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..9000)) {
            proptest::prop_assert!(message_from_log(&raw).len() <= 3 * MAX_LOG_BYTES);
        }
    }

    #[test]
    fn lines_are_parsed_strictly() {
        let parsed = parse_cri_line(b"2026-01-02T03:04:05.000000006Z stderr P:x a b ").unwrap();
        assert_eq!((parsed.stream, parsed.partial, parsed.content), ("stderr", true, &b"a b "[..]));
        assert_eq!(parsed.timestamp, LINE);
        for bad in ["", "x", "x stdout F y", &format!("{LINE} stdin F y"), &format!("{LINE} stdout Q y")] {
            assert_eq!(parse_cri_line(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn messages_are_joined_and_cut_between_characters() {
        let check = |a: &str, b: &str, expected: &str| assert_eq!(join_messages(a, b), expected);
        check("", "", "");
        check("oom", "", "oom");
        check("", "bye", "bye");
        check("oom", "bye", "oom: bye");
        assert_eq!((bytes_per_container(0), bytes_per_container(5)), (12288, 2457));
        let mut text = "aé".to_owned();
        cut(&mut text, 2);
        assert_eq!(text, "a");
    }
}
