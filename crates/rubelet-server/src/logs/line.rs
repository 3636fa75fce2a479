//! One entry of a log file in the CRI format: `<RFC 3339 time> stdout|stderr <tags> <content>`.
//!
//! Pure. The content is bytes: what a container writes need not be text.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// The longest head of an entry that is looked for: time, stream and tags with their spaces.
pub(crate) const HEAD: usize = 96;

/// Where a container wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What stands before the content of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// When it was written.
    pub time: Timestamp,
    /// The time as it stands there.
    pub stamp: &'a [u8],
    /// Where it was written.
    pub output: Output,
    /// The line goes on in the next entry of the same output (tag `P`).
    pub partial: bool,
}

/// Why an entry cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No time at the start.
    #[error("timestamp is not found")]
    NoTime,
    /// Something else where the time should be.
    #[error("unexpected timestamp format")]
    BadTime,
    /// Neither stdout nor stderr.
    #[error("stream type is not stdout or stderr")]
    BadStream,
    /// No tags.
    #[error("log tag is not found")]
    NoTag,
}

/// Reads an entry: its head, and its content as it is to be shown. `line` is without or with its line end; the content
/// of a whole line keeps it, that of a partial one loses it.
///
/// # Errors
/// [`LineError`] when this is no entry.
pub fn parse(line: &[u8]) -> Result<(Head<'_>, &[u8]), LineError> {
    let (stamp, rest) = word(line).ok_or(LineError::NoTime)?;
    let time = instant(stamp).ok_or(LineError::BadTime)?;
    let (output, rest) = word(rest).ok_or(LineError::BadStream)?;
    let output = match output {
        b"stdout" => Output::Stdout,
        b"stderr" => Output::Stderr,
        _ => return Err(LineError::BadStream),
    };
    let (tags, content) = word(rest).ok_or(LineError::NoTag)?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    let content = match content {
        [content @ .., b'\n'] if partial => content,
        content => content,
    };
    Ok((Head { time, stamp, output, partial }, content))
}

/// Whether the entry that begins like this ends a line; `None` when it is no entry. Takes a part of the line only.
pub(crate) fn ends_line(start: &[u8]) -> Option<bool> {
    parse(start).ok().map(|(head, _)| !head.partial)
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().take(HEAD).position(|byte| *byte == b' ')?;
    Some((&text[..end], &text[end + 1..]))
}

/// `2006-01-02T15:04:05[.999999999](Z|±07:00)`.
fn instant(text: &[u8]) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| date[*at] != *byte) {
        return None;
    }
    let small = |from: usize| i8::try_from(number(&date[from..from + 2])?).ok();
    let (fraction, zone) = fraction(rest)?;
    let mut nanos = 0;
    for at in 0..9 {
        nanos = nanos * 10 + fraction.get(at).map_or(0, |digit| i32::from(digit - b'0'));
    }
    let year = i16::try_from(number(&date[..4])?).ok()?;
    let civil = DateTime::new(year, small(5)?, small(8)?, small(11)?, small(14)?, small(17)?, nanos).ok()?;
    let offset = match zone {
        b"Z" => Offset::UTC,
        [sign @ (b'+' | b'-'), hours @ .., b':', ten, one] if hours.len() == 2 => {
            let seconds = number(hours)? * 3600 + number(&[*ten, *one])? * 60;
            Offset::from_seconds(if *sign == b'-' { -seconds } else { seconds }).ok()?
        }
        _ => return None,
    };
    offset.to_timestamp(civil).ok()
}

/// The digits behind the seconds, and the zone behind them.
fn fraction(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(digits) = rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b",")) else {
        return Some((&[], rest));
    };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    (end > 0).then(|| digits.split_at(end))
}

fn number(digits: &[u8]) -> Option<i32> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i32::from(digit - b'0')))
}

/// Appends a time as clients get it: nine digits behind the second (upstream `RFC3339NanoFixed`), in the zone it was
/// written in.
pub(crate) fn put_time(head: &Head<'_>, out: &mut impl Extend<u8>) {
    let (date, rest) = head.stamp.split_at(head.stamp.len().min(19));
    let (fraction, zone) = fraction(rest).unwrap_or((&[], b"Z"));
    out.extend(date.iter().copied());
    out.extend([b'.']);
    out.extend(fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9));
    out.extend(match zone {
        b"+00:00" | b"-00:00" => b"Z".iter().copied(),
        zone => zone.iter().copied(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(line: &[u8]) -> String {
        match parse(line) {
            Ok((head, content)) => {
                let mut time = Vec::new();
                put_time(&head, &mut time);
                format!(
                    "{} {} {:?} {} {:?}",
                    head.time,
                    String::from_utf8(time).unwrap(),
                    head.output,
                    if head.partial { "P" } else { "F" },
                    String::from_utf8_lossy(content)
                )
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn reads_entries() {
        for (line, expected) in [
            (
                &b"2016-10-06T00:17:09.669794202Z stdout F log content 1\n"[..],
                "2016-10-06T00:17:09.669794202Z 2016-10-06T00:17:09.669794202Z Stdout F \"log content 1\\n\"",
            ),
            (
                b"2016-10-06T00:17:09.1+02:00 stderr P part\n",
                "2016-10-05T22:17:09.1Z 2016-10-06T00:17:09.100000000+02:00 Stderr P \"part\"",
            ),
            (
                b"2016-10-06T00:17:09-00:00 stderr P:x:y ",
                "2016-10-06T00:17:09Z 2016-10-06T00:17:09.000000000Z Stderr P \"\"",
            ),
            (
                b"2016-10-06T00:17:09Z stdout F  \xff\n",
                "2016-10-06T00:17:09Z 2016-10-06T00:17:09.000000000Z Stdout F \" \u{fffd}\\n\"",
            ),
            (b"2016-10-06T00:17:09Z stdout F", "log tag is not found"),
            (b"2016-10-06T00:17:09Z stdin F x", "stream type is not stdout or stderr"),
            (b"2016-10-06T00:17:09Z", "timestamp is not found"),
            (b"2016-10-06T00:17:61Z stdout F x", "unexpected timestamp format"),
            (b"2016-10-06T00:17:09.Z stdout F x", "unexpected timestamp format"),
            (b"2016-10-06 00:17:09Z stdout F x", "unexpected timestamp format"),
            (b"{\"log\":\"x y\"}", "unexpected timestamp format"),
            (b"", "timestamp is not found"),
        ] {
            assert_eq!(shown(line), expected, "{}", String::from_utf8_lossy(line));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            shown(&bytes);
        }

        #[test]
        fn what_looks_like_an_entry_never_panics(
            line in "[0-9+:.,TZ-]{0,40} (stdout|stderr|x) (F|P|P:F|) ?[a-z ]{0,9}\n?",
        ) {
            shown(line.as_bytes());
        }

        #[test]
        fn a_written_entry_is_read_back(
            seconds in 0i64..4_000_000_000, nanos in 0i32..1_000_000_000, err: bool, partial: bool,
            content in proptest::collection::vec(any::<u8>().prop_filter("one line", |byte| *byte != b'\n'), 0..80),
        ) {
            let time = Timestamp::new(seconds, nanos).unwrap();
            let mut line = format!(
                "{time} {} {} ", if err { "stderr" } else { "stdout" }, if partial { "P" } else { "F" }
            ).into_bytes();
            line.extend(&content);
            let (head, read) = parse(&line).unwrap();
            prop_assert_eq!((head.time, head.partial, read), (time, partial, &content[..]));
        }
    }
}
