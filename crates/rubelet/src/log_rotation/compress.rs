//! Compresses rotated logs: a bounded queue, and threads of the lowest priority that end when it is empty.
//!
//! A file is read and written block by block into `<file>.tmp`, which gets its final name when it is whole and on the disk;
//! then the file goes. What somebody still writes is left alone, and so is what was removed meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flate2::Compression;
use flate2::write::GzEncoder;
use rubelet_linux::log_files::{be_nice, copy_time, has_name, has_writer};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::debug;

use super::steps::open;

/// How many files may wait; more than that are left as they are until their log is rotated again.
const WAITING: usize = 64;
/// How much is read at once.
const BLOCK: usize = 64 << 10;
/// After how many blocks it is asked whether the work is still wanted.
const CHECK: usize = 16;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is compressed, gone, or not one to compress.
    Done,
    /// Somebody writes it still.
    Written,
    /// The disk is full.
    NoSpace,
    /// It stays as it is.
    Failed,
}

/// A file to compress.
struct Job {
    key: u64,
    path: PathBuf,
}

struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    /// The task is gone.
    stopped: bool,
}

/// The queue; its threads stop soon after it was dropped.
pub(super) struct Compressor {
    queue: Arc<Mutex<Queue>>,
    threads: usize,
    answers: UnboundedSender<(u64, Outcome)>,
}

impl Drop for Compressor {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        queue.stopped = true;
        queue.jobs.clear();
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Compressor {
    /// A queue with at most so many threads. There is one answer for each file that was taken, never more at a time than
    /// can wait and be worked on.
    pub(super) fn new(threads: usize) -> (Self, UnboundedReceiver<(u64, Outcome)>) {
        let (answers, receiver) = unbounded_channel();
        let queue = Queue { jobs: VecDeque::new(), threads: 0, stopped: false };
        (Self { queue: Arc::new(Mutex::new(queue)), threads: threads.max(1), answers }, receiver)
    }

    /// Takes a file, unless too many wait.
    pub(super) fn submit(&self, key: u64, path: PathBuf) -> bool {
        let mut queue = lock(&self.queue);
        if queue.jobs.len() >= WAITING {
            return false;
        }
        queue.jobs.push_back(Job { key, path });
        if queue.threads < self.threads {
            let (shared, answers) = (self.queue.clone(), self.answers.clone());
            let thread = std::thread::Builder::new().name("log-compress".to_owned());
            match thread.spawn(move || work(&shared, &answers)) {
                Ok(_) => queue.threads += 1,
                Err(error) if queue.threads == 0 => {
                    debug!("no thread to compress logs: {error}");
                    queue.jobs.pop_back();
                    return false;
                }
                Err(_) => {}
            }
        }
        true
    }
}

fn work(queue: &Mutex<Queue>, answers: &UnboundedSender<(u64, Outcome)>) {
    if let Err(error) = be_nice() {
        debug!("logs are compressed at the usual priority: {error}");
    }
    loop {
        let job = {
            let mut queue = lock(queue);
            let Some(job) = queue.jobs.pop_front() else {
                queue.threads -= 1;
                return;
            };
            job
        };
        let outcome = compress(&job.path, &|| lock(queue).stopped).unwrap_or_else(|error| {
            debug!(path = %job.path.display(), "a rotated log is not compressed: {error}");
            match error.kind() {
                io::ErrorKind::NotFound => Outcome::Done,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Outcome::NoSpace,
                _ => Outcome::Failed,
            }
        });
        if answers.send((job.key, outcome)).is_err() {
            debug!("nobody waits for compressed logs any more");
        }
    }
}

/// Compresses one file; `stop` says whether to leave it.
///
/// # Errors
/// When it cannot be done; the file is as it was.
pub(super) fn compress(path: &std::path::Path, stop: &dyn Fn() -> bool) -> io::Result<Outcome> {
    let (dir, name) = open(path)?;
    let mut plain = dir.open(name)?;
    if has_writer(&plain).unwrap_or(false) {
        return Ok(Outcome::Written);
    }
    let metadata = plain.metadata()?;
    if metadata.nlink() != 1 {
        // It has a name elsewhere: compressing it would free nothing.
        return Ok(Outcome::Done);
    }
    let unfinished = format!("{name}.tmp");
    dir.remove(&unfinished)?;
    let file = dir.create(&unfinished, metadata.mode())?;
    let done = encode(&mut plain, file, stop).and_then(|whole| {
        if whole {
            dir.replace(&unfinished, &format!("{name}.gz"))?;
            dir.remove(name)?;
        } else {
            dir.remove(&unfinished)?;
        }
        Ok(Outcome::Done)
    });
    if done.is_err() {
        // It would take up space that is perhaps what was missing.
        dir.remove(&unfinished)?;
    }
    done
}

/// Writes the compressed form of `plain`; false when it is not wanted any more.
fn encode(plain: &mut File, file: File, stop: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut encoder = GzEncoder::new(file, Compression::fast());
    let mut block = vec![0; BLOCK];
    let mut blocks = 0usize;
    loop {
        if blocks.is_multiple_of(CHECK) && (stop() || !has_name(plain)?) {
            return Ok(false);
        }
        blocks += 1;
        match plain.read(&mut block) {
            Ok(0) => break,
            Ok(read) => encoder.write_all(&block[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let file = encoder.finish()?;
    copy_time(plain, &file)?;
    // A machine that stops right after the plain file went must not be left with nothing.
    file.sync_all()?;
    has_name(plain)
}
