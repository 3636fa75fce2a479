//! Handing trees to a group: what changes, what is left alone, what others may do to the tree meanwhile.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::AtomicBool;

use rustix::fs::RenameFlags;

use super::*;

/// A group that may be given: any for root, one's own without privilege.
fn a_group(own: u32) -> u32 {
    if rustix::process::geteuid().is_root() { 4321 } else { own }
}

#[test]
fn everything_is_the_groups_and_links_are_not_followed() {
    let base = tempfile::tempdir().unwrap();
    let (root, outside) = (base.path().join("root"), base.path().join("outside"));
    fs::create_dir_all(root.join("a/b")).unwrap();
    for (path, mode) in [("file", 0o600), ("a/tool", 0o755), ("a/b/set", 0o4770)] {
        fs::write(root.join(path), "x").unwrap();
        fs::set_permissions(root.join(path), Permissions::from_mode(mode)).unwrap();
    }
    fs::write(&outside, "x").unwrap();
    fs::set_permissions(&outside, Permissions::from_mode(0o600)).unwrap();
    symlink(&outside, root.join("a/link")).unwrap();
    let own = fs::metadata(&outside).unwrap().gid();
    let group = a_group(own);

    assert!(!is_handed(&root, group).unwrap());
    hand_to_group(&root, group).unwrap();
    assert!(is_handed(&root, group).unwrap() && !is_handed(&root, group + 1).unwrap());
    let check = |path: &str, mode: u32| {
        let found = fs::symlink_metadata(root.join(path)).unwrap();
        assert_eq!(
            format!("{:o} {}", found.mode() & 0o7777, found.gid()),
            format!("{mode:o} {group}"),
            "{path}"
        );
    };
    check("", 0o2775);
    check("a/b", 0o2775);
    check("file", 0o660);
    check("a/tool", 0o775);
    check("a/b/set", 0o4770);
    check("a/link", 0o777);
    let found = fs::metadata(&outside).unwrap();
    assert_eq!((found.mode() & 0o7777, found.gid()), (0o600, own));
    let before = fs::metadata(root.join("a/b/set")).unwrap();
    let handed = hand_over(&root, Grant { group, read_only: false }, &Progress::default()).unwrap();
    assert_eq!(handed, Handed { files: 7, ..Handed::default() });
    let after = fs::metadata(root.join("a/b/set")).unwrap();
    assert_eq!(
        (before.ctime(), before.ctime_nsec()),
        (after.ctime(), after.ctime_nsec()),
        "no needless write"
    );
}

#[test]
fn what_is_read_only_is_only_read() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    fs::set_permissions(root.path().join("file"), Permissions::from_mode(0o600)).unwrap();
    let grant = Grant { group: a_group(fs::metadata(root.path()).unwrap().gid()), read_only: true };
    hand_over(root.path(), grant, &Progress::default()).unwrap();
    assert_eq!(fs::metadata(root.path().join("file")).unwrap().mode() & 0o7777, 0o640);
    assert!(is_handed_over(root.path(), grant).unwrap());
    assert!(!is_handed_over(root.path(), Grant { group: grant.group + 1, ..grant }).unwrap());
    // A single file can be handed over too, but never looks as if it were.
    let file = root.path().join("file");
    assert_eq!(hand_over(&file, grant, &Progress::default()).unwrap().files, 1);
    assert!(!is_handed_over(&file, grant).unwrap());
}

#[test]
fn trees_of_every_shape_are_walked_whole() {
    let base = tempfile::tempdir().unwrap();
    let group = a_group(fs::metadata(base.path()).unwrap().gid());
    let grant = Grant { group, read_only: false };
    // Wide: more directories at once than may wait, and enough files for every thread.
    let wide = base.path().join("wide");
    for outer in 0..100 {
        let dir = wide.join(format!("d{outer}/e"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..30 {
            fs::write(dir.join(format!("f{file}")), "").unwrap();
        }
    }
    let progress = Progress::default();
    let handed = hand_over(&wide, grant, &progress).unwrap();
    assert_eq!((handed.files, handed.failed, progress.files()), (1 + 100 * 32, 0, 1 + 100 * 32));
    for outer in 0..100 {
        for path in [format!("d{outer}/e"), format!("d{outer}/e/f7")] {
            let found = fs::metadata(wide.join(&path)).unwrap();
            assert_eq!((found.gid(), found.mode() & 0o060), (group, 0o060), "{path}");
        }
    }
    // Deep: deeper than one thread would go, and than a path can be long.
    let deep = base.path().join("deep");
    fs::create_dir(&deep).unwrap();
    let mut dir = rustix::fs::open(&deep, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, "d", flags, rustix::fs::Mode::empty()).unwrap();
    }
    assert_eq!(hand_over(&deep, grant, &Progress::default()).unwrap().files, 3001);
    let bottom = rustix::fs::fstat(&dir).unwrap();
    assert_eq!((bottom.st_gid, bottom.st_mode & 0o7777), (group, 0o2770));
    drop(dir);
    crate::remove::remove_tree(&deep).unwrap();
}

#[test]
fn a_walk_can_be_stopped_and_does_not_look_done_then() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    let grant = Grant { group: a_group(fs::metadata(root.path()).unwrap().gid()), read_only: false };
    let progress = Progress::default();
    progress.stop();
    let stopped = hand_over(root.path(), grant, &progress).unwrap_err();
    assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    assert!(!is_handed_over(root.path(), grant).unwrap());
}

#[test]
fn a_file_that_cannot_be_changed_stops_no_other_and_mounts_are_left_alone() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let (root, other) = (base.path().join("root"), base.path().join("other"));
    fs::create_dir_all(root.join("mounted")).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "x").unwrap();
    fs::write(root.join("file"), "x").unwrap();
    let own = fs::metadata(&other).unwrap().gid();
    // A bind on the same device.
    crate::mounts::bind(&other, &root.join("mounted"), &[]).unwrap();
    let handed = hand_over(&root, Grant { group: 4321, read_only: false }, &Progress::default());
    let beyond = fs::metadata(other.join("file")).unwrap().gid();
    // A tree on a read-only mount.
    let read_only = [rubelet_core::claims::BindFlag::ReadOnly];
    crate::mounts::bind(&other, &root.join("mounted"), &read_only).unwrap();
    let failed =
        hand_over(&root.join("mounted"), Grant { group: 4321, read_only: false }, &Progress::default());
    crate::mounts::unmount_all(&root.join("mounted")).unwrap();
    assert_eq!((handed.unwrap().failed, beyond), (0, own));
    assert_eq!(fs::metadata(root.join("file")).unwrap().gid(), 4321);
    let failed = failed.unwrap();
    assert_eq!((failed.files, failed.failed), (2, 2));
    assert!(failed.first_failure.unwrap().starts_with("file: "));
}

#[test]
fn what_is_swapped_in_is_never_from_outside() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let (root, outside) = (base.path().join("root"), base.path().join("outside"));
    fs::create_dir_all(root.join("dir")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "x").unwrap();
    fs::write(root.join("dir/file"), "x").unwrap();
    fs::write(root.join("plain"), "x").unwrap();
    symlink(&outside, root.join("away")).unwrap();
    symlink(outside.join("file"), root.join("link")).unwrap();
    let before = fs::metadata(outside.join("file")).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = rustix::fs::open(&root, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
            while !over.load(Ordering::Relaxed) {
                for (one, other) in [("dir", "away"), ("plain", "link")] {
                    let _ = rustix::fs::renameat_with(&dir, one, &dir, other, RenameFlags::EXCHANGE);
                }
            }
        });
        for round in 0..2000 {
            // Another group each time, so that there is always something to change.
            let grant = Grant { group: 5000 + round % 2, read_only: false };
            hand_over(&root, grant, &Progress::default()).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    let after = fs::metadata(outside.join("file")).unwrap();
    assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));
}
