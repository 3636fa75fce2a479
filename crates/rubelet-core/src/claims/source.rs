//! From a PersistentVolume to what is mounted of it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod,
};
use serde::{Deserialize, Serialize};

use super::options::{BindFlag, bind_flags, mount_options};
use super::{Claim, ClaimError, VolumeUse, words};
use crate::admission::volume_fits_node;
use crate::containers::spec_of;
use crate::env::Missing;
use crate::quantity::listed;
use crate::volumes::{
    CsiVolume, NfsVolume, SourceError, VolumeMode, csi_of, is_migrated, migrated, migrated_affinity, nfs_of,
};

/// Names a group that may use the volume.
const GROUP: &str = "pv.beta.kubernetes.io/gid";

/// A claimed volume as it is to be mounted. Kept in the journal of mounts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimedVolume {
    /// Name of the PersistentVolume, which can be that of a directory.
    pub name: String,
    /// What it is.
    pub source: ClaimedSource,
    /// Files or a device.
    pub mode: VolumeMode,
    /// Containers may only read it.
    pub read_only: bool,
    /// A further group for the pod's processes.
    pub group: Option<i64>,
    /// Namespace and name of the claim.
    pub claim: (String, String),
    /// How large the PersistentVolume says it is, bytes.
    pub capacity: Option<i64>,
}

/// What a claimed volume is.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each claimed volume of the node's pods, and most are a driver's"
)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClaimedSource {
    /// A path of the node, used as it is.
    HostPath(HostPathVolumeSource),
    /// A directory of the node, bound into the pod's directory, or a block device of it.
    Local {
        /// Absolute path.
        path: String,
        /// How it is bound, or mounted.
        flags: Vec<BindFlag>,
        /// Further options, which only a device's file system can take; see [`not_for_a_directory`].
        options: Vec<String>,
        /// The file system that a device is made to have, when files are wanted of it; empty means the default.
        fs_type: String,
    },
    /// A volume of a driver.
    Csi(CsiVolume),
    /// A directory of a server.
    Nfs(NfsVolume),
}

impl ClaimedSource {
    /// The name of upstream's plugin, as in metrics and directories.
    pub fn plugin(&self) -> &'static str {
        match self {
            Self::HostPath(_) => "kubernetes.io/host-path",
            Self::Local { .. } => "kubernetes.io/local-volume",
            Self::Csi(_) => "kubernetes.io/csi",
            Self::Nfs(_) => "kubernetes.io/nfs",
        }
    }
}

/// Why the local volume `name` is not mounted, when it is a directory and has an option for file systems.
pub fn not_for_a_directory(name: &str, option: &str) -> ClaimError {
    let problem = format!("mount option {option:?} cannot be given to a directory");
    ClaimError::Invalid { volume: name.to_owned(), problem }
}

/// What is known when a claim has a volume.
#[derive(Clone, Copy, Debug)]
pub struct ClaimFacts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The pod's name for the volume.
    pub volume: &'a str,
    /// What it claims.
    pub claim: &'a Claim,
    /// The claim as it is.
    pub object: &'a PersistentVolumeClaim,
    /// Labels of the node; `None` while nobody has told them.
    pub node_labels: Option<&'a BTreeMap<String, String>>,
}

/// What is to be mounted of the volume `name`.
///
/// # Errors
/// The volume is not there, is not the claim's, or cannot be mounted here or at all.
pub fn claimed_volume(
    facts: &ClaimFacts<'_>,
    name: &str,
    object: Result<&PersistentVolume, &Missing>,
) -> Result<ClaimedVolume, ClaimError> {
    let failed = |problem: String| ClaimError::Processing { claim: facts.claim.place(), problem };
    let object = object.map_err(|missing| {
        failed(format!("failed to fetch PV {name} from API server: {}", words(missing)))
    })?;
    let empty = PersistentVolumeSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let Some(reference) = &spec.claim_ref else {
        return Err(failed(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        )));
    };
    let (of_volume, of_claim) = (
        reference.uid.as_deref().unwrap_or_default(),
        facts.object.metadata.uid.as_deref().unwrap_or_default(),
    );
    if of_volume != of_claim {
        return Err(failed(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {of_volume} does not point to claim.UID {of_claim}"
        )));
    }
    check_mode(facts, name, spec)?;
    check_kind(name, spec)?;
    check_node(facts, name, spec)?;
    // It becomes the name of a directory. The API server sees to it, but this is not the place to trust.
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        let problem = "its name is no file name".to_owned();
        return Err(ClaimError::Invalid { volume: name.to_owned(), problem });
    }
    Ok(ClaimedVolume {
        name: name.to_owned(),
        source: source(facts.claim, name, object, spec)?,
        mode: mode_of(spec),
        read_only: facts.claim.read_only,
        group: group(facts.pod, object),
        claim: (facts.claim.namespace.clone(), facts.claim.name.clone()),
        capacity: listed(spec.capacity.as_ref(), "storage").map(|capacity| capacity.value()),
    })
}

fn check_mode(facts: &ClaimFacts<'_>, name: &str, spec: &PersistentVolumeSpec) -> Result<(), ClaimError> {
    let mode = spec.volume_mode.as_deref().unwrap_or("Filesystem");
    let used = VolumeUse::of(facts.pod, facts.volume);
    let wrong =
        |field| Err(ClaimError::Mode { volume: facts.volume.to_owned(), mode: mode.to_owned(), field });
    match (mode == "Filesystem", mode == "Block") {
        (false, _) if used.mounted => wrong("volumeMounts"),
        (_, false) if used.device => wrong("volumeDevices"),
        (_, true) if spec.csi.is_none() && spec.local.is_none() && !is_migrated(spec) => {
            Err(ClaimError::Unsupported {
                volume: name.to_owned(),
                problem:
                    "it is of a kind that cannot be a block device (volumeMode Block): csi and local can"
                        .to_owned(),
            })
        }
        _ => Ok(()),
    }
}

fn mode_of(spec: &PersistentVolumeSpec) -> VolumeMode {
    match spec.volume_mode.as_deref() {
        Some("Block") => VolumeMode::Block,
        _ => VolumeMode::Filesystem,
    }
}

fn check_node(facts: &ClaimFacts<'_>, name: &str, spec: &PersistentVolumeSpec) -> Result<(), ClaimError> {
    let Some(required) = migrated_affinity(spec) else { return Ok(()) };
    let wrong = |problem| Err(ClaimError::NodeAffinity { volume: name.to_owned(), problem });
    match facts.node_labels {
        None => wrong("the labels of this node are not known yet"),
        Some(labels) if volume_fits_node(&required, labels) => Ok(()),
        Some(_) => wrong("no matching NodeSelectorTerms"),
    }
}

fn source(
    claim: &Claim,
    name: &str,
    object: &PersistentVolume,
    spec: &PersistentVolumeSpec,
) -> Result<ClaimedSource, ClaimError> {
    let options = mount_options(object);
    let invalid = |problem: String| ClaimError::Invalid { volume: name.to_owned(), problem };
    let leaves = |path: &str| path.split('/').any(|part| part == "..");
    if let Some(source) = &spec.host_path {
        if !options.is_empty() {
            return Err(ClaimError::MountOptions { volume: name.to_owned() });
        }
        if leaves(&source.path) {
            return Err(invalid(format!("invalid HostPath `{}`: must not contain '..'", source.path)));
        }
        return Ok(ClaimedSource::HostPath(source.clone()));
    }
    let of_csi = spec.csi.as_ref().map(|source| csi_of(name, source));
    if let Some(volume) = of_csi.or_else(|| migrated(name, object)) {
        let volume =
            volume.and_then(
                |volume| {
                    if volume.handle.is_empty() { Err(SourceError::NoHandle) } else { Ok(volume) }
                },
            );
        let volume = volume.map_err(|error| invalid(error.to_string()))?;
        return Ok(ClaimedSource::Csi(of_driver(volume, claim, spec)));
    }
    if let Some(source) = &spec.nfs {
        return Ok(ClaimedSource::Nfs(nfs_of(source, claim.read_only, &options)));
    }
    let path = spec.local.as_ref().map(|local| local.path.as_str()).unwrap_or_default();
    if path.is_empty() {
        return Err(invalid(format!("LocalVolume volume {name:?} path is empty")));
    }
    if leaves(path) {
        return Err(invalid(format!("invalid path: {path} must not contain '..'")));
    }
    let (flags, options) = bind_flags(&options);
    let fs_type = spec.local.as_ref().and_then(|local| local.fs_type.clone()).unwrap_or_default();
    Ok(ClaimedSource::Local { path: format!("/{}", path.trim_start_matches('/')), flags, options, fs_type })
}

/// A driver's volume with what the object says beside its source. As upstream, options of the annotation are not for
/// drivers.
fn of_driver(volume: CsiVolume, claim: &Claim, spec: &PersistentVolumeSpec) -> CsiVolume {
    CsiVolume {
        mode: mode_of(spec),
        read_only: claim.read_only,
        access_modes: if volume.access_modes.is_empty() {
            spec.access_modes.clone().unwrap_or_default()
        } else {
            volume.access_modes
        },
        mount_options: spec.mount_options.clone().unwrap_or_default(),
        ..volume
    }
}

fn check_kind(name: &str, spec: &PersistentVolumeSpec) -> Result<(), ClaimError> {
    let ours = spec.host_path.is_some() || spec.local.is_some() || spec.csi.is_some() || spec.nfs.is_some();
    if ours || is_migrated(spec) {
        return Ok(());
    }
    let kind = other_kind(spec).unwrap_or("unknown to it");
    let problem = format!(
        "it is of kind {kind}, which this version cannot mount; it mounts csi, hostPath, local and nfs"
    );
    Err(ClaimError::Unsupported { volume: name.to_owned(), problem })
}

fn other_kind(spec: &PersistentVolumeSpec) -> Option<&'static str> {
    let kinds = [
        (spec.cephfs.is_some(), "cephfs"),
        (spec.fc.is_some(), "fc"),
        (spec.flex_volume.is_some(), "flexVolume"),
        (spec.flocker.is_some(), "flocker"),
        (spec.glusterfs.is_some(), "glusterfs"),
        (spec.iscsi.is_some(), "iscsi"),
        (spec.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (spec.quobyte.is_some(), "quobyte"),
        (spec.rbd.is_some(), "rbd"),
        (spec.scale_io.is_some(), "scaleIO"),
        (spec.storageos.is_some(), "storageos"),
    ];
    kinds.into_iter().find(|(present, _)| *present).map(|(_, kind)| kind)
}

/// The group the volume asks for, unless the pod has it anyway.
fn group(pod: &Pod, object: &PersistentVolume) -> Option<i64> {
    let group: i64 = object.metadata.annotations.as_ref()?.get(GROUP)?.parse().ok()?;
    let context = spec_of(pod).security_context.as_ref();
    let listed = context.and_then(|context| context.supplemental_groups.as_ref());
    (!listed.is_some_and(|listed| listed.contains(&group))).then_some(group)
}
