//! local: a directory of the node that a PersistentVolume names, bound into the pod's directory.
//!
//! Unmounted at the end, never emptied: what is in it is the volume's, not the pod's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::claims::BindFlag;
use rubelet_linux::{mounts, ownership};

use super::make_dirs;
use super::tmpfs::Tmpfs;
use crate::error::Problem;
use crate::layout::Home;

/// A directory to bind.
#[derive(Debug)]
pub(crate) struct LocalPlan {
    /// Where it is bound.
    pub(crate) path: PathBuf,
    source: PathBuf,
    /// Name of the PersistentVolume.
    name: String,
    flags: Vec<BindFlag>,
    read_only: bool,
    /// The pod's fsGroup.
    group: Option<u32>,
    /// A tree whose root looks right is taken to be right.
    trust_root: bool,
}

impl LocalPlan {
    /// Plans it. `read_only`: no volume of the pod needs to write to it.
    pub(crate) fn of(
        name: &str,
        source: &str,
        flags: &[BindFlag],
        read_only: bool,
        pod: &Pod,
        pod_dir: &Path,
    ) -> Self {
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
        let mut flags = flags.to_vec();
        if read_only && !flags.contains(&BindFlag::ReadOnly) {
            flags.push(BindFlag::ReadOnly);
        }
        Self {
            path: Home::Local.volume(pod_dir, name),
            source: source.into(),
            name: name.to_owned(),
            flags,
            read_only,
            group: context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok()),
            trust_root: policy == Some("OnRootMismatch"),
        }
    }

    /// Binds it unless it is bound. The answer is a warning for the pod's events, if there is one.
    pub(crate) fn set_up(&self, tmpfs: Tmpfs) -> io::Result<Result<Option<String>, Problem>> {
        if tmpfs == Tmpfs::PlainDirectory {
            return make_dirs(&self.path).map(|()| Ok(None));
        }
        if mounts::is_mount_point(&self.path)? {
            return Ok(Ok(None));
        }
        let wrong = |problem| Problem::LocalPath { path: self.source.display().to_string(), problem };
        match fs::metadata(&self.source) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Ok(Err(wrong("is not a directory, which is all this version can mount"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(wrong("does not exist"))),
            Err(error) => return Err(error),
        }
        make_dirs(&self.path)?;
        // Before it is bound, so that an agent killed in between does all of it again.
        let warning = match self.group {
            Some(group) => self.hand_to_group(group)?,
            None => None,
        };
        mounts::bind(&self.source, &self.path, &self.flags)?;
        Ok(Ok(warning))
    }

    /// The first pod that mounts the directory decides whose it is; one that comes later and wants another group is
    /// told.
    fn hand_to_group(&self, group: u32) -> io::Result<Option<String>> {
        let pods = self.path.ancestors().nth(4).map(fs::canonicalize).transpose()?;
        let others = mounts::other_mounts_of(&self.source)?;
        if others.iter().any(|other| pods.as_ref().is_some_and(|pods| other.starts_with(pods))) {
            let present = fs::metadata(&self.source)?.gid();
            return Ok((present != group).then(|| {
                format!(
                    "The requested fsGroup is {group}, but the volume {} has GID {present}. The volume may not be \
                     shareable.",
                    self.name
                )
            }));
        }
        let is_right = self.read_only || self.trust_root && ownership::is_handed(&self.source, group)?;
        if !is_right {
            ownership::hand_to_group(&self.source, group)?;
        }
        Ok(None)
    }
}

/// Unmounts and removes what was bound for a pod. Directories only go when they are empty: nothing is ever deleted
/// through a bind that went unnoticed.
pub(super) fn tear_down(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let volume = entry?.path();
        let named = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{what} {}: {error}", volume.display()))
        };
        mounts::unmount_all(&volume).map_err(|error| named("unmount", error))?;
        fs::remove_dir(&volume).map_err(|error| named("remove", error))?;
    }
    fs::remove_dir(dir)
}
