//! One source's full set of pods: which of them may stand beside one another, and what this version can mount.
//!
//! Owns the rule that a name occurs once per source; never looks at other sources (they are merged by UID).

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::ids::PodKey;

/// A pod that was left out of its source's set.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("pod {key} occurs twice in this source: the first one is kept; give the other another name")]
pub struct Dropped {
    /// Namespace and name.
    pub key: PodKey,
    /// The pod that is not used, for the event that says so.
    pub pod: Arc<Pod>,
}

/// Keeps the first pod of every name and reports the others (upstream `filterInvalidPods`).
///
/// Pods have been validated one by one before; the order of the source decides who is first.
pub fn filter_invalid(pods: Vec<Arc<Pod>>) -> (Vec<Arc<Pod>>, Vec<Dropped>) {
    let mut names = BTreeSet::new();
    let mut kept = Vec::with_capacity(pods.len());
    let mut dropped = Vec::new();
    for pod in pods {
        let key = PodKey::of(&pod);
        if names.insert(key.clone()) {
            kept.push(pod);
        } else {
            dropped.push(Dropped { key, pod });
        }
    }
    (kept, dropped)
}

/// Volumes of kinds that this version cannot mount yet: name and kind of each.
///
/// Mounted are `hostPath`, `emptyDir`, `configMap`, `secret`, `downwardAPI`, `projected`, `nfs`, images, volumes of CSI
/// drivers, and claims of what [`crate::claims`] knows.
pub fn unsupported_volumes(pod: &Pod) -> Vec<(String, &'static str)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some((volume.name.clone(), unsupported_kind(volume)?))).collect()
}

fn unsupported_kind(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        (volume.cephfs.is_some(), "cephfs"),
        (volume.fc.is_some(), "fc"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.flocker.is_some(), "flocker"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.rbd.is_some(), "rbd"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.storageos.is_some(), "storageos"),
    ];
    kinds.into_iter().find(|(present, _)| *present).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, uid: &str) -> Pod {
        let metadata = json!({"namespace": namespace, "name": name, "uid": uid});
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})).unwrap()
    }

    #[test]
    fn the_first_pod_of_a_name_stays() {
        let pods = vec![pod("a", "x", "1"), pod("b", "x", "2"), pod("a", "x", "3"), pod("a", "y", "4")];
        let (kept, dropped) = filter_invalid(pods.into_iter().map(Arc::new).collect());
        let uids: Vec<&str> = kept.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        assert_eq!(uids, ["1", "2", "4"]);
        assert_eq!(dropped.len(), 1);
        assert_eq!(dropped[0].pod.metadata.uid.as_deref(), Some("3"));
        assert!(dropped[0].to_string().starts_with("pod a/x occurs twice"));
    }

    #[test]
    fn kinds_that_need_plugins_are_named() {
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "spec": {"containers": [], "volumes": [
                {"name": "a", "hostPath": {"path": "/x"}},
                {"name": "b", "emptyDir": {}},
                {"name": "c", "emptyDir": {"medium": "Memory"}},
                {"name": "d", "emptyDir": {"medium": "HugePages-2Mi"}},
                {"name": "e", "downwardAPI": {}},
                {"name": "g", "configMap": {"name": "x"}},
                {"name": "h", "secret": {"secretName": "x"}},
                {"name": "i", "projected": {}},
                {"name": "j", "persistentVolumeClaim": {"claimName": "x"}},
                {"name": "k", "ephemeral": {}},
                {"name": "f", "nfs": {"server": "s", "path": "/"}},
                {"name": "l", "iscsi": {"targetPortal": "p", "iqn": "q", "lun": 0}},
                {"name": "m", "flexVolume": {"driver": "d"}},
            ]},
        }))
        .unwrap();
        let unsupported: Vec<(String, &str)> = unsupported_volumes(&pod);
        let expected = [("l", "iscsi"), ("m", "flexVolume")];
        assert_eq!(unsupported, expected.map(|(name, kind)| (name.to_owned(), kind)));
        assert_eq!(unsupported_volumes(&Pod::default()), []);
    }
}
