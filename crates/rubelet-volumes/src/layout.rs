//! Where volumes lie below a pod's directory, which is upstream's layout: a node can change hands either way.
//!
//! Owns the names of directories; touches none.

use std::path::{Path, PathBuf};

/// Kinds that have a directory of their own, by the name it has below `<pod>/volumes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    EmptyDir,
    ConfigMap,
    Secret,
    DownwardApi,
    Projected,
    Local,
    Nfs,
}

impl Home {
    /// Those whose content is the agent's, to be removed with the volume.
    pub(crate) const OURS: [Self; 5] =
        [Self::EmptyDir, Self::ConfigMap, Self::Secret, Self::DownwardApi, Self::Projected];

    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::EmptyDir,
        Self::ConfigMap,
        Self::Secret,
        Self::DownwardApi,
        Self::Projected,
        Self::Local,
        Self::Nfs,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::EmptyDir => "kubernetes.io~empty-dir",
            Self::ConfigMap => "kubernetes.io~configmap",
            Self::Secret => "kubernetes.io~secret",
            Self::DownwardApi => "kubernetes.io~downward-api",
            Self::Projected => "kubernetes.io~projected",
            Self::Local => "kubernetes.io~local-volume",
            Self::Nfs => "kubernetes.io~nfs",
        }
    }

    /// `<pod>/volumes/<kind>`.
    pub(crate) fn dir(self, pod_dir: &Path) -> PathBuf {
        pod_dir.join("volumes").join(self.name())
    }

    /// `<pod>/volumes/<kind>/<volume>`; a claimed volume goes by the name of its PersistentVolume.
    pub(crate) fn volume(self, pod_dir: &Path, volume: &str) -> PathBuf {
        self.dir(pod_dir).join(volume)
    }
}

/// The places of a local volume that is a block device.
#[derive(Clone, Debug)]
pub(crate) struct LocalDevice {
    /// Where its file system is mounted for all pods: `<root>/plugins/kubernetes.io/local-volume/mounts/<pv>`.
    pub(crate) mount: PathBuf,
    /// Where the device is bound for this pod:
    /// `<root>/plugins/kubernetes.io~local-volume/volumeDevices/<pv>/<uid>`.
    pub(crate) bound: PathBuf,
    /// The pod's link to it: `<pod>/volumeDevices/kubernetes.io~local-volume/<pv>`.
    pub(crate) link: PathBuf,
}

impl LocalDevice {
    /// Those of one PersistentVolume and pod.
    pub(crate) fn of(pod_dir: &Path, name: &str) -> Self {
        // `<root>/pods/<uid>`.
        let plugins = pod_dir.ancestors().nth(2).unwrap_or(pod_dir).join("plugins");
        let uid = pod_dir.file_name().unwrap_or_default();
        Self {
            mount: plugins.join("kubernetes.io/local-volume/mounts").join(name),
            bound: plugins.join(Home::Local.name()).join("volumeDevices").join(name).join(uid),
            link: Self::links(pod_dir).join(name),
        }
    }

    /// The directory of a pod's links.
    pub(crate) fn links(pod_dir: &Path) -> PathBuf {
        pod_dir.join("volumeDevices").join(Home::Local.name())
    }
}

/// Directory of the marks by which an upstream kubelet knows volumes that are made.
pub(crate) fn marks(pod_dir: &Path) -> PathBuf {
    pod_dir.join("plugins").join(Home::EmptyDir.name())
}

/// The mark of one volume. Upstream's volumes of API data lie in an emptyDir of its own with the prefix `wrapped_`.
pub(crate) fn ready_mark(pod_dir: &Path, home: Home, volume: &str) -> PathBuf {
    let prefix = if home == Home::EmptyDir { "" } else { "wrapped_" };
    marks(pod_dir).join(format!("{prefix}{volume}")).join("ready")
}
