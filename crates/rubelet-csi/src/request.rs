//! What a driver can be asked to do with a volume, in Rust's types, and the way to the wire's. Pure. What makes no sense
//! (no volume, no path, a negative size) is refused here, with upstream's words, and is never sent.
//! Filled in by `rubelet-volumes`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::AccessMode;
use crate::error::CsiError;
use crate::redact::{Attributes, Keys};
use crate::v1;
use crate::v1::volume_capability::{AccessMode as WireMode, AccessType, BlockVolume, MountVolume};

/// Contents of a Secret for a driver. `Debug` shows the keys alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, String>);

impl From<BTreeMap<String, String>> for Secrets {
    fn from(map: BTreeMap<String, String>) -> Self {
        Self(map)
    }
}

impl Secrets {
    /// Adds one value; a key that is there is replaced.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they are.
    pub fn reveal(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Keys(&self.0).fmt(f)
    }
}

/// As what a volume is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a device.
    Block,
    /// As files.
    Mount {
        /// File system; empty leaves it to the driver.
        fs_type: String,
        /// Options of the mount.
        flags: Vec<String>,
        /// The group that the driver is to give the files to; only for drivers that can ([`crate::NodeCapabilities`]).
        group: Option<i64>,
    },
}

impl Default for Access {
    fn default() -> Self {
        Self::Mount { fs_type: String::new(), flags: Vec::new(), group: None }
    }
}

/// How a volume is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// As what.
    pub access: Access,
    /// By whom at the same time.
    pub mode: AccessMode,
}

impl Default for Capability {
    fn default() -> Self {
        Self { access: Access::default(), mode: AccessMode::Unknown }
    }
}

impl From<Capability> for v1::VolumeCapability {
    fn from(capability: Capability) -> Self {
        let access_type = match capability.access {
            Access::Block => AccessType::Block(BlockVolume {}),
            Access::Mount { fs_type, flags, group } => AccessType::Mount(MountVolume {
                fs_type,
                mount_flags: flags,
                volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
            }),
        };
        Self { access_mode: Some(WireMode { mode: capability.mode.into() }), access_type: Some(access_type) }
    }
}

/// `NodeStageVolume`: brings a volume to the place on the node that all its pods share.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StageRequest {
    /// The driver's name for the volume.
    pub volume_id: String,
    /// Where to. The directory exists.
    pub staging_path: PathBuf,
    /// How it is used.
    pub capability: Capability,
    /// What the attach left behind (`attachmentMetadata`).
    pub publish_context: BTreeMap<String, String>,
    /// The driver's own parameters.
    pub volume_context: BTreeMap<String, String>,
    /// Secrets.
    pub secrets: Secrets,
}

impl fmt::Debug for StageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageRequest")
            .field("volume_id", &self.volume_id)
            .field("staging_path", &self.staging_path)
            .field("capability", &self.capability)
            .field("publish_context", &Keys(&self.publish_context))
            .field("volume_context", &Attributes(&self.volume_context))
            .field("secrets", &self.secrets)
            .finish()
    }
}

impl StageRequest {
    pub(crate) fn into_wire(self, driver: &str) -> Result<v1::NodeStageVolumeRequest, CsiError> {
        let check = Check { driver, call: "NodeStageVolume" };
        Ok(v1::NodeStageVolumeRequest {
            volume_id: check.id(&self.volume_id)?,
            publish_context: self.publish_context,
            staging_target_path: check.path("staging target path", &self.staging_path)?,
            volume_capability: Some(self.capability.into()),
            secrets: self.secrets.0,
            volume_context: self.volume_context,
        })
    }
}

/// `NodePublishVolume`: gives a volume to a pod.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PublishRequest {
    /// The driver's name for the volume.
    pub volume_id: String,
    /// Where it is staged; for drivers that stage.
    pub staging_path: Option<PathBuf>,
    /// Where to. Its parent exists, it itself is the driver's to make.
    pub target_path: PathBuf,
    /// How it is used.
    pub capability: Capability,
    /// Without the right to write.
    pub read_only: bool,
    /// What the attach left behind (`attachmentMetadata`).
    pub publish_context: BTreeMap<String, String>,
    /// The driver's own parameters, what it asked to know of the pod, and tokens.
    pub volume_context: BTreeMap<String, String>,
    /// Secrets.
    pub secrets: Secrets,
}

impl fmt::Debug for PublishRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishRequest")
            .field("volume_id", &self.volume_id)
            .field("staging_path", &self.staging_path)
            .field("target_path", &self.target_path)
            .field("capability", &self.capability)
            .field("read_only", &self.read_only)
            .field("publish_context", &Keys(&self.publish_context))
            .field("volume_context", &Attributes(&self.volume_context))
            .field("secrets", &self.secrets)
            .finish()
    }
}

impl PublishRequest {
    pub(crate) fn into_wire(self, driver: &str) -> Result<v1::NodePublishVolumeRequest, CsiError> {
        let check = Check { driver, call: "NodePublishVolume" };
        Ok(v1::NodePublishVolumeRequest {
            volume_id: check.id(&self.volume_id)?,
            publish_context: self.publish_context,
            staging_target_path: check.optional_path(self.staging_path.as_deref())?,
            target_path: check.path("target path", &self.target_path)?,
            volume_capability: Some(self.capability.into()),
            readonly: self.read_only,
            secrets: self.secrets.0,
            volume_context: self.volume_context,
        })
    }
}

/// `NodeExpandVolume`: lets what is on a volume grow into the room that it has by now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpandRequest {
    /// The driver's name for the volume.
    pub volume_id: String,
    /// Where it is published, or staged while it is published nowhere.
    pub volume_path: PathBuf,
    /// Where it is staged; for drivers that stage.
    pub staging_path: Option<PathBuf>,
    /// How large it is to be, in bytes.
    pub required_bytes: i64,
    /// How it is used.
    pub capability: Capability,
    /// Secrets.
    pub secrets: Secrets,
}

impl ExpandRequest {
    pub(crate) fn into_wire(self, driver: &str) -> Result<v1::NodeExpandVolumeRequest, CsiError> {
        let check = Check { driver, call: "NodeExpandVolume" };
        if self.required_bytes < 0 {
            return Err(check.nonsense("size can not be less than 0"));
        }
        Ok(v1::NodeExpandVolumeRequest {
            volume_id: check.id(&self.volume_id)?,
            volume_path: check.path("volume path", &self.volume_path)?,
            capacity_range: Some(v1::CapacityRange { required_bytes: self.required_bytes, limit_bytes: 0 }),
            staging_target_path: check.optional_path(self.staging_path.as_deref())?,
            volume_capability: Some(self.capability.into()),
            secrets: self.secrets.0,
        })
    }
}

/// `NodeGetVolumeStats`: how full a volume is and whether it is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsRequest {
    /// The driver's name for the volume.
    pub volume_id: String,
    /// Where it is published.
    pub volume_path: PathBuf,
    /// Where it is staged; upstream never says.
    pub staging_path: Option<PathBuf>,
}

impl StatsRequest {
    pub(crate) fn into_wire(self, driver: &str) -> Result<v1::NodeGetVolumeStatsRequest, CsiError> {
        let check = Check { driver, call: "NodeGetVolumeStats" };
        Ok(v1::NodeGetVolumeStatsRequest {
            volume_id: check.id(&self.volume_id)?,
            volume_path: check.path("target path", &self.volume_path)?,
            staging_target_path: check.optional_path(self.staging_path.as_deref())?,
        })
    }
}

/// Refuses what must not be sent.
pub(crate) struct Check<'a> {
    pub(crate) driver: &'a str,
    pub(crate) call: &'static str,
}

impl Check<'_> {
    fn nonsense(&self, message: impl Into<String>) -> CsiError {
        CsiError::nonsense(self.driver, self.call, message)
    }

    pub(crate) fn id(&self, id: &str) -> Result<String, CsiError> {
        if id.is_empty() { Err(self.nonsense("missing volume id")) } else { Ok(id.to_owned()) }
    }

    /// A path that has to be there. Drivers take relative ones for their own, and the wire has no words for bytes
    /// that are no UTF-8.
    pub(crate) fn path(&self, what: &str, path: &Path) -> Result<String, CsiError> {
        if path.as_os_str().is_empty() {
            return Err(self.nonsense(format!("missing {what}")));
        }
        if !path.is_absolute() {
            return Err(self.nonsense(format!("{what} {} is not absolute", path.display())));
        }
        let text = path.to_str().ok_or_else(|| self.nonsense(format!("{what} {path:?} is not UTF-8")))?;
        Ok(text.to_owned())
    }

    fn optional_path(&self, path: Option<&Path>) -> Result<String, CsiError> {
        path.map_or_else(|| Ok(String::new()), |path| self.path("staging target path", path))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn refused<T: fmt::Debug>(result: Result<T, CsiError>, message: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.message, message);
        assert!(error.final_ && !error.reached, "{error:?}");
    }

    #[test]
    fn nonsense_is_refused() {
        let stage = StageRequest { volume_id: "v".into(), staging_path: "/s".into(), ..Default::default() };
        assert!(stage.clone().into_wire("d").is_ok());
        refused(
            StageRequest { volume_id: String::new(), ..stage.clone() }.into_wire("d"),
            "missing volume id",
        );
        refused(
            StageRequest { staging_path: PathBuf::new(), ..stage.clone() }.into_wire("d"),
            "missing staging target path",
        );
        refused(
            StageRequest { staging_path: "s".into(), ..stage }.into_wire("d"),
            "staging target path s is not absolute",
        );
        let publish =
            PublishRequest { volume_id: "v".into(), target_path: "/t".into(), ..Default::default() };
        refused(
            PublishRequest { target_path: PathBuf::new(), ..publish.clone() }.into_wire("d"),
            "missing target path",
        );
        let odd = PathBuf::from(OsStr::from_bytes(b"/\xff"));
        refused(
            PublishRequest { staging_path: Some(odd), ..publish }.into_wire("d"),
            "staging target path \"/\\xFF\" is not UTF-8",
        );
        let expand = ExpandRequest { volume_id: "v".into(), volume_path: "/t".into(), ..Default::default() };
        refused(
            ExpandRequest { required_bytes: -1, ..expand.clone() }.into_wire("d"),
            "size can not be less than 0",
        );
        refused(
            ExpandRequest { volume_path: PathBuf::new(), ..expand }.into_wire("d"),
            "missing volume path",
        );
        refused(
            StatsRequest { volume_id: "v".into(), ..Default::default() }.into_wire("d"),
            "missing target path",
        );
    }

    #[test]
    fn a_capability_says_what_and_by_whom() {
        let block = Capability { access: Access::Block, mode: AccessMode::SingleNodeWriter };
        let wire = v1::VolumeCapability::from(block);
        assert!(matches!(wire.access_type, Some(AccessType::Block(_))));
        assert_eq!(wire.access_mode.unwrap().mode, 1);
        let access =
            Access::Mount { fs_type: "xfs".into(), flags: vec!["noatime".into()], group: Some(2000) };
        let wire = v1::VolumeCapability::from(Capability { access, mode: AccessMode::SingleNodeMultiWriter });
        let Some(AccessType::Mount(mount)) = wire.access_type else { panic!("no mount") };
        assert_eq!(
            (mount.fs_type.as_str(), mount.mount_flags.as_slice(), mount.volume_mount_group.as_str()),
            ("xfs", ["noatime".to_owned()].as_slice(), "2000")
        );
        let wire = v1::VolumeCapability::from(Capability::default());
        let Some(AccessType::Mount(mount)) = wire.access_type else { panic!("no mount") };
        assert_eq!(mount.volume_mount_group, "", "no group is no group, not group 0");
    }
}
