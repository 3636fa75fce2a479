//! Names of the cgroups that pods live in.
//!
//! Owns the tree `kubepods` / QoS class / pod and how both drivers spell it (upstream `CgroupName`); never
//! makes a cgroup.

use crate::ids::PodUid;
use crate::qos::QosClass;

/// Who manages cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The file system, directly.
    Cgroupfs,
    /// systemd, in slices.
    Systemd,
}

/// Where the tree hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot {
    /// `cgroupRoot`: `/` or a path; with the systemd driver a path in its components too.
    pub root: String,
    /// `cgroupsPerQOS`: without it there is no tree, and the runtime is told no parent.
    pub per_qos: bool,
    /// Driver.
    pub driver: CgroupDriver,
}

/// The cgroup of one QoS class or of one pod in it, as a path from the hierarchy's root; this is also the cgroup
/// parent that CRI is told for the pod. Empty without a tree.
///
/// Guaranteed pods live at the top, so their class is `/kubepods` itself.
pub fn cgroup_path(root: &CgroupRoot, qos: QosClass, pod: Option<&PodUid>) -> String {
    if !root.per_qos {
        return String::new();
    }
    let mut parts: Vec<String> =
        root.root.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    parts.push("kubepods".to_owned());
    match qos {
        QosClass::Guaranteed => {}
        QosClass::Burstable => parts.push("burstable".to_owned()),
        QosClass::BestEffort => parts.push("besteffort".to_owned()),
    }
    parts.extend(pod.map(|uid| format!("pod{uid}")));
    match root.driver {
        CgroupDriver::Cgroupfs => format!("/{}", parts.join("/")),
        CgroupDriver::Systemd => systemd_path(&parts),
    }
}

/// Each slice carries the names of those above it: `/a.slice/a-b.slice/a-b-c.slice`. A `-` in a name would be
/// one more level, so it is written `_`.
fn systemd_path(parts: &[String]) -> String {
    let mut path = String::new();
    let mut name = String::new();
    for part in parts {
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&part.replace('-', "_"));
        path.push('/');
        path.push_str(&name);
        path.push_str(".slice");
    }
    path
}

/// The UID of the pod whose group has this name (the last part of its path); `None` for any other group.
pub fn pod_of_group(driver: CgroupDriver, name: &str) -> Option<PodUid> {
    let uid = match driver {
        CgroupDriver::Cgroupfs => name.strip_prefix("pod")?.to_owned(),
        CgroupDriver::Systemd => {
            let last = name.strip_suffix(".slice")?.rsplit('-').next()?;
            last.strip_prefix("pod")?.replace('_', "-")
        }
    };
    (!uid.is_empty()).then(|| PodUid::new(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pods_can_be_read_back() {
        for driver in [CgroupDriver::Cgroupfs, CgroupDriver::Systemd] {
            for class in [QosClass::Guaranteed, QosClass::BestEffort] {
                let root = CgroupRoot { root: "/x".into(), per_qos: true, driver };
                let uid = PodUid::from("12-ab-34");
                let path = cgroup_path(&root, class, Some(&uid));
                let name = path.rsplit('/').next().unwrap();
                assert_eq!(pod_of_group(driver, name), Some(uid));
            }
        }
        for other in ["burstable", "kubepods-burstable.slice", "pod", "x.slice"] {
            assert_eq!(pod_of_group(CgroupDriver::Cgroupfs, other), None);
            assert_eq!(pod_of_group(CgroupDriver::Systemd, other), None);
        }
    }

    #[track_caller]
    fn check(root: &str, driver: CgroupDriver, qos: QosClass, uid: Option<&str>, expected: &str) {
        let root = CgroupRoot { root: root.into(), per_qos: true, driver };
        assert_eq!(cgroup_path(&root, qos, uid.map(PodUid::from).as_ref()), expected);
    }

    #[test]
    fn names_of_both_drivers() {
        use CgroupDriver::{Cgroupfs, Systemd};
        use QosClass::{BestEffort, Burstable, Guaranteed};
        check("/", Cgroupfs, Guaranteed, None, "/kubepods");
        check("/", Cgroupfs, Guaranteed, Some("1-2"), "/kubepods/pod1-2");
        check("/", Cgroupfs, Burstable, Some("1-2"), "/kubepods/burstable/pod1-2");
        check("/", Cgroupfs, BestEffort, None, "/kubepods/besteffort");
        check("/a/b", Cgroupfs, BestEffort, Some("1"), "/a/b/kubepods/besteffort/pod1");
        check("/", Systemd, Guaranteed, Some("1-2"), "/kubepods.slice/kubepods-pod1_2.slice");
        check(
            "",
            Systemd,
            Burstable,
            Some("1-2"),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
        );
        check(
            "/x-y",
            Systemd,
            BestEffort,
            None,
            "/x_y.slice/x_y-kubepods.slice/x_y-kubepods-besteffort.slice",
        );
    }

    #[test]
    fn without_qos_cgroups_there_is_no_parent() {
        let root = CgroupRoot { root: "/".into(), per_qos: false, driver: CgroupDriver::Systemd };
        assert_eq!(cgroup_path(&root, QosClass::Burstable, Some(&PodUid::from("1"))), "");
    }
}
