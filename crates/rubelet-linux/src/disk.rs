//! File systems on block devices (upstream `SafeFormatAndMount`): which one a device has, checking it, making one on a
//! device that has none, and mounting by the node's own `mount`, which knows helpers and options.
//!
//! A device is only ever written to when it can be read, `blkid` finds nothing on it, and nobody else uses it; and one
//! at a time: the device is locked from the first look to the mount. Blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::tool::{Ended, Tools};

/// How long a mount may take. A server that does not answer is given up by its helper earlier.
const MOUNT: Duration = Duration::from_secs(150);
/// How long looking at a device may take.
const PROBE: Duration = Duration::from_secs(30);
/// How long checking or making a file system may take: disks can be large.
const REPAIR: Duration = Duration::from_secs(60 * 60);
/// `fsck` corrected errors.
const CORRECTED: i32 = 1;
/// `fsck` left errors.
const UNCORRECTED: i32 = 4;
/// `blkid` found nothing.
const NOTHING: i32 = 2;
/// What a device counts as that has partitions: it is never written to.
const PARTITIONS: &str = "unknown data, probably partitions";
/// The file system of a device that is to have any.
pub const DEFAULT_FS_TYPE: &str = "ext4";

/// Why a device is not mounted. The words are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Nobody can say what is on it.
    #[error("failed to get disk format of disk {device}: {problem}")]
    Unknown {
        /// The device.
        device: String,
        /// What happened.
        problem: String,
    },
    /// There is nothing on it, and nothing may be made.
    #[error("cannot mount unformatted disk {device} as we are manipulating it in read-only mode")]
    UnformattedReadOnly {
        /// The device.
        device: String,
    },
    /// The file system could not be made.
    #[error("format of disk {device:?} failed: type:({fs_type:?}) errcode:({status}) output:({output})")]
    Format {
        /// The device.
        device: String,
        /// The file system.
        fs_type: String,
        /// How the tool ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// The file system has errors.
    #[error("'fsck' found errors on device {device} but could not correct them: {output}")]
    Broken {
        /// The device.
        device: String,
        /// What the tool said.
        output: String,
    },
    /// It is being looked at, or used, by somebody else.
    #[error("device {device} is in use: {problem}")]
    InUse {
        /// The device.
        device: String,
        /// By whom, as far as is known.
        problem: &'static str,
    },
    /// `mount` did not do it.
    #[error(
        "mount failed: {status}\nMounting command: mount\nMounting arguments: {arguments}\nOutput: {output}"
    )]
    Mount {
        /// How the tool ended.
        status: String,
        /// What it was asked.
        arguments: String,
        /// What it said.
        output: String,
    },
    /// A tool could not be run, or did not end.
    #[error("{what}")]
    Tool {
        /// What was being done.
        what: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

/// Mounts `source` at `target` with the node's `mount`, which finds helpers like `mount.nfs` by itself.
///
/// # Errors
/// [`DiskError::Mount`] with what the tool said; [`DiskError::Tool`], after which it may be mounted nevertheless.
pub fn mount(
    tools: &Tools,
    fs_type: &str,
    source: &str,
    target: &Path,
    options: &[String],
) -> Result<(), DiskError> {
    let target = target.to_string_lossy();
    let joined = options.join(",");
    let mut arguments = vec!["-t", fs_type];
    if !joined.is_empty() {
        arguments.extend(["-o", joined.as_str()]);
    }
    // Nothing of what follows is an option, whatever it is called.
    let named = [arguments.clone(), vec![source, &target]].concat().join(" ");
    arguments.extend(["--", source, &target]);
    let ended = run(tools, "mount", &arguments, MOUNT)?;
    if ended.is_ok() {
        return Ok(());
    }
    Err(DiskError::Mount { status: ended.status(), arguments: named, output: ended.output })
}

/// Mounts the file system of a device at `target`; makes one first if the device has none, checks it if it has one.
/// `ro` among the options keeps it from being written to at all.
///
/// # Errors
/// [`DiskError`]; what was on the device is untouched, but for what `fsck` repairs.
pub fn format_and_mount(
    tools: &Tools,
    device: &Path,
    target: &Path,
    fs_type: &str,
    options: &[String],
) -> Result<(), DiskError> {
    let fs_type = if fs_type.is_empty() { DEFAULT_FS_TYPE } else { fs_type };
    let name = device.to_string_lossy().into_owned();
    let read_only = options.iter().any(|option| option == "ro");
    let _locked = lock(device, &name)?;
    match format_of(tools, device)?.as_str() {
        "" if read_only => return Err(DiskError::UnformattedReadOnly { device: name }),
        "" => make(tools, device, &name, fs_type)?,
        _ if read_only => {}
        _ => check(tools, &name)?,
    }
    let mut all = options.to_vec();
    all.push("defaults".to_owned());
    mount(tools, fs_type, &name, target, &all)
}

/// Keeps others that ask as well (this agent, udev) off the device while it is held.
fn lock(device: &Path, name: &str) -> Result<File, DiskError> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(device);
    let file = opened.map_err(|error| unknown(name, &error))?;
    let free = flock(&file, FlockOperation::NonBlockingLockExclusive);
    free.map_err(|_| in_use(name, "somebody else is about to mount or to format it"))?;
    Ok(file)
}

fn in_use(device: &str, problem: &'static str) -> DiskError {
    DiskError::InUse { device: device.to_owned(), problem }
}

fn unknown(device: &str, problem: &dyn std::fmt::Display) -> DiskError {
    DiskError::Unknown { device: device.to_owned(), problem: problem.to_string() }
}

fn run(tools: &Tools, tool: &str, arguments: &[&str], deadline: Duration) -> Result<Ended, DiskError> {
    tools
        .run(tool, arguments, deadline)
        .map_err(|source| DiskError::Tool { what: format!("run {tool} {}", arguments.join(" ")), source })
}

/// The file system of a device as `blkid` tells it: empty when there is nothing on the device, words that are no file
/// system's when there are partitions.
///
/// # Errors
/// When nobody can say: then the device is not to be written to.
pub fn format_of(tools: &Tools, device: &Path) -> Result<String, DiskError> {
    let name = device.to_string_lossy();
    let ended = run(tools, "blkid", &["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", &name], PROBE)?;
    if ended.code == Some(NOTHING) {
        // It says so too of a device that it cannot read.
        let readable = File::open(device).and_then(|mut file| file.read_exact(&mut [0; 4096]));
        return readable.map(|()| String::new()).map_err(|error| unknown(&name, &error));
    }
    if !ended.is_ok() {
        return Err(unknown(&name, &format!("blkid: {}: {}", ended.status(), ended.output.trim())));
    }
    let mut found = String::new();
    for line in ended.output.lines().filter(|line| !line.is_empty()) {
        match line.split_once('=') {
            Some(("PTTYPE", value)) if !value.is_empty() => return Ok(PARTITIONS.to_owned()),
            Some(("TYPE", value)) => value.clone_into(&mut found),
            Some(_) => {}
            None => return Err(unknown(&name, &format!("blkid returns invalid output: {}", ended.output))),
        }
    }
    if found.is_empty() {
        // Something was found, and it is neither: not nothing.
        return Err(unknown(&name, &format!("blkid returns invalid output: {}", ended.output)));
    }
    Ok(found)
}

fn make(tools: &Tools, device: &Path, name: &str, fs_type: &str) -> Result<(), DiskError> {
    let exclusive = (OFlags::EXCL | OFlags::NONBLOCK).bits().cast_signed();
    let free = OpenOptions::new().read(true).custom_flags(exclusive).open(device);
    drop(free.map_err(|_| in_use(name, "it is mounted or part of another device"))?);
    // It becomes part of a tool's name.
    if !fs_type.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        let problem = "no such file system".to_owned();
        return Err(failed_format(name, fs_type, problem, String::new()));
    }
    let arguments: &[&str] = match fs_type {
        // Also on a device without partitions, and without blocks that only root may use.
        "ext3" | "ext4" => &["-F", "-m0", name],
        "xfs" => &["-f", name],
        _ => &[name],
    };
    tracing::info!(device = name, fs_type, "making a file system on a device that has none");
    let tool = format!("mkfs.{fs_type}");
    let ended = match tools.run(&tool, arguments, REPAIR) {
        Ok(ended) => ended,
        Err(error) => return Err(failed_format(name, fs_type, format!("{tool}: {error}"), String::new())),
    };
    if ended.is_ok() { Ok(()) } else { Err(failed_format(name, fs_type, ended.status(), ended.output)) }
}

fn failed_format(device: &str, fs_type: &str, status: String, output: String) -> DiskError {
    DiskError::Format { device: device.to_owned(), fs_type: fs_type.to_owned(), status, output }
}

/// Repairs what can be repaired; only errors that are left keep the device from being mounted.
fn check(tools: &Tools, name: &str) -> Result<(), DiskError> {
    match tools.run("fsck", &["-a", name], REPAIR) {
        Ok(ended) if ended.code == Some(UNCORRECTED) => {
            Err(DiskError::Broken { device: name.to_owned(), output: ended.output })
        }
        Ok(ended) if ended.code == Some(CORRECTED) => {
            tracing::info!(device = name, "fsck corrected errors of a file system");
            Ok(())
        }
        Ok(ended) if ended.is_ok() => Ok(()),
        Ok(ended) => {
            tracing::warn!(device = name, status = ended.status(), output = ended.output, "fsck failed");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(device = name, "no fsck on this node: a file system is mounted unchecked");
            Ok(())
        }
        // It may still be writing.
        Err(source) => Err(DiskError::Tool { what: format!("run fsck -a {name}"), source }),
    }
}

#[cfg(test)]
mod tests;
