//! Block devices and the file systems on them: names, what the kernel counted, how full they are.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rubelet_core::stats::usage::{DiskCounters, FilesystemUsage};

use super::parse::{device, lines, number, words};
use super::space::file_system;

/// Names that are remembered.
const NAMES: usize = 1024;

/// Names of block devices by number.
#[derive(Debug, Default)]
pub(super) struct DeviceNames(BTreeMap<(u64, u64), String>);

impl DeviceNames {
    /// `/dev/<name>`; empty for a device that is not known.
    pub(super) fn name(&mut self, major: u64, minor: u64) -> String {
        if let Some(name) = self.0.get(&(major, minor)) {
            return name.clone();
        }
        let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
        let name = link.ok().and_then(|target| Some(format!("/dev/{}", target.file_name()?.to_str()?)));
        let name = name.unwrap_or_default();
        if self.0.len() < NAMES {
            self.0.insert((major, minor), name.clone());
        }
        name
    }

    /// Forgets all: devices come and go.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// One file system that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mounted {
    number: (u64, u64),
    point: PathBuf,
    kind: String,
    source: String,
}

/// The file systems that are mounted, each once.
#[derive(Clone, Debug, Default)]
pub struct Mounts(Vec<Mounted>);

impl Mounts {
    /// As they are now.
    pub fn read() -> Self {
        Self(mounts(&std::fs::read("/proc/self/mountinfo").unwrap_or_default()))
    }

    /// The device that a path lies on, as it was mounted: `/dev/sda1`, or what else the mount names; empty when it
    /// cannot be told.
    pub fn device_of(&self, path: &Path) -> String {
        let Ok(status) = rustix::fs::stat(path) else { return String::new() };
        let number =
            (u64::from(rustix::fs::major(status.st_dev)), u64::from(rustix::fs::minor(status.st_dev)));
        self.0
            .iter()
            .find(|mount| mount.number == number)
            .map(|mount| mount.source.clone())
            .unwrap_or_default()
    }

    /// Every file system on a block device or of ZFS, by device.
    pub fn filesystems(&self, at: Timestamp) -> Vec<FilesystemUsage> {
        let stats = std::fs::read("/proc/diskstats").unwrap_or_default();
        let mut by_device: BTreeMap<&str, FilesystemUsage> = BTreeMap::new();
        for mount in self.0.iter().filter(|mount| mount.source.starts_with("/dev/") || mount.kind == "zfs") {
            if by_device.contains_key(mount.source.as_str()) {
                continue;
            }
            let Ok(mut fs) = file_system(&mount.point, at) else { continue };
            fs.device.clone_from(&mount.source);
            let disk = disk_counters(&stats, mount.number, mount.source.trim_start_matches("/dev/"));
            by_device.insert(&mount.source, FilesystemUsage { fs, disk });
        }
        by_device.into_values().collect()
    }
}

/// The mounts of `/proc/self/mountinfo`, the first of each device.
fn mounts(text: &[u8]) -> Vec<Mounted> {
    let mut found: Vec<Mounted> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for mount in lines(text).filter_map(mount) {
        if seen.insert((mount.number, mount.source.clone())) {
            found.push(mount);
        }
    }
    found
}

fn mount(line: &[u8]) -> Option<Mounted> {
    // ID, parent, device, root, mount point, options, optional fields, "-", kind, source.
    let mut fields = words(line).skip(2);
    let number = device(fields.next()?)?;
    let point = std::ffi::OsStr::from_bytes(&unescaped(fields.nth(1)?)).into();
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |bytes: &[u8]| String::from_utf8_lossy(&unescaped(bytes)).into_owned();
    let kind = text(rest.next()?);
    Some(Mounted { number, point, kind, source: text(rest.next()?) })
}

/// A field with blanks and the like written as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            digits.iter().try_fold(0u8, |sum, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
                sum.checked_mul(8)?.checked_add(digit)
            })
        });
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

/// The line of a device in `/proc/diskstats`, by number or, as for btrfs, by name.
fn disk_counters(text: &[u8], (major, minor): (u64, u64), name: &str) -> Option<DiskCounters> {
    lines(text).find_map(|line| {
        let mut fields = words(line);
        let numbers = (number(fields.next()?)?, number(fields.next()?)?);
        let named = fields.next()? == name.as_bytes();
        (numbers == (major, minor) || named).then_some(())?;
        let mut counters = [0; 11];
        for target in &mut counters {
            *target = number(fields.next()?)?;
        }
        let [
            reads,
            reads_merged,
            sectors_read,
            read_ms,
            writes,
            writes_merged,
            sectors_written,
            write_ms,
            in_progress,
            io_ms,
            weighted_io_ms,
        ] = counters;
        Some(DiskCounters {
            reads,
            reads_merged,
            sectors_read,
            read_ms,
            writes,
            writes_merged,
            sectors_written,
            write_ms,
            in_progress,
            io_ms,
            weighted_io_ms,
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mounts_are_told_once_a_device() {
        let text = b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
30 21 8:2 / /mnt/a\\040disk rw - xfs /dev/sdb1 rw
31 21 8:1 /srv /pods/x rw - ext4 /dev/sda1 rw
32 21 0:41 / /tank rw master:3 propagate_from:2 - zfs tank rw
odd line
";
        let found = mounts(text);
        let told: Vec<_> = found.iter().map(|m| (m.point.to_str().unwrap(), m.source.as_str())).collect();
        assert_eq!(
            told,
            [("/", "/dev/sda1"), ("/proc", "proc"), ("/mnt/a disk", "/dev/sdb1"), ("/tank", "tank")]
        );
        assert_eq!((found[2].number, found[3].kind.as_str()), ((8, 2), "zfs"));
        assert_eq!(unescaped(b"a\\134b\\04\\999"), b"a\\b\\04\\999");
    }

    #[test]
    fn counters_are_found_by_number_or_name() {
        let text = b"   8       0 sda 1 2 3 4 5 6 7 8 9 10 11 0 0\n 8 1 sda1 21 2 3 4 5 6 7 8 9 10 11\n 8 2 sda2 1 2\n";
        assert_eq!(disk_counters(text, (8, 1), "").map(|disk| disk.reads), Some(21));
        assert_eq!(disk_counters(text, (0, 44), "sda").map(|disk| disk.weighted_io_ms), Some(11));
        assert_eq!(disk_counters(text, (8, 2), ""), None);
        assert_eq!(disk_counters(text, (9, 2), ""), None);
    }

    #[test]
    fn this_machine_has_mounts() {
        let mounts = Mounts::read();
        assert!(!mounts.device_of(Path::new("/")).is_empty());
        assert!(mounts.device_of(Path::new("/nowhere/at/all")).is_empty());
        for found in mounts.filesystems(Timestamp::UNIX_EPOCH) {
            assert!(found.fs.capacity.is_some(), "{found:?}");
        }
        let mut names = DeviceNames::default();
        assert_eq!(names.name(4_000, 1), "");
        let _ = names.name(4_000, 1);
        names.clear();
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (mounts(&bytes), disk_counters(&bytes, (8, 0), "sda"), unescaped(&bytes));
        }
    }
}
