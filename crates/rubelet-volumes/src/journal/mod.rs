//! What is mounted for whom: one checksummed record for each pod under `<root-dir>/rubelet/mounts`, written before the
//! first step of every volume that lives outside the pod's own directories (claims, volumes of drivers, NFS).
//!
//! A restart needs neither the API nor a scan to tear down what an earlier run mounted, and a pod at rest asks nobody.
//! What is *begun* may be mounted; what is *mounted* is known, and is not asked for again. A record that is damaged is
//! set aside: layout and the drivers' own files are then what is left to go by. Never mounts and never unmounts.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rubelet_core::claims::ClaimedVolume;
use rubelet_core::ids::PodUid;
use rubelet_core::volumes::CsiVolume;
use rubelet_linux::fs_pool::{FsError, FsPool};
use rubelet_linux::record;

pub use self::entry::{MountEntry, MountSource, MountState};

/// Kind and version of a record.
const KIND: (&str, u32) = ("rubelet-mounts", 1);

/// Pods whose records are written at the same time at most; more wait for one another.
const TURNS: usize = 16;

/// The journal; cheap to clone.
#[derive(Clone)]
pub struct MountJournal(Arc<Inner>);

struct Inner {
    /// Where records are, and who reads and writes them; `None` keeps everything in memory.
    disk: Option<(PathBuf, FsPool)>,
    /// The truth, which files follow. Bounded by the pods that have such volumes.
    pods: Mutex<BTreeMap<PodUid, Vec<MountEntry>>>,
    /// One writer for each pod: what is written is what is true then, so that a write that comes late does no harm.
    turns: [Mutex<()>; TURNS],
}

impl MountJournal {
    /// A journal that no restart sees.
    pub fn in_memory() -> Self {
        Self::with_disk(None)
    }

    /// The journal below a root directory; see [`load`](Self::load).
    pub fn new(root_dir: &Path, fs: FsPool) -> Self {
        Self::with_disk(Some((root_dir.join("rubelet/mounts"), fs)))
    }

    fn with_disk(disk: Option<(PathBuf, FsPool)>) -> Self {
        Self(Arc::new(Inner { disk, pods: Mutex::default(), turns: Default::default() }))
    }

    fn pods_mut(&self) -> MutexGuard<'_, BTreeMap<PodUid, Vec<MountEntry>>> {
        self.0.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what earlier runs left; to be called once, before any volume is touched. The answer names damaged records.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub async fn load(&self) -> Result<Vec<String>, FsError> {
        let Some((dir, fs)) = &self.0.disk else { return Ok(Vec::new()) };
        let read = dir.clone();
        let what = format!("read the journal of mounts {}", dir.display());
        let (records, problems) = fs.run(what, move || load_dir(&read)).await?;
        self.pods_mut().extend(records);
        Ok(problems)
    }

    /// Pods that have an entry.
    pub fn pods(&self) -> Vec<PodUid> {
        self.pods_mut().keys().cloned().collect()
    }

    /// Everything that is or may be mounted for a pod, oldest first.
    pub fn all(&self, pod: &PodUid) -> Vec<MountEntry> {
        self.pods_mut().get(pod).cloned().unwrap_or_default()
    }

    /// The volumes of drivers that are or may be mounted for a pod, claimed and inline.
    pub fn csi_volumes(&self, pod: &PodUid) -> Vec<CsiVolume> {
        self.all(pod).iter().filter_map(|entry| entry.source.csi().cloned()).collect()
    }

    /// The claimed volume that is mounted as `volume` of a pod.
    pub fn claimed(&self, pod: &PodUid, volume: &str) -> Option<ClaimedVolume> {
        let pods = self.pods_mut();
        let mounted = pods.get(pod)?.iter().find(|entry| entry.is_mounted(volume))?;
        mounted.source.claimed().cloned()
    }

    /// Pods for which the driver's volume of that unique name is or may be mounted.
    pub fn users(&self, unique_name: &str) -> Vec<PodUid> {
        let pods = self.pods_mut();
        let uses = |entries: &[MountEntry]| {
            entries.iter().filter_map(|entry| entry.source.csi()).any(|csi| csi.unique_name() == unique_name)
        };
        pods.iter().filter(|(_, entries)| uses(entries)).map(|(pod, _)| pod.clone()).collect()
    }

    /// Further groups that the mounted volumes of a pod ask for, each once.
    pub fn groups(&self, pod: &PodUid) -> Vec<i64> {
        let pods = self.pods_mut();
        let mounted = pods.get(pod).into_iter().flatten().filter(|entry| entry.state == MountState::Mounted);
        let mut groups = Vec::new();
        for group in mounted.filter_map(|entry| entry.source.claimed()?.group) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }

    /// Says that a volume is about to be mounted; to be called, and to have answered, before the first step. What was
    /// begun for the same volume from another source stays, for it may be mounted too.
    ///
    /// # Errors
    /// When it cannot be written: then nothing may be mounted.
    pub async fn begin(&self, pod: &PodUid, volume: &str, source: MountSource) -> Result<(), FsError> {
        {
            let mut pods = self.pods_mut();
            let entries = pods.entry(pod.clone()).or_default();
            match entries.iter().find(|entry| entry.volume == volume && entry.source == source) {
                Some(entry) if entry.state == MountState::Mounted => return Ok(()),
                // Written again: who began it may have been dropped before the disk had it.
                Some(_) => {}
                None => {
                    let state = MountState::Begun;
                    entries.push(MountEntry { volume: volume.to_owned(), source, state });
                }
            }
        }
        self.write(pod).await
    }

    /// Says that a volume which was begun last is mounted.
    ///
    /// # Errors
    /// When it cannot be written; a restart would then ask for the volume again.
    pub async fn mounted(&self, pod: &PodUid, volume: &str) -> Result<(), FsError> {
        {
            let mut pods = self.pods_mut();
            let last = pods.get_mut(pod).and_then(|all| all.iter_mut().rfind(|entry| entry.volume == volume));
            match last {
                Some(entry) if entry.state == MountState::Begun => entry.state = MountState::Mounted,
                _ => return Ok(()),
            }
        }
        self.write(pod).await
    }

    /// Says that nothing of a pod is mounted any more.
    ///
    /// # Errors
    /// When the record is there and cannot be removed.
    pub async fn forget(&self, pod: &PodUid) -> Result<(), FsError> {
        let Some(entries) = self.pods_mut().remove(pod) else { return Ok(()) };
        let removed = self.write(pod).await;
        if removed.is_err() {
            self.pods_mut().entry(pod.clone()).or_insert(entries);
        }
        removed
    }

    /// Makes the record what is true.
    async fn write(&self, pod: &PodUid) -> Result<(), FsError> {
        let Some((dir, fs)) = &self.0.disk else { return Ok(()) };
        let path = dir.join(record::file_name(pod));
        let what = format!("write the record of mounts {}", path.display());
        let (journal, pod) = (self.clone(), pod.clone());
        fs.run(what, move || {
            let turn = &journal.0.turns[turn_of(&pod)];
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let entries = journal.all(&pod);
            if entries.is_empty() {
                record::remove(&path.with_extension(record::DAMAGED))?;
                return record::remove(&path);
            }
            let body = serde_json::to_string(&entries).map_err(io::Error::other)?;
            record::replace(&path, &record::encode(KIND.0, KIND.1, &body))
        })
        .await
    }
}

/// Which turn a pod's record is written in.
fn turn_of(pod: &PodUid) -> usize {
    let mut hasher = DefaultHasher::new();
    pod.as_str().hash(&mut hasher);
    usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default()
}

type Records = BTreeMap<PodUid, Vec<MountEntry>>;

fn load_dir(dir: &Path) -> io::Result<(Records, Vec<String>)> {
    let (mut records, mut problems) = (Records::new(), Vec::new());
    let files = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((records, problems)),
        files => files?,
    };
    for file in files {
        let path = file?.path();
        let Some(uid) = record::uid_of(&path) else { continue };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // One that cannot be read now may be good: it stays where it is.
            Err(error) => {
                problems.push(format!("{}: {error}", path.display()));
                records.insert(uid, Vec::new());
                continue;
            }
        };
        match decode(&String::from_utf8_lossy(&bytes)) {
            Ok(entries) => {
                records.insert(uid, entries);
            }
            Err(problem) => {
                problems.push(format!("{}: {problem}; {}", path.display(), record::set_aside(&path)));
                // So that the pod is known to have had one.
                records.insert(uid, Vec::new());
            }
        }
    }
    Ok((records, problems))
}

fn decode(text: &str) -> Result<Vec<MountEntry>, String> {
    let body = record::decode(KIND.0, KIND.1, text)?;
    serde_json::from_str(body).map_err(|error| format!("not a record: {error}"))
}
