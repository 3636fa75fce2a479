//! Formatting, mounting and growing file systems, with tools that do what a script says and, as root, on loop devices.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;
use crate::block::{attach_loop, detach_loop};
use crate::mounts::{is_mount_point, unmount_all};

/// A directory of tools that do what a script says.
fn tools(root: &Path, scripts: &[(&str, &str)]) -> Tools {
    let directory = root.join("tools");
    fs::create_dir_all(&directory).unwrap();
    for (name, script) in scripts {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    Tools { directory: Some(directory) }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn what_blkid_says_decides() {
    let root = tempfile::tempdir().unwrap();
    let device = root.path().join("device");
    fs::write(&device, [0; 8192]).unwrap();
    let check = |script: &str, expected: Result<&str, &str>| {
        let found = format_of(&tools(root.path(), &[("blkid", script)]), &device);
        let found = found.map_err(|error| error.to_string().replace(device.to_str().unwrap(), "DEV"));
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{script}");
    };
    check("echo DEVNAME=/x; echo TYPE=ext4", Ok("ext4"));
    check("echo PTTYPE=dos; echo TYPE=ext4", Ok(PARTITIONS));
    check("exit 2", Ok(""));
    check(
        "echo ambivalent; exit 8",
        Err("failed to get disk format of disk DEV: blkid: exit status 8: ambivalent"),
    );
    check(
        "echo nonsense",
        Err("failed to get disk format of disk DEV: blkid returns invalid output: nonsense\n"),
    );
    check(
        "echo UUID=1",
        Err("failed to get disk format of disk DEV: blkid returns invalid output: UUID=1\n"),
    );
    // Nothing found on a device that cannot be read is not an empty device.
    fs::write(&device, "").unwrap();
    assert!(matches!(
        format_of(&tools(root.path(), &[("blkid", "exit 2")]), &device),
        Err(DiskError::Unknown { .. })
    ));
    let none = Tools { directory: Some("/nowhere".into()) };
    assert!(matches!(format_of(&none, &device), Err(DiskError::Tool { .. })));
}

#[test]
fn a_device_is_made_checked_and_mounted_in_that_order() {
    let root = tempfile::tempdir().unwrap();
    let device = root.path().join("device");
    fs::write(&device, [0; 8192]).unwrap();
    let log = root.path().join("log");
    let told = |name: &str, end: &str| format!("echo {name} $@ >> {}; {end}", log.display());
    let run = |blkid: &str, fsck: &str, mkfs: &str, fs_type: &str, options: &[&str]| {
        let _ = fs::remove_file(&log);
        let tools = tools(
            root.path(),
            &[
                ("blkid", blkid),
                ("fsck", &told("fsck", fsck)),
                ("mkfs.ext4", &told("mkfs.ext4", mkfs)),
                ("mkfs.xfs", &told("mkfs.xfs", mkfs)),
                ("mount", &told("mount", "exit 0")),
            ],
        );
        let done = format_and_mount(&tools, &device, Path::new("/t"), fs_type, &words(options));
        let said = fs::read_to_string(&log).unwrap_or_default().replace(device.to_str().unwrap(), "DEV");
        (done.map_err(|error| error.to_string().replace(device.to_str().unwrap(), "DEV")), said)
    };
    let (done, said) = run("exit 2", "exit 0", "exit 0", "", &[]);
    assert_eq!(
        (done, said.as_str()),
        (Ok(()), "mkfs.ext4 -F -m0 DEV\nmount -t ext4 -o defaults -- DEV /t\n")
    );
    let (done, said) = run("exit 2", "exit 0", "exit 0", "xfs", &["noatime"]);
    assert_eq!(
        (done, said.as_str()),
        (Ok(()), "mkfs.xfs -f DEV\nmount -t xfs -o noatime,defaults -- DEV /t\n")
    );
    for corrected in ["exit 0", "exit 1", "exit 8"] {
        let (done, said) = run("echo TYPE=ext4", corrected, "exit 0", "ext4", &[]);
        assert_eq!((done, said.as_str()), (Ok(()), "fsck -a DEV\nmount -t ext4 -o defaults -- DEV /t\n"));
    }
    let (done, said) = run("echo TYPE=ext4", "exit 0", "exit 0", "ext4", &["ro"]);
    assert_eq!((done, said.as_str()), (Ok(()), "mount -t ext4 -o ro,defaults -- DEV /t\n"));
    let fails = |found: (Result<(), String>, String), problem: &str, said: &str| {
        assert_eq!((found.0.unwrap_err().as_str(), found.1.as_str()), (problem, said));
    };
    fails(
        run("echo TYPE=ext4", "echo bad; exit 4", "exit 0", "", &[]),
        "'fsck' found errors on device DEV but could not correct them: bad\n",
        "fsck -a DEV\n",
    );
    fails(
        run("exit 2", "exit 0", "exit 0", "", &["ro"]),
        "cannot mount unformatted disk DEV as we are manipulating it in read-only mode",
        "",
    );
    fails(
        run("exit 2", "exit 0", "echo no; exit 1", "", &[]),
        "format of disk \"DEV\" failed: type:(\"ext4\") errcode:(exit status 1) output:(no\n)",
        "mkfs.ext4 -F -m0 DEV\n",
    );
    fails(
        run("exit 2", "exit 0", "exit 0", "../evil", &[]),
        "format of disk \"DEV\" failed: type:(\"../evil\") errcode:(no such file system) output:()",
        "",
    );
    // One at a time.
    let held = lock(&device, "DEV").unwrap();
    let (done, said) = run("exit 2", "exit 0", "exit 0", "", &[]);
    assert_eq!(
        (done.unwrap_err().as_str(), said.as_str()),
        ("device DEV is in use: somebody else is about to mount or to format it", "")
    );
    drop(held);
}

#[test]
fn a_mount_that_fails_is_told_in_known_words() {
    let root = tempfile::tempdir().unwrap();
    let tools = tools(root.path(), &[("mount", "echo 'mount.nfs: access denied'; exit 32")]);
    let done = mount(&tools, "nfs", "server:/dir", Path::new("/t"), &words(&["ro", "vers=4"]));
    assert_eq!(
        done.unwrap_err().to_string(),
        "mount failed: exit status 32\nMounting command: mount\nMounting arguments: -t nfs -o ro,vers=4 server:/dir \
         /t\nOutput: mount.nfs: access denied\n"
    );
}

/// A loop device over a file, given back in the end.
struct Disk(PathBuf, PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount_all(&self.1);
        let _ = detach_loop(&self.0);
    }
}

#[test]
fn a_real_device_keeps_what_is_on_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (file, target) = (root.path().join("image"), root.path().join("target"));
    File::create(&file).unwrap().set_len(16 << 20).unwrap();
    fs::create_dir(&target).unwrap();
    let device = match attach_loop(&file) {
        Ok(device) => device,
        // A machine without loop devices.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => panic!("{error}"),
    };
    let _disk = Disk(file, target.clone());
    let tools = Tools::default();
    let read_only = format_and_mount(&tools, &device, &target, "", &words(&["ro"]));
    assert!(matches!(read_only, Err(DiskError::UnformattedReadOnly { .. })), "{read_only:?}");
    format_and_mount(&tools, &device, &target, "ext4", &[]).unwrap();
    fs::write(target.join("precious"), "x").unwrap();
    assert!(is_mount_point(&target).unwrap());
    // Another one that comes while it is mounted is kept from making a file system, whatever it believes.
    let (again, name) = (make(&tools, &device, "DEV", "ext4"), device.display().to_string());
    assert!(matches!(again, Err(DiskError::InUse { .. })), "{name}: {again:?}");
    unmount_all(&target).unwrap();
    format_and_mount(&tools, &device, &target, "ext4", &words(&["noatime"])).unwrap();
    assert_eq!(fs::read_to_string(target.join("precious")).unwrap(), "x");
    unmount_all(&target).unwrap();
    // Asked for as another file system it is neither mounted nor made anew.
    assert!(matches!(format_and_mount(&tools, &device, &target, "xfs", &[]), Err(DiskError::Mount { .. })));
    assert_eq!(format_of(&tools, &device).unwrap(), "ext4");
}
