//! File systems of the node, and the files of pods on them that are no volumes: logs and hosts files.
//!
//! One visit to the pool of blocking threads for all of it; files are counted anew only when the last count is some
//! seconds old.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rubelet_core::ids::PodUid;
use rubelet_core::stats::usage::{FilesystemUsage, FsUsage};
use rubelet_linux::usage::{Mounts, Space, file_space, file_system, files_space};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::fs_pool::{FsError, FsPool};

/// How long a count of files is good.
const FILES_FRESH: Duration = Duration::from_secs(15);
/// How long the list of mounts is good.
const MOUNTS_FRESH: Duration = Duration::from_secs(60);

/// The files of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFiles {
    pub(super) uid: PodUid,
    /// Log directories of its containers, by name.
    pub(super) logs: Vec<(String, PathBuf)>,
    /// Its own log directory.
    pub(super) log_dir: PathBuf,
    /// Its hosts file.
    pub(super) hosts: PathBuf,
}

/// What the files of a pod take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodSpace {
    /// Logs by container.
    pub(super) logs: BTreeMap<String, Space>,
    /// All else.
    pub(super) other: Space,
}

/// What is on the node's disks.
#[derive(Clone, Debug, Default)]
pub(super) struct DiskFigures {
    /// File systems by the path they were asked for.
    pub(super) places: BTreeMap<PathBuf, FsUsage>,
    /// Every file system on a device.
    pub(super) filesystems: Vec<FilesystemUsage>,
    /// Files of pods.
    pub(super) pods: Arc<BTreeMap<PodUid, PodSpace>>,
}

/// Looks at disks.
#[derive(Default)]
pub(super) struct Disks(Mutex<State>);

#[derive(Default)]
struct State {
    mounts: Option<(Instant, Arc<Mounts>)>,
    counted: Option<(Instant, Arc<BTreeMap<PodUid, PodSpace>>)>,
}

impl Disks {
    /// Looks at the file systems of these places, those of the whole node when `all`, and the files of these pods.
    ///
    /// # Errors
    /// When the disks do not answer.
    pub(super) async fn figures(
        &self,
        fs: &FsPool,
        places: Vec<PathBuf>,
        pods: Vec<PodFiles>,
        all: bool,
        at: Timestamp,
    ) -> Result<DiskFigures, FsError> {
        let mut state = self.0.lock().await;
        let mounts = state.mounts.clone().filter(|(read, _)| read.elapsed() < MOUNTS_FRESH);
        let is_known = |counted: &BTreeMap<PodUid, PodSpace>| {
            pods.iter()
                .all(|pod| counted.get(&pod.uid).is_some_and(|known| known.logs.len() >= pod.logs.len()))
        };
        let counted = state.counted.clone().filter(|(at, _)| at.elapsed() < FILES_FRESH);
        let counted = counted.filter(|(_, counted)| is_known(counted));
        let (known_mounts, known_files) = (mounts.map(|(_, m)| m), counted.map(|(_, c)| c));
        let (new_mounts, new_files) = (known_mounts.is_none(), known_files.is_none());
        let look = move || {
            let mounts = known_mounts.unwrap_or_else(|| Arc::new(Mounts::read()));
            let place = |path: PathBuf| {
                let mut found = file_system(&path, at).ok()?;
                found.device = mounts.device_of(&path);
                Some((path, found))
            };
            let figures = DiskFigures {
                places: places.into_iter().filter_map(place).collect(),
                filesystems: if all { mounts.filesystems(at) } else { vec![] },
                pods: known_files.unwrap_or_else(|| Arc::new(count(pods))),
            };
            Ok((figures, mounts))
        };
        let (figures, mounts) = fs.run("measure the node's file systems", look).await?;
        if new_mounts {
            state.mounts = Some((Instant::now(), mounts));
        }
        if new_files {
            state.counted = Some((Instant::now(), figures.pods.clone()));
        }
        Ok(figures)
    }

    /// Forgets everything: nobody has asked for a while.
    pub(super) async fn clear(&self) {
        *self.0.lock().await = State::default();
    }
}

fn count(pods: Vec<PodFiles>) -> BTreeMap<PodUid, PodSpace> {
    let count = |pod: PodFiles| {
        // A directory that is not there, or not any more, holds nothing.
        let logs = pod.logs.into_iter().map(|(name, dir)| (name, files_space(&dir).unwrap_or_default()));
        let beside = [files_space(&pod.log_dir), file_space(&pod.hosts)].into_iter().flatten();
        let other = beside.fold(Space::default(), |sum, space| Space {
            bytes: sum.bytes.saturating_add(space.bytes),
            inodes: sum.inodes.saturating_add(space.inodes),
        });
        (pod.uid, PodSpace { logs: logs.collect(), other })
    };
    pods.into_iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn files(root: &Path, containers: &[&str]) -> PodFiles {
        let log_dir = root.join("logs");
        PodFiles {
            uid: PodUid::from("a"),
            logs: containers.iter().map(|name| ((*name).to_owned(), log_dir.join(name))).collect(),
            log_dir,
            hosts: root.join("etc-hosts"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_counted_now_and_then_and_file_systems_each_time() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("logs/c")).unwrap();
        for file in ["logs/c/0.log", "logs/c/1.log", "logs/x", "etc-hosts"] {
            fs::write(root.path().join(file), "x").unwrap();
        }
        let disks = Disks::default();
        let pool = FsPool::inline();
        let look = |containers: &'static [&'static str]| {
            let places = vec![root.path().to_owned(), root.path().join("none")];
            let pods = vec![files(root.path(), containers)];
            disks.figures(&pool, places, pods, true, Timestamp::UNIX_EPOCH)
        };
        let first = look(&["c"]).await.unwrap();
        assert_eq!(first.places.len(), 1);
        assert!(!first.places[root.path()].device.is_empty());
        let pod = &first.pods[&PodUid::from("a")];
        assert_eq!((pod.logs["c"].inodes, pod.other.inodes), (2, 2));
        fs::write(root.path().join("logs/c/2.log"), "x").unwrap();
        assert_eq!(look(&["c"]).await.unwrap().pods, first.pods);
        // A container more: all is counted.
        let more = look(&["c", "d"]).await.unwrap();
        let logs = &more.pods[&PodUid::from("a")].logs;
        assert_eq!((logs["c"].inodes, logs["d"]), (3, Space::default()));
        fs::remove_file(root.path().join("logs/c/2.log")).unwrap();
        tokio::time::advance(FILES_FRESH).await;
        assert_eq!(look(&["c"]).await.unwrap().pods, first.pods);
        disks.clear().await;
    }
}
