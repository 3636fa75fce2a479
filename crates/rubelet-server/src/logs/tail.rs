//! Where the last lines of a log begin: found by reading backwards in blocks, so that the end of a large file costs
//! what the end of a small one does.
//!
//! Blocking. A line is what a container wrote up to a line end: the entries of a line that came in parts count once.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use super::line::{self, HEAD};

const BLOCK: u64 = 32 << 10;

/// Where lines begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The offset of the first of them.
    pub(super) start: u64,
    /// How many there are from there to the end: fewer than asked for when the file has no more.
    pub(super) lines: u64,
}

/// Looks for the start of the last `wanted` lines before `end`.
pub(super) fn find(file: &File, end: u64, wanted: u64) -> io::Result<Found> {
    let mut found = Found { start: end, lines: 0 };
    let mut last = true;
    let mut right = end;
    let mut block = Vec::new();
    while right > 0 {
        let left = right.saturating_sub(BLOCK);
        let until = end.min(right + HEAD as u64);
        block.resize(usize::try_from(until - left).unwrap_or_default(), 0);
        file.read_exact_at(&mut block, left)?;
        let newlines = &block[..usize::try_from(right - left).unwrap_or_default()];
        let starts =
            newlines.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        for at in starts.chain((left == 0).then_some(0)) {
            let start = left + at as u64;
            if wanted == 0 {
                // Of an entry that is being written, the start has to be kept.
                return Ok(Found { start, lines: 0 });
            }
            if start == end {
                continue;
            }
            // What is no entry is not shown either.
            if let Some(ends) = line::ends_line(&block[at..]) {
                if ends || last {
                    if found.lines == wanted {
                        return Ok(found);
                    }
                    found.lines += 1;
                }
                last = false;
            }
            found.start = start;
        }
        right = left;
    }
    Ok(found)
}

/// How many lines there are in what can only be read forwards.
pub(super) fn count(mut from: impl Read) -> io::Result<u64> {
    let mut lines = 0;
    let mut last_partial = false;
    let mut head = Vec::with_capacity(HEAD);
    let mut block = vec![0; 16 << 10];
    let mut end_entry = |head: &mut Vec<u8>| {
        match line::ends_line(head) {
            Some(true) => (lines, last_partial) = (lines + 1, false),
            Some(false) => last_partial = true,
            None => {}
        }
        head.clear();
    };
    loop {
        let read = match from.read(&mut block) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for part in block[..read].split_inclusive(|byte| *byte == b'\n') {
            let room = HEAD - head.len().min(HEAD);
            head.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                end_entry(&mut head);
            }
        }
    }
    end_entry(&mut head);
    Ok(lines + u64::from(last_partial))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(text: &[u8]) -> File {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), text).unwrap();
        File::open(path.path()).unwrap()
    }

    fn entry(tag: &str, content: &str) -> String {
        format!("2024-01-01T00:00:00.123456789Z stdout {tag} {content}\n")
    }

    fn check(text: &str, wanted: u64, rest: &str, lines: u64) {
        let found = find(&file(text.as_bytes()), text.len() as u64, wanted).unwrap();
        assert_eq!((&text[found.start as usize..], found.lines), (rest, lines), "{wanted} of {text:?}");
    }

    #[test]
    fn finds_the_last_lines() {
        let (a, b, c) = (entry("F", "a"), entry("F", "b"), entry("F", "c"));
        let (p, q) = (entry("P", "p"), entry("P", "q"));
        let all = format!("{a}{b}{c}");
        check(&all, 0, "", 0);
        check(&all, 1, &c, 1);
        check(&all, 2, &format!("{b}{c}"), 2);
        check(&all, 3, &all, 3);
        check(&all, 9, &all, 3);
        check("", 3, "", 0);
        check(&format!("{a}{p}{q}{b}"), 1, &format!("{p}{q}{b}"), 1);
        check(&format!("{a}{p}{q}"), 1, &format!("{p}{q}"), 1);
        check(&format!("{a}{p}{q}"), 2, &format!("{a}{p}{q}"), 2);
        check(&format!("{a}rubbish\n{b}"), 2, &format!("{a}rubbish\n{b}"), 2);
        let half = &c[..20];
        check(&format!("{a}{half}"), 0, half, 0);
        check(&format!("{a}{half}"), 1, &format!("{a}{half}"), 1);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_no_loop() {
        assert!(find(&file(b"x"), 100_000, 3).is_err());
    }

    proptest! {
        #[test]
        fn agrees_with_reading_forwards(
            sizes in proptest::collection::vec((0usize..20_000, any::<bool>()), 0..20), wanted in 0u64..25,
        ) {
            let text: String = sizes
                .iter()
                .map(|(size, partial)| entry(if *partial { "P" } else { "F" }, &"x".repeat(*size)))
                .collect();
            let all = count(text.as_bytes()).unwrap();
            let found = find(&file(text.as_bytes()), text.len() as u64, wanted).unwrap();
            prop_assert_eq!(found.lines, all.min(wanted));
            prop_assert_eq!(count(&text.as_bytes()[found.start as usize..]).unwrap(), found.lines);
        }

        #[test]
        fn any_bytes_have_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300), wanted in 0u64..5) {
            let found = find(&file(&bytes), bytes.len() as u64, wanted).unwrap();
            prop_assert!(found.start <= bytes.len() as u64);
            count(&bytes[..]).unwrap();
        }
    }
}
