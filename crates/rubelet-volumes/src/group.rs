//! Hands a volume to the pod's group, and tells the pod when that takes long. The walk is `rubelet_linux::ownership`'s;
//! whether one is needed is decided by who calls.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rubelet_linux::fs_pool::{FsError, FsPool};
use rubelet_linux::ownership::{self, Grant, Progress};
use tokio::time::timeout;

use crate::volumes::VolumeWarning;

/// After this time the pod is told for the first time (upstream `firstEventReportDuration`).
const FIRST_NOTICE: Duration = Duration::from_secs(30);
/// And then each time this has passed (upstream `progressReportDuration`).
const NEXT_NOTICE: Duration = Duration::from_secs(60);
const REASON: &str = "VolumePermissionChangeInProgress";

/// Is told what users should know while something is still being done; must not block.
pub type Notices = Arc<dyn Fn(&Pod, VolumeWarning) + Send + Sync>;

/// Hands everything at and below `dir` to the group; may take as long as there are files to go through. Dropped, it
/// stops soon, and the root of the tree does not look done.
///
/// # Errors
/// When a directory cannot be read, or the file system does not answer.
pub(crate) async fn hand_over(
    fs: &FsPool,
    notices: Option<&Notices>,
    pod: &Pod,
    dir: &Path,
    grant: Grant,
) -> Result<(), FsError> {
    let progress = Arc::new(Progress::default());
    let _stop = StopOnDrop(progress.clone());
    let (root, walking, counted) = (dir.to_owned(), progress.clone(), progress.clone());
    let what = format!("hand {} to group {}", dir.display(), grant.group);
    let walk = fs.run_moving(
        dir,
        what,
        move || counted.files(),
        move || ownership::hand_over(&root, grant, &walking).map(|_| ()),
    );
    told_when_slow(walk, notices, pod, dir, &progress).await
}

async fn told_when_slow<T>(
    walk: impl Future<Output = T>,
    notices: Option<&Notices>,
    pod: &Pod,
    dir: &Path,
    progress: &Progress,
) -> T {
    let mut walk = std::pin::pin!(walk);
    let Some(notices) = notices else { return walk.await };
    let shown = from_uid(dir, pod.metadata.uid.as_deref().unwrap_or_default());
    let mut first = true;
    loop {
        let wait = if first { FIRST_NOTICE } else { NEXT_NOTICE };
        // The walk itself lives on when the time is over.
        if let Ok(done) = timeout(wait, &mut walk).await {
            return done;
        }
        let message = if first {
            format!(
                "Setting volume ownership for {shown} is taking longer than expected, consider using OnRootMismatch \
                 - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/\
                 #configure-volume-permission-and-ownership-change-policy-for-pods"
            )
        } else {
            format!("Setting volume ownership for {shown}, processed {} files.", progress.files())
        };
        first = false;
        notices(pod, VolumeWarning { reason: REASON, message, normal: false });
    }
}

/// The path from the pod's UID on, which is what pods may know of it.
fn from_uid(dir: &Path, uid: &str) -> String {
    let dir = dir.to_string_lossy();
    let from = if uid.is_empty() { None } else { dir.find(uid) };
    from.map_or_else(|| dir.to_string(), |at| dir[at..].to_owned())
}

struct StopOnDrop(Arc<Progress>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_walk_that_takes_long_is_told_in_known_words() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u-1"}})).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let notices: Notices = {
            let told = told.clone();
            Arc::new(move |_: &Pod, notice: VolumeWarning| told.lock().unwrap().push(notice))
        };
        let dir = Path::new("/root/pods/u-1/volumes/k/v");
        let walk = async |seconds| {
            let walk = tokio::time::sleep(Duration::from_secs(seconds));
            told_when_slow(walk, Some(&notices), &pod, dir, &Progress::default()).await;
            std::mem::take(&mut *told.lock().unwrap())
        };
        assert_eq!(walk(29).await, []);
        let seen: Vec<String> = walk(151).await.into_iter().map(|notice| notice.message).collect();
        assert_eq!(seen.len(), 3, "after 30, 90 and 150 seconds");
        assert_eq!(
            seen[0],
            "Setting volume ownership for u-1/volumes/k/v is taking longer than expected, consider using \
             OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/\
             #configure-volume-permission-and-ownership-change-policy-for-pods"
        );
        assert_eq!(seen[1], "Setting volume ownership for u-1/volumes/k/v, processed 0 files.");
    }

    #[tokio::test]
    async fn a_volume_is_handed_over() {
        let root = tempfile::tempdir().unwrap();
        let group = std::fs::metadata(root.path()).unwrap().gid();
        let grant = Grant { group, read_only: false };
        hand_over(&FsPool::new(1), None, &Pod::default(), root.path(), grant).await.unwrap();
        assert!(ownership::is_handed_over(root.path(), grant).unwrap());
    }
}
