//! The files that volumes of API data show: configMap, secret, downwardAPI and projected.
//!
//! Owns which objects and tokens such a volume needs, which files come of them with which modes, the messages when
//! that fails, and when a token is renewed (upstream `MakePayload`, `CollectData` and the token manager's rule).
//! Never fetches or writes anything: the shell asks [`needs`], gathers, and hands [`payload`] to the atomic writer.

mod nested;
mod path;
mod payload;
mod references;
mod token;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeSource, ProjectedVolumeSource, Secret,
    SecretVolumeSource, Volume,
};

pub use self::nested::nested_mount_points;
pub use self::path::{PathError, clean_path};
pub use self::payload::{ProjectionError, ProjectionErrors, payload};
pub use self::references::{ObjectKind, ObjectReference, needs, references, wants_trust_bundles};
pub use self::token::{
    IssuedToken, TOKEN_RETRY_SECONDS, TokenKey, adopted_token, file_user, refresh_at, retry_at,
};
pub use self::trust::trust_anchors;
use crate::env::Missing;

/// Mode of files in a volume that names none (the API's default).
pub const DEFAULT_MODE: i32 = 0o644;

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct ProjectedFile {
    /// Content.
    pub bytes: Vec<u8>,
    /// Permission bits, before a group of the pod widens them.
    pub mode: u32,
    /// User that owns the file; root when there is none.
    pub owner: Option<u32>,
}

impl fmt::Debug for ProjectedFile {
    /// Without the content, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, mode {:o}", self.bytes.len(), self.mode)?;
        self.owner.map_or(Ok(()), |owner| write!(f, ", user {owner}"))
    }
}

/// The files of a volume by their path in it: clean, relative, none of them also a directory of another.
pub type Payload = BTreeMap<String, ProjectedFile>;

/// A volume whose files are made of API data.
#[derive(Clone, Copy, Debug)]
pub enum FilesSource<'a> {
    /// `configMap`.
    ConfigMap(&'a ConfigMapVolumeSource),
    /// `secret`.
    Secret(&'a SecretVolumeSource),
    /// `downwardAPI`.
    DownwardApi(&'a DownwardAPIVolumeSource),
    /// `projected`.
    Projected(&'a ProjectedVolumeSource),
}

impl<'a> FilesSource<'a> {
    /// The source of a volume, if it is of one of these kinds.
    pub fn of(volume: &'a Volume) -> Option<Self> {
        (volume.config_map.as_ref().map(Self::ConfigMap))
            .or_else(|| volume.secret.as_ref().map(Self::Secret))
            .or_else(|| volume.downward_api.as_ref().map(Self::DownwardApi))
            .or_else(|| volume.projected.as_ref().map(Self::Projected))
    }
}

/// What has to be gathered before the files of a volume can be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Objects of the API.
    pub objects: BTreeSet<ObjectReference>,
    /// Tokens of the pod's service account.
    pub tokens: BTreeSet<TokenKey>,
    /// The cluster's trust bundles.
    pub trust_bundles: bool,
}

/// What was gathered for a pod; what is not in here counts as not readable.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// ConfigMaps by name, in the pod's namespace.
    pub config_maps: BTreeMap<String, Result<Arc<ConfigMap>, Missing>>,
    /// Secrets by name, in the pod's namespace.
    pub secrets: BTreeMap<String, Result<Arc<Secret>, Missing>>,
    /// Tokens, or why there is none.
    pub tokens: BTreeMap<TokenKey, Result<Arc<str>, String>>,
    /// All ClusterTrustBundles, when the volume shows any.
    pub trust_bundles: Option<Result<Vec<Arc<ClusterTrustBundle>>, Missing>>,
}

#[cfg(test)]
mod tests;
