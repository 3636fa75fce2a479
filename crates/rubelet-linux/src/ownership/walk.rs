//! The walk itself: directories wait in a queue of open descriptors that a few threads empty. A queue that is full is
//! the reason for a thread to go deeper by itself, so that neither memory nor descriptors grow with the tree.

use std::io;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope, available_parallelism};

use rustix::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Statx, StatxAttributes, StatxFlags, chmod, chownat,
    fstat, open, openat, statx,
};
use rustix::io::Errno;

use super::{Grant, Handed, Progress};

/// Threads at most: more do not make a disk faster.
const MAX_THREADS: usize = 4;
/// Files after which a further thread pays.
const FILES_PER_THREAD: u64 = 512;
/// Directories that wait at most. Each is an open descriptor.
const MAX_WAITING: usize = 64;
/// How deep one thread goes by itself when the queue is full. Each level costs a descriptor.
const MAX_DEPTH: u32 = 128;

pub(super) fn hand_over(root: &Path, grant: Grant, progress: &Progress) -> io::Result<Handed> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = open(root, flags, Mode::empty())?;
    let found = fstat(&root)?;
    let walk = Walk {
        grant,
        progress,
        device: found.st_dev,
        shared: Mutex::default(),
        changed: Condvar::new(),
        threads: available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS),
    };
    if is_directory(&found) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(&root, ".", flags, Mode::empty())?;
        std::thread::scope(|scope| {
            walk.shared().busy = 1;
            let first = Done(&walk);
            walk.directory(dir, true, 0, scope);
            drop(first);
            walk.work(scope);
        });
    }
    let mut shared = walk.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = shared.error {
        return Err(error);
    }
    progress.files.fetch_add(1, Ordering::Relaxed);
    if let Err(error) = change(root.as_fd(), grant) {
        shared.failed(".", error);
    }
    Ok(Handed { files: progress.files(), ..shared.handed })
}

/// What the threads of a walk share.
struct Walk<'a> {
    grant: Grant,
    progress: &'a Progress,
    /// The root's, for kernels that do not tell mounts.
    device: u64,
    shared: Mutex<Shared>,
    /// A directory waits, the last one is done, or something went wrong.
    changed: Condvar,
    threads: usize,
}

#[derive(Default)]
struct Shared {
    waiting: Vec<OwnedFd>,
    /// Threads that have a directory in hand.
    busy: usize,
    /// Threads besides the first.
    helpers: usize,
    error: Option<io::Error>,
    handed: Handed,
}

impl Shared {
    fn failed(&mut self, name: &str, error: Errno) {
        self.handed.failed += 1;
        self.handed.first_failure.get_or_insert_with(|| format!("{name}: {error}"));
    }
}

impl<'a> Walk<'a> {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes directories until there are none and none can come.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let mut shared = self.shared();
        loop {
            if shared.error.is_some() {
                return;
            }
            if let Some(dir) = shared.waiting.pop() {
                shared.busy += 1;
                drop(shared);
                let _done = Done(self);
                self.directory(dir, false, 0, scope);
                drop(_done);
                shared = self.shared();
            } else if shared.busy == 0 {
                return;
            } else {
                shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// A thread has nothing in hand any more.
    fn done(&self) {
        self.shared().busy -= 1;
        self.changed.notify_all();
    }

    fn stop(&self, error: io::Error) {
        self.shared().error.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Everything in a directory, then itself, unless it is the root.
    fn directory<'scope>(
        &'scope self,
        dir: OwnedFd,
        is_root: bool,
        depth: u32,
        scope: &'scope Scope<'scope, '_>,
    ) {
        if let Err(error) = self.entries(&dir, depth, scope) {
            self.stop(error);
        } else if !is_root && let Err(error) = change(dir.as_fd(), self.grant) {
            self.shared().failed("a directory", error);
        }
    }

    fn entries<'scope>(
        &'scope self,
        dir: &OwnedFd,
        depth: u32,
        scope: &'scope Scope<'scope, '_>,
    ) -> io::Result<()> {
        for entry in Dir::read_from(dir)? {
            if self.progress.stopped.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::GID;
            let found = match statx(dir, name, flags, wanted) {
                // It went meanwhile.
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            self.progress.files.fetch_add(1, Ordering::Relaxed);
            if self.is_mount(&found) {
                continue;
            }
            let mode = u32::from(found.stx_mode);
            let kind = FileType::from_raw_mode(mode);
            if kind == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(dir, name, flags, Mode::empty()) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    below => self.hand_on(below?, depth, scope)?,
                }
                continue;
            }
            let is_open =
                kind == FileType::Symlink || mode & self.grant.bits(false) == self.grant.bits(false);
            if found.stx_gid == self.grant.group && is_open {
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let changed = match openat(dir, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                file => file.and_then(|file| change(file.as_fd(), self.grant)),
            };
            if let Err(error) = changed {
                self.shared().failed(&name.to_string_lossy(), error);
            }
        }
        Ok(())
    }

    /// Whether something is mounted there. Devices are only compared on kernels that do not tell (before 5.8): a part
    /// of one file system can have a device of its own.
    fn is_mount(&self, found: &Statx) -> bool {
        if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        }
        rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor) != self.device
    }

    /// Leaves a directory to whoever is free, or goes into it when too many wait.
    fn hand_on<'scope>(
        &'scope self,
        dir: OwnedFd,
        depth: u32,
        scope: &'scope Scope<'scope, '_>,
    ) -> io::Result<()> {
        let mut shared = self.shared();
        if let Some(error) = &shared.error {
            return Err(error.kind().into());
        }
        if shared.waiting.len() < MAX_WAITING {
            shared.waiting.push(dir);
            let due = self.progress.files() / FILES_PER_THREAD;
            let wanted = usize::try_from(due).unwrap_or(usize::MAX).min(self.threads - 1);
            if shared.helpers < wanted {
                shared.helpers += 1;
                let help = Builder::new().name("fs-group".to_owned());
                // A machine that has no thread to spare walks with those it has.
                let _ = help.spawn_scoped(scope, move || self.work(scope));
            }
            drop(shared);
            self.changed.notify_one();
            return Ok(());
        }
        drop(shared);
        if depth == MAX_DEPTH {
            return Err(io::Error::other(format!(
                "the tree is wide and deeper than {MAX_DEPTH} directories"
            )));
        }
        self.directory(dir, false, depth + 1, scope);
        Ok(())
    }
}

/// Gives a directory back when the thread is done with it, however that ends.
struct Done<'a, 'b>(&'a Walk<'b>);

impl Drop for Done<'_, '_> {
    fn drop(&mut self) {
        self.0.done();
    }
}

fn is_directory(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

/// Makes one file the group's, as far as it is not.
fn change(file: BorrowedFd<'_>, grant: Grant) -> rustix::io::Result<()> {
    let found = fstat(file)?;
    let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
    let present = found.st_mode & 0o7777;
    let mode = present | grant.bits(is_directory(&found));
    let foreign = found.st_gid != grant.group;
    if foreign {
        chownat(file, "", None, Some(Gid::from_raw(grant.group)), AtFlags::EMPTY_PATH)?;
    }
    // A link has no mode of its own. Changing the group takes bits of programs away.
    if !is_link && (mode != present || foreign && mode & 0o6000 != 0) {
        // A descriptor that is a mere place cannot be changed, its file can.
        chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(mode))?;
    }
    Ok(())
}
