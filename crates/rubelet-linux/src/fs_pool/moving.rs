//! Operations that take as long as there is to do: they hang when nothing moves any more, not when they take long.

use std::io;
use std::path::Path;

use tokio::time::timeout;

use super::{DEADLINE, FsError, FsPool, PER_PLACE};

impl FsPool {
    /// Runs one operation in `place` whose counter `moved` grows while it gets on; it may take any time as long as the
    /// counter is another one after each [`DEADLINE`]. It is told to stop by whatever else the two share: dropping this
    /// future leaves it running.
    ///
    /// # Errors
    /// As [`run_in`](Self::run_in).
    pub async fn run_moving<T, F>(
        &self,
        place: &Path,
        what: impl Into<String>,
        moved: impl Fn() -> u64,
        operation: F,
    ) -> Result<T, FsError>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let what = what.into();
        let Some(permits) = &self.permits else {
            return operation().map_err(|source| FsError::Io { what, source });
        };
        let Some(turn) = self.places.enter(&place.to_string_lossy(), PER_PLACE) else {
            return Err(FsError::StillHangs { what });
        };
        let Ok(Some(running)) = timeout(DEADLINE, turn.take(&what)).await else {
            return Err(FsError::StillHangs { what });
        };
        // One of the spare threads from the start: this is known to take long.
        let permit = match timeout(DEADLINE, permits.spare.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(FsError::Exhausted { what }),
        };
        let watch = running.watch();
        let mut seen = moved();
        let mut work = tokio::task::spawn_blocking(move || {
            let (_permit, _running) = (permit, running);
            operation()
        });
        loop {
            match timeout(DEADLINE, &mut work).await {
                Ok(Ok(Ok(value))) => return Ok(value),
                Ok(Ok(Err(source))) => return Err(FsError::Io { what, source }),
                Ok(Err(_)) => return Err(FsError::Bug { what }),
                Err(_) => {
                    let now = moved();
                    if now == seen {
                        watch.hangs();
                        return Err(FsError::Timeout { what, seconds: DEADLINE.as_secs() });
                    }
                    seen = now;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_may_take_long_and_what_does_not_hangs() {
        let pool = FsPool::new(1);
        let place = Path::new("/volume");
        let count = Arc::new(AtomicU64::new(0));
        let (release, held) = channel::<()>();
        // A blocking thread keeps the paused clock from moving by itself.
        let moving = {
            let count = count.clone();
            pool.run_moving(
                place,
                "walk",
                move || count.load(Ordering::Relaxed),
                move || {
                    let _ = held.recv();
                    Ok(7)
                },
            )
        };
        let clock = async {
            for _ in 0..5 {
                tokio::time::advance(DEADLINE - std::time::Duration::from_millis(1)).await;
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::advance(std::time::Duration::from_millis(2)).await;
            }
            drop(release);
        };
        assert_eq!(tokio::join!(moving, clock).0.unwrap(), 7);
        let (release, held) = channel::<()>();
        let stuck = pool.run_moving(
            place,
            "walk",
            || 0,
            move || {
                let _ = held.recv();
                Ok(())
            },
        );
        let (stuck, ()) = tokio::join!(stuck, tokio::time::advance(DEADLINE * 2));
        assert!(matches!(stuck, Err(FsError::Timeout { .. })), "{stuck:?}");
        assert!(pool.hangs(place));
        drop(release);
    }
}
