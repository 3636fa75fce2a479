//! Who gives a driver's volume to the pod's group (`fsGroup`): nobody, the driver, or the agent, which walks the files.
//!
//! Owns the policy's meaning (upstream `supportsFSGroup`); the walk is `rubelet_linux::ownership`'s.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;

use super::{CsiVolume, VolumeMode};
use crate::containers::spec_of;

/// What a driver says of groups (`fsGroupPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FsGroupPolicy {
    /// `ReadWriteOnceWithFSType`: a file system of one writer gets the group. Also what is unknown to us.
    #[default]
    ReadWriteOnceWithFsType,
    /// `File`: always.
    File,
    /// `None`: never.
    None,
}

/// The CSIDriver says nothing of groups, which the API server would not have let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected valid fsGroupPolicy, received nil value or empty string")]
pub struct NoFsGroupPolicy;

impl FsGroupPolicy {
    /// The policy of a driver; the default without a CSIDriver object.
    ///
    /// # Errors
    /// When the object has none.
    pub fn of(driver: Option<&CSIDriver>) -> Result<Self, NoFsGroupPolicy> {
        let Some(driver) = driver else { return Ok(Self::default()) };
        match driver.spec.fs_group_policy.as_deref() {
            None | Some("") => Err(NoFsGroupPolicy),
            Some("File") => Ok(Self::File),
            Some("None") => Ok(Self::None),
            Some(_) => Ok(Self::ReadWriteOnceWithFsType),
        }
    }
}

/// Who gives the volume to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsGroupPlan {
    /// Nobody: the pod asks for no group, or the volume is not to be changed.
    Nobody,
    /// The agent, once the volume is published.
    Agent {
        /// The group.
        group: u32,
        /// When the root of the volume is right already, the rest is taken to be (`OnRootMismatch`).
        trust_root: bool,
    },
    /// The driver: it is told the group when it stages and publishes.
    Driver {
        /// The group.
        group: i64,
    },
}

/// Who gives a volume to the pod's group. `mount_group`: the driver can (`VOLUME_MOUNT_GROUP`), and then it does,
/// whatever the policy says.
pub fn fs_group_plan(policy: FsGroupPolicy, mount_group: bool, volume: &CsiVolume, pod: &Pod) -> FsGroupPlan {
    let context = spec_of(pod).security_context.as_ref();
    let Some(group) = context.and_then(|context| context.fs_group) else { return FsGroupPlan::Nobody };
    if volume.mode == VolumeMode::Block {
        return FsGroupPlan::Nobody;
    }
    if mount_group {
        return FsGroupPlan::Driver { group };
    }
    let one_writer = || {
        volume.inline
            || volume.access_modes.iter().any(|mode| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod")
    };
    let wanted = match policy {
        FsGroupPolicy::None => false,
        FsGroupPolicy::File => true,
        FsGroupPolicy::ReadWriteOnceWithFsType => !volume.fs_type.is_empty() && one_writer(),
    };
    match u32::try_from(group) {
        Ok(group) if wanted && !volume.read_only => {
            let change = context.and_then(|context| context.fs_group_change_policy.as_deref());
            FsGroupPlan::Agent { group, trust_root: change == Some("OnRootMismatch") }
        }
        _ => FsGroupPlan::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::pod;
    use crate::volumes::tests::csi_volume;

    #[test]
    fn policy_volume_and_driver_say_who_does_it() {
        use FsGroupPolicy::{File, None, ReadWriteOnceWithFsType as Rwo};
        const NOBODY: FsGroupPlan = FsGroupPlan::Nobody;
        const AGENT: FsGroupPlan = FsGroupPlan::Agent { group: 7, trust_root: false };
        const DRIVER: FsGroupPlan = FsGroupPlan::Driver { group: 7 };
        let pod = pod(json!({"containers": [], "securityContext": {"fsGroup": 7}}));
        let volume = |modes: &[&str], fs_type: &str| CsiVolume {
            access_modes: modes.iter().map(|mode| (*mode).to_owned()).collect(),
            fs_type: fs_type.to_owned(),
            ..csi_volume()
        };
        let rwo = || volume(&["ReadWriteOnce"], "ext4");
        let many = || volume(&["ReadWriteMany"], "ext4");
        let rows = [
            (Rwo, false, rwo(), AGENT),
            (Rwo, false, volume(&["ReadWriteMany", "ReadWriteOncePod"], "ext4"), AGENT),
            (Rwo, false, volume(&["ReadWriteOnce"], ""), NOBODY),
            (Rwo, false, many(), NOBODY),
            (Rwo, false, volume(&[], "ext4"), NOBODY),
            (Rwo, false, CsiVolume { inline: true, ..volume(&[], "ext4") }, AGENT),
            (Rwo, false, CsiVolume { inline: true, ..volume(&[], "") }, NOBODY),
            (Rwo, false, CsiVolume { read_only: true, ..rwo() }, NOBODY),
            (File, false, volume(&[], ""), AGENT),
            (File, false, CsiVolume { read_only: true, ..many() }, NOBODY),
            (None, false, rwo(), NOBODY),
            (None, true, rwo(), DRIVER),
            (Rwo, true, CsiVolume { read_only: true, ..many() }, DRIVER),
            (File, true, CsiVolume { mode: VolumeMode::Block, ..rwo() }, NOBODY),
            (File, false, CsiVolume { mode: VolumeMode::Block, ..rwo() }, NOBODY),
        ];
        for (policy, mount_group, volume, expected) in rows {
            let plan = fs_group_plan(policy, mount_group, &volume, &pod);
            assert_eq!(plan, expected, "{policy:?} {mount_group} {volume:?}");
        }
    }

    #[test]
    fn the_pod_says_which_group_and_how() {
        let check = |context: Value, expected: FsGroupPlan| {
            let pod = pod(json!({"containers": [], "securityContext": context}));
            assert_eq!(fs_group_plan(FsGroupPolicy::File, false, &csi_volume(), &pod), expected);
        };
        check(json!({}), FsGroupPlan::Nobody);
        check(json!({"fsGroup": 0}), FsGroupPlan::Agent { group: 0, trust_root: false });
        check(
            json!({"fsGroup": 3, "fsGroupChangePolicy": "OnRootMismatch"}),
            FsGroupPlan::Agent { group: 3, trust_root: true },
        );
        check(
            json!({"fsGroup": 3, "fsGroupChangePolicy": "Always"}),
            FsGroupPlan::Agent { group: 3, trust_root: false },
        );
        check(json!({"fsGroup": -1}), FsGroupPlan::Nobody);
    }

    #[test]
    fn a_driver_has_a_policy() {
        let of = |policy: Value| {
            let driver: CSIDriver =
                serde_json::from_value(json!({"spec": {"fsGroupPolicy": policy}})).unwrap();
            FsGroupPolicy::of(Some(&driver))
        };
        assert_eq!(FsGroupPolicy::of(None), Ok(FsGroupPolicy::ReadWriteOnceWithFsType));
        assert_eq!(of(json!("ReadWriteOnceWithFSType")), Ok(FsGroupPolicy::ReadWriteOnceWithFsType));
        assert_eq!(of(json!("File")), Ok(FsGroupPolicy::File));
        assert_eq!(of(json!("None")), Ok(FsGroupPolicy::None));
        assert_eq!(of(Value::Null), Err(NoFsGroupPolicy));
        assert_eq!(of(json!("")), Err(NoFsGroupPolicy));
    }
}
