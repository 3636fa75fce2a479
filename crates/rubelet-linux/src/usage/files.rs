//! Files of the kernel that are read again and again: opened once, read from the start each time into one buffer.
//!
//! Opening such a file costs ten times what reading it does. An open one costs the kernel about a page, so that there
//! is a bound, beyond which files are opened for one reading. Knows nothing of what is in them.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The longest text that is taken in; the rest of a longer one is left out.
const LONGEST: usize = 1 << 20;
/// What the buffer has at the start, which is enough for nearly every file.
const FIRST: usize = 8 << 10;
/// For so many seconds a file that was not there is not looked for again.
const MISSING_SECONDS: i64 = 60;

/// One file that may be open.
#[derive(Debug, Default)]
pub(super) enum Slot {
    #[default]
    Closed,
    Open(OwnedFd),
    /// It was not there; it is looked for again at this second.
    Missing(i64),
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
}

impl Kept {
    /// At most `limit` files stay open.
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), open: 0, limit }
    }

    /// Files that are open.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Lets the buffer go.
    pub(super) fn shrink(&mut self) {
        self.buffer = Vec::new();
    }

    /// Reads a file: what it holds at this second.
    pub(super) fn read(
        &mut self,
        slot: &mut Slot,
        shape: Shape,
        second: i64,
        path: impl FnOnce() -> Option<String>,
    ) -> Result<&[u8], NoText> {
        if let Slot::Missing(until) = slot {
            // A clock that was set back must not hide a file for long.
            if second < *until && *until - second <= MISSING_SECONDS {
                return Err(NoText::Missing);
            }
            *slot = Slot::Closed;
        }
        let missing = Slot::Missing(second.saturating_add(MISSING_SECONDS));
        let opened = match slot {
            Slot::Open(file) => fill(&mut self.buffer, &*file, shape),
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
                        *slot = Slot::Open(file);
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
                self.close(slot);
                Err(NoText::Gone)
            }
            Err(_) => {
                self.close(slot);
                *slot = missing;
                Err(NoText::Missing)
            }
        }
    }

    /// Closes one.
    pub(super) fn close(&mut self, slot: &mut Slot) {
        if let Slot::Open(_) = std::mem::take(slot) {
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
        let (mut first, mut second) = (Slot::default(), Slot::default());
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a", "1");
        write("b", "2");
        assert_eq!(kept.read(&mut first, Shape::Record, 0, || path("a")), Ok(&b"1"[..]));
        assert_eq!(kept.read(&mut second, Shape::Record, 0, || path("b")), Ok(&b"2"[..]));
        assert!(matches!((&first, &second, kept.open()), (Slot::Open(_), Slot::Closed, 1)));
        let long = "x".repeat(FIRST * 3 + 5);
        write("a", &long);
        write("b", &long);
        assert_eq!(kept.read(&mut first, Shape::Record, 0, || None), Ok(long.as_bytes()));
        assert_eq!(kept.read(&mut second, Shape::List, 0, || path("b")), Ok(long.as_bytes()));
        kept.close(&mut first);
        assert_eq!(kept.open(), 0);
    }

    #[test]
    fn a_missing_file_is_looked_for_again_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = || dir.path().join("a").to_str().map(str::to_owned);
        let mut kept = Kept::new(1);
        let mut slot = Slot::default();
        assert_eq!(kept.read(&mut slot, Shape::Record, 100, path), Err(NoText::Missing));
        std::fs::write(dir.path().join("a"), "1").unwrap();
        assert_eq!(kept.read(&mut slot, Shape::Record, 159, path), Err(NoText::Missing));
        assert_eq!(kept.read(&mut slot, Shape::Record, 160, path), Ok(&b"1"[..]));
        // The clock was set back by a year.
        let mut slot = Slot::Missing(40_000_000);
        assert_eq!(kept.read(&mut slot, Shape::Record, 100, path), Ok(&b"1"[..]));
    }
}
