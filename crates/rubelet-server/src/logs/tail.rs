//! Where the last lines of a log begin: found by reading backwards in blocks, so that the end of a large file costs
//! what the end of a small one does.
//!
//! Blocking. A line is what a container wrote up to a line end: the entries of a line that came in parts count once.

use std::fs::File;
use std::io;
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

/// The search for the start of the last lines of a file, a part at a time.
#[derive(Debug)]
pub(super) struct Search {
    end: u64,
    wanted: u64,
    right: u64,
    found: Found,
    /// Nothing but what goes on behind the end was found yet.
    last: bool,
}

impl Search {
    /// A search for the last `wanted` lines before `end`. A line that is not whole there counts if the log ends there
    /// (`ends_log`), not if it goes on in the next file.
    pub(super) fn new(end: u64, wanted: u64, ends_log: bool) -> Self {
        Self { end, wanted, right: end, found: Found { start: end, lines: 0 }, last: ends_log }
    }

    /// Searches on in about `budget` bytes more; `None` when there is more to search.
    pub(super) fn step(&mut self, file: &File, budget: u64) -> io::Result<Option<Found>> {
        let stop = self.right.saturating_sub(budget);
        let mut block = Vec::new();
        while self.right > 0 {
            if self.right <= stop {
                return Ok(None);
            }
            let left = self.right.saturating_sub(BLOCK);
            let until = self.end.min(self.right + HEAD as u64);
            block.resize(usize::try_from(until - left).unwrap_or_default(), 0);
            file.read_exact_at(&mut block, left)?;
            if self.take(&block, left) {
                break;
            }
            self.right = left;
        }
        Ok(Some(self.found))
    }

    /// Takes the line starts of a block at `left`, from the right; true when the search is over.
    fn take(&mut self, block: &[u8], left: u64) -> bool {
        let newlines = &block[..usize::try_from(self.right - left).unwrap_or_default()];
        let starts =
            newlines.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        for at in starts.chain((left == 0).then_some(0)) {
            let start = left + at as u64;
            if self.wanted == 0 {
                // Of an entry that is being written, the start has to be kept.
                self.found = Found { start, lines: 0 };
                return true;
            }
            if start == self.end {
                continue;
            }
            // What is no entry is not shown either.
            if let Some(ends) = line::ends_line(&block[at..]) {
                if ends || self.last {
                    if self.found.lines == self.wanted {
                        return true;
                    }
                    self.found.lines += 1;
                }
                self.last = false;
            }
            self.found.start = start;
        }
        false
    }
}

/// Counts the lines of what can only be read forwards, a part at a time.
#[derive(Debug, Default)]
pub(super) struct Count {
    lines: u64,
    last_partial: bool,
    head: Vec<u8>,
}

impl Count {
    /// Goes on with these bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = HEAD - self.head.len().min(HEAD);
            self.head.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_entry();
            }
        }
    }

    /// How many lines there were; see [`Search::new`] for `ends_log`.
    pub(super) fn finish(mut self, ends_log: bool) -> u64 {
        self.end_entry();
        self.lines + u64::from(self.last_partial && ends_log)
    }

    fn end_entry(&mut self) {
        match line::ends_line(&self.head) {
            Some(true) => (self.lines, self.last_partial) = (self.lines + 1, false),
            Some(false) => self.last_partial = true,
            None => {}
        }
        self.head.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(file: &File, end: u64, wanted: u64) -> io::Result<Found> {
        let whole = Search::new(end, wanted, true).step(file, u64::MAX)?.unwrap();
        let mut search = Search::new(end, wanted, true);
        loop {
            // In parts as in one go.
            if let Some(found) = search.step(file, 1)? {
                assert_eq!(found, whole);
                return Ok(found);
            }
        }
    }

    fn count(bytes: &[u8]) -> u64 {
        let mut count = Count::default();
        bytes.chunks(7).for_each(|part| count.push(part));
        count.finish(true)
    }

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
    fn a_line_that_goes_on_in_the_next_file_is_counted_there() {
        let (a, p, q) = (entry("F", "a"), entry("P", "p"), entry("P", "q"));
        let text = format!("{a}{a}{p}{q}");
        let mut search = Search::new(text.len() as u64, 1, false);
        let found = search.step(&file(text.as_bytes()), u64::MAX).unwrap().unwrap();
        assert_eq!((&text[found.start as usize..], found.lines), (format!("{a}{p}{q}").as_str(), 1));
        let mut count = Count::default();
        count.push(text.as_bytes());
        assert_eq!(count.finish(false), 2);
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
            let all = count(text.as_bytes());
            let found = find(&file(text.as_bytes()), text.len() as u64, wanted).unwrap();
            prop_assert_eq!(found.lines, all.min(wanted));
            prop_assert_eq!(count(&text.as_bytes()[found.start as usize..]), found.lines);
        }

        #[test]
        fn any_bytes_have_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300), wanted in 0u64..5) {
            let found = find(&file(&bytes), bytes.len() as u64, wanted).unwrap();
            prop_assert!(found.start <= bytes.len() as u64);
            count(&bytes);
        }
    }
}
