//! An open directory in which names are resolved one at a time and links are never followed.
//!
//! Owns the system calls of the atomic writer; knows nothing of versions.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};

/// What a name in a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A directory.
    Dir,
    /// A link with its target.
    Link(String),
    /// Anything else.
    File,
}

/// An open directory.
pub(super) struct Dir(File);

impl Dir {
    /// Opens a directory; `path` itself may not be a link.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::from(rustix::fs::openat(CWD, path, flags(), Mode::empty())?)))
    }

    /// Opens a directory in this one.
    pub(super) fn below(&self, name: &str) -> io::Result<Self> {
        Ok(Self(File::from(rustix::fs::openat(&self.0, name, flags(), Mode::empty())?)))
    }

    /// Everything in it. A name that is not UTF-8 cannot be of ours and is left out.
    pub(super) fn entries(&self) -> io::Result<BTreeMap<String, Entry>> {
        let mut found = BTreeMap::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            let status = match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(rustix::io::Errno::NOENT) => continue,
                status => status?,
            };
            let kind = match FileType::from_raw_mode(status.st_mode) {
                FileType::Directory => Entry::Dir,
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&self.0, name, Vec::new())?;
                    Entry::Link(target.to_string_lossy().into_owned())
                }
                _ => Entry::File,
            };
            found.insert(name.to_owned(), kind);
        }
        Ok(found)
    }

    /// Makes a directory.
    pub(super) fn make_dir(&self, name: &str, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode))?)
    }

    /// Makes a link.
    pub(super) fn link(&self, target: &str, name: &str) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, name)?)
    }

    /// Renames, replacing what is there.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a name that is no directory.
    pub(super) fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Makes a file that was not there.
    pub(super) fn make_file(
        &self,
        name: &str,
        bytes: &[u8],
        mode: u32,
        owner: Option<u32>,
        group: Option<u32>,
    ) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(bytes)?;
        give(&file, mode, owner, group)
    }

    /// Whether a file has this content, mode and owner.
    pub(super) fn file_is(
        &self,
        name: &str,
        bytes: &[u8],
        mode: u32,
        owner: Option<u32>,
        group: Option<u32>,
    ) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.0, name, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() != bytes.len() as u64 || !has(&metadata, mode, owner, group)
        {
            return Ok(false);
        }
        let mut present = Vec::with_capacity(bytes.len());
        file.take(bytes.len() as u64 + 1).read_to_end(&mut present)?;
        Ok(present == bytes)
    }

    /// Gives the directory mode and owner.
    pub(super) fn become_as(&self, mode: u32, owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
        give(&self.0, mode, owner, group)
    }

    /// Whether the directory has this mode and owner.
    pub(super) fn is_as(&self, mode: u32, owner: Option<u32>, group: Option<u32>) -> io::Result<bool> {
        Ok(has(&self.0.metadata()?, mode, owner, group))
    }
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Owner before mode: a change of owner takes mode bits away. The umask has no say in the mode.
fn give(file: &File, mode: u32, owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
    if owner.is_some() || group.is_some() {
        std::os::unix::fs::fchown(file, owner, group)?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

fn has(metadata: &Metadata, mode: u32, owner: Option<u32>, group: Option<u32>) -> bool {
    let owner = owner.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    metadata.mode() & 0o7777 == mode
        && metadata.uid() == owner
        && group.is_none_or(|group| metadata.gid() == group)
}
