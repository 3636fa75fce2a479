//! Every touch of the file system that a pod can make slow goes through here: a bounded pool of disposable
//! blocking threads with a deadline. A call that hangs (a dead NFS server under a hostPath) costs one
//! thread until the kernel lets go; it never costs the caller more than its deadline.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

/// How long one file system operation of the agent may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Handle to the pool; cheap to clone.
#[derive(Clone, Debug)]
pub struct FsPool {
    /// `None` runs operations on the caller's thread.
    permits: Option<Arc<Semaphore>>,
    /// Operations that did not answer in time and still hang, by what they are.
    hung: Arc<Mutex<BTreeSet<String>>>,
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
    /// The same operation did not answer before and still does not.
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
    /// A pool of at most `threads` operations at a time.
    pub fn new(threads: usize) -> Self {
        Self { permits: Some(Arc::new(Semaphore::new(threads))), hung: Arc::default() }
    }

    /// Runs every operation at once on the caller's thread, without a deadline: for simulations, in which the
    /// order of events must not depend on threads.
    pub fn inline() -> Self {
        Self { permits: None, hung: Arc::default() }
    }

    /// Runs one operation. `what` names it for errors, for example `create directory /var/lib/…`.
    ///
    /// # Errors
    /// [`FsError`]; after `Timeout` the operation may still complete, so callers must be idempotent.
    pub async fn run<T, F>(&self, what: impl Into<String>, operation: F) -> Result<T, FsError>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let what = what.into();
        let Some(permits) = &self.permits else {
            return operation().map_err(|source| FsError::Io { what, source });
        };
        // One that hangs is not tried again beside itself: it costs one thread, however often it is asked for.
        if self.hung().contains(&what) {
            return Err(FsError::StillHangs { what });
        }
        let permit = match tokio::time::timeout(DEADLINE, permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(FsError::Exhausted { what }),
        };
        // The permit travels with the operation: a hung one keeps it, which bounds the threads.
        let over = Arc::new(AtomicBool::new(false));
        let guard = Over { hung: self.hung.clone(), what: what.clone(), over: over.clone() };
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let _guard = guard;
            operation()
        });
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(source))) => Err(FsError::Io { what, source }),
            Ok(Err(_)) => Err(FsError::Bug { what }),
            Err(_) => {
                let mut hung = self.hung();
                // It may have ended in this very moment: then nobody would take its name out again.
                if !over.load(Ordering::Relaxed) {
                    hung.insert(what.clone());
                }
                drop(hung);
                Err(FsError::Timeout { what, seconds: DEADLINE.as_secs() })
            }
        }
    }

    fn hung(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.hung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation that is under way; when it is over, however it ends, nobody is told any more that it hangs.
struct Over {
    hung: Arc<Mutex<BTreeSet<String>>>,
    what: String,
    /// Changed under the lock of `hung` only.
    over: Arc<AtomicBool>,
}

impl Drop for Over {
    fn drop(&mut self) {
        let mut hung = self.hung.lock().unwrap_or_else(PoisonError::into_inner);
        self.over.store(true, Ordering::Relaxed);
        hung.remove(&self.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn errors_name_the_operation() {
        let pool = FsPool::new(2);
        let error = pool.run("read /nowhere", || std::fs::read("/nowhere/at/all")).await.unwrap_err();
        assert_eq!(error.to_string(), "read /nowhere");
        assert_eq!(pool.run("add", || Ok(1 + 1)).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_panic_stays_in_the_pool() {
        let pool = FsPool::new(1);
        let error = pool.run("boom", || -> io::Result<()> { panic!("on purpose") }).await.unwrap_err();
        assert!(matches!(error, FsError::Bug { .. }));
        assert_eq!(pool.run("still works", || Ok(7)).await.unwrap(), 7);
    }
    #[tokio::test(start_paused = true)]
    async fn what_hangs_costs_one_thread() {
        let pool = FsPool::new(2);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let hang = || {
            let held = held.clone();
            pool.run("stat /dead", move || {
                let _ = held.lock().unwrap().recv();
                Ok(())
            })
        };
        // A blocking thread keeps the paused clock from moving by itself.
        let (first, ()) = tokio::join!(hang(), tokio::time::advance(DEADLINE * 2));
        assert!(matches!(first, Err(FsError::Timeout { .. })), "{first:?}");
        for _ in 0..5 {
            assert!(matches!(hang().await, Err(FsError::StillHangs { .. })));
        }
        assert_eq!(pool.run("other", || Ok(1)).await.unwrap(), 1);
        drop(release);
        while pool.hung().contains("stat /dead") {
            tokio::task::yield_now().await;
        }
        hang().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_hung_and_panicked_may_be_tried_again() {
        let pool = FsPool::new(2);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hang = pool.run("stat /dead", move || -> io::Result<()> {
            let _ = held.recv();
            panic!("on purpose")
        });
        let (first, ()) = tokio::join!(hang, tokio::time::advance(DEADLINE * 2));
        assert!(matches!(first, Err(FsError::Timeout { .. })), "{first:?}");
        drop(release);
        while pool.permits.as_ref().is_some_and(|permits| permits.available_permits() < 2) {
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run("stat /dead", || Ok(1)).await.unwrap(), 1);
    }
}
