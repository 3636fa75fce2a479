//! The machine: who we are on it, what is installed, what it can do.
//!
//! Installs missing packages (Debian and Ubuntu only) and answers questions about capabilities and the repository's
//! place. Never starts a daemon and never changes a configuration of the machine. Called by every task that needs
//! programs from outside.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{command, find_program, output, run, say, step};

/// A program that must be there, and the Debian package it comes from.
struct Requirement {
    what: &'static str,
    package: &'static str,
    present: fn() -> bool,
}

const REQUIREMENTS: [Requirement; 8] = [
    Requirement {
        what: "containerd",
        package: "containerd",
        present: || find_program("containerd").is_some(),
    },
    Requirement { what: "runc", package: "runc", present: || find_program("runc").is_some() },
    Requirement {
        what: "the CNI plugins",
        package: "containernetworking-plugins",
        present: || cni_plugins().is_some(),
    },
    Requirement { what: "iptables", package: "iptables", present: || find_program("iptables").is_some() },
    Requirement { what: "ip", package: "iproute2", present: || find_program("ip").is_some() },
    // Kills the agent at a system call in tests of volumes.
    Requirement { what: "strace", package: "strace", present: || find_program("strace").is_some() },
    // What volumes are formatted and mounted with.
    Requirement { what: "mkfs.ext4", package: "e2fsprogs", present: || find_program("mkfs.ext4").is_some() },
    Requirement { what: "mount", package: "mount", present: || find_program("mount").is_some() },
];

/// What the emulated machine takes besides.
const VM_REQUIREMENTS: [Requirement; 2] = [
    Requirement {
        what: "qemu-system-x86_64",
        package: "qemu-system-x86",
        present: || find_program("qemu-system-x86_64").is_some(),
    },
    Requirement {
        what: "debootstrap",
        package: "debootstrap",
        present: || find_program("debootstrap").is_some(),
    },
];

/// The folders where distributions and upstream put CNI plugins.
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
/// The plugins that the generated network needs.
const CNI_PLUGINS: [&str; 4] = ["bridge", "host-local", "portmap", "loopback"];

/// The repository's root, from this crate's own place in it.
pub(crate) fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Where everything goes that the tasks make: `$RUBELET_DEV_DIR`, or `.dev` in the repository.
pub(crate) fn dev_dir() -> PathBuf {
    match std::env::var_os("RUBELET_DEV_DIR") {
        Some(dir) if !dir.is_empty() => std::path::absolute(&dir).unwrap_or_else(|_| PathBuf::from(dir)),
        _ => repository().join(".dev"),
    }
}

/// What is downloaded once and kept over `make stop`.
pub(crate) fn cache_dir() -> PathBuf {
    dev_dir().join("cache")
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A command that runs as root: as it is for root, through sudo for others.
pub(crate) fn as_root(words: &[&str]) -> Result<Command> {
    if is_root() {
        return Ok(command(words));
    }
    let sudo = find_program("sudo").with_context(|| {
        format!("this needs root: run it as root or install sudo (for `{}`)", words.join(" "))
    })?;
    let mut command = Command::new(sudo);
    command.args(words);
    Ok(command)
}

/// The folder that holds every CNI plugin the generated network needs.
pub(crate) fn cni_plugins() -> Option<PathBuf> {
    CNI_FOLDERS
        .iter()
        .map(PathBuf::from)
        .find(|folder| CNI_PLUGINS.iter().all(|plugin| folder.join(plugin).is_file()))
}

/// Installs what is missing, and says so; silent when nothing is.
pub(crate) fn install_requirements() -> Result<()> {
    install_missing(&REQUIREMENTS)
}

/// Installs what the emulated machine takes and is not there.
pub(crate) fn install_vm_requirements() -> Result<()> {
    install_missing(&VM_REQUIREMENTS)
}

/// The packages of everything that tests call.
pub(crate) fn packages() -> impl Iterator<Item = &'static str> {
    REQUIREMENTS.iter().map(|needed| needed.package)
}

fn install_missing(requirements: &[Requirement]) -> Result<()> {
    let missing: Vec<&Requirement> = requirements.iter().filter(|needed| !(needed.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|needed| needed.what).collect();
    if find_program("apt-get").is_none() {
        bail!(
            "{} missing, and this machine has no apt-get (Debian and Ubuntu are supported): install {} with your \
             own package manager and try again",
            names.join(", "),
            names.join(", ")
        );
    }
    let packages: Vec<&str> = missing.iter().map(|needed| needed.package).collect();
    step(&format!("installing {}", packages.join(" ")), || install(&packages))?;
    match requirements.iter().find(|needed| !(needed.present)()) {
        Some(needed) => bail!("{} is still missing after installing package {}", needed.what, needed.package),
        None => Ok(()),
    }
}

/// Installs packages with the lists at hand, and with fresh lists when that fails.
fn install(packages: &[&str]) -> Result<()> {
    let mut words = vec![
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-y",
        "-q",
        "--no-install-recommends",
    ];
    words.extend_from_slice(packages);
    if output(&mut as_root(&words)?).is_err() {
        say("the package lists are old or missing: running apt-get update");
        run(&mut as_root(&["apt-get", "update", "-q"])?)?;
        run(&mut as_root(&words)?)?;
    }
    Ok(())
}

/// A static busybox: the machine's own when it is static, or Debian's package unpacked into the cache, so that a
/// machine's dynamic busybox is not replaced.
pub(crate) fn static_busybox() -> Result<PathBuf> {
    let cached = cache_dir().join("busybox");
    let candidates = ["/usr/bin/busybox", "/bin/busybox", "/usr/lib/initramfs-tools/bin/busybox"];
    let mut candidates = candidates
        .iter()
        .map(PathBuf::from)
        .chain([cached.join("usr/bin/busybox"), cached.join("bin/busybox")]);
    if let Some(found) = candidates.find(|path| fs::read(path).is_ok_and(|bytes| is_static_elf(&bytes))) {
        return Ok(found);
    }
    if find_program("apt-get").is_none() {
        bail!(
            "no static busybox here, and no apt-get to fetch one: install a statically linked /bin/busybox"
        );
    }
    step("fetching busybox-static", || {
        fs::create_dir_all(&cached)?;
        let fetch = || output(command(["apt-get", "download", "-q", "busybox-static"]).current_dir(&cached));
        if fetch().is_err() {
            run(&mut as_root(&["apt-get", "update", "-q"])?)?;
            fetch()?;
        }
        unpack_debs(&cached, &cached)
    })?;
    ["usr/bin/busybox", "bin/busybox"]
        .iter()
        .map(|path| cached.join(path))
        .find(|path| path.is_file())
        .context("package busybox-static holds no busybox")
}

/// Unpacks every .deb of folder `from` into folder `to`.
pub(crate) fn unpack_debs(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let deb = entry?.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            output(command(["dpkg", "-x"]).arg(&deb).arg(to))?;
        }
    }
    Ok(())
}

/// Whether an ELF file needs no dynamic loader: it has no PT_INTERP program header.
fn is_static_elf(bytes: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?) as usize);
    let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?) as usize);
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    // 64-bit little-endian only: what both supported architectures are.
    if bytes.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        return false;
    }
    let (Some(table), Some(size), Some(count)) = (u64_at(0x20), u16_at(0x36), u16_at(0x38)) else {
        return false;
    };
    (0..count).all(|index| {
        let at = index.checked_mul(size).and_then(|offset| table.checked_add(offset));
        at.and_then(u32_at).is_some_and(|kind| kind != PT_INTERP)
    })
}

/// Whether this process holds CAP_SYS_RESOURCE, without which a runtime cannot lower an OOM score.
pub(crate) fn can_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u64 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_capabilities(&status).is_some_and(|bits| bits & (1 << CAP_SYS_RESOURCE) != 0)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether overlayfs can be mounted in `dir`, by mounting one.
pub(crate) fn overlay_works(dir: &Path) -> bool {
    let place = dir.join("overlay-probe");
    let tried = (|| -> Result<()> {
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir_all(place.join(name))?;
        }
        let at = |name: &str| place.join(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        output(&mut command(["mount", "-t", "overlay", "overlay", "-o", &options, &at("merged")]))?;
        output(&mut command(["umount", &at("merged")]))?;
        Ok(())
    })();
    let _left_over_folder = fs::remove_dir_all(&place);
    tried.is_ok()
}

/// The value of one key of os-release, such as `VERSION_CODENAME`.
pub(crate) fn os_release(key: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    os_release_value(&text, key)
}

fn os_release_value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000000001000000\n"), Some(1 << 24));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn os_release_values_lose_their_quotes() {
        let text = "NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=bookworm\n";
        assert_eq!(os_release_value(text, "NAME").as_deref(), Some("Debian GNU/Linux"));
        assert_eq!(os_release_value(text, "VERSION_CODENAME").as_deref(), Some("bookworm"));
        assert_eq!(os_release_value(text, "VERSION"), None);
    }

    #[test]
    fn a_dynamic_program_is_not_static_and_neither_is_a_text() {
        let own = std::env::current_exe().unwrap();
        assert!(!is_static_elf(&fs::read(own).unwrap()), "test binaries are linked dynamically");
        assert!(!is_static_elf(b"#!/bin/sh\n"));
        assert!(!is_static_elf(&[0x7f, b'E', b'L', b'F', 2, 1]));
    }
}
