//! What a client gets of a log's entries: filtered, partial lines joined, times put before lines, cut at the limit.
//!
//! Pure: entries in, bytes out.

use bytes::{BufMut as _, BytesMut};
use jiff::Timestamp;

use super::line::{self, Head, Output};
use super::options::{LogOptions, Wanted};

/// How much of one output is kept back while a line of the other is not whole yet.
const HELD: usize = 64 << 10;

/// Makes a client's bytes of entries.
#[derive(Debug, Default)]
pub(crate) struct Composer {
    since: Option<Timestamp>,
    timestamps: bool,
    wanted: Wanted,
    /// How many bytes the client may still get.
    remaining: Option<u64>,
    /// Whether a line has begun, for each output.
    inside: [bool; 2],
    /// The output whose unfinished line the client's bytes end with.
    owner: Option<usize>,
    /// What the other output wrote meanwhile: it follows when the line is whole, or when nothing else is left to send.
    held: BytesMut,
}

impl Composer {
    /// What these options want, lines before `since` left out.
    pub(crate) fn new(options: &LogOptions, since: Option<Timestamp>) -> Self {
        Self {
            since,
            timestamps: options.timestamps,
            wanted: options.wanted,
            remaining: options.limit_bytes,
            ..Self::default()
        }
    }

    /// Adds an entry. `partial` says whether its line goes on.
    pub(crate) fn push(&mut self, head: &Head<'_>, content: &[u8], partial: bool, out: &mut BytesMut) {
        let wanted = match self.wanted {
            Wanted::All => true,
            Wanted::Stdout => head.output == Output::Stdout,
            Wanted::Stderr => head.output == Output::Stderr,
        };
        if !wanted || self.since.is_some_and(|since| head.time < since) {
            return;
        }
        let this = usize::from(head.output == Output::Stderr);
        let held = self.owner.is_some_and(|owner| owner != this);
        if self.timestamps && !self.inside[this] {
            let mut prefix = Vec::with_capacity(40);
            line::put_time(head, &mut prefix);
            prefix.push(b' ');
            self.put(&prefix, held, out);
        }
        self.put(content, held, out);
        self.inside[this] = partial;
        if held {
            if self.held.len() > HELD {
                self.settle(out);
            }
        } else {
            self.owner = partial.then_some(this);
            if !partial && !self.held.is_empty() {
                self.release(1 - this, out);
            }
        }
    }

    /// Nothing more to add for now: what was kept back goes out.
    pub(crate) fn settle(&mut self, out: &mut BytesMut) {
        if let Some(owner) = self.owner
            && !self.held.is_empty()
        {
            self.release(1 - owner, out);
        }
    }

    /// The file was begun anew or left: no line goes on.
    pub(crate) fn interrupt(&mut self, out: &mut BytesMut) {
        self.settle(out);
        self.inside = [false; 2];
        self.owner = None;
    }

    /// Whether the limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.remaining == Some(0)
    }

    fn release(&mut self, other: usize, out: &mut BytesMut) {
        let held = std::mem::take(&mut self.held);
        self.put(&held, false, out);
        self.owner = self.inside[other].then_some(other);
    }

    fn put(&mut self, bytes: &[u8], held: bool, out: &mut BytesMut) {
        if held {
            self.held.put_slice(bytes);
            return;
        }
        let bytes = match &mut self.remaining {
            None => bytes,
            Some(remaining) => {
                let fits = usize::try_from(*remaining).unwrap_or(usize::MAX).min(bytes.len());
                *remaining -= fits as u64;
                &bytes[..fits]
            }
        };
        out.put_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(mut composer: Composer, entries: &str, expected: &str) {
        let mut out = BytesMut::new();
        for entry in entries.split_inclusive('\n') {
            if entry == "-\n" {
                composer.settle(&mut out);
                continue;
            }
            let entry = format!("2024-01-01T00:00:0{entry}");
            let (head, content) = line::parse(entry.as_bytes()).unwrap();
            composer.push(&head, content, head.partial, &mut out);
        }
        composer.settle(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn joins_filters_and_cuts() {
        let plain = Composer::default;
        let timed = || Composer { timestamps: true, ..Composer::default() };
        check(plain(), "1Z stdout F a\n2Z stderr F b\n", "a\nb\n");
        check(plain(), "1Z stdout P a\n2Z stdout P b\n3Z stdout F c\n", "abc\n");
        check(plain(), "1Z stdout P a\n2Z stdout P b\n", "ab");
        // A line of the other output does not split one.
        check(plain(), "1Z stdout P a\n2Z stderr F e\n3Z stdout F b\n4Z stdout F c\n", "ab\ne\nc\n");
        check(plain(), "1Z stdout P a\n2Z stderr P e\n3Z stdout F b\n4Z stderr F f\n", "ab\nef\n");
        // It waits no longer than there is something to wait for.
        check(plain(), "1Z stdout P a\n2Z stderr F e\n-\n3Z stdout F b\n", "ae\nb\n");
        let t = |second: u8| format!("2024-01-01T00:00:0{second}.000000000Z ");
        check(
            timed(),
            "1Z stdout P a\n2Z stderr P e\n3Z stdout F b\n4Z stderr F f\n5Z stdout F c\n",
            &format!("{}ab\n{}ef\n{}c\n", t(1), t(2), t(5)),
        );
        let since = || Composer { since: Some("2024-01-01T00:00:02Z".parse().unwrap()), ..timed() };
        check(
            since(),
            "1Z stdout F a\n1Z stdout P b\n2Z stdout F c\n3Z stdout F d\n",
            &format!("{}c\n{}d\n", t(2), t(3)),
        );
        let limited = |remaining| Composer { remaining: Some(remaining), ..Composer::default() };
        check(limited(3), "1Z stdout F abcd\n2Z stdout F e\n", "abc");
        check(limited(6), "1Z stdout F abcd\n2Z stdout F e\n", "abcd\ne");
        let only = |wanted| Composer { wanted, ..Composer::default() };
        check(only(Wanted::Stderr), "1Z stdout P a\n2Z stderr F e\n3Z stdout F b\n", "e\n");
        check(only(Wanted::Stdout), "1Z stdout P a\n2Z stderr F e\n3Z stdout F b\n", "ab\n");
    }

    #[test]
    fn keeps_back_a_bounded_amount() {
        let mut composer = Composer::default();
        let mut out = BytesMut::new();
        let push = |composer: &mut Composer, text: &[u8], out: &mut BytesMut| {
            let (head, content) = line::parse(text).unwrap();
            composer.push(&head, content, head.partial, out);
        };
        push(&mut composer, b"2024-01-01T00:00:00Z stdout P begun ", &mut out);
        let line = [&b"2024-01-01T00:00:00Z stderr F "[..], &[b'x'; 1000], b"\n"].concat();
        for _ in 0..200 {
            push(&mut composer, &line, &mut out);
            assert!(composer.held.len() <= HELD + 1001);
        }
        assert!(out.len() > 100_000);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_or_made_up(
            entries in proptest::collection::vec((any::<bool>(), any::<bool>(), "[a-z]{0,5}", any::<bool>()), 0..40),
        ) {
            let mut composer = Composer::default();
            let mut out = BytesMut::new();
            let mut sum = 0;
            for (err, partial, text, settle) in entries {
                let (output, tag, end) =
                    (if err { "stderr" } else { "stdout" }, if partial { "P" } else { "F" }, "\n");
                let entry = format!("2024-01-01T00:00:00Z {output} {tag} {text}{end}");
                let (head, content) = line::parse(entry.as_bytes()).unwrap();
                sum += content.len();
                composer.push(&head, content, head.partial, &mut out);
                if settle {
                    composer.settle(&mut out);
                }
            }
            composer.settle(&mut out);
            prop_assert_eq!(out.len(), sum);
        }
    }
}
