//! The machine's system: a minimal Debian with systemd, a kernel and what the tests call, as a disk.
//!
//! Owns what is in it. Made once and kept in the cache; made anew when the list of packages changes. Never started here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{command, output, step};
use crate::{debian, host};

/// The release: its containerd is the oldest one that is supported, and its systemd is the one of most nodes.
const SUITE: &str = "bookworm";
/// What is in it besides what the tests ask of every machine.
const PACKAGES: [&str; 8] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "busybox-static",
    "kmod",
    "procps",
];

/// A system that can be booted.
pub(super) struct System {
    /// Its kernel.
    pub(super) kernel: PathBuf,
    /// Its disk.
    pub(super) disk: PathBuf,
}

/// The system, from the cache or made.
pub(super) fn provide(dir: &Path) -> Result<System> {
    let packages: Vec<&str> = PACKAGES.into_iter().chain(host::packages()).collect();
    let system = System { kernel: dir.join("vmlinuz"), disk: dir.join("system.img") };
    let stamp = dir.join("packages");
    let wanted = format!("{SUITE} {}\n{}", packages.join(" "), super::unit(&host::repository()));
    if fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == wanted) {
        return Ok(system);
    }
    step("making the machine's system", || {
        let part = tempfile::tempdir_in(dir).context("cannot make a folder for the system")?;
        let root = part.path().join("root");
        let include = format!("--include={}", packages.join(","));
        let mirror = debian::main_archive().context("no Debian archive in the machine's apt sources")?;
        let mut make = host::as_root(&["debootstrap", "--variant=minbase", &include, SUITE])?;
        output(make.arg(&root).arg(mirror).env("DEBIAN_FRONTEND", "noninteractive"))?;
        super::prepare(&root)?;
        fs::copy(kernel_in(&root.join("boot"))?, &system.kernel)?;
        make_disk(&root, &system.disk, "4G")?;
        output(&mut host::as_root(&["rm", "-rf", &root.display().to_string()])?)?;
        fs::write(&stamp, &wanted)?;
        Ok(system)
    })
}

fn kernel_in(boot: &Path) -> Result<PathBuf> {
    let is_kernel =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz"));
    let found = fs::read_dir(boot)?.flatten().map(|entry| entry.path()).find(is_kernel);
    found.with_context(|| format!("no kernel in {}", boot.display()))
}

/// A file with an ext4 file system of this size that holds a copy of a folder.
pub(super) fn make_disk(from: &Path, to: &Path, size: &str) -> Result<()> {
    output(command(["truncate", "-s", size]).arg(to))?;
    let mut make = host::as_root(&["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])?;
    output(make.arg(from).arg(to))?;
    Ok(())
}
