//! Reads a container's log from its start (or its last lines) to its end, over rotated and compressed files, step by
//! step.
//!
//! Blocking and single-minded: it says what it read, that there is nothing more for now, or that it is done. Whoever
//! calls it decides where it runs, waits for more, and says when there will be no more.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use jiff::Timestamp;

use super::compose::Composer;
use super::files::{Identity, LogFiles, Opened};
use super::line;
use super::options::LogOptions;
use super::tail;

/// How much is read at once, and about how much a step gives.
const BLOCK: usize = 16 << 10;
/// The longest entry that is read as one; what is longer is passed on in parts.
const ENTRY: usize = 64 << 10;

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes for the client.
    Bytes(Bytes),
    /// All there is was read.
    CaughtUp,
    /// Nothing more will come.
    Done,
}

enum Source {
    /// The file that is written, or was until it was rotated away.
    Current { file: File, position: u64 },
    /// A rotated file.
    Plain { file: File, position: u64 },
    /// A rotated file that was compressed.
    Compressed(Box<MultiGzDecoder<File>>),
}

/// What the rest of a line belongs to whose entry was too long to be read as one.
enum Long {
    /// An entry: its head.
    Entry(Vec<u8>),
    /// Nothing that could be read.
    Rubbish,
}

/// Reads one container's log for one client.
pub(super) struct LogReader {
    files: LogFiles,
    follow: bool,
    composer: Composer,
    /// Rotated files that come before the next current one.
    queue: VecDeque<String>,
    /// The rotated files that were there when the current one was opened.
    known: Vec<String>,
    source: Option<Source>,
    /// The current file, opened already and not yet begun, with the place to begin at.
    next: Option<(File, u64)>,
    /// Where to stop in the current file, when it is not followed.
    end: Option<u64>,
    /// Lines still to be left out.
    skip: u64,
    input: BytesMut,
    long: Option<Long>,
    /// The current file is no longer the one of that name and was read to its end once since.
    rotated_away: bool,
    closing: bool,
    done: bool,
}

impl LogReader {
    /// Opens the log and finds where to begin.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub(super) fn open(files: LogFiles, options: &LogOptions, now: Timestamp) -> io::Result<Self> {
        let current = match files.current() {
            Ok(file) => Some(file),
            // Between the two steps of a rotation there is none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut rotated = files.rotated()?;
        let current = match (current, rotated.last()) {
            (Some(file), _) => Some(file),
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
            // The file that was renamed last is still the one that is written.
            (None, Some(latest)) => match files.open_rotated(latest)? {
                Some(Opened { file, compressed: false }) => {
                    rotated.pop();
                    Some(file)
                }
                _ => None,
            },
        };
        let since = options.since(now);
        let mut reader = Self {
            follow: options.follow,
            composer: Composer::new(options, since),
            queue: VecDeque::new(),
            known: rotated.clone(),
            source: None,
            next: None,
            end: None,
            skip: 0,
            input: BytesMut::new(),
            long: None,
            rotated_away: false,
            closing: false,
            done: false,
            files,
        };
        let mut wanted = options.tail_lines;
        let mut identity = None;
        if let Some(file) = current {
            identity = Some(Identity::of(&file)?);
            let size = file.metadata()?.len();
            let mut start = 0;
            if let Some(lines) = &mut wanted {
                let found = tail::find(&file, size, *lines)?;
                start = found.start;
                *lines -= found.lines;
            }
            reader.end = (!options.follow).then_some(size);
            reader.next = Some((file, start));
        }
        reader.find_rotated(rotated, identity, since, wanted)?;
        Ok(reader)
    }

    /// Chooses the rotated files to read before the current one, and how many of their lines to leave out.
    fn find_rotated(
        &mut self,
        rotated: Vec<String>,
        current: Option<Identity>,
        since: Option<Timestamp>,
        mut wanted: Option<u64>,
    ) -> io::Result<()> {
        for name in rotated.into_iter().rev() {
            if wanted == Some(0) {
                break;
            }
            let Some(Opened { file, compressed }) = self.files.open_rotated(&name)? else { continue };
            if current.is_some_and(|current| Identity::of(&file).is_ok_and(|this| this == current)) {
                continue;
            }
            // Nothing was written after the file's last change, and everything in older files is older still.
            if since
                .is_some_and(|since| file.metadata().is_ok_and(|data| data.mtime() < since.as_second() - 2))
            {
                break;
            }
            if let Some(lines) = &mut wanted {
                let all =
                    if compressed { tail::count(MultiGzDecoder::new(file))? } else { tail::count(file)? };
                self.skip = all.saturating_sub(*lines);
                *lines = lines.saturating_sub(all);
            }
            self.queue.push_front(name);
        }
        Ok(())
    }

    /// There will be nothing more than what is there: the container has ended.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Reads on.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        let mut out = BytesMut::new();
        while !self.done {
            self.compose(&mut out);
            if self.composer.is_full() {
                self.done = true;
            }
            if out.len() >= BLOCK || self.done {
                break;
            }
            if self.read()? == 0 && !self.turn(&mut out)? {
                break;
            }
        }
        if self.done {
            self.source = None;
            self.input = BytesMut::new();
        }
        if !out.is_empty() {
            return Ok(Step::Bytes(out.freeze()));
        }
        if self.input.is_empty() {
            // Whoever waits keeps no buffer.
            self.input = BytesMut::new();
        }
        Ok(if self.done { Step::Done } else { Step::CaughtUp })
    }

    /// Reads a block of the file at hand; 0 at its end, or when there is none.
    fn read(&mut self) -> io::Result<usize> {
        let before = self.input.len();
        self.input.resize(before + BLOCK, 0);
        let target = &mut self.input[before..];
        let read = loop {
            let read = match &mut self.source {
                None => Ok(0),
                Some(Source::Current { file, position } | Source::Plain { file, position }) => {
                    file.read_at(target, *position).inspect(|read| *position += *read as u64)
                }
                Some(Source::Compressed(decoder)) => decoder.read(target),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.input.truncate(before + read.as_ref().copied().unwrap_or_default());
        read
    }

    /// At the end of a file: goes on to the next. False when there is nothing to go on with, now or for ever.
    fn turn(&mut self, out: &mut BytesMut) -> io::Result<bool> {
        let Some(Source::Current { file, position }) = &mut self.source else {
            self.finish_entry(out);
            return self.open_next(out);
        };
        if !self.follow {
            return Ok(self.finish(out));
        }
        let size = file.metadata()?.len();
        if size < *position {
            // Truncated in place: it begins anew.
            *position = 0;
            self.input.clear();
            self.long = None;
            self.composer.interrupt(out);
            return Ok(true);
        }
        let this = Identity::of(file)?;
        let new = match self.files.current() {
            Ok(new) => new,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.rest(out)),
            Err(error) => return Err(error),
        };
        if Identity::of(&new)? == this {
            return Ok(self.rest(out));
        }
        if !self.rotated_away {
            // It may have been written after the end was seen and before the new one was begun.
            self.rotated_away = true;
            return Ok(true);
        }
        self.finish_entry(out);
        self.switch(new, this)?;
        Ok(true)
    }

    /// From a file that was rotated away to the one that is written now, and those between them.
    fn switch(&mut self, new: File, old: Identity) -> io::Result<()> {
        let rotated = self.files.rotated()?;
        let new_identity = Identity::of(&new)?;
        let mut later: VecDeque<String> =
            rotated.iter().filter(|name| !self.known.contains(name)).cloned().collect();
        let is = |name: &str, which: Identity| {
            let opened = self.files.open_rotated(name).ok().flatten();
            opened.is_some_and(|opened| Identity::of(&opened.file).is_ok_and(|this| this == which))
        };
        // The oldest of those that are new is the one just read, whether or not it was compressed meanwhile.
        later.pop_front();
        later.retain(|name| !is(name, old) && !is(name, new_identity));
        self.known = rotated;
        self.queue = later;
        self.next = Some((new, 0));
        self.source = None;
        self.rotated_away = false;
        Ok(())
    }

    fn open_next(&mut self, out: &mut BytesMut) -> io::Result<bool> {
        if self.source.is_some() {
            // Lines are left out of the oldest file only.
            self.skip = 0;
        }
        while let Some(name) = self.queue.pop_front() {
            if let Some(Opened { file, compressed }) = self.files.open_rotated(&name)? {
                self.source = Some(match compressed {
                    true => Source::Compressed(Box::new(MultiGzDecoder::new(file))),
                    false => Source::Plain { file, position: 0 },
                });
                return Ok(true);
            }
        }
        self.skip = 0;
        if let Some((file, position)) = self.next.take() {
            if self.end.is_some_and(|end| position >= end) {
                return Ok(self.finish(out));
            }
            self.source = Some(Source::Current { file, position });
            return Ok(true);
        }
        self.source = None;
        if !self.follow {
            return Ok(self.finish(out));
        }
        // There was no current file, or it has not appeared again yet.
        match self.files.current() {
            Ok(file) => {
                self.source = Some(Source::Current { file, position: 0 });
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.rest(out)),
            Err(error) => Err(error),
        }
    }

    /// Nothing more for now. Always false.
    fn rest(&mut self, out: &mut BytesMut) -> bool {
        if self.closing {
            return self.finish(out);
        }
        self.composer.settle(out);
        false
    }

    /// Nothing more at all. Always false.
    fn finish(&mut self, out: &mut BytesMut) -> bool {
        self.finish_entry(out);
        self.composer.settle(out);
        self.done = true;
        false
    }

    /// Takes the whole entries out of what was read.
    fn compose(&mut self, out: &mut BytesMut) {
        let mut from = 0;
        while out.len() < BLOCK && !self.composer.is_full() {
            let Some(length) = self.input[from..].iter().position(|byte| *byte == b'\n').map(|at| at + 1)
            else {
                break;
            };
            let entry = from..from + length;
            from += length;
            if self.stops_before(from) {
                self.done = true;
            }
            match self.long.take() {
                None => push(&mut self.composer, &mut self.skip, &self.input[entry], out),
                Some(long) => {
                    put_long(&mut self.composer, &long, &self.input[entry], true, out);
                }
            }
            if self.done {
                self.composer.settle(out);
                break;
            }
        }
        let _ = self.input.split_to(from);
        if self.input.len() >= ENTRY && !self.input.contains(&b'\n') {
            let part = self.input.split();
            self.begin_or_go_on(&part, out);
        }
    }

    /// Whether a log that is not followed has been read as far as it went when it was asked for, when the first
    /// `consumed` bytes at hand are used up.
    fn stops_before(&self, consumed: usize) -> bool {
        let Some(Source::Current { position, .. }) = &self.source else { return false };
        let at = position.saturating_sub((self.input.len() - consumed) as u64);
        self.end.is_some_and(|end| at >= end)
    }

    /// A part of an entry that is too long to be kept.
    fn begin_or_go_on(&mut self, part: &[u8], out: &mut BytesMut) {
        let long = match self.long.take() {
            Some(long) => {
                put_long(&mut self.composer, &long, part, false, out);
                long
            }
            None => match line::parse(part) {
                Ok((head, content)) if self.skip == 0 => {
                    self.composer.push(&head, content, true, out);
                    Long::Entry(part[..part.len() - content.len()].to_vec())
                }
                Ok((head, _)) => {
                    self.skip -= u64::from(!head.partial);
                    Long::Rubbish
                }
                Err(_) => Long::Rubbish,
            },
        };
        self.long = Some(long);
    }

    /// The file ended within an entry: what there is of it is all there will be.
    fn finish_entry(&mut self, out: &mut BytesMut) {
        let part = self.input.split();
        match self.long.take() {
            Some(long) => put_long(&mut self.composer, &long, &part, true, out),
            None if !part.is_empty() => push(&mut self.composer, &mut self.skip, &part, out),
            None => {}
        }
    }
}

fn push(composer: &mut Composer, skip: &mut u64, entry: &[u8], out: &mut BytesMut) {
    match line::parse(entry) {
        Ok((head, _)) if *skip > 0 => *skip -= u64::from(!head.partial),
        Ok((head, content)) => composer.push(&head, content, head.partial, out),
        Err(error) => tracing::debug!("left out an entry of a log: {error}"),
    }
}

fn put_long(composer: &mut Composer, long: &Long, part: &[u8], last: bool, out: &mut BytesMut) {
    let Long::Entry(head) = long else { return };
    if let Ok((head, _)) = line::parse(head) {
        let part = match part {
            [part @ .., b'\n'] if head.partial => part,
            part => part,
        };
        composer.push(&head, part, !last || head.partial, out);
    }
}
