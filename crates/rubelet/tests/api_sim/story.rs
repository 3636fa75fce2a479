//! What happens in a run, line by line: requests, runtime calls and what the simulation itself does. For people who
//! look at a failure, and for the digest by which two runs of a seed are compared.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

struct Inner {
    start: Instant,
    lines: Vec<(f64, String)>,
    /// What must not be, by the line it was noticed at.
    wrong: Vec<(usize, String)>,
}

/// A story in the making; cheap to clone.
#[derive(Clone)]
pub struct Story(Arc<Mutex<Inner>>);

impl Story {
    /// A story that begins now.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner { start: Instant::now(), lines: vec![], wrong: vec![] })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line.
    pub fn tell(&self, line: impl Into<String>) {
        let mut inner = self.lock();
        let at = inner.start.elapsed().as_secs_f64();
        inner.lines.push((at, line.into()));
    }

    /// Something that must not be.
    pub fn wrong(&self, what: impl Into<String>) {
        let what = what.into();
        self.tell(format!("WRONG {what}"));
        let mut inner = self.lock();
        let line = inner.lines.len() - 1;
        inner.wrong.push((line, what));
    }

    /// The first thing that must not be, and its line.
    pub fn first_wrong(&self) -> Option<(usize, String)> {
        self.lock().wrong.first().cloned()
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lock().lines.len()
    }

    /// Lines around one of them.
    pub fn around(&self, line: usize, before: usize, after: usize) -> String {
        let inner = self.lock();
        let mut text = String::new();
        for (number, (at, told)) in
            inner.lines.iter().enumerate().skip(line.saturating_sub(before)).take(before + after)
        {
            let arrow = if number == line { "=>" } else { "  " };
            let _ = writeln!(text, "{arrow} {at:9.3} {told}");
        }
        text
    }

    /// The same for the same story.
    pub fn digest(&self) -> u64 {
        let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
        for (at, line) in &self.lock().lines {
            for byte in format!("{at:.3} {line}").bytes() {
                digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        digest
    }
}
