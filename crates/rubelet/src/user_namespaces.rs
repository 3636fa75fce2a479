//! ID ranges for pods with their own user namespace: one range a pod, never shared, kept in the pod's directory
//! as upstream keeps it (`pods/<uid>/userns`), so that a restart finds it again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rubelet_core::ids::PodUid;
use rubelet_core::security::IdMapping;
use serde::{Deserialize, Serialize};

use crate::fs_pool::FsPool;

/// IDs of a range when the configuration does not say.
const DEFAULT_LENGTH: u32 = 65536;
/// The first range stays the node's own.
const FIRST_HOST_ID: u32 = 65536;

/// Hands out ranges; cheap to clone.
#[derive(Clone, Debug)]
pub struct UserNamespaces {
    pods_dir: PathBuf,
    length: u32,
    /// One allocation at a time, so that two pods cannot find the same range free.
    allocating: Arc<Mutex<()>>,
}

/// The file's content, as upstream writes it.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(rename = "uidMappings")]
    uid_mappings: Vec<Mapping>,
    #[serde(rename = "gidMappings")]
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Mapping {
    #[serde(rename = "hostId")]
    host_id: u32,
    #[serde(rename = "containerId")]
    container_id: u32,
    length: u32,
}

impl UserNamespaces {
    /// Ranges of `ids_per_pod` for the pods below a root directory.
    pub fn new(root_dir: &Path, ids_per_pod: Option<i64>) -> Self {
        let length = ids_per_pod.and_then(|ids| u32::try_from(ids).ok()).unwrap_or(DEFAULT_LENGTH);
        Self { pods_dir: root_dir.join("pods"), length, allocating: Arc::default() }
    }

    /// The range of a pod; a new one is chosen and written the first time.
    ///
    /// # Errors
    /// A text that says why there is none.
    pub async fn range_of(&self, fs: &FsPool, uid: &PodUid) -> Result<IdMapping, String> {
        let (this, uid) = (self.clone(), uid.clone());
        fs.run(format!("find a user namespace range for pod {uid}"), move || this.find_or_choose(&uid))
            .await
            .map_err(|error| crate::logging::chain(&error))
    }

    fn find_or_choose(&self, uid: &PodUid) -> io::Result<IdMapping> {
        let _one_at_a_time = self.allocating.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.pods_dir.join(uid.as_str()).join("userns");
        if let Some(mapping) = read(&own)? {
            return Ok(mapping);
        }
        let mut used: Vec<(u32, u32)> = vec![];
        for entry in fs::read_dir(&self.pods_dir)?.flatten() {
            match read(&entry.path().join("userns")) {
                Ok(Some(mapping)) => {
                    used.push((mapping.host_id, mapping.host_id.saturating_add(mapping.length)))
                }
                Ok(None) => {}
                // The pod it belongs to hears of it; the others go on.
                Err(problem) => tracing::warn!("a user namespace range cannot be read: {problem}"),
            }
        }
        let host_id = (1..=u32::MAX / self.length)
            .filter_map(|n| self.length.checked_mul(n))
            .find(|id| {
                let free = |end: u32| used.iter().all(|(first, after)| end <= *first || *after <= *id);
                *id >= FIRST_HOST_ID && id.checked_add(self.length).is_some_and(free)
            })
            .ok_or_else(|| io::Error::other("every range of IDs is in use"))?;
        let mapping = Mapping { host_id, container_id: 0, length: self.length };
        let record = Record { uid_mappings: vec![mapping], gid_mappings: vec![mapping] };
        let text = serde_json::to_string(&record).map_err(io::Error::other)?;
        let fresh = own.with_extension("new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &own)?;
        Ok(IdMapping { host_id, container_id: 0, length: self.length })
    }
}

fn read(path: &Path) -> io::Result<Option<IdMapping>> {
    let text = match fs::read_to_string(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        text => text?,
    };
    let record: Record = serde_json::from_str(&text).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    })?;
    Ok(record.uid_mappings.first().map(|mapping| IdMapping {
        host_id: mapping.host_id,
        container_id: mapping.container_id,
        length: mapping.length,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_pod_has_its_own_range_and_keeps_it() {
        let root = tempfile::tempdir().unwrap();
        let pool = FsPool::new(2);
        for uid in ["a", "b", "c"] {
            fs::create_dir_all(root.path().join("pods").join(uid)).unwrap();
        }
        let ranges = UserNamespaces::new(root.path(), None);
        let a = ranges.range_of(&pool, &"a".into()).await.unwrap();
        let b = ranges.range_of(&pool, &"b".into()).await.unwrap();
        assert_eq!((a.host_id, b.host_id, a.length), (65536, 131_072, 65536));
        let again = UserNamespaces::new(root.path(), None);
        assert_eq!(again.range_of(&pool, &"b".into()).await.unwrap().host_id, 131_072);
        fs::remove_dir_all(root.path().join("pods/a")).unwrap();
        assert_eq!(again.range_of(&pool, &"c".into()).await.unwrap().host_id, 65536);
    }
}
