//! configMap, secret, downwardAPI and projected: files made of API data, on the atomic writer.
//!
//! Upstream keeps ConfigMaps on disk and the others in memory, and so does this.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rubelet_core::projection::{FilesSource, Payload, nested_mount_points, payload};

use super::empty_dir::open_mode;
use super::tmpfs::{self, Tmpfs};
use super::{PlanFacts, make_dirs, mark_ready};
use crate::atomic;
use crate::error::Problem;
use crate::layout::{Home, ready_mark};

/// Files to write.
#[derive(Debug)]
pub(crate) struct FilesPlan {
    pub(super) path: PathBuf,
    mark: PathBuf,
    payload: Payload,
    /// Directories that other volumes are mounted on.
    nested: BTreeSet<String>,
    in_memory: bool,
    size: Option<i64>,
    group: Option<u32>,
}

/// The kind's directory.
pub(super) fn home_of(source: FilesSource<'_>) -> Home {
    match source {
        FilesSource::ConfigMap(_) => Home::ConfigMap,
        FilesSource::Secret(_) => Home::Secret,
        FilesSource::DownwardApi(_) => Home::DownwardApi,
        FilesSource::Projected(_) => Home::Projected,
    }
}

/// Whether a volume has whole content from before, of this run of the agent or an earlier one. May block.
pub(crate) fn is_set_up(home: Home, path: &Path, tmpfs: Tmpfs) -> io::Result<bool> {
    if home != Home::ConfigMap && tmpfs == Tmpfs::Mount && !rubelet_linux::mounts::is_mount_point(path)? {
        return Ok(false);
    }
    Ok(fs::symlink_metadata(path.join(atomic::DATA)).is_ok_and(|data| data.is_symlink()))
}

impl FilesPlan {
    /// Plans it.
    pub(super) fn of(name: &str, source: FilesSource<'_>, facts: &PlanFacts<'_>) -> Result<Self, Problem> {
        let payload = payload(source, facts.pod, facts.gathered, facts.downward)?;
        let home = home_of(source);
        let in_memory = home != Home::ConfigMap;
        Ok(Self {
            path: home.volume(facts.pod_dir, name),
            mark: ready_mark(facts.pod_dir, home, name),
            nested: nested_mount_points(facts.pod, name, &payload),
            payload,
            in_memory,
            size: if in_memory { tmpfs::size(facts.pod, facts.downward, None) } else { None },
            group: facts.group(),
        })
    }

    /// Makes the directory or tmpfs, then the files.
    pub(super) fn set_up(&self, tmpfs: Tmpfs, now: Timestamp) -> io::Result<()> {
        make_dirs(self.path.parent().unwrap_or(&self.path))?;
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mounted = self.in_memory && tmpfs == Tmpfs::Mount;
        if mounted {
            tmpfs::ensure(&self.path, self.size, self.group)?;
        }
        self.open_root(if mounted { tmpfs::root_mode(self.group) } else { open_mode(self.group) })?;
        atomic::write(&self.path, &self.payload, self.group, now)?;
        for nested in &self.nested {
            make_nested(&self.path, nested)?;
        }
        mark_ready(&self.mark)
    }

    /// Only root writes to the volume; its root is as open as upstream's all the same, for programs that check.
    fn open_root(&self, mode: u32) -> io::Result<()> {
        let present = fs::symlink_metadata(&self.path)?;
        if let Some(group) = self.group.filter(|group| *group != present.gid()) {
            std::os::unix::fs::lchown(&self.path, None, Some(group))?;
        } else if present.mode() & 0o7777 == mode {
            return Ok(());
        }
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }
}

/// Makes a directory in the volume one part at a time. Where a link or file is in the way the place is left as it is:
/// what runs has mounted what it needs.
fn make_nested(volume: &Path, nested: &str) -> io::Result<()> {
    let mut path = volume.to_owned();
    for part in nested.split('/') {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(present) if present.is_dir() => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, Permissions::from_mode(0o755))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
