//! From the API's sources to a [`CsiVolume`]: of a PersistentVolume, or inline in a pod's spec.
//!
//! Owns which handle and which Secrets are meant, and what of a source could leave the directories of its driver.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, Pod, SecretReference, Volume};
use sha2::{Digest as _, Sha256};

use super::migrated::migrated_inline;
use super::{CsiVolume, SecretPlace, VolumeMode};
use crate::validation::names::dns_subdomain;

/// Longest name of a driver (upstream `ValidateCSIDriverName`).
const DRIVER_NAME_LIMIT: usize = 63;

/// What is wrong with the source of a driver's volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It names no driver.
    #[error("csi: it names no driver")]
    NoDriver,
    /// The name of its driver cannot be one.
    #[error("csi: {driver:?} cannot be the name of a driver: {rule}")]
    Driver {
        /// The name.
        driver: String,
        /// What names are like.
        rule: String,
    },
    /// Its name cannot be a directory's.
    #[error("its name is no file name")]
    Name,
    /// It names no volume.
    #[error("csi: it has no volumeHandle")]
    NoHandle,
    /// It stands in for a kind that was once built in, and lacks what that needs.
    #[error("{kind}: {problem}")]
    Translation {
        /// The kind, as in a spec.
        kind: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// The volume of a driver that a PersistentVolume is. What the volume's object says beside its source (mode, access
/// modes, mount options) is the caller's to add.
///
/// # Errors
/// When driver or handle are missing, or the driver's name would not do as that of a directory.
pub fn csi_of(name: &str, source: &CSIPersistentVolumeSource) -> Result<CsiVolume, SourceError> {
    check_driver(&source.driver)?;
    if source.volume_handle.is_empty() {
        return Err(SourceError::NoHandle);
    }
    Ok(CsiVolume {
        driver: source.driver.clone(),
        handle: source.volume_handle.clone(),
        spec_name: name.to_owned(),
        inline: false,
        mode: VolumeMode::Filesystem,
        fs_type: source.fs_type.clone().unwrap_or_default(),
        attributes: source.volume_attributes.clone().unwrap_or_default(),
        // That of the source is for the attacher; a claim says what the node does.
        read_only: false,
        access_modes: Vec::new(),
        mount_options: Vec::new(),
        stage_secret: place(source.node_stage_secret_ref.as_ref()),
        publish_secret: place(source.node_publish_secret_ref.as_ref()),
        expand_secret: place(source.node_expand_secret_ref.as_ref()),
        migrated: false,
    })
}

/// The volume of a driver in a pod's own spec, or the driver's volume that stands in for an old kind there (which is not
/// `inline`: it outlives the pod); `None` when it is of another kind.
///
/// # Errors
/// When the driver is not named, names would not do as those of directories, or an old kind cannot be translated.
pub fn inline_csi(pod: &Pod, volume: &Volume) -> Result<Option<CsiVolume>, SourceError> {
    let Some(source) = &volume.csi else {
        let found = migrated_inline(pod, volume).transpose()?;
        return match found {
            Some(found) if found.handle.is_empty() => Err(SourceError::NoHandle),
            Some(found) if !is_name(&found.spec_name) => Err(SourceError::Name),
            found => Ok(found),
        };
    };
    check_driver(&source.driver)?;
    if !is_name(&volume.name) || volume.name.contains('/') {
        return Err(SourceError::Name);
    }
    let secret = source.node_publish_secret_ref.as_ref().filter(|secret| !secret.name.is_empty());
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    Ok(Some(CsiVolume {
        driver: source.driver.clone(),
        handle: inline_handle(pod.metadata.uid.as_deref().unwrap_or_default(), &volume.name),
        spec_name: volume.name.clone(),
        inline: true,
        mode: VolumeMode::Filesystem,
        fs_type: source.fs_type.clone().unwrap_or_default(),
        attributes: attributes_of(source),
        read_only: source.read_only == Some(true),
        access_modes: Vec::new(),
        mount_options: Vec::new(),
        stage_secret: None,
        publish_secret: secret.map(|secret| SecretPlace { namespace, name: secret.name.clone() }),
        expand_secret: None,
        migrated: false,
    }))
}

fn attributes_of(source: &CSIVolumeSource) -> BTreeMap<String, String> {
    source.volume_attributes.clone().unwrap_or_default()
}

/// The handle of an inline volume (upstream `makeVolumeHandle`).
fn inline_handle(pod_uid: &str, volume: &str) -> String {
    let digest = Sha256::new().chain_update(pod_uid).chain_update(volume).finalize();
    named_by(&digest)
}

/// `csi-` and a digest, as handles and attachments are named.
pub(super) fn named_by(digest: &[u8]) -> String {
    let mut text = "csi-".to_owned();
    for byte in digest {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn place(secret: Option<&SecretReference>) -> Option<SecretPlace> {
    let secret = secret?;
    Some(SecretPlace {
        namespace: secret.namespace.clone().unwrap_or_default(),
        name: secret.name.clone().unwrap_or_default(),
    })
}

/// Whether the name does for a directory once its slashes are gone.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('\0')
}

/// The name becomes that of a directory. The API server sees to it, but this is not the place to trust.
fn check_driver(driver: &str) -> Result<(), SourceError> {
    if driver.is_empty() {
        return Err(SourceError::NoDriver);
    }
    let wrong = |rule| Err(SourceError::Driver { driver: driver.to_owned(), rule });
    if driver.len() > DRIVER_NAME_LIMIT {
        return wrong(format!("must be no more than {DRIVER_NAME_LIMIT} bytes"));
    }
    match dns_subdomain(&driver.to_ascii_lowercase()).into_iter().next() {
        None => Ok(()),
        Some(rule) => wrong(rule),
    }
}
