//! The pods, ConfigMaps, Secrets and claims that volumes are measured with. Pure but for creating them.
//! Called by the plan of the volumes' part.

use std::path::Path;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus};
use serde_json::{Value, json};

use crate::api::cluster::Cluster;
use crate::pods::{self, NODE_NAME};

/// The ConfigMap that changes.
pub(super) const MAP: &str = "map";

/// A sort of eight volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eight {
    /// What needs nobody: emptyDirs, half of them in memory.
    OfTheNode,
    /// Two ConfigMaps, two Secrets, a downward API, a projected volume with a token, and two emptyDirs.
    OfObjects,
}

impl Eight {
    pub(super) const ALL: [Self; 2] = [Self::OfTheNode, Self::OfObjects];

    pub(super) fn key(self) -> &'static str {
        match self {
            Self::OfTheNode => "node",
            Self::OfObjects => "objects",
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::OfTheNode => "of the node alone",
            Self::OfObjects => "of API objects",
        }
    }

    /// The volumes of a pod.
    pub(super) fn volumes(self) -> Value {
        match self {
            Self::OfTheNode => {
                let volume = |number: usize| {
                    let source =
                        if number.is_multiple_of(2) { json!({}) } else { json!({"medium": "Memory"}) };
                    json!({"name": format!("v{number}"), "emptyDir": source})
                };
                (0..8).map(volume).collect()
            }
            Self::OfObjects => {
                let downward =
                    json!({"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]});
                json!([
                    {"name": "map", "configMap": {"name": MAP}},
                    {"name": "map2", "configMap": {"name": "map2"}},
                    {"name": "secret", "secret": {"secretName": "secret"}},
                    {"name": "secret2", "secret": {"secretName": "secret2"}},
                    {"name": "down", "downwardAPI": downward},
                    {"name": "all", "projected": {"sources": [
                        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                        {"configMap": {"name": MAP}}, {"downwardAPI": downward},
                    ]}},
                    {"name": "disk", "emptyDir": {}},
                    {"name": "memory", "emptyDir": {"medium": "Memory"}},
                ])
            }
        }
    }

    /// How many of the volumes are file systems of their own.
    pub(super) fn in_memory(self) -> usize {
        match self {
            Self::OfTheNode => 4,
            Self::OfObjects => 5,
        }
    }

    /// How many files are written.
    pub(super) fn files(self) -> usize {
        match self {
            Self::OfTheNode => 0,
            Self::OfObjects => 8,
        }
    }
}

/// A pod of this name with these volumes, all of them mounted, whose files go to a group by a policy.
pub(super) fn pod(name: &str, volumes: &Value, group: Option<(u32, &str)>) -> Value {
    let mut pod = pods::manifest(0);
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["automountServiceAccountToken"] = json!(false);
    if let Some((group, policy)) = group {
        pod["spec"]["securityContext"] = json!({"fsGroup": group, "fsGroupChangePolicy": policy});
    }
    let Some(list) = volumes.as_array() else { return pod };
    let mount = |volume: &Value| json!({"name": volume["name"], "mountPath": format!("/{}", volume["name"].as_str().unwrap_or_default())});
    pod["spec"]["containers"][0]["volumeMounts"] = list.iter().map(mount).collect();
    pod["spec"]["volumes"] = volumes.clone();
    pod
}

/// What the volumes show.
pub(super) fn create(cluster: &Cluster) {
    let api = cluster.api();
    for name in [MAP, "map2"] {
        api.create_json(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"key": "value", "other": "text"}}));
    }
    for name in ["secret", "secret2"] {
        api.create_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "data": {"key": "dmFsdWU="}}));
    }
}

/// A volume of a pod that has the claim of [`claim`].
pub(super) fn claimed() -> Value {
    json!([{"name": "data", "persistentVolumeClaim": {"claimName": "tree"}}])
}

/// A folder as a claimed local volume.
pub(super) fn claim(cluster: &Cluster, folder: &Path) {
    let api = cluster.api();
    let claim = api.create_json(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": "tree"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                 "volumeName": "tree", "storageClassName": ""},
    }));
    api.create_json(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "tree"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "local": {"path": folder},
            "claimRef": {"namespace": "default", "name": "tree", "uid": claim["metadata"]["uid"]},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}]}]}},
        },
    }));
    api.modify_status::<PersistentVolumeClaim>("default", "tree", |claim| {
        let phase = Some("Bound".to_owned());
        claim.status = Some(PersistentVolumeClaimStatus { phase, ..PersistentVolumeClaimStatus::default() });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_eight_volumes_and_the_pod_mounts_each() {
        for eight in Eight::ALL {
            let volumes = eight.volumes();
            assert_eq!(volumes.as_array().unwrap().len(), 8);
            let pod = pod("p", &volumes, Some((7, "Always")));
            assert_eq!(pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap().len(), 8);
            assert_eq!(pod["spec"]["securityContext"]["fsGroup"], 7);
            let in_memory = |volume: &&Value| {
                volume["emptyDir"]["medium"] == "Memory"
                    || ["secret", "downwardAPI", "projected"].iter().any(|kind| !volume[kind].is_null())
            };
            assert_eq!(volumes.as_array().unwrap().iter().filter(in_memory).count(), eight.in_memory());
        }
        assert!(pod("p", &Value::Null, None)["spec"]["volumes"].is_null());
    }
}
