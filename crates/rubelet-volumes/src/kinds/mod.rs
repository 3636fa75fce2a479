//! The kinds of volumes. Each has a file with the same parts: `plan` (pure: from the spec and what was gathered to a
//! value), `set_up` (does what the plan says, idempotent, may block) and tests; what a kind leaves on disk is removed
//! by [`crate::Volumes::tear_down`], which needs no spec.
//!
//! A new kind is a variant of [`VolumePlan`], a file here and, if it has a directory, a `Home`. What stands behind
//! claims is planned by `crate::claims`.

mod empty_dir;
mod files;
mod host_path;
mod huge_pages;
mod local;
mod nfs;
pub(crate) mod tmpfs;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, Volume};
use rubelet_core::downward::DownwardFacts;
use rubelet_core::projection::{FilesSource, Gathered};
use rubelet_linux::tool::Tools;

use self::empty_dir::EmptyDirPlan;
use self::files::FilesPlan;
pub(crate) use self::files::is_set_up;
use self::host_path::HostPathPlan;
pub(crate) use self::local::{LocalPlan, LocalStep, release as release_local, tear_down_devices};
pub(crate) use self::nfs::NfsPlan;
use self::tmpfs::Tmpfs;
use crate::ReadyVolume;
use crate::error::Problem;
use crate::layout::Home;
#[cfg(test)]
pub(crate) use crate::volumes::take_down::tear_down;

/// What is known when a pod's volumes are planned.
pub(crate) struct PlanFacts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) pod_dir: &'a Path,
    pub(crate) gathered: &'a Gathered,
    pub(crate) downward: &'a DownwardFacts,
}

impl PlanFacts<'_> {
    /// The group that volumes of the pod belong to.
    fn group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref()?.security_context.as_ref()?;
        u32::try_from(context.fs_group?).ok()
    }
}

/// One volume to make ready; nothing is left to decide.
#[derive(Debug)]
pub(crate) enum VolumePlan {
    HostPath(HostPathPlan),
    EmptyDir(EmptyDirPlan),
    Files(FilesPlan),
    Nfs(NfsPlan),
}

impl VolumePlan {
    /// Plans a volume; one without any source is an emptyDir, as upstream.
    pub(crate) fn of(volume: &Volume, facts: &PlanFacts<'_>) -> Result<Self, Problem> {
        // The API server checks names; other sources are checked too, but this name becomes a path.
        if matches!(volume.name.as_str(), "" | "." | "..") || volume.name.contains(['/', '\0']) {
            return Err(Problem::Name);
        }
        let unsupported = rubelet_core::static_pod::unsupported_volumes(facts.pod);
        if let Some((_, kind)) = unsupported.into_iter().find(|(name, _)| *name == volume.name) {
            return Err(Problem::Unsupported(kind));
        }
        if let Some(source) = &volume.host_path {
            return Ok(Self::host_path(source));
        }
        if let Some(source) = rubelet_core::volumes::nfs(volume) {
            return Ok(Self::Nfs(NfsPlan::of(&volume.name, &source, facts.pod_dir)));
        }
        match FilesSource::of(volume) {
            Some(source) => FilesPlan::of(&volume.name, source, facts).map(Self::Files),
            None => EmptyDirPlan::of(volume, facts).map(Self::EmptyDir),
        }
    }

    /// Plans a path of the node, a volume's own or a PersistentVolume's.
    pub(crate) fn host_path(source: &HostPathVolumeSource) -> Self {
        Self::HostPath(HostPathPlan::of(source))
    }

    /// Where the volume lies when it is ready.
    pub(crate) fn ready(&self) -> ReadyVolume {
        match self {
            Self::HostPath(plan) => ReadyVolume { path: plan.path.clone(), ours: false, read_only: false },
            Self::EmptyDir(plan) => ReadyVolume { path: plan.path.clone(), ours: true, read_only: false },
            Self::Files(plan) => ReadyVolume { path: plan.path.clone(), ours: true, read_only: true },
            Self::Nfs(plan) => {
                ReadyVolume { path: plan.path.clone(), ours: false, read_only: plan.read_only }
            }
        }
    }

    /// What doing it is called in errors.
    pub(crate) fn describe(&self) -> String {
        let (verb, path) = match self {
            Self::Nfs(plan) => return format!("mount {} on {}", plan.device, plan.path.display()),
            Self::HostPath(plan) => ("check hostPath", &plan.path),
            Self::EmptyDir(plan) => ("create emptyDir", &plan.path),
            Self::Files(plan) => ("write volume", &plan.path),
        };
        format!("{verb} {}", path.display())
    }

    /// Does it; for threads that may block. What the spec itself rules out comes back as the inner error.
    pub(crate) fn set_up(self, tmpfs: Tmpfs, now: Timestamp) -> io::Result<Result<(), Problem>> {
        match self {
            Self::HostPath(plan) => plan.set_up(),
            Self::EmptyDir(plan) => plan.set_up(tmpfs).map(Ok),
            Self::Files(plan) => plan.set_up(tmpfs, now).map(Ok),
            Self::Nfs(plan) => plan.set_up(tmpfs, &Tools::default()),
        }
    }
}

/// Where the volume of a files kind lies, set up or not.
pub(crate) fn files_home(volume: &Volume, pod_dir: &Path) -> Option<(Home, PathBuf)> {
    let home = files::home_of(FilesSource::of(volume)?);
    Some((home, home.volume(pod_dir, &volume.name)))
}

/// Leaves the mark by which an upstream kubelet knows a volume that is made.
fn mark_ready(mark: &Path) -> io::Result<()> {
    if mark.exists() {
        return Ok(());
    }
    make_dirs(mark.parent().unwrap_or(mark))?;
    fs::File::create(mark).map(|_| ())
}

/// Makes a directory of the agent's own with those above it.
fn make_dirs(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)
}
