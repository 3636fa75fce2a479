//! What volumes use: measured in the background while somebody wants to know, told as it was last measured.
//!
//! A volume of a driver is its driver's to measure. One that is a mount of its own is asked for the figures of its file system; a directory on the node's disk is
//! walked, a few at a time and in steps, so that neither a pod with millions of files nor a disk that hangs holds up
//! anything else. Without questions for a while the walks end and everything is forgotten.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join;
use jiff::Timestamp;
use rubelet_core::ids::PodUid;
use rubelet_core::stats::usage::{FsUsage, VolumeUsage};
use rubelet_csi::VolumeStats;
use rubelet_csi::client::Usage;
use rubelet_linux::mounts::is_mount_point;
use rubelet_linux::usage::{Space, TreeWalk, file_system};
use rubelet_volumes::{DriverVolume, MeasuredVolume, Volumes};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;

use crate::clock::Clock;
use crate::fs_pool::{FsError, FsPool};

/// Walks at a time.
const WALKS: usize = 2;
/// Entries that a walk looks at before it lets others have the thread.
const STEP: usize = 20_000;
/// Questions to drivers at a time.
const QUESTIONS: usize = 16;
/// How long a driver may take to answer one: whoever wants figures has older ones.
const DRIVER_PATIENCE: Duration = Duration::from_secs(10);
/// Without a question for so long, nothing is measured any more.
pub(super) const IDLE: Duration = Duration::from_secs(300);
/// Volumes whose content hardly changes are measured so much less often.
const SETTLED: u32 = 10;

/// Measures volumes; cheap to clone.
#[derive(Clone)]
pub(super) struct VolumeFigures(Arc<Shared>);

struct Shared {
    fs: FsPool,
    clock: Clock,
    /// `None`: volumes are not measured.
    period: Option<Duration>,
    /// Whose drivers are asked.
    volumes: Volumes,
    /// Whether is told what drivers say of a volume's health.
    health: bool,
    state: Mutex<State>,
    /// Held by the task that measures too, which holds nothing else while it waits.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<(PodUid, String), Entry>,
    asked_at: Option<Instant>,
    task: Option<JoinHandle<()>>,
}

struct Entry {
    volume: MeasuredVolume,
    figures: Option<Figures>,
    due: Instant,
    times: u32,
}

/// What a volume was found to use.
#[derive(Clone, Debug, PartialEq)]
struct Figures {
    fs: FsUsage,
    abnormal: Option<bool>,
}

impl VolumeFigures {
    /// Measures each volume about once a period; `health`: with what drivers say of it.
    pub(super) fn new(
        fs: FsPool,
        clock: Clock,
        period: Option<Duration>,
        volumes: Volumes,
        health: bool,
    ) -> Self {
        let (state, changed) = (Mutex::default(), Arc::new(Notify::new()));
        Self(Arc::new(Shared { fs, clock, period, volumes, health, state, changed }))
    }

    /// Somebody asks about these volumes; what is not among them is forgotten. The measuring goes on from here.
    pub(super) fn want(&self, wanted: impl IntoIterator<Item = (PodUid, Vec<MeasuredVolume>)>) {
        if self.0.period.is_none() {
            return;
        }
        let now = Instant::now();
        let mut state = self.0.state();
        state.asked_at = Some(now);
        let mut old = std::mem::take(&mut state.entries);
        let mut new = false;
        for (uid, volumes) in wanted {
            for volume in volumes {
                let key = (uid.clone(), volume.name.clone());
                let known = old.remove(&key).filter(|entry| entry.volume == volume);
                new |= known.is_none();
                let entry = known.unwrap_or(Entry { volume, figures: None, due: now, times: 0 });
                state.entries.insert(key, entry);
            }
        }
        if state.task.as_ref().is_none_or(JoinHandle::is_finished) && !state.entries.is_empty() {
            state.task = Some(tokio::spawn(measure(Arc::downgrade(&self.0), self.0.changed.clone())));
        } else if new {
            self.0.changed.notify_one();
        }
    }

    /// Measures one volume on the node's disk now, for whoever cannot wait for the next turn; `None` when it cannot be.
    pub(super) async fn now(&self, path: &Path) -> Option<FsUsage> {
        let measured = self.0.measure_one(path).await;
        measured.inspect_err(|error| debug!("{}", crate::logging::chain(error))).ok()
    }

    /// What a pod's volumes used when they were last measured, by name.
    pub(super) fn latest(&self, uid: &PodUid) -> Vec<VolumeUsage> {
        let state = self.0.state();
        let of_pod = state.entries.range((uid.clone(), String::new())..).take_while(|((of, _), _)| of == uid);
        let measured = of_pod.filter_map(|((_, name), entry)| {
            let figures = entry.figures.clone()?;
            Some(VolumeUsage {
                name: name.clone(),
                claim: entry.volume.claim.clone(),
                fs: figures.fs,
                abnormal: figures.abnormal,
                ephemeral: entry.volume.ephemeral,
            })
        });
        measured.collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Volumes that are due, and when the next one is.
    fn due(&self, now: Instant) -> (Vec<(PodUid, MeasuredVolume)>, Option<Instant>) {
        let state = self.state();
        let due = state.entries.iter().filter(|(_, entry)| entry.due <= now);
        let due = due.map(|((uid, _), entry)| (uid.clone(), entry.volume.clone()));
        let later = state.entries.values().map(|entry| entry.due).filter(|due| *due > now).min();
        (due.collect(), later)
    }

    async fn measure_all(&self, volumes: Vec<(PodUid, MeasuredVolume)>, at_once: usize) {
        futures::stream::iter(volumes).for_each_concurrent(at_once, |volume| self.measure(volume)).await;
    }

    async fn measure(&self, (uid, volume): (PodUid, MeasuredVolume)) {
        let name = volume.name.clone();
        let measured = match &volume.driver {
            Some(driver) => self.ask(driver).await,
            None => match self.measure_one(&volume.path).await {
                Ok(fs) => Ok(Figures { fs, abnormal: None }),
                Err(error) => Err(crate::logging::chain(&error)),
            },
        };
        let now = Instant::now();
        let period = self.period.unwrap_or(IDLE);
        let mut state = self.state();
        let Some(entry) = state.entries.get_mut(&(uid.clone(), name.clone())) else { return };
        if entry.volume != volume {
            return;
        }
        match measured {
            Ok(figures) => entry.figures = Some(figures),
            Err(error) => debug!("volume {name} of pod {uid}: {error}"),
        }
        entry.times = entry.times.wrapping_add(1);
        // Spread, so that volumes of pods that came together are not walked together for ever.
        let mut hasher = DefaultHasher::new();
        (&uid, &name, entry.times).hash(&mut hasher);
        let spread = f64::from(u32::try_from(hasher.finish() % 1000).unwrap_or(0)) / 2000.0;
        let period = if entry.volume.settled { period * SETTLED } else { period };
        entry.due = now + period.mul_f64(0.75 + spread);
    }

    async fn ask(&self, volume: &DriverVolume) -> Result<Figures, String> {
        let at = self.clock.now();
        let answer = tokio::time::timeout(DRIVER_PATIENCE, self.volumes.ask_driver(volume)).await;
        let said =
            answer.map_err(|_| "its driver does not answer")?.map_err(|problem| problem.to_string())?;
        let abnormal = said.condition.as_ref().map(|condition| condition.abnormal).filter(|_| self.health);
        Ok(Figures { fs: told(&said, at), abnormal })
    }

    async fn measure_one(&self, path: &Path) -> Result<FsUsage, FsError> {
        let what = format!("measure {}", path.display());
        let at = self.clock.now();
        let asked = path.to_owned();
        let begin = move || {
            let figures = file_system(&asked, at)?;
            let walk = if is_mount_point(&asked)? { None } else { Some(TreeWalk::new(&asked)?) };
            Ok((figures, walk))
        };
        let (mut figures, walk) = self.fs.run_in(path, what.clone(), begin).await?;
        if let Some(walk) = walk {
            let space = self.walk(path, &what, walk).await?;
            (figures.used, figures.inodes_used) = (Some(space.bytes), Some(space.inodes));
        }
        Ok(figures)
    }

    /// Walks in steps; dropped in between, it is over.
    async fn walk(&self, path: &Path, what: &str, mut walk: TreeWalk) -> Result<Space, FsError> {
        loop {
            let step = move || {
                let done = walk.step(STEP)?;
                Ok((walk, done))
            };
            let done;
            (walk, done) = self.fs.run_in(path, what, step).await?;
            if let Some(space) = done {
                return Ok(space);
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Measures what is due until nobody has asked for a while.
async fn measure(shared: Weak<Shared>, changed: Arc<Notify>) {
    loop {
        let Some(held) = shared.upgrade() else { return };
        let now = Instant::now();
        let ends = {
            let mut state = held.state();
            let ends = state.asked_at.map_or(now, |at| at + IDLE);
            if ends <= now {
                state.entries.clear();
                // Under the lock, so that the next question finds that nobody measures.
                state.task = None;
                return;
            }
            ends
        };
        let (due, later) = held.due(now);
        if !due.is_empty() {
            let (asked, walked) = split(due);
            // Drivers that do not answer hold up no walk.
            join(held.measure_all(asked, QUESTIONS), held.measure_all(walked, WALKS)).await;
            continue;
        }
        let wake = later.unwrap_or(ends).min(ends);
        // Their owner can go meanwhile.
        drop(held);
        // Both arms are cancel-safe: the state says what is due, the notification only wakes.
        tokio::select! {
            biased;
            () = changed.notified() => {}
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// Volumes whose drivers are asked, and the others.
type Split = (Vec<(PodUid, MeasuredVolume)>, Vec<(PodUid, MeasuredVolume)>);

fn split(due: Vec<(PodUid, MeasuredVolume)>) -> Split {
    due.into_iter().partition(|(_, volume)| volume.driver.is_some())
}

/// A driver's figures, without those that make no sense.
fn told(said: &VolumeStats, at: Timestamp) -> FsUsage {
    let figure =
        |usage: Option<Usage>, of: fn(&Usage) -> i64| usage.and_then(|usage| u64::try_from(of(&usage)).ok());
    FsUsage {
        at,
        available: figure(said.bytes, |usage| usage.available),
        capacity: figure(said.bytes, |usage| usage.total),
        used: figure(said.bytes, |usage| usage.used),
        inodes_free: figure(said.inodes, |usage| usage.available),
        inodes: figure(said.inodes, |usage| usage.total),
        inodes_used: figure(said.inodes, |usage| usage.used),
        ..FsUsage::default()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn volume(name: &str, path: &Path) -> MeasuredVolume {
        MeasuredVolume {
            name: name.into(),
            path: path.to_owned(),
            claim: None,
            ephemeral: true,
            settled: false,
            driver: None,
        }
    }

    fn figures(period: Option<Duration>) -> VolumeFigures {
        let volumes = Volumes::new(FsPool::inline(), None, None);
        VolumeFigures::new(FsPool::inline(), Clock::system(), period, volumes, false)
    }

    #[test]
    fn what_makes_no_sense_is_not_told() {
        let usage = |available, total, used| Some(Usage { available, total, used });
        let said = VolumeStats { bytes: usage(7, 10, -3), inodes: None, condition: None };
        let fs = told(&said, Timestamp::UNIX_EPOCH);
        assert_eq!((fs.available, fs.capacity, fs.used, fs.inodes), (Some(7), Some(10), None, None));
        let said = VolumeStats { bytes: None, inodes: usage(i64::MIN, 0, i64::MAX), condition: None };
        let fs = told(&said, Timestamp::UNIX_EPOCH);
        let all = (fs.capacity, fs.inodes_free, fs.inodes, fs.inodes_used);
        assert_eq!(all, (None, None, Some(0), u64::try_from(i64::MAX).ok()));
    }

    fn used(figures: &VolumeFigures, uid: &str) -> Vec<(String, u64)> {
        let latest = figures.latest(&PodUid::from(uid)).into_iter();
        latest.map(|volume| (volume.name, volume.fs.inodes_used.unwrap())).collect()
    }

    async fn until(figures: &VolumeFigures, uid: &str, expected: &[(&str, u64)]) {
        while used(figures, uid).iter().map(|(name, used)| (name.as_str(), *used)).collect::<Vec<_>>()
            != expected
        {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn volumes_are_measured_while_somebody_asks() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("v");
        fs::create_dir(&path).unwrap();
        let period = Duration::from_secs(60);
        let figures = figures(Some(period));
        let uid = PodUid::from("a");
        let want = || {
            let missing = volume("none", &root.path().join("none"));
            figures.want([(uid.clone(), vec![volume("v", &path), missing])]);
        };
        assert!(used(&figures, "a").is_empty());
        want();
        until(&figures, "a", &[("v", 1)]).await;
        let told = figures.latest(&uid).remove(0);
        assert!(told.fs.capacity.is_some() && told.ephemeral);
        fs::write(path.join("file"), "x").unwrap();
        tokio::time::advance(period / 2).await;
        want();
        tokio::task::yield_now().await;
        assert_eq!(used(&figures, "a"), [("v".to_owned(), 1)], "it is not due yet");
        tokio::time::advance(period).await;
        until(&figures, "a", &[("v", 2)]).await;
        assert!(used(&figures, "b").is_empty());
        // Nobody asks: the task ends and forgets; the next question begins anew.
        while figures.0.state().task.is_some() {
            tokio::time::advance(period).await;
            tokio::task::yield_now().await;
        }
        assert!(figures.latest(&uid).is_empty());
        want();
        until(&figures, "a", &[("v", 2)]).await;
        // Another volume takes the place of one, and one goes.
        let other = root.path().join("other");
        fs::create_dir_all(other.join("x/y")).unwrap();
        figures.want([(uid.clone(), vec![volume("w", &other)])]);
        until(&figures, "a", &[("w", 3)]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_period_nothing_is_measured() {
        let root = tempfile::tempdir().unwrap();
        let figures = figures(None);
        figures.want([(PodUid::from("a"), vec![volume("v", root.path())])]);
        tokio::task::yield_now().await;
        assert!(used(&figures, "a").is_empty() && figures.0.state().task.is_none());
    }
}
