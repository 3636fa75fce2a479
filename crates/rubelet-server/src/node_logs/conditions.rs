//! What a client already has and which part it wants: preconditions and ranges, as Go's `http.ServeContent` reads them.
//!
//! Pure. There are no entity tags here, only the time of the last change, in whole seconds.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};

/// The last second that a header can name: the end of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;
/// More ranges than this are none.
const MAX_RANGES: usize = 200;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted<'a> {
    /// It is served, or these ranges of it.
    Content(Option<&'a str>),
    /// The client has it already (304).
    NotModified,
    /// What the client demands is not so (412).
    Failed,
}

/// A time of change as headers tell it; none for the epoch and what is before, as in Go.
pub(super) fn http_date(seconds: i64) -> Option<String> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| (1..=LAST_SECOND as u64).contains(seconds))?;
    Some(httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    seconds(text(headers, name)?)
}

fn seconds(text: &str) -> Option<i64> {
    let date = httpdate::parse_http_date(text).ok()?;
    i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Whether the client has what was changed at `changed` already.
pub(super) fn is_known(headers: &HeaderMap, changed: i64) -> bool {
    changed != 0 && date(headers, &IF_MODIFIED_SINCE).is_some_and(|known| changed <= known)
}

/// What a GET or HEAD of something that was changed at `changed` comes to.
pub(super) fn judge(headers: &HeaderMap, changed: i64) -> Wanted<'_> {
    let failed = match text(headers, &IF_MATCH) {
        Some(tags) => !tags.starts_with('*'),
        None => changed != 0 && date(headers, &IF_UNMODIFIED_SINCE).is_some_and(|known| changed > known),
    };
    if failed {
        return Wanted::Failed;
    }
    let known = match text(headers, &IF_NONE_MATCH) {
        Some(tags) => tags.starts_with('*'),
        None => is_known(headers, changed),
    };
    if known {
        return Wanted::NotModified;
    }
    let same = text(headers, &IF_RANGE).is_none_or(|known| seconds(known) == Some(changed));
    Wanted::Content(text(headers, &RANGE).filter(|_| same))
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Span {
    /// As `Content-Range` says it, of a file of `size` bytes.
    pub(super) fn content_range(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.start, (self.start + self.length).saturating_sub(1))
    }
}

/// Why ranges cannot be served (416).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RangeError {
    #[error("invalid range")]
    Invalid,
    /// None of them is in the file.
    #[error("invalid range: failed to overlap")]
    NoOverlap,
}

/// The parts that a `Range` header names; none means the whole file, which is also what too many come to, and more than
/// the file has.
pub(super) fn spans(range: &str, size: u64) -> Result<Vec<Span>, RangeError> {
    let ranges = range.strip_prefix("bytes=").ok_or(RangeError::Invalid)?;
    if ranges.split(',').count() > MAX_RANGES {
        return Ok(Vec::new());
    }
    let (mut spans, mut beyond) = (Vec::new(), false);
    for range in ranges.split(',').map(|range| range.trim_matches([' ', '\t'])) {
        if range.is_empty() {
            continue;
        }
        let (start, end) = range.split_once('-').ok_or(RangeError::Invalid)?;
        let (start, end) = (start.trim(), end.trim());
        let span = if start.is_empty() {
            let length = number(end)?.min(size);
            Span { start: size - length, length }
        } else {
            let start = number(start)?;
            if start >= size {
                beyond = true;
                continue;
            }
            let last = if end.is_empty() { size - 1 } else { number(end)?.min(size - 1) };
            if last < start {
                return Err(RangeError::Invalid);
            }
            Span { start, length: last - start + 1 }
        };
        spans.push(span);
    }
    if spans.is_empty() && beyond {
        // Clients that always send a range are to be able to read an empty file.
        return if size == 0 { Ok(spans) } else { Err(RangeError::NoOverlap) };
    }
    let sum = spans.iter().try_fold(0_u64, |sum, span| sum.checked_add(span.length));
    Ok(if sum.is_some_and(|sum| sum <= size) { spans } else { Vec::new() })
}

fn number(text: &str) -> Result<u64, RangeError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<i64>().ok().filter(|_| digits).ok_or(RangeError::Invalid)?;
    u64::try_from(number).map_err(|_| RangeError::Invalid)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// 2024-01-02T03:04:05Z.
    const CHANGED: i64 = 1_704_164_645;
    const DATE: &str = "Tue, 02 Jan 2024 03:04:05 GMT";
    const BEFORE: &str = "Tue, 02 Jan 2024 03:04:04 GMT";

    #[test]
    fn preconditions() {
        let check = |pairs: &[(HeaderName, &str)], expected: Wanted<'_>| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(judge(&headers, CHANGED), expected, "{pairs:?}");
        };
        let whole = || Wanted::Content(None);
        let part = || Wanted::Content(Some("bytes=1-2"));
        let range = || (RANGE, "bytes=1-2");
        check(&[], whole());
        check(&[(IF_MODIFIED_SINCE, DATE)], Wanted::NotModified);
        check(&[(IF_MODIFIED_SINCE, "Tuesday, 02-Jan-24 03:04:05 GMT")], Wanted::NotModified);
        check(&[(IF_MODIFIED_SINCE, BEFORE)], whole());
        check(&[(IF_MODIFIED_SINCE, "yesterday")], whole());
        check(&[(IF_NONE_MATCH, "*")], Wanted::NotModified);
        check(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, DATE)], whole());
        check(&[(IF_MATCH, "\"x\"")], Wanted::Failed);
        check(&[(IF_MATCH, "*")], whole());
        check(&[(IF_UNMODIFIED_SINCE, DATE)], whole());
        check(&[(IF_UNMODIFIED_SINCE, BEFORE)], Wanted::Failed);
        check(&[range()], part());
        check(&[range(), (IF_RANGE, DATE)], part());
        check(&[range(), (IF_RANGE, BEFORE)], whole());
        check(&[range(), (IF_RANGE, "\"x\"")], whole());
    }

    #[test]
    fn times_that_headers_cannot_tell_are_left_out() {
        assert_eq!(http_date(CHANGED).as_deref(), Some(DATE));
        for odd in [0, -1, i64::MIN, i64::MAX, LAST_SECOND + 1] {
            assert_eq!(http_date(odd), None);
        }
        assert_eq!(http_date(LAST_SECOND).as_deref(), Some("Fri, 31 Dec 9999 23:59:59 GMT"));
    }

    #[test]
    fn ranges_are_read_as_go_reads_them() {
        let check = |range: &str, size: u64, expected: Result<&[(u64, u64)], RangeError>| {
            let spans = spans(range, size)
                .map(|spans| spans.into_iter().map(|span| (span.start, span.length)).collect::<Vec<_>>());
            assert_eq!(spans, expected.map(<[_]>::to_vec), "{range} of {size}");
        };
        check("bytes=0-4", 10, Ok(&[(0, 5)]));
        check("bytes=2-", 10, Ok(&[(2, 8)]));
        check("bytes=-5", 10, Ok(&[(5, 5)]));
        check("bytes=3-7", 10, Ok(&[(3, 5)]));
        check("bytes=0-0,-2", 10, Ok(&[(0, 1), (8, 2)]));
        check("bytes=0-1, 5-8 ,", 10, Ok(&[(0, 2), (5, 4)]));
        check("bytes= 1 - 2", 10, Ok(&[(1, 2)]));
        check("bytes=5-1000", 10, Ok(&[(5, 5)]));
        check("bytes=-1000", 10, Ok(&[(0, 10)]));
        check("bytes=-0", 10, Ok(&[(10, 0)]));
        check("bytes=20-,0-0", 10, Ok(&[(0, 1)]));
        check("bytes=0-,0-,0-", 10, Ok(&[]));
        check("bytes=,", 10, Ok(&[]));
        check("bytes=20-", 10, Err(RangeError::NoOverlap));
        check("bytes=0-", 0, Ok(&[]));
        for bad in [
            "bytes",
            "bits=0-1",
            "bytes=a",
            "bytes=a-b",
            "bytes=3-2",
            "bytes=--1",
            "bytes=-",
            "bytes=+1-2",
            "bytes=99999999999999999999-",
        ] {
            check(bad, 10, Err(RangeError::Invalid));
        }
        check(&format!("bytes={}", vec!["0-0"; 201].join(",")), 1000, Ok(&[]));
        assert_eq!(Span { start: 3, length: 4 }.content_range(10), "bytes 3-6/10");
    }

    proptest! {
        #[test]
        fn spans_are_in_the_file(range in "bytes=[0-9, -]{0,20}", size in 0_u64..100) {
            for span in spans(&range, size).unwrap_or_default() {
                prop_assert!(span.start + span.length <= size);
                span.content_range(size);
            }
        }

        #[test]
        fn any_text_is_read(text in "\\PC{0,40}", size in any::<u64>()) {
            let _ = spans(&text, size);
            let _ = spans(&format!("bytes={text}"), size);
            let _ = seconds(&text);
        }
    }
}
