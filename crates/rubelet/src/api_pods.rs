//! The pods that the API server holds for this node, as last seen by the watch: what the control plane thinks is
//! true. Written by the API source alone; the status writer, mirror pods and finalization read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::admission::is_mirror_pod;
use rubelet_core::ids::{PodKey, PodUid, pod_uid};
use tokio::sync::watch;

/// One full view. Pods keep the status that the API holds; `managedFields` are dropped.
#[derive(Clone, Debug, Default)]
pub struct ApiPodSet {
    /// The watch has delivered one full list.
    pub synced: bool,
    /// Every pod bound to this node, mirror pods included, by UID.
    pub by_uid: BTreeMap<PodUid, Arc<Pod>>,
    /// UIDs of mirror pods by namespace and name.
    pub mirrors: BTreeMap<PodKey, PodUid>,
}

impl ApiPodSet {
    /// A view of these pods.
    pub fn of(pods: impl IntoIterator<Item = Arc<Pod>>) -> Self {
        let mut set = Self { synced: true, ..Self::default() };
        for pod in pods {
            let uid = pod_uid(&pod);
            if is_mirror_pod(&pod) {
                set.mirrors.insert(PodKey::of(&pod), uid.clone());
            }
            set.by_uid.insert(uid, pod);
        }
        set
    }

    /// The mirror of a static pod, if there is one.
    pub fn mirror_of(&self, static_pod: &Pod) -> Option<&Arc<Pod>> {
        self.by_uid.get(self.mirrors.get(&PodKey::of(static_pod))?)
    }

    /// The API's copy of a pod this node runs: the pod itself, or the mirror of a static pod.
    pub fn reported(&self, pod: &Pod) -> Option<&Arc<Pod>> {
        self.by_uid.get(&pod_uid(pod)).or_else(|| self.mirror_of(pod))
    }
}

/// Readers' side; cheap to clone.
pub type ApiPods = watch::Receiver<Arc<ApiPodSet>>;
