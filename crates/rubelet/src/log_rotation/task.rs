//! The task: looks at logs when they are due, rotates them, hands files to be compressed.
//!
//! | it waits for | and then |
//! |---|---|
//! | workers telling which containers run | takes up new logs, drops those that are gone |
//! | the kernel telling that a quiet log was written | looks a little later |
//! | the earliest time a log is due | looks at all that are due |
//! | looks, rotations and compressions it has begun | schedules the log they were of |
//!
//! Nothing blocks it: looks and rotations go on beside each other, one at a time for each log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rubelet_core::ids::ContainerId;
use rubelet_core::log_rotation::{Next, Pace};
use rubelet_linux::log_files::{WriteEvent, WriteWatches, Written, watch_writes};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Shared;
use super::compress::{Compressor, Outcome};
use super::steps::{Asked, Looked, Rotated, Steps, beside};

/// Looks are put together on a grid, so that logs that are written share a wake-up.
const GRID: Duration = Duration::from_millis(200);
/// The grid of looks that have this much time.
const COARSE: Duration = Duration::from_millis(400);
/// The pause after a look that could not be made, the first time; it doubles from there.
const TROUBLE: Duration = Duration::from_secs(10);
/// The longest such pause.
const LONG_TROUBLE: Duration = Duration::from_secs(600);

/// One container's log.
struct Log {
    id: ContainerId,
    path: Arc<Path>,
    pace: Pace,
    stage: Stage,
    /// It was written while a look was under way.
    woken: bool,
    /// Files of it that wait to be compressed, or are.
    compressing: usize,
    /// There may be something to clean up or to compress.
    unsettled: bool,
    /// Looks that failed, one after the other.
    troubles: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing happens before it is written.
    Quiet,
    /// It is looked at then.
    Due(Instant),
    /// It is being looked at or rotated.
    Busy,
}

/// What has come to an end.
enum Done {
    /// `None` when no look was made.
    Looked(Vec<u64>, Option<Vec<Looked>>),
    Rotated(u64, Rotated),
    Reopened(u64, Result<(), String>),
    Cut(u64),
    Trimmed,
}

/// See the module.
pub(super) struct Task {
    shared: Arc<Shared>,
    steps: Steps,
    compressor: Compressor,
    compressed: UnboundedReceiver<(u64, Outcome)>,
    /// `None` before the first log, and when the kernel gives none.
    watches: Option<WriteWatches>,
    written: Option<Written>,
    epoch: Instant,
    logs: BTreeMap<u64, Log>,
    keys: BTreeMap<ContainerId, u64>,
    due: BTreeSet<(Instant, u64)>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    next_key: u64,
}

impl Task {
    pub(super) fn new(shared: Arc<Shared>, steps: Steps, workers: usize) -> Self {
        let (compressor, compressed) = Compressor::new(workers);
        Self {
            shared,
            steps,
            compressor,
            compressed,
            watches: None,
            written: None,
            epoch: Instant::now(),
            logs: BTreeMap::new(),
            keys: BTreeMap::new(),
            due: BTreeSet::new(),
            under_way: FuturesUnordered::new(),
            next_key: 0,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let earliest = self.due.first().map(|(at, _)| *at);
            // All are cancel-safe: a notification stays until it is taken, events stay in their stream, and what is
            // under way goes on where it was.
            tokio::select! {
                biased;
                () = self.shared.changed.notified() => self.take_up(),
                Some(done) = self.under_way.next() => self.handle(done),
                Some((key, outcome)) = self.compressed.recv() => self.handle_compressed(key, outcome),
                event = next_write(&mut self.written) => self.handle_write(event),
                () = sleep_until(earliest) => self.look(),
            }
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Takes up what runs, drops what does not.
    fn take_up(&mut self) {
        let wanted: BTreeMap<ContainerId, PathBuf> = self.shared.pods().values().flatten().cloned().collect();
        let gone: Vec<ContainerId> = self
            .keys
            .iter()
            .filter(|(id, key)| {
                self.logs.get(key).is_none_or(|log| wanted.get(*id).is_none_or(|path| **path != *log.path))
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            let Some(key) = self.keys.remove(&id) else { continue };
            self.schedule(key, Stage::Quiet);
            self.logs.remove(&key);
            if let Some(watches) = &self.watches {
                watches.forget(key);
            }
        }
        if self.watches.is_none() && !wanted.is_empty() {
            match watch_writes() {
                Ok((watches, written)) => (self.watches, self.written) = (Some(watches), Some(written)),
                Err(error) => warn!("container logs are looked at from time to time: {error}"),
            }
        }
        let now = Instant::now();
        for (id, path) in wanted {
            if path.as_os_str().is_empty() || self.keys.contains_key(&id) {
                continue;
            }
            self.next_key += 1;
            let log = Log {
                id: id.clone(),
                path: path.into(),
                pace: Pace::default(),
                stage: Stage::Busy,
                woken: false,
                compressing: 0,
                unsettled: true,
                troubles: 0,
            };
            self.keys.insert(id, self.next_key);
            self.logs.insert(self.next_key, log);
            self.schedule(self.next_key, Stage::Due(now));
        }
    }

    fn schedule(&mut self, key: u64, stage: Stage) {
        let Some(log) = self.logs.get_mut(&key) else { return };
        if let Stage::Due(at) = std::mem::replace(&mut log.stage, stage) {
            self.due.remove(&(at, key));
        }
        if let Stage::Due(at) = stage {
            self.due.insert((at, key));
        }
    }

    /// Has a log looked at after about this time, together with others.
    fn look_in(&mut self, key: u64, wait: Duration) {
        let now = Instant::now();
        let grid = if wait >= COARSE { COARSE } else { GRID };
        let since = now.saturating_duration_since(self.epoch) + wait;
        let over =
            Duration::from_nanos(u64::try_from(since.as_nanos() % grid.as_nanos()).unwrap_or_default());
        let aligned = self.epoch + (since - over);
        self.schedule(key, Stage::Due(if aligned > now { aligned } else { now + wait }));
    }

    /// Looks at all that are due.
    fn look(&mut self) {
        let now = Instant::now();
        let later = self.due.split_off(&(now + Duration::from_millis(1), 0));
        let due = std::mem::replace(&mut self.due, later);
        let mut asked = Vec::with_capacity(due.len());
        for (_, key) in due {
            let Some(log) = self.logs.get_mut(&key) else { continue };
            (log.stage, log.woken) = (Stage::Busy, false);
            asked.push(Asked {
                key,
                path: log.path.clone(),
                pace: log.pace.clone(),
                compressing: log.compressing > 0,
                unsettled: log.unsettled,
            });
        }
        let keys = asked.iter().map(|log| log.key).collect();
        let looked = self.steps.clone().look(self.now(), asked, self.watches.clone());
        self.under_way.push(looked.map(|looked| Done::Looked(keys, looked)).boxed());
    }

    fn handle(&mut self, done: Done) {
        match done {
            Done::Looked(_, Some(looked)) => looked.into_iter().for_each(|looked| self.handle_look(looked)),
            Done::Looked(keys, None) => keys.into_iter().for_each(|key| self.handle_trouble(key, None)),
            Done::Rotated(key, rotated) => self.handle_rotation(key, rotated),
            Done::Reopened(key, reopened) => {
                let (now, limits) = (self.now(), self.steps.limits);
                let Some(log) = self.logs.get_mut(&key) else { return };
                let wait = match reopened {
                    Ok(()) => log.pace.rotated(now, &limits),
                    Err(error) => {
                        tell_failure(log, &error);
                        log.pace.failed(now, &limits)
                    }
                };
                self.look_in(key, wait);
            }
            Done::Cut(key) => {
                let (now, limits) = (self.now(), self.steps.limits);
                let Some(log) = self.logs.get_mut(&key) else { return };
                let wait = log.pace.cut(now, &limits);
                self.look_in(key, wait);
            }
            Done::Trimmed => {}
        }
    }

    fn handle_look(&mut self, looked: Looked) {
        let key = looked.key;
        let Some(log) = self.logs.get_mut(&key) else { return };
        log.pace = looked.pace;
        if looked.settled {
            log.unsettled = false;
        }
        let next = match looked.next {
            Ok(next) => next,
            Err(error) => return self.handle_trouble(key, Some(&error)),
        };
        log.troubles = 0;
        let (id, path, compressing) = (log.id.clone(), log.path.clone(), log.compressing > 0);
        let woken = log.woken;
        self.compress(key, looked.compress);
        let steps = self.steps.clone();
        match next {
            Next::AwaitWrite => {
                self.schedule(key, Stage::Quiet);
                if woken {
                    self.wake(key);
                }
            }
            Next::LookIn(wait) => self.look_in(key, wait),
            Next::Rotate => self.under_way.push(
                steps.rotate(id, path, compressing).map(move |rotated| Done::Rotated(key, rotated)).boxed(),
            ),
            Next::Reopen => self.under_way.push(
                steps.reopen_missing(id, path).map(move |reopened| Done::Reopened(key, reopened)).boxed(),
            ),
            Next::Cut => self.under_way.push(
                async move {
                    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                    steps.cut(path.clone(), name.to_owned()).await;
                    Done::Cut(key)
                }
                .boxed(),
            ),
        }
    }

    /// A look that could not be made: a log that is no file of ours, or a disk that does not answer.
    fn handle_trouble(&mut self, key: u64, error: Option<&str>) {
        let Some(log) = self.logs.get_mut(&key) else { return };
        if let Some(error) = error {
            debug!(path = %log.path.display(), "cannot look at a log: {error}");
        }
        let wait = TROUBLE.saturating_mul(1 << log.troubles.min(10)).min(LONG_TROUBLE);
        log.troubles += 1;
        self.look_in(key, wait);
    }

    fn handle_rotation(&mut self, key: u64, rotated: Rotated) {
        let (now, limits) = (self.now(), self.steps.limits);
        let Some(log) = self.logs.get_mut(&key) else { return };
        let wait = match rotated {
            Rotated::Done { compress } => {
                debug!(path = %log.path.display(), "rotated a log");
                let wait = log.pace.rotated(now, &limits);
                log.unsettled = true;
                if !log.pace.in_a_hurry() {
                    self.compress(key, compress);
                }
                wait
            }
            Rotated::Failed(error) => {
                tell_failure(log, &error);
                log.pace.failed(now, &limits)
            }
        };
        self.look_in(key, wait);
    }

    fn compress(&mut self, key: u64, names: Vec<String>) {
        let Some(log) = self.logs.get_mut(&key) else { return };
        if log.compressing > 0 {
            // They are found again when the log settles.
            log.unsettled |= !names.is_empty();
            return;
        }
        for name in names {
            match self.compressor.submit(key, beside(&log.path, &name)) {
                true => log.compressing += 1,
                false => log.unsettled = true,
            }
        }
    }

    fn handle_compressed(&mut self, key: u64, outcome: Outcome) {
        let Some(log) = self.logs.get_mut(&key) else { return };
        log.compressing = log.compressing.saturating_sub(1);
        let settles = log.compressing == 0 && log.unsettled && log.stage == Stage::Quiet;
        match outcome {
            Outcome::Done => {}
            // Tried again when the log has been written again and rests.
            Outcome::Written | Outcome::Failed => log.unsettled = true,
            Outcome::NoSpace => {
                log.unsettled = true;
                let trimmed = self.steps.clone().trim(log.path.clone());
                self.under_way.push(trimmed.map(|()| Done::Trimmed).boxed());
            }
        }
        if settles {
            self.look_in(key, COARSE);
        }
    }

    fn handle_write(&mut self, event: Option<WriteEvent>) {
        match event {
            Some(WriteEvent::Written(key)) => self.wake(key),
            Some(WriteEvent::Any) => {
                let keys: Vec<u64> = self.logs.keys().copied().collect();
                keys.into_iter().for_each(|key| self.wake(key));
            }
            None => {
                warn!("container logs are looked at from time to time: no more events of writes");
                (self.watches, self.written) = (None, None);
                let keys: Vec<u64> = self.logs.keys().copied().collect();
                keys.into_iter().for_each(|key| self.wake(key));
            }
        }
    }

    /// A quiet log was written.
    fn wake(&mut self, key: u64) {
        let now = self.now();
        let Some(log) = self.logs.get_mut(&key) else { return };
        match log.stage {
            Stage::Due(_) => return,
            Stage::Busy => {
                log.woken = true;
                return;
            }
            Stage::Quiet => {}
        }
        let wait = log.pace.woken(now);
        self.look_in(key, wait);
    }
}

fn tell_failure(log: &Log, error: &str) {
    // The first, the second, the fourth …
    if (log.pace.failures() + 1).is_power_of_two() {
        warn!(path = %log.path.display(), failures = log.pace.failures() + 1, "cannot rotate a log: {error}");
    }
}

/// The next write; for ever none without watches. `None` when there will be no more.
async fn next_write(written: &mut Option<Written>) -> Option<WriteEvent> {
    match written {
        Some(written) => written.next().await.ok(),
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
