//! Files of the kernel that are read again and again: opened once, read from the start each time into one buffer.
//!
//! Opening such a file costs ten times what reading it does. An open one costs the kernel about a page, so that there
//! is a bound, beyond which files are opened for one reading. What a file said serves again where that is as true as
//! reading it: most of what a group tells changes only while its processes run. Knows nothing of what is in them.

use std::ops::Range;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The longest text that is taken in; the rest of a longer one is left out.
const LONGEST: usize = 1 << 20;
/// What the buffer has at the start, which is enough for nearly every file.
const FIRST: usize = 8 << 10;
/// For so many seconds a file that was not there is not looked for again.
const MISSING_SECONDS: i64 = 60;
/// The seconds for which what a file said may serve again: not all files are to be read anew at one time.
const SERVES_SECONDS: Range<i64> = 45..75;

/// One file that may be open, and what it said if that may serve again.
#[derive(Debug, Default)]
pub(super) struct Slot {
    file: File,
    said: Option<Box<Said>>,
}

#[derive(Debug, Default)]
enum File {
    #[default]
    Closed,
    Open(OwnedFd),
    /// It was not there; it is looked for again at this second.
    Missing(i64),
}

/// What a file said.
#[derive(Debug)]
struct Said {
    text: Box<[u8]>,
    /// The mark that it was read with.
    mark: u64,
    /// When, and up to when it may serve.
    serves: Range<i64>,
}

/// For how long what a file said is as good as reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasts {
    /// It may be another any time.
    Never,
    /// While this mark is the same, and not for long.
    While(u64),
}

/// How a file gives its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// As one record: less than was asked for means that this was all.
    Record,
    /// As many: only an empty answer means the end.
    List,
}

/// Why there is no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoText {
    /// The file is not there, or the kernel does not want to tell.
    Missing,
    /// What the file told of was removed.
    Gone,
}

/// Keeps count of open files and holds the buffer.
#[derive(Debug)]
pub(super) struct Kept {
    buffer: Vec<u8>,
    open: usize,
    limit: usize,
    /// Counts what was kept of files, to spread when it is read anew.
    turn: i64,
}

impl Kept {
    /// At most `limit` files stay open.
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), open: 0, limit, turn: 0 }
    }

    /// Files that are open.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Lets the buffer go.
    pub(super) fn shrink(&mut self) {
        self.buffer = Vec::new();
    }

    /// What a file holds at this second.
    pub(super) fn text<'a>(
        &'a mut self,
        slot: &'a mut Slot,
        shape: Shape,
        lasts: Lasts,
        second: i64,
        path: impl FnOnce() -> Option<String>,
    ) -> Result<&'a [u8], NoText> {
        let Lasts::While(mark) = lasts else { return self.read(&mut slot.file, shape, second, path) };
        let serves = |said: &Said| said.mark == mark && said.serves.contains(&second);
        if !slot.said.as_deref().is_some_and(serves) {
            let Range { start, end } = SERVES_SECONDS;
            self.turn = (self.turn + 1) % (end - start);
            let until = second.saturating_add(start + self.turn);
            let text = Box::from(self.read(&mut slot.file, shape, second, path)?);
            slot.said = Some(Box::new(Said { text, mark, serves: second..until }));
        }
        Ok(slot.said.as_deref().map_or(&[], |said| &said.text))
    }

    /// Reads a file: what it holds at this second.
    fn read(
        &mut self,
        slot: &mut File,
        shape: Shape,
        second: i64,
        path: impl FnOnce() -> Option<String>,
    ) -> Result<&[u8], NoText> {
        if let File::Missing(until) = slot {
            // A clock that was set back must not hide a file for long.
            if second < *until && *until - second <= MISSING_SECONDS {
                return Err(NoText::Missing);
            }
            *slot = File::Closed;
        }
        let missing = File::Missing(second.saturating_add(MISSING_SECONDS));
        let opened = match slot {
            File::Open(file) => fill(&mut self.buffer, &*file, shape),
            _ => {
                let Some(path) = path() else {
                    *slot = missing;
                    return Err(NoText::Missing);
                };
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                rustix::fs::open(path.as_str(), flags, Mode::empty()).and_then(|file| {
                    let read = fill(&mut self.buffer, &file, shape)?;
                    if self.open < self.limit {
                        self.open += 1;
                        *slot = File::Open(file);
                    }
                    Ok(read)
                })
            }
        };
        match opened {
            Ok(length) => Ok(&self.buffer[..length]),
            // The descriptors of this process or the machine are used up: no news of the file.
            Err(Errno::MFILE | Errno::NFILE | Errno::INTR) => Err(NoText::Missing),
            Err(Errno::NODEV) => {
                self.close_file(slot);
                Err(NoText::Gone)
            }
            Err(_) => {
                self.close_file(slot);
                *slot = missing;
                Err(NoText::Missing)
            }
        }
    }

    /// Closes one and forgets what it said.
    pub(super) fn close(&mut self, slot: &mut Slot) {
        slot.said = None;
        self.close_file(&mut slot.file);
    }

    fn close_file(&mut self, file: &mut File) {
        if let File::Open(_) = std::mem::take(file) {
            self.open = self.open.saturating_sub(1);
        }
    }
}

/// Reads all of a file from its start. Returns how much there is in the buffer.
fn fill(buffer: &mut Vec<u8>, file: impl AsFd, shape: Shape) -> Result<usize, Errno> {
    if buffer.is_empty() {
        buffer.resize(FIRST, 0);
    }
    let mut length = 0;
    loop {
        let free = &mut buffer[length..];
        let (room, offset) = (free.len(), u64::try_from(length).unwrap_or(u64::MAX));
        let read = rustix::io::pread(&file, free, offset)?;
        length += read;
        if read == 0 || (read < room && shape == Shape::Record) {
            return Ok(length);
        }
        if length == buffer.len() {
            if length >= LONGEST {
                return Ok(length);
            }
            buffer.resize(length * 2, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_each_time_and_only_so_many_stay_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().map(str::to_owned);
        let mut kept = Kept::new(1);
        let (mut first, mut second) = (File::default(), File::default());
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a", "1");
        write("b", "2");
        assert_eq!(kept.read(&mut first, Shape::Record, 0, || path("a")), Ok(&b"1"[..]));
        assert_eq!(kept.read(&mut second, Shape::Record, 0, || path("b")), Ok(&b"2"[..]));
        assert!(matches!((&first, &second, kept.open()), (File::Open(_), File::Closed, 1)));
        let long = "x".repeat(FIRST * 3 + 5);
        write("a", &long);
        write("b", &long);
        assert_eq!(kept.read(&mut first, Shape::Record, 0, || None), Ok(long.as_bytes()));
        assert_eq!(kept.read(&mut second, Shape::List, 0, || path("b")), Ok(long.as_bytes()));
        kept.close_file(&mut first);
        assert_eq!(kept.open(), 0);
    }

    #[test]
    fn what_a_file_said_serves_while_its_mark_is_the_same_and_not_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = || dir.path().join("a").to_str().map(str::to_owned);
        let write = |text: &str| std::fs::write(dir.path().join("a"), text).unwrap();
        let (mut kept, mut slot) = (Kept::new(1), Slot::default());
        let mut text = |lasts, second| {
            let text = kept.text(&mut slot, Shape::Record, lasts, second, path).unwrap();
            String::from_utf8_lossy(text).into_owned()
        };
        write("1");
        assert_eq!(text(Lasts::While(7), 100), "1");
        write("2");
        assert_eq!(text(Lasts::While(7), 100 + SERVES_SECONDS.start), "1");
        assert_eq!(text(Lasts::Never, 101), "2");
        assert_eq!(text(Lasts::While(8), 102), "2", "the mark is another");
        write("3");
        assert_eq!(text(Lasts::While(8), 102 + SERVES_SECONDS.end), "3", "it was long ago");
        write("4");
        assert_eq!(text(Lasts::While(8), 101), "4", "the clock was set back");
        kept.close(&mut slot);
        assert!(slot.said.is_none());
    }

    #[test]
    fn a_missing_file_is_looked_for_again_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = || dir.path().join("a").to_str().map(str::to_owned);
        let mut kept = Kept::new(1);
        let mut slot = File::default();
        assert_eq!(kept.read(&mut slot, Shape::Record, 100, path), Err(NoText::Missing));
        std::fs::write(dir.path().join("a"), "1").unwrap();
        assert_eq!(kept.read(&mut slot, Shape::Record, 159, path), Err(NoText::Missing));
        assert_eq!(kept.read(&mut slot, Shape::Record, 160, path), Ok(&b"1"[..]));
        // The clock was set back by a year.
        let mut slot = File::Missing(40_000_000);
        assert_eq!(kept.read(&mut slot, Shape::Record, 100, path), Ok(&b"1"[..]));
    }
}
