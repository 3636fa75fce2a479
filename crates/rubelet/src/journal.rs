//! Durable facts about pods: one small checksummed record per pod UID under `<root-dir>/rubelet/pods`.
//!
//! A record is replaced by writing a new file and renaming it, so that kill -9 at any moment leaves the old
//! or the new one, never a torn one. Records hold what neither the runtime nor a source can tell after a
//! restart: the status last reported and crash-loop back-offs. A damaged record is set aside and reported;
//! the pod goes on without it. Each record has one writer, its pod's worker.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::PodStatus;
use rubelet_core::backoff::{BackoffEntry, BackoffKey};
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::verdicts::Verdict;
use rubelet_linux::record;
use serde::{Deserialize, Serialize};

use crate::fs_pool::{FsError, FsPool};

/// What the records are.
const KIND: &str = "rubelet-journal";
/// Version of the record format.
const VERSION: u32 = 1;

/// What is remembered of one pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The status last reported.
    pub status: Option<Arc<PodStatus>>,
    /// Crash-loop back-offs.
    pub restarts: Vec<(BackoffKey, BackoffEntry)>,
    /// Back-offs of image pulls.
    pub pulls: Vec<(BackoffKey, BackoffEntry)>,
    /// What the probes last said, by container instance: trusted as long as that instance runs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<ContainerId, Verdict>,
    /// The pod ended for good: it is not started again even if its containers are gone from the runtime.
    pub finished: bool,
}

/// The journal; cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    dir: PathBuf,
    fs: FsPool,
}

/// What `load` found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Good records.
    pub records: BTreeMap<PodUid, PodRecord>,
    /// Damaged ones: what and where.
    pub problems: Vec<String>,
}

impl Journal {
    /// The journal below a root directory.
    pub fn new(root_dir: &Path, fs: FsPool) -> Self {
        Self { dir: root_dir.join("rubelet/pods"), fs }
    }

    /// Reads every record.
    ///
    /// # Errors
    /// When the directory can be neither read nor made.
    pub async fn load(&self) -> Result<Loaded, FsError> {
        let dir = self.dir.clone();
        self.fs.run(format!("read journal {}", dir.display()), move || load_dir(&dir)).await
    }

    /// Replaces the record of a pod.
    ///
    /// # Errors
    /// When it cannot be written; the old record is then still there.
    pub async fn save(&self, uid: &PodUid, record: &PodRecord) -> Result<(), FsError> {
        let path = self.path(uid);
        let text = encode(record);
        self.fs
            .run(format!("write journal record {}", path.display()), move || record::replace(&path, &text))
            .await
    }

    /// Forgets a pod.
    ///
    /// # Errors
    /// When the record is there and cannot be removed.
    pub async fn remove(&self, uid: &PodUid) -> Result<(), FsError> {
        let path = self.path(uid);
        self.fs.run(format!("remove journal record {}", path.display()), move || record::remove(&path)).await
    }

    fn path(&self, uid: &PodUid) -> PathBuf {
        self.dir.join(record::file_name(uid))
    }

    /// The UIDs that have a record.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn list(&self) -> Result<Vec<PodUid>, FsError> {
        let dir = self.dir.clone();
        self.fs
            .run(format!("list journal {}", dir.display()), move || {
                Ok(fs::read_dir(&dir)?.flatten().filter_map(|entry| record::uid_of(&entry.path())).collect())
            })
            .await
    }
}

fn load_dir(dir: &Path) -> io::Result<Loaded> {
    fs::create_dir_all(dir)?;
    let mut loaded = Loaded::default();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(uid) = record::uid_of(&path) else { continue };
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // A record that cannot be read now may be good: it stays where it is.
            Err(error) => {
                loaded.problems.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        match decode(&text) {
            Ok(record) => {
                loaded.records.insert(uid, record);
            }
            Err(problem) => {
                let aside = record::set_aside(&path);
                loaded.problems.push(format!("{}: {problem}; {aside}", path.display()));
            }
        }
    }
    Ok(loaded)
}

fn encode(record: &PodRecord) -> String {
    // A struct of strings, numbers and maps with string keys always serialises.
    record::encode(KIND, VERSION, &serde_json::to_string(record).unwrap_or_default())
}

fn decode(text: &str) -> Result<PodRecord, String> {
    serde_json::from_str(record::decode(KIND, VERSION, text)?)
        .map_err(|error| format!("not a record: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> PodRecord {
        PodRecord {
            namespace: "default".into(),
            name: "web".into(),
            status: Some(Arc::new(PodStatus { phase: Some("Running".into()), ..Default::default() })),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn records_survive_and_damaged_ones_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path(), FsPool::new(1));
        journal.save(&"good".into(), &record()).await.unwrap();
        journal.save(&"bad".into(), &record()).await.unwrap();
        let bad = dir.path().join("rubelet/pods/bad.json");
        let mut text = fs::read_to_string(&bad).unwrap();
        text.truncate(text.len() - 10);
        fs::write(&bad, text).unwrap();
        let loaded = journal.load().await.unwrap();
        assert_eq!(loaded.records.keys().map(PodUid::as_str).collect::<Vec<_>>(), ["good"]);
        assert_eq!(loaded.records[&PodUid::from("good")], record());
        assert_eq!(loaded.problems.len(), 1);
        assert!(
            loaded.problems[0].contains("bad.json: the record is torn; set aside"),
            "{:?}",
            loaded.problems
        );
        // The damaged one is not reported twice, and forgetting is idempotent.
        assert!(journal.load().await.unwrap().problems.is_empty());
        journal.remove(&"good".into()).await.unwrap();
        journal.remove(&"good".into()).await.unwrap();
        assert!(journal.load().await.unwrap().records.is_empty());
    }

    #[tokio::test]
    async fn a_uid_cannot_choose_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path(), FsPool::new(1));
        journal.save(&"../../escape".into(), &record()).await.unwrap();
        assert!(dir.path().join("rubelet/pods/%2e%2e%2f%2e%2e%2fescape.json").exists());
        assert_eq!(journal.list().await.unwrap(), [PodUid::from("../../escape")]);
        assert!(journal.load().await.unwrap().records.contains_key(&PodUid::from("../../escape")));
    }

    #[test]
    fn every_truncation_and_bit_flip_is_noticed() {
        let text = encode(&record());
        for cut in 0..text.len() {
            assert!(decode(&text[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(decode(&changed).is_err(), "bit flipped at {at}");
            }
        }
    }
}
