//! Volumes that a pod claims: from the claim and its PersistentVolume to what is mounted, or why it is not yet.
//!
//! Owns which claim a volume means (`persistentVolumeClaim`, or the one made for an `ephemeral` volume), the checks
//! between a pod, its claim and the volume, and the messages users know (upstream `desiredStateOfWorldPopulator` and
//! `GenerateMountVolumeFunc`). Never reads an object and never mounts: `rubelet-volumes` asks and does.

mod error;
mod options;
mod source;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};

pub use self::error::ClaimError;
pub use self::options::BindFlag;
pub use self::source::{ClaimFacts, ClaimedSource, ClaimedVolume, claimed_volume, not_for_a_directory};
use crate::containers::{ephemeral_as_container, regular_containers, spec_of};
use crate::env::Missing;

/// Keeps a claim that a pod uses from going.
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";

/// The claim that a volume of a pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The pod's namespace.
    pub namespace: String,
    /// The claim's name.
    pub name: String,
    /// Containers may only read the volume.
    pub read_only: bool,
    /// It was made for this volume, and has to be the pod's own.
    pub ephemeral: bool,
}

impl Claim {
    /// The claim of a volume, if it is of such a kind.
    pub fn of(pod: &Pod, volume: &Volume) -> Option<Self> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        if let Some(source) = &volume.persistent_volume_claim {
            let read_only = source.read_only == Some(true);
            return Some(Self { namespace, name: source.claim_name.clone(), read_only, ephemeral: false });
        }
        volume.ephemeral.as_ref()?;
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        Some(Self { namespace, name: format!("{pod}-{}", volume.name), read_only: false, ephemeral: true })
    }

    /// `namespace/name`.
    fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// How the containers of a pod use one of its volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeUse {
    /// In `volumeMounts`.
    pub mounted: bool,
    /// In `volumeDevices`.
    pub device: bool,
}

impl VolumeUse {
    /// What any container of the pod does with the volume of that name.
    pub fn of(pod: &Pod, volume: &str) -> Self {
        let spec = spec_of(pod);
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(ephemeral_as_container);
        let mut found = Self::default();
        for container in regular_containers(spec).cloned().chain(ephemeral) {
            found.mounted |= container.volume_mounts.iter().flatten().any(|mount| mount.name == volume);
            found.device |= container.volume_devices.iter().flatten().any(|device| device.name == volume);
        }
        found
    }

    /// No container uses it, so that nothing waits for it.
    pub fn is_none(self) -> bool {
        !self.mounted && !self.device
    }
}

/// A claim that has got its volume, and the name of that PersistentVolume.
///
/// # Errors
/// The claim is not there, is going, waits for its volume, or is not the pod's.
pub fn bound_volume<'a>(
    pod: &Pod,
    claim: &Claim,
    object: Result<&'a PersistentVolumeClaim, &Missing>,
) -> Result<(&'a PersistentVolumeClaim, &'a str), ClaimError> {
    let failed = |problem: String| ClaimError::Processing { claim: claim.place(), problem };
    let object = object
        .map_err(|missing| failed(format!("failed to fetch PVC from API server: {}", words(missing))))?;
    let protected = object.metadata.finalizers.iter().flatten().any(|name| name == CLAIM_PROTECTION);
    if object.metadata.deletion_timestamp.is_some() && !protected {
        return Err(failed("PVC is being deleted".to_owned()));
    }
    if object.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err(failed("PVC is not bound".to_owned()));
    }
    let volume = object.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if volume.is_empty() {
        return Err(failed("PVC has empty pvc.Spec.VolumeName".to_owned()));
    }
    if claim.ephemeral && !is_owned(object, pod) {
        let pod = format!("{}/{}", claim.namespace, pod.metadata.name.as_deref().unwrap_or_default());
        return Err(ClaimError::NotOwned { claim: claim.place(), pod });
    }
    Ok((object, volume))
}

/// Whether the pod is the claim's controller.
fn is_owned(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owner = claim.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    owner.is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

fn words(missing: &Missing) -> &str {
    match missing {
        Missing::NotFound(words) | Missing::Failed(words) => words,
    }
}
