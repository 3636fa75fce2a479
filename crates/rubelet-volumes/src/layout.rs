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
}

impl Home {
    /// Those whose content is the agent's, to be removed with the volume.
    pub(crate) const OURS: [Self; 5] =
        [Self::EmptyDir, Self::ConfigMap, Self::Secret, Self::DownwardApi, Self::Projected];

    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::EmptyDir, Self::ConfigMap, Self::Secret, Self::DownwardApi, Self::Projected, Self::Local];

    fn name(self) -> &'static str {
        match self {
            Self::EmptyDir => "kubernetes.io~empty-dir",
            Self::ConfigMap => "kubernetes.io~configmap",
            Self::Secret => "kubernetes.io~secret",
            Self::DownwardApi => "kubernetes.io~downward-api",
            Self::Projected => "kubernetes.io~projected",
            Self::Local => "kubernetes.io~local-volume",
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

/// Directory of the marks by which an upstream kubelet knows volumes that are made.
pub(crate) fn marks(pod_dir: &Path) -> PathBuf {
    pod_dir.join("plugins").join(Home::EmptyDir.name())
}

/// The mark of one volume. Upstream's volumes of API data lie in an emptyDir of its own with the prefix `wrapped_`.
pub(crate) fn ready_mark(pod_dir: &Path, home: Home, volume: &str) -> PathBuf {
    let prefix = if home == Home::EmptyDir { "" } else { "wrapped_" };
    marks(pod_dir).join(format!("{prefix}{volume}")).join("ready")
}
