//! Finds where in a log's files to begin: which of them hold what is wanted, and where in the oldest of these it starts.
//!
//! Blocking, in steps of a bounded size: the last lines of a large log may be far from its end, and a compressed file has
//! to be read as a whole to know how many lines it has.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;

use super::files::{Identity, LogFiles, Opened};
use super::tail::{Count, Search};

const BLOCK: usize = 16 << 10;

/// Where in a rotated file to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Behind so many bytes of what was written to it.
    Byte(u64),
    /// Behind so many lines.
    Line(u64),
}

/// What was found.
pub(super) struct Files {
    /// Rotated files to read, the oldest first.
    pub(super) queue: VecDeque<(String, Start)>,
    /// Then the current one, from this place on.
    pub(super) current: Option<(File, u64)>,
}

/// A search under way.
pub(super) struct Finding {
    files: LogFiles,
    since: Option<Timestamp>,
    /// Lines still to be found; `None` when all are wanted.
    wanted: Option<u64>,
    identity: Option<Identity>,
    at: At,
    /// Rotated files not looked at yet, the oldest first.
    rotated: Vec<String>,
    found: Files,
}

/// Where the search is.
enum At {
    Current(File, Search),
    Plain(String, File, Search),
    Compressed(String, Box<MultiGzDecoder<File>>, Count),
    Next,
    End,
}

impl Finding {
    /// A search among these files, for the last `wanted` lines, of what was written since then.
    ///
    /// # Errors
    /// When a file cannot be asked for its length.
    pub(super) fn new(
        files: LogFiles,
        mut rotated: Vec<String>,
        current: Option<File>,
        since: Option<Timestamp>,
        wanted: Option<u64>,
    ) -> io::Result<Self> {
        let mut found = Files { queue: VecDeque::new(), current: None };
        let identity = current.as_ref().map(Identity::of).transpose()?;
        if let Some(current) = identity {
            // It was rotated since it was opened: it and what came after it are not before it.
            let this = |name: &String| files.is(name, current);
            if let Some(at) = rotated.iter().position(this) {
                rotated.truncate(at);
            }
        }
        let at = match (current, wanted) {
            (Some(file), Some(wanted)) => {
                let size = file.metadata()?.len();
                At::Current(file, Search::new(size, wanted, true))
            }
            (current, _) => {
                found.current = current.map(|file| (file, 0));
                At::Next
            }
        };
        Ok(Self { files, since, wanted, identity, at, rotated, found })
    }

    /// Searches on in about `budget` bytes; whether that was all.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn step(&mut self, budget: usize) -> io::Result<bool> {
        let bytes = budget as u64;
        match std::mem::replace(&mut self.at, At::Next) {
            At::Current(file, mut search) => match search.step(&file, bytes)? {
                None => self.at = At::Current(file, search),
                Some(found) => {
                    self.wanted = self.wanted.map(|wanted| wanted.saturating_sub(found.lines));
                    self.found.current = Some((file, found.start));
                }
            },
            At::Plain(name, file, mut search) => match search.step(&file, bytes)? {
                None => self.at = At::Plain(name, file, search),
                Some(found) => {
                    self.wanted = self.wanted.map(|wanted| wanted.saturating_sub(found.lines));
                    self.found.queue.push_front((name, Start::Byte(found.start)));
                }
            },
            At::Compressed(name, mut decoder, mut count) => {
                if read_on(&mut decoder, &mut count, budget) {
                    let lines = count.finish(self.found.current.is_none() && self.found.queue.is_empty());
                    let skip = lines.saturating_sub(self.wanted.unwrap_or(u64::MAX));
                    self.wanted = self.wanted.map(|wanted| wanted.saturating_sub(lines));
                    self.found.queue.push_front((name, Start::Line(skip)));
                } else {
                    self.at = At::Compressed(name, decoder, count);
                }
            }
            At::Next => self.begin_next()?,
            At::End => self.at = At::End,
        }
        Ok(matches!(self.at, At::End))
    }

    /// What was found, when the search is over.
    pub(super) fn found(self) -> Files {
        self.found
    }

    fn begin_next(&mut self) -> io::Result<()> {
        self.at = At::End;
        while self.wanted != Some(0)
            && let Some(name) = self.rotated.pop()
        {
            let Some(Opened { file, compressed }) = self.files.open_rotated(&name)? else { continue };
            if self.identity.is_some_and(|current| Identity::of(&file).is_ok_and(|this| this == current)) {
                continue;
            }
            let metadata = file.metadata()?;
            // Nothing was written after the file's last change, and everything in older files is older still.
            if self.since.is_some_and(|since| metadata.mtime() < since.as_second() - 2) {
                break;
            }
            let ends_log = self.found.current.is_none() && self.found.queue.is_empty();
            self.at = match self.wanted {
                None => {
                    self.found.queue.push_front((name, Start::Byte(0)));
                    continue;
                }
                Some(_) if compressed => {
                    At::Compressed(name, Box::new(MultiGzDecoder::new(file)), Count::default())
                }
                Some(wanted) => At::Plain(name, file, Search::new(metadata.len(), wanted, ends_log)),
            };
            return Ok(());
        }
        Ok(())
    }
}

/// Counts on; whether that was all there is to be read.
fn read_on(decoder: &mut MultiGzDecoder<File>, count: &mut Count, budget: usize) -> bool {
    let mut block = vec![0; BLOCK];
    for _ in 0..budget.div_ceil(BLOCK) {
        match decoder.read(&mut block) {
            Ok(0) => return true,
            Ok(read) => count.push(&block[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                // What comes before the damage is shown.
                tracing::debug!("a compressed log is damaged: {error}");
                return true;
            }
        }
    }
    false
}
