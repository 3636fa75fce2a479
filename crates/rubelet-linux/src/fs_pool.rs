//! Every touch of the file system that a pod can make slow goes through here: a bounded pool of disposable
//! blocking threads with a deadline. A call that hangs (a dead NFS server under a hostPath) costs one
//! thread until the kernel lets go; it never costs the caller more than its deadline.
//!
//! Operations have a place, a volume's directory for one. At most [`PER_PLACE`] threads are in a place at a time, so
//! that one that is slow cannot take the pool from the others; one in which something did not answer is in quarantine,
//! and nothing else is tried there until it answers. Who takes long leaves the pool's own threads to others.

mod moving;
mod places;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use self::places::Places;

/// How long one file system operation of the agent may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Operations in one place at a time; more wait for their turn.
pub const PER_PLACE: usize = 2;

/// After this time an operation is one that may hang: its thread does not count as one of the pool's any more.
const PATIENCE: Duration = Duration::from_millis(500);

/// Threads for operations that take long, besides the pool's own. Once these hang too, it is the pool's own that do.
pub const SPARE: usize = 64;

/// Handle to the pool; cheap to clone.
#[derive(Clone, Debug)]
pub struct FsPool {
    /// `None` runs operations on the caller's thread.
    permits: Option<Permits>,
    places: Places,
}

#[derive(Clone, Debug)]
struct Permits {
    own: Arc<Semaphore>,
    spare: Arc<Semaphore>,
}

/// Why a file system operation gave no result.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The operation itself failed.
    #[error("{what}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The operation did not answer in time; it may still happen later.
    #[error("{what}: no answer from the file system within {seconds} s")]
    Timeout {
        /// What was being done, with the path.
        what: String,
        /// The deadline.
        seconds: u64,
    },
    /// Something in the same place did not answer before and still does not.
    #[error("{what}: the file system still does not answer")]
    StillHangs {
        /// What was to be done, with the path.
        what: String,
    },
    /// Too many operations hang already.
    #[error("{what}: all file system workers are busy or hang")]
    Exhausted {
        /// What was being done, with the path.
        what: String,
    },
    /// The operation panicked: a bug of the agent.
    #[error("{what}: the file system worker panicked")]
    Bug {
        /// What was being done.
        what: String,
    },
}

impl FsPool {
    /// A pool of at most `threads` operations at a time, besides those that take long.
    pub fn new(threads: usize) -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self {
            permits: Some(Permits { own: permits(threads), spare: permits(SPARE) }),
            places: Places::default(),
        }
    }

    /// Runs every operation at once on the caller's thread, without a deadline: for simulations, in which the
    /// order of events must not depend on threads.
    pub fn inline() -> Self {
        Self { permits: None, places: Places::default() }
    }

    /// Runs one operation. `what` names it for errors, for example `create directory /var/lib/…`, and is its place:
    /// for what touches nothing that somebody else may have mounted.
    ///
    /// # Errors
    /// [`FsError`]; after `Timeout` the operation may still complete, so callers must be idempotent.
    pub async fn run<T, F>(&self, what: impl Into<String>, operation: F) -> Result<T, FsError>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let what = what.into();
        self.run_at(&what.clone(), usize::MAX, what, operation).await
    }

    /// Runs one operation that touches what is in `place`: a directory, which others may have mounted something on.
    ///
    /// # Errors
    /// As [`run`](Self::run); `StillHangs` at once while another operation in that place does not answer.
    pub async fn run_in<T, F>(
        &self,
        place: &Path,
        what: impl Into<String>,
        operation: F,
    ) -> Result<T, FsError>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        self.run_at(&place.to_string_lossy(), PER_PLACE, what.into(), operation).await
    }

    /// Whether an operation in this place, or below it, does not answer: what only wants to know something leaves it
    /// alone.
    pub fn hangs(&self, place: &Path) -> bool {
        self.places.hangs(place)
    }

    /// What does not answer now, in words.
    pub fn hanging(&self) -> Vec<String> {
        self.places.hanging()
    }

    async fn run_at<T, F>(&self, place: &str, limit: usize, what: String, operation: F) -> Result<T, FsError>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let Some(permits) = &self.permits else {
            return operation().map_err(|source| FsError::Io { what, source });
        };
        let until = Instant::now() + DEADLINE;
        let Some(turn) = self.places.enter(place, limit) else {
            return Err(FsError::StillHangs { what });
        };
        let Ok(Some(running)) = timeout_at(until, turn.take(&what)).await else {
            return Err(FsError::StillHangs { what });
        };
        let permit = match timeout_at(until, permits.own.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Arc::new(Mutex::new(permit)),
            Ok(Err(_)) | Err(_) => return Err(FsError::Exhausted { what }),
        };
        let (began, watch) = (Instant::now(), running.watch());
        let mut slow = Slow { armed: true, permit: permit.clone(), spare: permits.spare.clone() };
        let mut work = tokio::task::spawn_blocking(move || {
            // Turn and permit travel with the operation: one that hangs keeps them, which bounds the threads.
            let (_permit, _running) = (permit, running);
            operation()
        });
        let done = match timeout_at(began + PATIENCE, &mut work).await {
            Ok(done) => {
                slow.armed = false;
                Ok(done)
            }
            Err(_) => {
                drop(slow);
                timeout_at(began + DEADLINE, work).await
            }
        };
        match done {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(source))) => Err(FsError::Io { what, source }),
            Ok(Err(_)) => Err(FsError::Bug { what }),
            Err(_) => {
                watch.hangs();
                Err(FsError::Timeout { what, seconds: DEADLINE.as_secs() })
            }
        }
    }
}

/// An operation somebody waits for. When this is dropped it takes long, or nobody waits any more: its thread becomes a
/// spare one, so that the pool has all of its own for others.
struct Slow {
    armed: bool,
    permit: Arc<Mutex<OwnedSemaphorePermit>>,
    spare: Arc<Semaphore>,
}

impl Drop for Slow {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Ok(spare) = self.spare.clone().try_acquire_owned() {
            *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = spare;
        }
    }
}

#[cfg(test)]
mod tests;
