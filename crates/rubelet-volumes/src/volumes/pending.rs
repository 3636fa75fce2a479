//! Which volumes of a pod are being made ready at this moment, and which of one that ends are still there: for those
//! who tell people what a pod waits for. Decides nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rubelet_core::ids::PodUid;

use super::Volumes;
use crate::layout::Home;

/// Names of volumes by pod, each as often as it is worked on. Bounded by the pods that are being set up.
#[derive(Clone, Default)]
pub(crate) struct Pending(Arc<Mutex<BTreeMap<PodUid, Vec<String>>>>);

/// Work on one volume; it ends when this is dropped.
pub(crate) struct Working<'a> {
    pending: &'a Pending,
    pod: &'a PodUid,
    volume: &'a str,
}

impl Pending {
    fn all(&self) -> MutexGuard<'_, BTreeMap<PodUid, Vec<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work on a volume begins.
    pub(crate) fn begin<'a>(&'a self, pod: &'a PodUid, volume: &'a str) -> Working<'a> {
        self.all().entry(pod.clone()).or_default().push(volume.to_owned());
        Working { pending: self, pod, volume }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut all = self.pending.all();
        let Some(volumes) = all.get_mut(self.pod) else { return };
        if let Some(place) = volumes.iter().position(|volume| volume == self.volume) {
            volumes.swap_remove(place);
        }
        if volumes.is_empty() {
            all.remove(self.pod);
        }
    }
}

impl Volumes {
    /// The pod's volumes that are being made ready now, by name; those that hang are among them.
    pub fn pending(&self, pod: &PodUid) -> Vec<String> {
        let mut names = self.pending.all().get(pod).cloned().unwrap_or_default();
        names.sort();
        names.dedup();
        names
    }
}

/// Names of the volumes that the agent made for a pod and that are still there; empty when there are none, or when the
/// directory cannot be read. Looks at no volume itself. For threads that may block.
pub fn remaining_volumes(pod_dir: &Path) -> Vec<String> {
    let dirs = Home::ALL.iter().map(|home| home.dir(pod_dir));
    let entries = dirs.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
    use rubelet_core::downward::DownwardFacts;
    use rubelet_core::env::Missing;
    use rubelet_linux::fs_pool::FsPool;
    use serde_json::json;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::objects::ObjectReader;
    use crate::volumes::VolumeFacts;

    /// Answers for a Secret or a claim only while there are permits.
    struct Slow(Semaphore);

    impl Slow {
        async fn missing<T>(&self) -> Result<Arc<T>, Missing> {
            self.0.acquire().await.unwrap().forget();
            Err(Missing::NotFound("not found".to_owned()))
        }
    }

    impl ObjectReader for Slow {
        fn config_map<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Arc<ConfigMap>, Missing>> {
            async { Ok(Arc::default()) }.boxed()
        }
        fn secret<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, Missing>> {
            self.missing().boxed()
        }
        fn claim<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Arc<PersistentVolumeClaim>, Missing>> {
            self.missing().boxed()
        }
        fn persistent_volume<'a>(
            &'a self,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Arc<PersistentVolume>, Missing>> {
            self.missing().boxed()
        }
    }

    #[tokio::test]
    async fn what_is_waited_for_has_a_name_and_what_is_given_up_has_none() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {
                "containers": [{"name": "c", "volumeMounts": [{"name": "claimed", "mountPath": "/c"}]}],
                "volumes": [
                    {"name": "slow", "secret": {"secretName": "a"}},
                    {"name": "quick", "configMap": {"name": "b"}},
                    {"name": "claimed", "persistentVolumeClaim": {"claimName": "d"}},
                ],
            },
        }))
        .unwrap();
        let (dir, uid) = (tempfile::tempdir().unwrap(), PodUid::from("u1"));
        let api = Arc::new(Slow(Semaphore::new(0)));
        let volumes =
            Volumes::new(FsPool::inline(), Some(api.clone()), None).with_tmpfs(crate::Tmpfs::PlainDirectory);
        let facts =
            VolumeFacts { downward: DownwardFacts::default(), node: None, now: jiff::Timestamp::UNIX_EPOCH };
        {
            let mut set_up = Box::pin(volumes.set_up(&pod, dir.path(), &facts));
            assert!(futures::poll!(&mut set_up).is_pending());
            assert_eq!(volumes.pending(&uid), ["claimed", "slow"]);
            api.0.add_permits(1);
            assert!(futures::poll!(&mut set_up).is_pending());
            assert_eq!(volumes.pending(&uid).len(), 1);
        }
        assert!(volumes.pending(&uid).is_empty(), "it was given up");
        api.0.add_permits(2);
        volumes.set_up(&pod, dir.path(), &facts).await.unwrap_err();
        assert!(volumes.pending(&uid).is_empty());
        assert!(volumes.pending.all().is_empty());
        assert_eq!(remaining_volumes(dir.path()), ["quick"]);
        assert!(remaining_volumes(Path::new("/nowhere")).is_empty());
    }
}
