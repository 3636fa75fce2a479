//! The files of one container's log, for whoever rotates them: looked at, renamed, emptied and removed below a directory
//! whose content is not trusted, and told of when they are written again.
//!
//! Blocking but for [`Written::next`]. Nothing but regular files is touched and no symbolic link followed below the
//! directory of all logs: whoever may write there is not to have other files of the node rotated. What is done with the
//! files is decided in `rubelet_core::log_rotation`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, FileTimes};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

/// How many entries of a directory are read: far more than a log ever has files.
const MAX_ENTRIES: usize = 10_000;
/// How many logs can wait for being written at a time.
const MAX_WATCHES: usize = 4096;

/// The directory of a container's logs, open.
#[derive(Debug)]
pub struct LogDir(OwnedFd);

/// A regular file, at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFile {
    /// Which file it is.
    pub inode: u64,
    /// Its length.
    pub bytes: u64,
}

impl LogDir {
    /// Opens the directory of a log at `<all logs>/<pod>/<container>/<log>`: the first part is trusted, the next two are
    /// not.
    ///
    /// # Errors
    /// When it is no such path, when there is no such directory (`NotFound`), or when one of the two is a link.
    pub fn of(log: &Path) -> io::Result<Self> {
        let odd = || io::Error::new(io::ErrorKind::InvalidInput, "not the path of a container's log");
        let plain = log.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let dir = log.parent().filter(|_| plain && log.is_absolute()).ok_or_else(odd)?;
        let all = dir.parent().and_then(Path::parent).ok_or_else(odd)?;
        let below = dir.strip_prefix(all).map_err(|_| odd())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = rustix::fs::open(all, flags, Mode::empty())?;
        // One part after the other: kernels before 5.6 have no openat2.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for part in below {
            dir = rustix::fs::openat(&dir, part, flags, Mode::empty())?;
        }
        Ok(Self(dir))
    }

    /// Looks at a file; `None` when there is none.
    ///
    /// # Errors
    /// When something else than a regular file has that name.
    pub fn look(&self, name: &str) -> io::Result<Option<LogFile>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => regular(&stat).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Names and lengths of the regular files whose names begin with `prefix`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self, prefix: &str) -> io::Result<Vec<(String, u64)>> {
        let mut found = vec![];
        for entry in Dir::read_from(&self.0)?.take(MAX_ENTRIES) {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name.starts_with(prefix)
                && let Ok(Some(file)) = self.look(name)
            {
                found.push((name.to_owned(), file.bytes));
            }
        }
        Ok(found)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// `AlreadyExists` when that name is taken.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(&self.0, from, &self.0, to, RenameFlags::NOREPLACE)?)
    }

    /// Gives a file the name of another one, if there is one, in its place.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a file; not being there is fine.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(&self, name: &str) -> io::Result<File> {
        self.open_regular(name, OFlags::RDONLY)
    }

    /// Makes a file of these permissions that was not there.
    ///
    /// # Errors
    /// When it was, or cannot be made.
    pub fn create(&self, name: &str, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?;
        // Afterwards, because the umask applies to creation.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        Ok(file.into())
    }

    /// Empties a file that is being written where it is. Does nothing when it is `bytes` long or less.
    ///
    /// # Errors
    /// When there is no such file, or when it has other names: then it may be more than a log.
    pub fn cut(&self, name: &str, bytes: u64) -> io::Result<bool> {
        let file = self.open_regular(name, OFlags::WRONLY)?;
        let stat = rustix::fs::fstat(&file)?;
        if regular(&stat)?.bytes <= bytes {
            return Ok(false);
        }
        if stat.st_nlink != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the log has another name"));
        }
        file.set_len(0)?;
        Ok(true)
    }

    /// How many bytes the file system has left for whoever is not privileged.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::fstatvfs(&self.0)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn open_regular(&self, name: &str, access: OFlags) -> io::Result<File> {
        // Opening a pipe would wait for its other end without NONBLOCK.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(no_file()),
            opened => opened?,
        };
        regular(&rustix::fs::fstat(&file)?)?;
        Ok(file.into())
    }
}

fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")
}

fn regular(stat: &Stat) -> io::Result<LogFile> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(no_file());
    }
    Ok(LogFile { inode: stat.st_ino, bytes: u64::try_from(stat.st_size).unwrap_or_default() })
}

/// Whether the file still has its name, or another.
///
/// # Errors
/// When the file system does not tell.
pub fn has_name(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fstat(file)?.st_nlink > 0)
}

/// Gives a file the time of last change of another: that is how a reader knows what it has read already.
///
/// # Errors
/// When it cannot be set.
pub fn copy_time(from: &File, to: &File) -> io::Result<()> {
    to.set_times(FileTimes::new().set_modified(from.metadata()?.modified()?))
}

/// Whether anybody has the file open for writing. `file` must be open for reading only.
///
/// # Errors
/// When the kernel does not tell: it does for files of our own user or with the capability `CAP_LEASE`, on local file
/// systems.
#[allow(unsafe_code, reason = "rustix knows no leases")]
pub fn has_writer(file: &File) -> io::Result<bool> {
    // Missing in the libc crate for most targets; the number is the same on all that the agent is built for.
    const F_SETSIG: libc::c_int = 10;
    let call = |command: libc::c_int, argument: libc::c_int| {
        // SAFETY: these commands take a number and touch no memory of ours; the descriptor is open.
        match unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // A lease for reading is given when nobody writes. Whoever opens the file for writing while we hold it has us sent a
    // signal: one that nobody minds instead of SIGIO, which would end the process.
    call(F_SETSIG, libc::SIGURG)?;
    match call(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => call(libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Has the calling thread run, and use the disk, when nobody else wants to.
///
/// # Errors
/// When the kernel refuses.
pub fn be_nice() -> io::Result<()> {
    Ok(rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19)?)
}

/// Has files watched until they are written the next time; cheap to clone.
#[derive(Debug, Clone)]
pub struct WriteWatches {
    watches: Watches,
    keys: Arc<Mutex<HashMap<WatchDescriptor, u64>>>,
}

/// Tells which watched files were written.
pub struct Written {
    events: EventStream<[u8; 4096]>,
    keys: Arc<Mutex<HashMap<WatchDescriptor, u64>>>,
}

/// What is told of watched files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteEvent {
    /// The file with this key was written; it is not watched any more.
    Written(u64),
    /// The kernel lost count: any of them may have been.
    Any,
}

/// Watches for writes; there is one instance of inotify behind it.
///
/// # Errors
/// When the system's limit of instances is reached.
pub fn watch_writes() -> io::Result<(WriteWatches, Written)> {
    let inotify = Inotify::init()?;
    let keys = Arc::<Mutex<HashMap<_, _>>>::default();
    let watches = WriteWatches { watches: inotify.watches(), keys: keys.clone() };
    Ok((watches, Written { events: inotify.into_event_stream([0; 4096])?, keys }))
}

fn lock(keys: &Mutex<HashMap<WatchDescriptor, u64>>) -> MutexGuard<'_, HashMap<WatchDescriptor, u64>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WriteWatches {
    /// Watches a file until it is written once. Whatever was written before is not told.
    ///
    /// # Errors
    /// When there is no such file, or when there are too many watches.
    pub fn watch(&self, dir: &LogDir, name: impl AsRef<OsStr>, key: u64) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir.0, name.as_ref(), flags, Mode::empty())?;
        regular(&rustix::fs::fstat(&file)?)?;
        // Held until the key is known: the write may come at once.
        let mut keys = lock(&self.keys);
        if keys.len() >= MAX_WATCHES {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many logs are watched"));
        }
        // The name of the file that is open, whatever is at its path by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let descriptor = self.watches.clone().add(path, WatchMask::MODIFY | WatchMask::ONESHOT)?;
        keys.insert(descriptor, key);
        Ok(())
    }

    /// Ends the watch with this key, if there is one.
    pub fn forget(&self, key: u64) {
        let mut keys = lock(&self.keys);
        let gone: Vec<WatchDescriptor> =
            keys.iter().filter(|(_, of)| **of == key).map(|(descriptor, _)| descriptor.clone()).collect();
        for descriptor in gone {
            keys.remove(&descriptor);
            // An error means that it is gone already.
            let _gone = self.watches.clone().remove(descriptor);
        }
    }

    /// How many files are watched.
    pub fn count(&self) -> usize {
        lock(&self.keys).len()
    }
}

impl Written {
    /// Waits for the next write of a watched file. Cancel-safe: an event that was not given stays in the kernel or in the
    /// stream.
    ///
    /// # Errors
    /// When there are no more events to be had.
    pub async fn next(&mut self) -> io::Result<WriteEvent> {
        loop {
            let event = self.events.next().await.ok_or_else(|| io::Error::other("the watch has ended"))??;
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                lock(&self.keys).clear();
                return Ok(WriteEvent::Any);
            }
            // The end of a watch is told as well, after a write or alone, when the file is gone.
            if let Some(key) = lock(&self.keys).remove(&event.wd) {
                return Ok(WriteEvent::Written(key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    struct Logs {
        root: tempfile::TempDir,
    }

    impl Logs {
        fn new() -> Self {
            let logs = Self { root: tempfile::tempdir().unwrap() };
            fs::create_dir_all(logs.root.path().join("all/pod/app")).unwrap();
            logs
        }
        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join("all/pod/app").join(name)
        }
        fn dir(&self) -> LogDir {
            LogDir::of(&self.path("0.log")).unwrap()
        }
    }

    #[test]
    fn files_are_looked_at_listed_renamed_and_removed() {
        let logs = Logs::new();
        let dir = logs.dir();
        assert_eq!(dir.look("0.log").unwrap(), None);
        fs::write(logs.path("0.log"), "12345").unwrap();
        fs::write(logs.path("0.log.1-1"), "1").unwrap();
        fs::write(logs.path("1.log"), "1").unwrap();
        fs::create_dir(logs.path("0.log.2-2")).unwrap();
        assert_eq!(dir.look("0.log").unwrap().unwrap().bytes, 5);
        let mut listed = dir.list("0.log").unwrap();
        listed.sort();
        assert_eq!(listed, [("0.log".to_owned(), 5), ("0.log.1-1".to_owned(), 1)]);
        assert_eq!(dir.rename("0.log", "0.log.1-1").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        dir.rename("0.log", "0.log.1-2").unwrap();
        dir.remove("0.log.1-2").unwrap();
        dir.remove("0.log.1-2").unwrap();
        assert!(dir.free_bytes().unwrap() > 0);
        let made = dir.create("0.log.1-1.tmp", 0o640).unwrap();
        assert_eq!(made.metadata().unwrap().len(), 0);
        assert_eq!(dir.create("0.log.1-1.tmp", 0o640).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let old = dir.open("0.log.1-1").unwrap();
        copy_time(&old, &made).unwrap();
        assert_eq!(old.metadata().unwrap().modified().unwrap(), made.metadata().unwrap().modified().unwrap());
        dir.replace("0.log.1-1.tmp", "0.log.1-1").unwrap();
        assert!(!has_name(&old).unwrap() && has_name(&made).unwrap());
    }

    #[test]
    fn nothing_is_reached_through_links() {
        let logs = Logs::new();
        let secret = logs.root.path().join("secret");
        fs::write(&secret, "a secret").unwrap();
        symlink(&secret, logs.path("0.log")).unwrap();
        let dir = logs.dir();
        assert_eq!(dir.look("0.log").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(dir.open("0.log").is_err() && dir.cut("0.log", 0).is_err());
        assert!(dir.create("0.log", 0o600).is_err());
        assert!(dir.list("0.log").unwrap().is_empty());
        dir.rename("0.log", "0.log.1-1").unwrap();
        dir.remove("0.log.1-1").unwrap();
        fs::hard_link(&secret, logs.path("1.log")).unwrap();
        assert!(dir.cut("1.log", 0).is_err());
        assert_eq!(fs::read_to_string(&secret).unwrap(), "a secret");
        let other = logs.root.path().join("all/other");
        fs::create_dir_all(&other).unwrap();
        symlink(logs.root.path().join("all/pod/app"), other.join("app")).unwrap();
        assert!(LogDir::of(&other.join("app/0.log")).is_err());
        symlink(logs.root.path().join("all/pod"), logs.root.path().join("all/linked")).unwrap();
        assert!(LogDir::of(&logs.root.path().join("all/linked/app/0.log")).is_err());
        for path in ["", "0.log", "/", "/0.log", "/a/0.log", "app/../0.log", "/a/b/../c/0.log"] {
            assert!(LogDir::of(Path::new(path)).is_err(), "{path}");
        }
        let gone = LogDir::of(&logs.root.path().join("all/pod/none/0.log")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_log_is_emptied_where_it_is_written() {
        let logs = Logs::new();
        let mut writer = fs::OpenOptions::new().create(true).append(true).open(logs.path("0.log")).unwrap();
        writer.write_all(b"0123456789").unwrap();
        assert!(!logs.dir().cut("0.log", 10).unwrap());
        assert!(logs.dir().cut("0.log", 9).unwrap());
        writer.write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(logs.path("0.log")).unwrap(), "new");
    }

    #[test]
    fn it_is_known_who_still_writes() {
        let logs = Logs::new();
        let writer = fs::File::create(logs.path("0.log")).unwrap();
        let file = logs.dir().open("0.log").unwrap();
        let second = logs.dir().open("0.log").unwrap();
        assert!(has_writer(&file).unwrap());
        drop(writer);
        assert!(!has_writer(&file).unwrap() && !has_writer(&second).unwrap());
        // Nothing of the question stays.
        drop(fs::OpenOptions::new().append(true).open(logs.path("0.log")).unwrap());
    }

    #[tokio::test]
    async fn a_write_is_told_once() {
        let logs = Logs::new();
        for name in ["0.log", "1.log", "2.log"] {
            fs::write(logs.path(name), "before").unwrap();
        }
        let (watches, mut written) = watch_writes().unwrap();
        let dir = logs.dir();
        for key in 0..3 {
            watches.watch(&dir, format!("{key}.log"), key).unwrap();
        }
        assert!(watches.watch(&dir, "3.log", 3).is_err());
        symlink("0.log", logs.path("4.log")).unwrap();
        assert!(watches.watch(&dir, "4.log", 4).is_err());
        watches.forget(1);
        let write = |name: &str| {
            let mut file = fs::OpenOptions::new().append(true).open(logs.path(name)).unwrap();
            file.write_all(b"x").unwrap();
        };
        for name in ["1.log", "2.log", "2.log", "0.log"] {
            write(name);
        }
        assert_eq!(written.next().await.unwrap(), WriteEvent::Written(2));
        assert_eq!(written.next().await.unwrap(), WriteEvent::Written(0));
        assert_eq!(watches.count(), 0);
        // A file is watched, not its name.
        watches.watch(&dir, "0.log", 7).unwrap();
        dir.rename("0.log", "0.log.1-1").unwrap();
        write("2.log");
        write("0.log.1-1");
        assert_eq!(written.next().await.unwrap(), WriteEvent::Written(7));
    }
}
