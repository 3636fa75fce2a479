//! Where volumes of CSI drivers lie, which is upstream's layout: a node can change hands either way, with its mounts.
//!
//! Owns the names of directories; touches none.

use std::path::{Path, PathBuf};

use rubelet_core::ids::PodUid;
use rubelet_core::volumes::{CsiVolume, VolumeMode};
use sha2::{Digest as _, Sha256};

/// The directory of the plugin below `volumes` and `volumeDevices` of a pod.
const OF_POD: &str = "kubernetes.io~csi";
/// File in which a volume's facts are kept for tearing it down.
pub(crate) const DATA_FILE: &str = "vol_data.json";
/// Where a driver is told to stage file systems, below the directory of the volume.
pub(super) const GLOBAL_MOUNT: &str = "globalmount";

/// The kubelet's directory and the name of the node: what paths and attachments are made of.
#[derive(Clone, Debug)]
pub struct CsiPlaces {
    /// `--root-dir`, absolute.
    pub root: PathBuf,
    /// Name of the Node.
    pub node_name: String,
}

impl CsiPlaces {
    /// `<root>/plugins/kubernetes.io/csi`.
    pub(super) fn plugin(&self) -> PathBuf {
        self.root.join("plugins/kubernetes.io/csi")
    }

    /// `<root>/pods`.
    pub(super) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// `<root>/plugins/kubernetes.io/csi/volumeDevices`.
    pub(super) fn devices(&self) -> PathBuf {
        self.plugin().join("volumeDevices")
    }

    /// The directory that a driver stages a file system in; its parent has the facts.
    pub(super) fn global_mount(&self, driver: &str, handle: &str) -> PathBuf {
        self.plugin().join(driver).join(sha256(handle)).join(GLOBAL_MOUNT)
    }

    /// The directory that a driver stages a block device in.
    pub(super) fn device_staging(&self, spec_name: &str) -> PathBuf {
        self.devices().join("staging").join(escaped(spec_name))
    }

    /// The directory with one published device for each pod.
    pub(super) fn device_publish_dir(&self, spec_name: &str) -> PathBuf {
        self.devices().join("publish").join(escaped(spec_name))
    }

    /// The file that a driver publishes a block device at.
    pub(super) fn device_publish(&self, spec_name: &str, pod: &PodUid) -> PathBuf {
        self.device_publish_dir(spec_name).join(pod.as_str())
    }

    /// The agent's own directory of a block volume.
    pub(super) fn device_home(&self, spec_name: &str) -> PathBuf {
        self.devices().join(escaped(spec_name))
    }

    /// The directory of the facts of a block volume.
    pub(super) fn device_data(&self, spec_name: &str) -> PathBuf {
        self.device_home(spec_name).join("data")
    }

    /// The directory with a bind of the device for each pod, by which upstream knows who uses it.
    pub(super) fn device_binds(&self, spec_name: &str) -> PathBuf {
        self.device_home(spec_name).join("dev")
    }

    /// Where a volume is staged.
    pub(super) fn staging(&self, volume: &CsiVolume) -> PathBuf {
        match volume.mode {
            VolumeMode::Filesystem => self.global_mount(&volume.driver, &volume.handle),
            VolumeMode::Block => self.device_staging(&volume.spec_name),
        }
    }

    /// Where the facts of a staged volume are kept.
    pub(super) fn staging_data(&self, volume: &CsiVolume) -> PathBuf {
        match volume.mode {
            VolumeMode::Filesystem => self.plugin().join(&volume.driver).join(sha256(&volume.handle)),
            VolumeMode::Block => self.device_data(&volume.spec_name),
        }
    }

    /// Where a volume is published for a pod.
    pub(super) fn target(&self, volume: &CsiVolume, pod: &PodUid, pod_dir: &Path) -> PathBuf {
        match volume.mode {
            VolumeMode::Filesystem => mount(pod_dir, &volume.spec_name),
            VolumeMode::Block => self.device_publish(&volume.spec_name, pod),
        }
    }
}

/// `<pod>/volumes/kubernetes.io~csi`.
pub(crate) fn pod_volumes(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumes").join(OF_POD)
}

/// `<pod>/volumes/kubernetes.io~csi/<volume>`, which has the facts.
pub(crate) fn pod_volume(pod_dir: &Path, spec_name: &str) -> PathBuf {
    pod_volumes(pod_dir).join(escaped(spec_name))
}

/// The directory that a driver publishes a file system at.
pub(crate) fn mount(pod_dir: &Path, spec_name: &str) -> PathBuf {
    pod_volume(pod_dir, spec_name).join("mount")
}

/// `<pod>/volumeDevices/kubernetes.io~csi`.
pub(crate) fn pod_devices(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumeDevices").join(OF_POD)
}

/// The link to a pod's block device.
pub(crate) fn pod_device(pod_dir: &Path, spec_name: &str) -> PathBuf {
    pod_devices(pod_dir).join(escaped(spec_name))
}

/// A name as upstream makes it fit for a path (`EscapeQualifiedName`).
pub(super) fn escaped(name: &str) -> String {
    name.replace('/', "~")
}

/// Whether a name from the API can be that of a directory: nothing that leads elsewhere.
pub(super) fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// SHA-256 in lower-case hexadecimal digits.
pub(super) fn sha256(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text).iter().fold(String::with_capacity(64), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_directories() {
        let places = CsiPlaces { root: "/k".into(), node_name: "n".into() };
        let check = |path: PathBuf, expected: &str| assert_eq!(path, Path::new(expected));
        let sha = "5903cdb2d52d92e7b1ea49e8a29bbb26d35e7d3be5f7f3b2a5cb5f1f5ee7a0b6".len();
        assert_eq!(sha256("vol-1").len(), sha);
        // The well-known digest of no bytes at all.
        assert_eq!(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        check(
            places.global_mount("d.io", ""),
            "/k/plugins/kubernetes.io/csi/d.io/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/\
             globalmount",
        );
        check(places.device_staging("pv"), "/k/plugins/kubernetes.io/csi/volumeDevices/staging/pv");
        check(
            places.device_publish("pv", &PodUid::from("u")),
            "/k/plugins/kubernetes.io/csi/volumeDevices/publish/pv/u",
        );
        check(places.device_data("pv"), "/k/plugins/kubernetes.io/csi/volumeDevices/pv/data");
        check(places.device_binds("pv"), "/k/plugins/kubernetes.io/csi/volumeDevices/pv/dev");
        check(mount(Path::new("/p"), "pv"), "/p/volumes/kubernetes.io~csi/pv/mount");
        check(pod_device(Path::new("/p"), "pv"), "/p/volumeDevices/kubernetes.io~csi/pv");
        for (name, fits) in [("pv", true), ("", false), ("..", false), ("a/b", false), ("a\0", false)] {
            assert_eq!(is_file_name(name), fits, "{name:?}");
        }
    }
}
