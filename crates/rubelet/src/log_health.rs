//! Whether the log takes what is written to it: the check `log` of `/healthz`.
//!
//! A log that blocks (a pipe that nobody reads) holds whoever writes to it, in the end every thread of the agent.
//! Nothing is tried and no task runs: every write leaves its mark, and the check looks at the marks. A write that fails
//! (a full disk) is no reason to restart the agent and only told. Never writes to the log itself.

use std::io::{self, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rubelet_server::node::Check;
use tokio::time::Instant;

/// How long a write may take (upstream's `healthz.LogHealthz`).
const BLOCKED_AFTER: Duration = Duration::from_secs(120);

/// The marks of one log.
#[derive(Debug)]
struct LogHealth {
    began: Instant,
    /// Writes under way.
    writing: AtomicUsize,
    /// When the first of them began, or the last one ended that did: milliseconds since `began`.
    moved: AtomicU64,
    /// The last write failed.
    failed: AtomicBool,
}

/// The process's log. There is one, as there is one logger.
static LOG: LazyLock<LogHealth> = LazyLock::new(LogHealth::new);

/// The check of the process's log.
pub fn check() -> Check {
    LOG.check()
}

/// A writer of the process's log that leaves marks.
pub fn watched<W: Write>(inner: W) -> impl Write {
    Watched { log: &LOG, inner }
}

impl LogHealth {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            writing: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }
    }

    fn check(&self) -> Check {
        let moved = Duration::from_millis(self.moved.load(Ordering::SeqCst));
        let stands = self.began.elapsed().saturating_sub(moved);
        if self.writing.load(Ordering::SeqCst) > 0 && stands >= BLOCKED_AFTER {
            // Upstream's words.
            return Check::new("log", Some("logging blocked".to_owned()));
        }
        let failed = self.failed.load(Ordering::SeqCst);
        Check::passed("log", failed.then(|| "the last line could not be written".to_owned()))
    }

    fn mark(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::SeqCst);
    }
}

struct Watched<'a, W> {
    log: &'a LogHealth,
    inner: W,
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.log.writing.load(Ordering::SeqCst) == 0 {
            self.log.mark();
        }
        self.log.writing.fetch_add(1, Ordering::SeqCst);
        let written = self.inner.write(bytes);
        self.log.mark();
        self.log.writing.fetch_sub(1, Ordering::SeqCst);
        self.log.failed.store(written.is_err(), Ordering::SeqCst);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// What the check says while a write is under way, after each of these seconds.
    struct Slow<'a> {
        log: &'a LogHealth,
        seen: Vec<Option<String>>,
    }

    impl Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.seen.push(self.log.check().problem);
            // Another writer gets through now and then.
            Watched { log: self.log, inner: io::sink() }.write_all(b"x")?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_does_not_end_is_a_problem() {
        let log = LogHealth::new();
        advance(Duration::from_secs(1000)).await;
        assert_eq!(log.check(), Check::passed("log", None), "a quiet log is no blocked one");
        let mut out = Watched { log: &log, inner: Slow { log: &log, seen: vec![] } };
        out.write_all(b"line").unwrap();
        assert_eq!(out.inner.seen, [None]);
        // As if a thread stood in a write.
        log.mark();
        log.writing.fetch_add(1, Ordering::SeqCst);
        advance(BLOCKED_AFTER - Duration::from_secs(1)).await;
        assert_eq!(log.check().problem, None);
        advance(Duration::from_secs(1)).await;
        assert_eq!(log.check().problem.as_deref(), Some("logging blocked"));
        Watched { log: &log, inner: io::sink() }.write_all(b"line").unwrap();
        assert_eq!(log.check().problem, None, "something got through");
    }

    #[test]
    fn a_write_that_fails_is_told_and_no_problem() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let log = LogHealth::new();
        let _ = Watched { log: &log, inner: Full }.write_all(b"line");
        let check = log.check();
        assert_eq!(
            (check.problem, check.note.as_deref()),
            (None, Some("the last line could not be written"))
        );
        Watched { log: &log, inner: io::sink() }.write_all(b"line").unwrap();
        assert_eq!(log.check().note, None);
    }
}
