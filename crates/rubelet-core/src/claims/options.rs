//! Mount options of a volume that is a directory, which is bound into the pod's.

use k8s_openapi::api::core::v1::PersistentVolume;
use serde::{Deserialize, Serialize};

/// Where mount options stood before they had a field.
const ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";

/// What a bind mount can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BindFlag {
    /// `ro`
    ReadOnly,
    /// `nosuid`
    NoSuid,
    /// `nodev`
    NoDev,
    /// `noexec`
    NoExec,
    /// `noatime`
    NoAtime,
    /// `nodiratime`
    NoDirAtime,
    /// `relatime`
    RelAtime,
    /// `strictatime`
    StrictAtime,
}

/// The mount options of a volume, of the field and the annotation.
pub(super) fn mount_options(volume: &PersistentVolume) -> Vec<&str> {
    let old = volume.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
    let field = volume.spec.iter().flat_map(|spec| spec.mount_options.iter().flatten());
    let old = old.into_iter().flat_map(|options| options.split(','));
    field.map(String::as_str).chain(old).map(str::trim).filter(|option| !option.is_empty()).collect()
}

/// The flags of these options, and the options that a bind mount cannot have: only a file system takes those.
pub(super) fn bind_flags(options: &[&str]) -> (Vec<BindFlag>, Vec<String>) {
    let mut flags = Vec::new();
    let mut others = Vec::new();
    for option in options {
        let flag = match *option {
            "ro" => BindFlag::ReadOnly,
            "nosuid" => BindFlag::NoSuid,
            "nodev" => BindFlag::NoDev,
            "noexec" => BindFlag::NoExec,
            "noatime" => BindFlag::NoAtime,
            "nodiratime" => BindFlag::NoDirAtime,
            "relatime" => BindFlag::RelAtime,
            "strictatime" => BindFlag::StrictAtime,
            // As it is anyway.
            "bind" | "defaults" | "rw" | "suid" | "dev" | "exec" | "atime" | "diratime" => continue,
            other => {
                if !others.iter().any(|known| known == other) {
                    others.push(other.to_owned());
                }
                continue;
            }
        };
        if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    flags.sort();
    others.sort();
    (flags, others)
}
