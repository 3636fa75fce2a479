//! Which mounts a container gets.
//!
//! Owns the rules for each `volumeMounts` entry (upstream `makeMounts`): sub-paths, read-only modes and
//! propagation. Never touches a path: a sub-path still has to be resolved safely by whoever carries this out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use crate::env::{EnvVar, SubPathError, expand_sub_path};

/// A volume that is ready on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountSource {
    /// Where it lies.
    pub path: PathBuf,
    /// The volume itself can only be read.
    pub read_only: bool,
    /// The agent made it, so its SELinux label may be changed.
    pub relabel: bool,
}

/// Which later mounts are seen on the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// The node's in the container.
    HostToContainer,
    /// In both directions.
    Bidirectional,
}

/// One mount as decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMount {
    /// Volume name.
    pub volume: String,
    /// Place of the entry in `volumeMounts`: names the directory of a bound sub-path.
    pub index: usize,
    /// Absolute path in the container.
    pub container_path: String,
    /// Where the volume lies on the node.
    pub volume_path: PathBuf,
    /// Path inside of the volume, relative and without `..`; empty for the volume itself. Links in it are not
    /// resolved yet.
    pub sub_path: String,
    /// Read-only.
    pub read_only: bool,
    /// Read-only with all mounts below it.
    pub recursive_read_only: bool,
    /// Change the SELinux label.
    pub relabel: bool,
    /// Propagation.
    pub propagation: Propagation,
}

/// Why a container's mounts cannot be made. The container waits with CreateContainerConfigError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// The volume is not in the pod or not ready.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    NoVolume {
        /// Volume.
        volume: String,
        /// Container.
        container: String,
    },
    /// `subPathExpr`.
    #[error(transparent)]
    Expression(#[from] SubPathError),
    /// A sub-path has to stay in the volume.
    #[error("error SubPath `{0}` must not be an absolute path")]
    AbsoluteSubPath(String),
    /// A sub-path has to stay in the volume.
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    SubPathEscapes(String),
    /// The block device is not in the pod, not ready, or no block device.
    #[error("cannot find volume {volume:?} to pass into container {container:?}")]
    NoDevice {
        /// Volume.
        volume: String,
        /// Container.
        container: String,
    },
    /// A device needs a place in the container.
    #[error("error DevicePath `{0}` must be an absolute path")]
    RelativeDevice(String),
    /// Unknown value.
    #[error("invalid MountPropagation mode: {0:?}")]
    Propagation(String),
    /// Recursive read-only mode cannot be had.
    #[error("failed to resolve recursive read-only mode: {0}")]
    RecursiveReadOnly(String),
}

/// One block device as decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedDevice {
    /// Volume name.
    pub volume: String,
    /// Absolute path in the container.
    pub container_path: String,
    /// Where the volume's device is found on the node: a link to it.
    pub host_path: PathBuf,
    /// What the container may do with it, in the words of cgroups.
    pub permissions: &'static str,
}

/// The block devices of a container in the order of its spec (upstream `makeBlockVolumes`).
pub fn plan_devices(
    container: &Container,
    volumes: &BTreeMap<String, MountSource>,
) -> Result<Vec<PlannedDevice>, MountError> {
    let devices = container.volume_devices.iter().flatten();
    devices
        .map(|device| {
            if !device.device_path.starts_with('/') {
                return Err(MountError::RelativeDevice(device.device_path.clone()));
            }
            let source = volumes.get(&device.name).ok_or_else(|| MountError::NoDevice {
                volume: device.name.clone(),
                container: container.name.clone(),
            })?;
            Ok(PlannedDevice {
                volume: device.name.clone(),
                container_path: device.device_path.clone(),
                host_path: source.path.clone(),
                permissions: if source.read_only { "r" } else { "mrw" },
            })
        })
        .collect()
}

/// The mounts of a container in the order of its spec. `recursive_read_only`: whether the runtime handler has it.
pub fn plan_mounts(
    container: &Container,
    env: &[EnvVar],
    volumes: &BTreeMap<String, MountSource>,
    recursive_read_only: bool,
) -> Result<Vec<PlannedMount>, MountError> {
    let mounts = container.volume_mounts.iter().flatten().enumerate();
    mounts
        .map(|(index, mount)| {
            let source = volumes.get(&mount.name).ok_or_else(|| MountError::NoVolume {
                volume: mount.name.clone(),
                container: container.name.clone(),
            })?;
            let propagation = propagation(mount)?;
            Ok(PlannedMount {
                volume: mount.name.clone(),
                index,
                container_path: absolute(&mount.mount_path),
                volume_path: source.path.clone(),
                sub_path: sub_path(mount, env)?,
                read_only: mount.read_only == Some(true) || source.read_only,
                recursive_read_only: is_recursive(mount, propagation, recursive_read_only)
                    .map_err(MountError::RecursiveReadOnly)?,
                relabel: source.relabel,
                propagation,
            })
        })
        .collect()
}

/// A path of the container from its root on.
pub fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn sub_path(mount: &VolumeMount, env: &[EnvVar]) -> Result<String, MountError> {
    let path = expand_sub_path(mount, env)?;
    if path.starts_with('/') {
        return Err(MountError::AbsoluteSubPath(path));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(MountError::SubPathEscapes(path));
    }
    Ok(path)
}

fn propagation(mount: &VolumeMount) -> Result<Propagation, MountError> {
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(Propagation::Private),
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") => Ok(Propagation::Bidirectional),
        Some(other) => Err(MountError::Propagation(other.to_owned())),
    }
}

fn is_recursive(mount: &VolumeMount, propagation: Propagation, supported: bool) -> Result<bool, String> {
    let mode = match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    let wants = format!("volume {:?} requested recursive read-only mode, but it is not", mount.name);
    if mount.read_only != Some(true) {
        return Err(format!("{wants} read-only"));
    }
    if propagation != Propagation::Private {
        let name = mount.mount_propagation.as_deref().unwrap_or_default();
        return Err(format!("{wants} compatible with propagation {name:?}"));
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => Err(format!("{wants} supported by the runtime")),
        other => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn plan(mount: Value, supported: bool) -> Result<Vec<PlannedMount>, String> {
        let container: Container =
            serde_json::from_value(json!({"name": "app", "volumeMounts": [mount]})).unwrap();
        let source = |read_only| MountSource { path: "/vol".into(), read_only, relabel: true };
        let volumes = [("v".to_owned(), source(false)), ("ro".to_owned(), source(true))].into();
        let env = [
            EnvVar { name: "A".into(), value: "x/../y".into() },
            EnvVar { name: "B".into(), value: "b".into() },
        ];
        plan_mounts(&container, &env, &volumes, supported).map_err(|error| error.to_string())
    }

    #[test]
    fn mounts_follow_the_spec() {
        let found = plan(
            json!({"name": "v", "mountPath": "data", "subPathExpr": "a/$(B)", "mountPropagation": "HostToContainer"}),
            false,
        );
        let expected = PlannedMount {
            volume: "v".into(),
            index: 0,
            container_path: "/data".into(),
            volume_path: "/vol".into(),
            sub_path: "a/b".into(),
            read_only: false,
            recursive_read_only: false,
            relabel: true,
            propagation: Propagation::HostToContainer,
        };
        assert_eq!(found, Ok(vec![expected]));
        assert!(plan(json!({"name": "ro", "mountPath": "/d"}), false).unwrap()[0].read_only);
        assert!(plan(json!({"name": "v", "mountPath": "/d", "readOnly": true}), false).unwrap()[0].read_only);
    }

    #[test]
    fn what_cannot_be_mounted_says_why() {
        let fails = |extra: Value, message: &str| {
            let mut mount = json!({"name": "v", "mountPath": "/d"});
            mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            assert_eq!(plan(mount, false), Err(message.to_owned()));
        };
        fails(json!({"name": "none"}), "cannot find volume \"none\" to mount into container \"app\"");
        fails(json!({"subPath": "/etc"}), "error SubPath `/etc` must not be an absolute path");
        fails(
            json!({"subPath": "a/../../b"}),
            "unable to provision SubPath `a/../../b`: must not contain '..'",
        );
        fails(json!({"subPathExpr": "$(A)"}), "unable to provision SubPath `x/../y`: must not contain '..'");
        fails(json!({"subPathExpr": "$(NONE)"}), "missing value for NONE");
        fails(json!({"mountPropagation": "Odd"}), "invalid MountPropagation mode: \"Odd\"");
    }

    #[test]
    fn devices_follow_the_spec() {
        let plan = |name: &str, path: &str| {
            let device = json!({"name": name, "devicePath": path});
            let container: Container =
                serde_json::from_value(json!({"name": "app", "volumeDevices": [device]})).unwrap();
            let source = |read_only| MountSource { path: "/link".into(), read_only, relabel: true };
            let volumes = [("v".to_owned(), source(false)), ("ro".to_owned(), source(true))].into();
            plan_devices(&container, &volumes).map_err(|error| error.to_string())
        };
        let expected = |volume: &str, permissions| PlannedDevice {
            volume: volume.into(),
            container_path: "/dev/x".into(),
            host_path: "/link".into(),
            permissions,
        };
        assert_eq!(plan("v", "/dev/x"), Ok(vec![expected("v", "mrw")]));
        assert_eq!(plan("ro", "/dev/x"), Ok(vec![expected("ro", "r")]));
        assert_eq!(plan("v", "x"), Err("error DevicePath `x` must be an absolute path".to_owned()));
        let none = "cannot find volume \"none\" to pass into container \"app\"";
        assert_eq!(plan("none", "/dev/x"), Err(none.to_owned()));
    }

    #[test]
    fn recursive_read_only_modes() {
        let mode = |mode: &str, supported| {
            plan(
                json!({"name": "v", "mountPath": "/d", "readOnly": true, "recursiveReadOnly": mode}),
                supported,
            )
            .map(|mounts| mounts[0].recursive_read_only)
        };
        assert_eq!(mode("Disabled", true), Ok(false));
        assert_eq!(mode("IfPossible", false), Ok(false));
        assert_eq!(mode("IfPossible", true), Ok(true));
        assert_eq!(mode("Enabled", true), Ok(true));
        let prefix = "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but it is not";
        assert_eq!(mode("Enabled", false), Err(format!("{prefix} supported by the runtime")));
        assert_eq!(
            plan(json!({"name": "v", "mountPath": "/d", "recursiveReadOnly": "Enabled"}), true),
            Err(format!("{prefix} read-only"))
        );
        assert_eq!(
            plan(
                json!({"name": "v", "mountPath": "/d", "readOnly": true, "recursiveReadOnly": "Enabled",
            "mountPropagation": "Bidirectional"}),
                true
            ),
            Err(format!("{prefix} compatible with propagation \"Bidirectional\""))
        );
    }

    proptest! {
        #[test]
        fn no_sub_path_leaves_its_volume(path in "[./a-z$()B]{0,16}", by_expression in any::<bool>()) {
            let field = if by_expression { "subPathExpr" } else { "subPath" };
            let mut mount = json!({"name": "v", "mountPath": "/d"});
            mount[field] = path.into();
            if let Ok(mounts) = plan(mount, false) {
                let joined = std::path::Path::new("/vol").join(&mounts[0].sub_path);
                prop_assert!(joined.starts_with("/vol"));
                prop_assert!(joined.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
            }
        }
    }
}
