//! What metrics count, told from specs and statuses: which containers ended, and the words that stand for reasons,
//! sizes and kinds of volumes in labels, of which there are few whatever comes in.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus, Volume};

/// Reasons of rejections that are told by their name (upstream `admissionRejectionReasons`).
const REJECTIONS: &[&str] = &[
    "AppArmor",
    "Evicted",
    "InitContainerRestartPolicyForbidden",
    "InvalidNodeInfo",
    "NodeShutdown",
    "OutOfcpu",
    "OutOfephemeral-storage",
    "OutOfmemory",
    "OutOfpods",
    "PodFeatureUnsupported",
    "PodLevelResourcesNotSupported",
    "PodOSNotSupported",
    "PodOSSelectorNodeLabelDoesNotMatch",
    "SupplementalGroupsPolicyNotSupported",
    "SysctlForbidden",
    "TopologyAffinityError",
    "UnexpectedAdmissionError",
    "UnexpectedPredicateFailureType",
    "UnknownReason",
    "VolumeAttachmentLimitExceeded",
];

/// Sizes of images, each with the bytes that it begins after (upstream `imageSizeBuckets`).
const IMAGE_SIZES: &[(u64, &str)] = &[
    (100 << 30, "GT100GB"),
    (60 << 30, "60GB-100GB"),
    (40 << 30, "40GB-60GB"),
    (30 << 30, "30GB-40GB"),
    (20 << 30, "20GB-30GB"),
    (10 << 30, "10GB-20GB"),
    (5 << 30, "5GB-10GB"),
    (1 << 30, "1GB-5GB"),
    (500 << 20, "500MB-1GB"),
    (100 << 20, "100MB-500MB"),
    (10 << 20, "10MB-100MB"),
    (0, "0-10MB"),
];

/// The end of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination<'a> {
    /// `container`, `init_container` or `ephemeral_container`.
    pub container_type: &'static str,
    /// Its exit code.
    pub exit_code: i32,
    /// The reason that the status shows.
    pub reason: &'a str,
}

/// Statuses of one sort of containers.
type Statuses = fn(&PodStatus) -> &Option<Vec<ContainerStatus>>;

/// Containers that have ended by one status and had not by the one before it.
pub fn terminations<'a>(before: Option<&PodStatus>, after: &'a PodStatus) -> Vec<Termination<'a>> {
    let kinds: [(_, Statuses); 3] = [
        ("init_container", |status| &status.init_container_statuses),
        ("container", |status| &status.container_statuses),
        ("ephemeral_container", |status| &status.ephemeral_container_statuses),
    ];
    let mut found = Vec::new();
    for (container_type, statuses) in kinds {
        for status in statuses(after).iter().flatten() {
            let Some(ended) = status.state.as_ref().and_then(|state| state.terminated.as_ref()) else {
                continue;
            };
            let known = before.and_then(|before| {
                let same = statuses(before).iter().flatten().find(|other| other.name == status.name)?;
                same.state.as_ref()?.terminated.as_ref()
            });
            if known.is_none() {
                let reason = ended.reason.as_deref().unwrap_or_default();
                found.push(Termination { container_type, exit_code: ended.exit_code, reason });
            }
        }
    }
    found
}

/// The word for the reason of a rejection: itself, or one for those there is no end of.
pub fn rejection_label(reason: &str) -> &str {
    if REJECTIONS.contains(&reason) {
        reason
    } else if reason.starts_with("OutOf") {
        "OutOfExtendedResources"
    } else {
        "Other"
    }
}

/// The word for the size of an image.
pub fn image_size_label(bytes: u64) -> &'static str {
    IMAGE_SIZES.iter().find(|(above, _)| bytes > *above).map_or("N/A", |(_, label)| label)
}

/// The plugin that makes a volume, by upstream's name of it; for a claim the one of the volume that stands behind it
/// is not known here.
pub fn volume_plugin(volume: &Volume) -> &'static str {
    if volume.host_path.is_some() {
        "kubernetes.io/host-path"
    } else if volume.config_map.is_some() {
        "kubernetes.io/configmap"
    } else if volume.secret.is_some() {
        "kubernetes.io/secret"
    } else if volume.projected.is_some() {
        "kubernetes.io/projected"
    } else if volume.downward_api.is_some() {
        "kubernetes.io/downward-api"
    } else if volume.nfs.is_some() {
        "kubernetes.io/nfs"
    } else if volume.image.is_some() {
        "kubernetes.io/image"
    } else if volume.csi.is_some() || is_of_driver(volume) {
        "kubernetes.io/csi"
    } else if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        "N/A"
    } else {
        "kubernetes.io/empty-dir"
    }
}

/// Whether a driver stands in for its kind.
fn is_of_driver(volume: &Volume) -> bool {
    volume.aws_elastic_block_store.is_some()
        || volume.gce_persistent_disk.is_some()
        || volume.azure_disk.is_some()
        || volume.azure_file.is_some()
        || volume.cinder.is_some()
        || volume.portworx_volume.is_some()
        || volume.vsphere_volume.is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_end_counts_when_it_is_new() {
        let ended = |name: &str, code: i32| {
            json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": code, "reason": "Error" } } })
        };
        let runs = |name: &str| {
            json!({ "name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": {} } })
        };
        let status = |value: Value| serde_json::from_value::<PodStatus>(value).unwrap();
        let check = |before: Option<Value>, after: Value, expected: &[(&str, i32)]| {
            let (before, after) = (before.map(status), status(after));
            let found: Vec<_> = terminations(before.as_ref(), &after)
                .iter()
                .map(|end| (end.container_type, end.exit_code))
                .collect();
            assert_eq!(found, expected);
        };
        let after = || {
            json!({ "containerStatuses": [ended("a", 1), runs("b")],
                "initContainerStatuses": [ended("i", 0)],
                "ephemeralContainerStatuses": [ended("e", 137)] })
        };
        let all = [("init_container", 0), ("container", 1), ("ephemeral_container", 137)];
        check(None, after(), &all);
        check(Some(json!({})), after(), &all);
        check(Some(after()), after(), &[]);
        check(
            Some(json!({ "containerStatuses": [runs("a")], "initContainerStatuses": [ended("i", 0)] })),
            after(),
            &[("container", 1), ("ephemeral_container", 137)],
        );
        // The same name of another kind of container.
        check(
            Some(json!({ "containerStatuses": [ended("i", 0), ended("a", 1), ended("e", 0)] })),
            after(),
            &[("init_container", 0), ("ephemeral_container", 137)],
        );
    }

    #[test]
    fn labels_are_few() {
        for (reason, label) in [
            ("OutOfcpu", "OutOfcpu"),
            ("OutOfexample.com/gpu", "OutOfExtendedResources"),
            ("NodeAffinity", "Other"),
            ("", "Other"),
        ] {
            assert_eq!(rejection_label(reason), label);
        }
        for (bytes, label) in [
            (0, "N/A"),
            (1, "0-10MB"),
            (10 << 20, "0-10MB"),
            ((10 << 20) + 1, "10MB-100MB"),
            (1 << 30, "500MB-1GB"),
            (u64::MAX, "GT100GB"),
        ] {
            assert_eq!(image_size_label(bytes), label, "{bytes}");
        }
        let volume = |value: Value| serde_json::from_value::<Volume>(value).unwrap();
        assert_eq!(volume_plugin(&volume(json!({ "name": "v" }))), "kubernetes.io/empty-dir");
        assert_eq!(volume_plugin(&volume(json!({ "name": "v", "secret": {} }))), "kubernetes.io/secret");
        let kinds = [
            (json!({ "name": "v", "csi": { "driver": "d" } }), "kubernetes.io/csi"),
            (json!({ "name": "v", "cinder": { "volumeID": "c" } }), "kubernetes.io/csi"),
            (json!({ "name": "v", "nfs": { "server": "s", "path": "/" } }), "kubernetes.io/nfs"),
            (json!({ "name": "v", "image": { "reference": "r" } }), "kubernetes.io/image"),
            (json!({ "name": "v", "ephemeral": {} }), "N/A"),
        ];
        for (of_kind, plugin) in kinds {
            assert_eq!(volume_plugin(&volume(of_kind)), plugin);
        }
    }
}
