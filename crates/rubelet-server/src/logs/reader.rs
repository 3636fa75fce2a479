//! Reads a container's log from its start (or its last lines) to its end, over rotated and compressed files, step by
//! step.
//!
//! Blocking and single-minded: it says what it read, that there is nothing more for now, or that it is done. Whoever
//! calls it decides where it runs, waits for more, and says when there will be no more.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use jiff::Timestamp;

use super::Writers;
use super::compose::Composer;
use super::files::{Identity, LogFiles, Opened};
use super::finding::{Files, Finding, Start};
use super::line;
use super::options::LogOptions;

/// How much is read at once, and about how much a step gives.
const BLOCK: usize = 16 << 10;
/// The longest entry that is read as one; what is longer is passed on in parts.
const ENTRY: usize = 64 << 10;
/// About how much a step reads at most, whether or not any of it is wanted.
const WORK: usize = 1 << 20;
/// A file that was not written for so long while the next one was has been left, whoever has it open.
const LEFT: Duration = Duration::from_secs(5);

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes for the client.
    Bytes(Bytes),
    /// Nothing yet; there is more to read.
    Working,
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
    /// Tells who writes a file.
    writers: Option<Writers>,
    follow: bool,
    composer: Composer,
    /// Where to begin is still being looked for.
    finding: Option<Box<Finding>>,
    /// Rotated files that come before the next current one.
    queue: VecDeque<(String, Start)>,
    /// The rotated files that were there when the current one was opened.
    known: Vec<String>,
    source: Option<Source>,
    /// The current file, opened already and not yet begun, with the place to begin at.
    next: Option<(File, u64)>,
    /// Where to stop in the current file, when it is not followed.
    end: Option<u64>,
    /// Lines still to be left out.
    skip: u64,
    /// Bytes still to be left out.
    skip_bytes: u64,
    input: BytesMut,
    long: Option<Long>,
    /// The file at hand is not written any more and was read to its end once since.
    read_since: bool,
    /// The name that the current file has since it was rotated away.
    away: Option<String>,
    closing: bool,
    done: bool,
}

impl LogReader {
    /// Opens the log; where to begin is found by the first steps.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub(super) fn open(
        files: LogFiles,
        writers: Option<Writers>,
        options: &LogOptions,
        now: Timestamp,
    ) -> io::Result<Self> {
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
        let size = current.as_ref().map(File::metadata).transpose()?.map(|metadata| metadata.len());
        let since = options.since(now);
        let known = rotated.clone();
        let finding = Finding::new(files.clone(), rotated, current, since, options.tail_lines)?;
        Ok(Self {
            follow: options.follow,
            writers,
            composer: Composer::new(options, since),
            finding: Some(Box::new(finding)),
            queue: VecDeque::new(),
            known,
            source: None,
            next: None,
            end: size.filter(|_| !options.follow),
            skip: 0,
            skip_bytes: 0,
            input: BytesMut::new(),
            long: None,
            read_since: false,
            away: None,
            closing: false,
            done: false,
            files,
        })
    }

    #[cfg(test)]
    pub(super) fn is_finding(&self) -> bool {
        self.finding.is_some()
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
        if let Some(mut finding) = self.finding.take() {
            if finding.step(WORK)? {
                Files { queue: self.queue, current: self.next } = finding.found();
            } else {
                self.finding = Some(finding);
            }
            return Ok(Step::Working);
        }
        let mut out = BytesMut::new();
        let mut work = 0;
        let mut working = false;
        while !self.done {
            self.compose(&mut out);
            if self.composer.is_full() {
                self.done = true;
            }
            if out.len() >= BLOCK || self.done {
                break;
            }
            if work >= WORK {
                working = true;
                break;
            }
            let read = self.read()?;
            work += read;
            if read == 0 && !self.turn(&mut out)? {
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
        Ok(match self.done {
            true => Step::Done,
            false if working => Step::Working,
            false => Step::CaughtUp,
        })
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
                Some(Source::Compressed(decoder)) => match decoder.read(target) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                        // What comes before the damage was shown, and so is what comes after this file.
                        tracing::debug!("a compressed log is damaged: {error}");
                        Ok(0)
                    }
                    read => read,
                },
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.input.truncate(before + read.as_ref().copied().unwrap_or_default());
        if self.skip_bytes > 0 {
            // None of them was read before: they come first.
            let skipped = self.skip_bytes.min(self.input.len() as u64);
            self.skip_bytes -= skipped;
            self.input.advance(usize::try_from(skipped).unwrap_or_default());
        }
        read
    }

    /// At the end of a file: goes on to the next. False when there is nothing to go on with, now or for ever.
    fn turn(&mut self, out: &mut BytesMut) -> io::Result<bool> {
        match &self.source {
            Some(Source::Current { .. }) => return self.turn_current(out),
            Some(Source::Plain { file, .. }) if self.follow && self.queue.is_empty() => {
                // The runtime may still write to it what it had not written when it began the next file.
                if let Some((next, _)) = &self.next
                    && self.is_written(file, next)
                {
                    return Ok(self.rest(out));
                }
                if !std::mem::replace(&mut self.read_since, true) {
                    return Ok(true);
                }
            }
            _ => {}
        }
        self.finish_entry(out);
        self.open_next(out)
    }

    /// The same for the file that is written, or was.
    fn turn_current(&mut self, out: &mut BytesMut) -> io::Result<bool> {
        let Some(Source::Current { file, position }) = &mut self.source else { return Ok(false) };
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
        if self.away.is_none() {
            self.away = self.files.rotated()?.into_iter().rev().find(|name| self.files.is(name, this));
        }
        let Some(Source::Current { file, .. }) = &self.source else { return Ok(false) };
        if self.is_written(file, &new) {
            return Ok(self.rest(out));
        }
        if !std::mem::replace(&mut self.read_since, true) {
            // It may have been written after its end was read, and before its writer left it.
            return Ok(true);
        }
        let changed = file.metadata()?.modified()?;
        self.finish_entry(out);
        self.switch(new, changed)?;
        Ok(true)
    }

    /// Whether somebody still writes a file that was rotated away, `next` being the one after it.
    fn is_written(&self, file: &File, next: &File) -> bool {
        let Some(writers) = &self.writers else { return false };
        if self.closing || writers(file) != Some(true) {
            return false;
        }
        let changed = |file: &File| file.metadata().and_then(|metadata| metadata.modified());
        let (Ok(this), Ok(next)) = (changed(file), changed(next)) else { return false };
        next.duration_since(this).is_ok_and(|since| since < LEFT) || next < this
    }

    /// From a file that was rotated away and written last at `changed` to the one that is written now, and those between
    /// them.
    fn switch(&mut self, new: File, changed: SystemTime) -> io::Result<()> {
        let rotated = self.files.rotated()?;
        let this = Identity::of(&new)?;
        let known = std::mem::replace(&mut self.known, rotated.clone());
        // A file that was compressed before its name was seen is known by its time, which it keeps.
        let later = |name: &String| match &self.away {
            Some(away) => name > away,
            None => !known.contains(name) && self.files.changed(name).is_some_and(|time| time > changed),
        };
        let later = rotated.into_iter().filter(later);
        // The new one may have been rotated away itself by now, and others after it.
        let later = later.take_while(|name| !self.files.is(name, this));
        self.queue = later.map(|name| (name, Start::Byte(0))).collect();
        self.next = Some((new, 0));
        self.source = None;
        self.away = None;
        Ok(())
    }

    fn open_next(&mut self, out: &mut BytesMut) -> io::Result<bool> {
        // Nothing is left out but the start of the oldest file.
        (self.skip, self.skip_bytes, self.read_since) = (0, 0, false);
        while let Some((name, start)) = self.queue.pop_front() {
            if let Some(Opened { file, compressed }) = self.files.open_rotated(&name)? {
                let mut position = 0;
                match start {
                    Start::Line(lines) => self.skip = lines,
                    Start::Byte(bytes) if compressed => self.skip_bytes = bytes,
                    Start::Byte(bytes) => position = bytes,
                }
                self.source = Some(match compressed {
                    true => Source::Compressed(Box::new(MultiGzDecoder::new(file))),
                    false => Source::Plain { file, position },
                });
                return Ok(true);
            }
        }
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
