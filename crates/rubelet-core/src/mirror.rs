//! Mirror pods: what the API server is shown of pods that it did not ask for.
//!
//! Owns the shape of a mirror and the decision which mirrors to create and to delete. Never sends anything: the
//! mirror task of the shell calls it with what is desired, what runs and what the API holds.
//!
//! Source of the rules: upstream `basicMirrorClient` and `tryReconcileMirrorPods`; NodeRestriction asks for the
//! owner reference.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::ids::{PodKey, PodUid, pod_uid};
use crate::static_pod::{CONFIG_HASH_ANNOTATION, CONFIG_MIRROR_ANNOTATION};

/// The pod to create in the API for a static pod: the same name, labels, annotations and spec, marked with the
/// static pod's hash and owned by the node. References to service accounts are left out: a mirror may have none.
pub fn mirror_of(static_pod: &Pod, node_name: &str, node_uid: &str) -> Pod {
    let metadata = &static_pod.metadata;
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.insert(CONFIG_MIRROR_ANNOTATION.to_owned(), hash(static_pod).to_owned());
    let mut spec = static_pod.spec.clone();
    if let Some(spec) = &mut spec {
        spec.service_account = None;
        spec.service_account_name = None;
    }
    Pod {
        metadata: ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            labels: metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node_name.to_owned(),
                uid: node_uid.to_owned(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// Whether a mirror shows exactly this static pod: the hash of its manifest is the same.
pub fn shows(mirror: &Pod, static_pod: &Pod) -> bool {
    let annotations = mirror.metadata.annotations.as_ref();
    let shown = annotations.and_then(|all| all.get(CONFIG_MIRROR_ANNOTATION));
    shown.is_some_and(|shown| shown == hash(static_pod))
}

/// The hash of a static pod's manifest; its UID where the annotation is missing.
fn hash(static_pod: &Pod) -> &str {
    let annotations = static_pod.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(CONFIG_HASH_ANNOTATION))
        .or(static_pod.metadata.uid.as_ref())
        .map(String::as_str)
        .unwrap_or_default()
}

/// What the plan is made from.
#[derive(Clone, Debug, Default)]
pub struct MirrorInputs<'a> {
    /// Static pods that are desired, in order of arrival.
    pub desired: Vec<&'a Pod>,
    /// Static pods whose worker has begun and has not finished, desired or not.
    pub living: Vec<&'a Pod>,
    /// Mirror pods that the API holds.
    pub mirrors: Vec<&'a Pod>,
    /// Every source has delivered a full set and nothing of it is in doubt: a mirror without a static pod is an
    /// orphan.
    pub complete: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum MirrorAct<'a> {
    /// Create the mirror of this static pod.
    Create(&'a Pod),
    /// Delete this mirror, without grace and only if it still has its UID.
    Delete(&'a Pod),
}

/// What brings the API's mirrors in line, at most one act for each namespace and name: a mirror that differs or is
/// being deleted is deleted first and created again when it is gone. While a pod that is no longer desired still
/// ends, its mirror stays as it is.
pub fn compute_mirror_plan<'a>(inputs: &MirrorInputs<'a>) -> Vec<MirrorAct<'a>> {
    let wanted_uids: BTreeSet<PodUid> = inputs.desired.iter().map(|pod| pod_uid(pod)).collect();
    let living: BTreeMap<PodUid, PodKey> =
        inputs.living.iter().map(|pod| (pod_uid(pod), PodKey::of(pod))).collect();
    let ending: BTreeSet<&PodKey> =
        living.iter().filter(|(uid, _)| !wanted_uids.contains(*uid)).map(|(_, key)| key).collect();
    // Of several pods of one name the one that has begun is shown, else the first to arrive.
    let mut wanted: BTreeMap<PodKey, &Pod> = BTreeMap::new();
    for pod in &inputs.desired {
        let shown = wanted.entry(PodKey::of(pod)).or_insert(pod);
        if living.contains_key(&pod_uid(pod)) && !living.contains_key(&pod_uid(shown)) {
            *shown = pod;
        }
    }
    let mirrors: BTreeMap<PodKey, &Pod> =
        inputs.mirrors.iter().map(|mirror| (PodKey::of(mirror), *mirror)).collect();
    let keys: BTreeSet<&PodKey> = wanted.keys().chain(mirrors.keys()).collect();
    keys.into_iter()
        .filter(|key| !ending.contains(key))
        .filter_map(|key| match (wanted.get(key), mirrors.get(key)) {
            (Some(pod), None) => Some(MirrorAct::Create(pod)),
            (Some(pod), Some(mirror)) => {
                let fine = mirror.metadata.deletion_timestamp.is_none() && shows(mirror, pod);
                (!fine).then_some(MirrorAct::Delete(mirror))
            }
            (None, Some(mirror)) => inputs.complete.then_some(MirrorAct::Delete(mirror)),
            (None, None) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn static_pod(name: &str, uid: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "kube-system", "uid": uid, "generation": 2,
                "labels": {"tier": "control-plane"}, "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"kubernetes.io/config.hash": uid, "kubernetes.io/config.source": "file"},
            },
            "spec": {
                "nodeName": "n1", "hostNetwork": true, "serviceAccountName": "x", "serviceAccount": "x",
                "containers": [{"name": "etcd", "image": "etcd:3"}],
            },
            "status": {"phase": "Pending"},
        }))
        .unwrap()
    }

    fn mirror(name: &str, shown: &str, deleting: bool) -> Pod {
        let mut pod = mirror_of(&static_pod(name, shown), "n1", "node-uid");
        pod.metadata.uid = Some(format!("mirror-of-{shown}"));
        if deleting {
            pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        }
        pod
    }

    #[test]
    fn the_mirror_is_marked_owned_and_without_what_the_api_sets() {
        let made = serde_json::to_value(mirror_of(&static_pod("etcd-n1", "h1"), "n1", "node-uid")).unwrap();
        let expected: Value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "etcd-n1", "namespace": "kube-system", "labels": {"tier": "control-plane"},
                "annotations": {
                    "kubernetes.io/config.hash": "h1", "kubernetes.io/config.mirror": "h1",
                    "kubernetes.io/config.source": "file",
                },
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid", "controller": true},
                ],
            },
            "spec": {
                "nodeName": "n1", "hostNetwork": true, "containers": [{"name": "etcd", "image": "etcd:3"}],
            },
        });
        assert_eq!(made, expected);
    }

    /// `desired`, `living` and `mirrors` in words: `name=hash`, mirrors also `name=hash!` when being deleted.
    fn check(desired: &str, living: &str, mirrors: &str, complete: bool, expected: &str) {
        let pods = |words: &str| -> Vec<Pod> {
            let words = words.split_whitespace().filter_map(|word| word.split_once('='));
            words.map(|(name, hash)| static_pod(name, hash)).collect()
        };
        let held: Vec<Pod> = mirrors
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .map(|(name, hash)| mirror(name, hash.trim_end_matches('!'), hash.ends_with('!')))
            .collect();
        let (desired, living) = (pods(desired), pods(living));
        let inputs = MirrorInputs {
            desired: desired.iter().collect(),
            living: living.iter().collect(),
            mirrors: held.iter().collect(),
            complete,
        };
        let words: Vec<String> = compute_mirror_plan(&inputs)
            .into_iter()
            .map(|act| match act {
                MirrorAct::Create(pod) => {
                    format!("+{}={}", pod.metadata.name.as_deref().unwrap(), hash(pod))
                }
                MirrorAct::Delete(pod) => format!("-{}", pod.metadata.uid.as_deref().unwrap()),
            })
            .collect();
        assert_eq!(words.join(" "), expected, "desired {desired:?}, mirrors {mirrors:?}");
    }

    #[test]
    fn mirrors_follow_static_pods() {
        check("", "", "", true, "");
        check("a=1 b=1", "", "", false, "+a=1 +b=1");
        check("a=1", "a=1", "a=1", true, "");
        // Changed, or being deleted: away with it first, unless what it shows still ends.
        check("a=2", "", "a=1", false, "-mirror-of-1");
        check("a=2", "a=1", "a=1", true, "");
        check("a=2", "a=1", "", true, "");
        check("a=1", "a=1", "a=1!", false, "-mirror-of-1");
        // Orphans, only with full knowledge and when the pod has ended.
        check("", "", "a=1", false, "");
        check("", "a=1", "a=1", true, "");
        check("", "", "a=1", true, "-mirror-of-1");
        check("b=1", "b=1", "b=1 a=1!", true, "-mirror-of-1");
        // Two of one name: the one that runs, else the first.
        check("a=1 a=2", "", "", true, "+a=1");
        check("a=1 a=2", "a=2", "", true, "+a=2");
    }
}
