//! A log that is written fast and rotated by the agent: what that costs, and how far files get over their limit.
//!
//! Owns the writer, a thread that is the runtime's part in it: it opens the file anew when the scripted runtime is told
//! to. Called by the plan of this part.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rubelet_testkit::ScriptedCri;
use rubelet_testkit::scripted::{HookAction, Op, Phase};
use tokio::time::Instant;

use crate::procfs;

/// The limit of a file, bytes: the default of `containerLogMaxSize`.
pub(super) const LIMIT: u64 = 10 << 20;
/// How the configuration says it.
pub(super) const LIMIT_TEXT: &str = "10Mi";
/// Written at a time.
const CHUNK: usize = 64 << 10;
/// A line as runtimes write them.
const LINE: &str =
    "2026-01-01T00:00:00.000000000Z stdout F the quick brown fox jumps over the lazy dog, number ";
/// How long compression may go on after the last line.
const AFTER: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotated {
    /// Bytes a second that were wanted; `None` is as fast as it goes.
    pub(super) rate: Option<u64>,
    /// Written in all, bytes, and over how long, seconds.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// The largest file, bytes.
    pub(super) largest: u64,
    /// How often the file was changed.
    pub(super) rotations: u64,
    /// Files that stay and are compressed, of all that stay.
    pub(super) compressed: (usize, usize),
    /// CPU time of the agent until a little after the last line, seconds.
    pub(super) cpu: f64,
}

/// Writes for a time and sees what the agent does.
pub(super) async fn measure(
    cri: &ScriptedCri,
    pid: u32,
    log: &Path,
    rate: Option<u64>,
    time: Duration,
) -> Result<Rotated> {
    let reopened = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&reopened);
    cri.set_hook(move |point| {
        if point.op == Op::ReopenContainerLog && point.phase == Phase::After {
            count.fetch_add(1, Ordering::Relaxed);
        }
        HookAction::Continue
    });
    let cpu = procfs::cpu_seconds(pid)?;
    let began = Instant::now();
    let file = log.to_owned();
    let (bytes, largest, rotations) =
        tokio::task::spawn_blocking(move || write(&file, &reopened, rate, time)).await??;
    let seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(AFTER).await;
    cri.clear_hook();
    let compressed = files(log)?;
    let cpu = procfs::cpu_seconds(pid)? - cpu;
    Ok(Rotated { rate, bytes, seconds, largest, rotations, compressed, cpu })
}

/// How many compressed files there are beside the log, and how many in all.
fn files(log: &Path) -> Result<(usize, usize)> {
    let dir = log.parent().context("a log without a folder")?;
    let names: Vec<_> = fs::read_dir(dir)?.flatten().map(|entry| entry.file_name()).collect();
    let compressed = names.iter().filter(|name| name.to_string_lossy().ends_with(".gz")).count();
    Ok((compressed, names.len()))
}

/// Returns bytes in all, of the largest file, and changes of the file.
#[expect(clippy::disallowed_methods, reason = "a thread that writes at a pace may sleep")]
fn write(log: &PathBuf, reopened: &AtomicU64, rate: Option<u64>, time: Duration) -> Result<(u64, u64, u64)> {
    let open = || File::options().create(true).append(true).open(log);
    let mut file = open().with_context(|| format!("cannot write {}", log.display()))?;
    let (began, mut seen) = (Instant::now(), 0);
    let (mut total, mut own, mut largest) = (0, file.metadata()?.len(), 0);
    let mut chunk = String::with_capacity(CHUNK + 2 * LINE.len());
    let mut number = 0_u64;
    while began.elapsed() < time {
        let now = reopened.load(Ordering::Relaxed);
        if now > seen {
            (file, seen, own) = (open()?, now, 0);
        }
        chunk.clear();
        while chunk.len() < CHUNK {
            chunk.push_str(LINE);
            chunk.push_str(&number.to_string());
            chunk.push('\n');
            number += 1;
        }
        file.write_all(chunk.as_bytes())?;
        total += chunk.len() as u64;
        own += chunk.len() as u64;
        largest = largest.max(own);
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(total as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    Ok((total, largest, seen))
}
