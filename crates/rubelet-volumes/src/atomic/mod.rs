//! Writes the files of a volume so that whoever reads them sees one whole version or the next, never a mix.
//!
//! The layout is upstream's atomic writer's, which programs rely on (they watch `..data`):
//! ```text
//! <volume>/..2026_11_23_05_45_00.123456789/   one version, in it the files with their paths
//! <volume>/..data -> ..2026_11_23_05_45_00.123456789
//! <volume>/<first part of each path> -> ..data/<the same>
//! ```
//! The switch is the rename of a new `..data` over the old one. An agent that is killed at any step leaves the old
//! or the new version; the next write completes it and removes what was left over. Nothing is written when the files
//! are there already. Paths are resolved by open directories and without following links, so that a link planted in
//! the volume leads nowhere. Never decides what the files are. Called on the threads of the file system pool.

mod dir;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use jiff::Timestamp;
use rubelet_core::projection::{Payload, ProjectedFile};

use self::dir::{Dir, Entry};

/// The link to the version that counts.
pub const DATA: &str = "..data";
/// The next [`DATA`] before it is renamed.
const NEW_DATA: &str = "..data_tmp";
/// A visible link before it replaces a wrong one.
const NEW_LINK: &str = "..link_tmp";
/// What an fsGroup adds to files and directories that pods only read (upstream `SetVolumeOwnership`).
const GROUP_FILE: u32 = 0o440;
/// See [`GROUP_FILE`].
pub(crate) const GROUP_DIR: u32 = 0o2550;

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The files were there already.
    Unchanged,
    /// A new version is there.
    Changed,
}

/// Makes `payload` the content of the volume. With a group, files and directories belong to it and it can read them.
///
/// Not to be called twice at a time for one volume. `now` names the version.
///
/// # Errors
/// When the file system refuses something; the version before is in place or the new one is.
pub fn write(volume: &Path, payload: &Payload, group: Option<u32>, now: Timestamp) -> io::Result<Written> {
    write_stepwise(volume, payload, group, now, &mut |_| Ok(()))
}

/// The same, asking before each step that changes something.
fn write_stepwise(
    volume: &Path,
    payload: &Payload,
    group: Option<u32>,
    now: Timestamp,
    step: &mut dyn FnMut(&str) -> io::Result<()>,
) -> io::Result<Written> {
    Writer { root: Dir::open(volume)?, volume, payload, group, step }.write(now)
}

struct Writer<'a> {
    root: Dir,
    volume: &'a Path,
    payload: &'a Payload,
    group: Option<u32>,
    step: &'a mut dyn FnMut(&str) -> io::Result<()>,
}

impl Writer<'_> {
    fn write(mut self, now: Timestamp) -> io::Result<Written> {
        let entries = self.root.entries()?;
        let current = match entries.get(DATA) {
            Some(Entry::Link(target)) if is_version(target) => Some(target.clone()),
            _ => None,
        };
        self.remove_leftovers(&entries, current.as_deref())?;
        let unchanged = current.as_deref().is_some_and(|version| self.holds(version));
        if !unchanged {
            let version = self.make_version(now)?;
            self.switch_to(&version, entries.get(DATA))?;
        }
        self.show(&entries)?;
        if unchanged {
            return Ok(Written::Unchanged);
        }
        if let Some(old) = current {
            self.remove(&old)?;
        }
        Ok(Written::Changed)
    }

    /// Removes what a write that was cut off left behind, so that it takes no space from this one.
    fn remove_leftovers(
        &mut self,
        entries: &BTreeMap<String, Entry>,
        current: Option<&str>,
    ) -> io::Result<()> {
        for (name, entry) in entries {
            let left_over = matches!(name.as_str(), NEW_DATA | NEW_LINK) || is_version(name);
            if !left_over || current == Some(name.as_str()) {
                continue;
            }
            match entry {
                Entry::Dir => self.remove(name)?,
                Entry::Link(_) | Entry::File => {
                    (self.step)("remove a left-over file")?;
                    self.root.unlink(name)?;
                }
            }
        }
        Ok(())
    }

    /// Removes a version. Nothing may be mounted in it.
    fn remove(&mut self, version: &str) -> io::Result<()> {
        (self.step)("remove a version")?;
        match rubelet_linux::remove::remove_tree(&self.volume.join(version)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Whether a version has exactly the files of the payload, with their content, modes and owners.
    fn holds(&self, version: &str) -> bool {
        let Ok(dir) = self.root.below(version) else { return false };
        let mut found = BTreeSet::new();
        self.same_below(&dir, "", &mut found).unwrap_or(false) && found.len() == self.payload.len()
    }

    fn same_below<'p>(&'p self, dir: &Dir, prefix: &str, found: &mut BTreeSet<&'p str>) -> io::Result<bool> {
        if !dir.is_as(self.dir_mode(), None, self.group)? {
            return Ok(false);
        }
        let entries = dir.entries()?;
        for (name, entry) in &entries {
            let path = format!("{prefix}{name}");
            let same = match entry {
                Entry::Link(_) => false,
                Entry::Dir => self.same_below(&dir.below(name)?, &format!("{path}/"), found)?,
                Entry::File => match self.payload.get_key_value(&path) {
                    None => false,
                    Some((path, file)) => {
                        found.insert(path);
                        dir.file_is(name, &file.bytes, self.file_mode(file), file.owner, self.group)?
                    }
                },
            };
            if !same {
                return Ok(false);
            }
        }
        // An empty directory is of no file.
        Ok(prefix.is_empty() || !entries.is_empty())
    }

    fn make_version(&mut self, now: Timestamp) -> io::Result<String> {
        (self.step)("make the directory of the version")?;
        let name = self.make_version_dir(now)?;
        let dir = self.root.below(&name)?;
        let payload = self.payload;
        for (path, file) in payload {
            (self.step)("write a file")?;
            self.write_file(&dir, path, file)
                .map_err(|error| io::Error::new(error.kind(), format!("write {path}: {error}")))?;
        }
        (self.step)("open the version to readers")?;
        dir.become_as(self.dir_mode(), None, self.group)?;
        Ok(name)
    }

    /// Makes a directory for a new version, closed to everybody until it is complete.
    fn make_version_dir(&self, now: Timestamp) -> io::Result<String> {
        let second = now.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
        let mut nanos = now.subsec_nanosecond().unsigned_abs();
        loop {
            let name = format!("{second}.{nanos:09}");
            match self.root.make_dir(&name, 0o700) {
                // Two versions at one time: a clock that stands still.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => nanos += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(name),
            }
        }
    }

    fn write_file(&self, version: &Dir, path: &str, file: &ProjectedFile) -> io::Result<()> {
        let mut parents: Vec<&str> = path.split('/').collect();
        let name = parents.pop().unwrap_or_default();
        let mut below: Option<Dir> = None;
        for parent in parents {
            let dir = below.as_ref().unwrap_or(version);
            match dir.make_dir(parent, 0o700) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let next = dir.below(parent)?;
            next.become_as(self.dir_mode(), None, self.group)?;
            below = Some(next);
        }
        let dir = below.as_ref().unwrap_or(version);
        dir.make_file(name, &file.bytes, self.file_mode(file), file.owner, self.group)
    }

    fn switch_to(&mut self, version: &str, present: Option<&Entry>) -> io::Result<()> {
        (self.step)("link to the version")?;
        self.root.link(version, NEW_DATA)?;
        if let Some(Entry::Dir) = present {
            // Not of our making, and in the way of a rename.
            self.remove(DATA)?;
        }
        (self.step)("switch to the version")?;
        self.root.rename(NEW_DATA, DATA)
    }

    /// Makes the visible links those of the payload. Directories are left alone: other volumes are mounted there.
    fn show(&mut self, entries: &BTreeMap<String, Entry>) -> io::Result<()> {
        let tops: BTreeSet<&str> = self.payload.keys().filter_map(|path| path.split('/').next()).collect();
        for top in &tops {
            let target = format!("{DATA}/{top}");
            match entries.get(*top) {
                Some(Entry::Link(present)) if *present == target => {}
                Some(Entry::Dir) => {}
                Some(Entry::Link(_) | Entry::File) => {
                    (self.step)("replace a visible link")?;
                    self.root.link(&target, NEW_LINK)?;
                    self.root.rename(NEW_LINK, top)?;
                }
                None => {
                    (self.step)("make a visible link")?;
                    self.root.link(&target, top)?;
                }
            }
        }
        for (name, entry) in entries {
            let ours = matches!(entry, Entry::Link(target) if *target == format!("{DATA}/{name}"));
            if ours && !tops.contains(name.as_str()) {
                (self.step)("remove a visible link")?;
                self.root.unlink(name)?;
            }
        }
        Ok(())
    }

    fn file_mode(&self, file: &ProjectedFile) -> u32 {
        file.mode | if self.group.is_some() { GROUP_FILE } else { 0 }
    }

    fn dir_mode(&self) -> u32 {
        0o755 | if self.group.is_some() { GROUP_DIR } else { 0 }
    }
}

/// Whether a name is that of a version, ours or an upstream kubelet's.
fn is_version(name: &str) -> bool {
    let stamp = name.strip_prefix("..").unwrap_or_default();
    stamp.starts_with(|first: char| first.is_ascii_digit()) && !stamp.contains('/')
}

#[cfg(test)]
mod tests;
