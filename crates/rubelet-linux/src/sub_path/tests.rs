//! What a container may do to its own volume while a sub-path of it is opened and bound.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::fs::{RenameFlags, mkfifoat, renameat_with};
use tempfile::TempDir;

use super::*;

/// A volume, what lies beside it and must never be seen, and a pod's directory, which is cleaned up in the end.
struct World {
    base: TempDir,
}

impl World {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        for dir in ["volume/dir/below", "outside/dir", "pod"] {
            fs::create_dir_all(base.path().join(dir)).unwrap();
        }
        fs::write(base.path().join("volume/dir/file"), "inside").unwrap();
        fs::write(base.path().join("outside/file"), "secret").unwrap();
        fs::write(base.path().join("outside/dir/file"), "secret").unwrap();
        Self { base }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.base.path().join(path)
    }

    fn volume(&self) -> OwnedFd {
        open(self.at("volume"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn place(&self, index: usize) -> Place {
        Place { pod_dir: self.at("pod"), volume: "v".into(), container: "c".into(), index }
    }

    fn bind(&self, sub_path: &str) -> Result<PathBuf, SubPathError> {
        bind(&self.at("volume"), sub_path, &self.place(0))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = tear_down(&self.at("pod"));
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn path_of(file: &OwnedFd) -> PathBuf {
    fs::read_link(in_proc(file.as_fd())).unwrap()
}

/// Both ways of opening give the same: the place below the volume, or none.
fn check(world: &World, path: &str, expected: Option<&str>) {
    let volume = fs::canonicalize(world.at("volume")).unwrap();
    let expected = expected.map(|place| volume.join(place).components().collect::<PathBuf>());
    let root = world.volume();
    let opened = open_beneath(root.as_fd(), path).ok().map(|file| path_of(&file));
    assert_eq!(opened, expected, "{path}");
    let walked = resolve::walk(root.as_fd(), path.as_bytes()).ok().map(|file| path_of(&file));
    assert_eq!(walked, expected, "{path} by hand");
}

#[test]
fn links_are_followed_inside_and_nowhere_else() {
    let world = World::new();
    let link = |target: &Path, name: &str| symlink(target, world.at("volume").join(name)).unwrap();
    link(Path::new("dir"), "to-dir");
    link(Path::new("../file"), "dir/below/up");
    link(Path::new("to-dir/below/.."), "round");
    link(Path::new("../outside"), "out");
    link(Path::new("dir/../../outside"), "later-out");
    link(&world.at("outside"), "absolute");
    link(&fs::canonicalize(world.at("volume/dir")).unwrap(), "absolute-inside");
    link(Path::new("/"), "root");
    link(Path::new("/dev/null"), "device");
    link(Path::new("/proc/self/root"), "magic");
    link(Path::new("/proc/self/fd/0"), "input");
    link(Path::new("loop-b"), "loop-a");
    link(Path::new("loop-a"), "loop-b");
    link(Path::new("nothing"), "dangling");
    check(&world, "", Some(""));
    check(&world, ".", Some(""));
    check(&world, "dir//./file", Some("dir/file"));
    check(&world, "to-dir/file", Some("dir/file"));
    check(&world, "dir/below/up", Some("dir/file"));
    check(&world, "round/file", Some("dir/file"));
    check(&world, "absolute-inside/file", Some("dir/file"));
    check(&world, "dir/../dir/file", Some("dir/file"));
    for bad in [
        "out/file",
        "out",
        "later-out/file",
        "absolute/file",
        "root/etc",
        "device",
        "magic/etc",
        "input",
        "loop-a",
        "dangling",
        "..",
        "../outside/file",
        "dir/../../outside/file",
        "dir/file/below",
        "none",
    ] {
        check(&world, bad, None);
    }
    // Never through procfs itself.
    let process = open("/proc/self", OFlags::PATH, Mode::empty()).unwrap();
    for magic in ["root/etc", "cwd", "exe", "fd/0", "task/../../1/root"] {
        assert!(open_beneath(process.as_fd(), magic).is_err(), "{magic}");
        assert!(resolve::walk(process.as_fd(), magic.as_bytes()).is_err(), "{magic} by hand");
    }
}

#[test]
fn what_is_missing_is_made_as_open_as_the_volume() {
    let world = World::new();
    let mode = |path: &str| fs::metadata(world.at(path)).unwrap().permissions().mode() & 0o7777;
    fs::set_permissions(world.at("volume"), fs::Permissions::from_mode(0o2777)).unwrap();
    symlink("dir", world.at("volume/to-dir")).unwrap();
    symlink("../outside/new", world.at("volume/out")).unwrap();
    symlink("nowhere", world.at("volume/dangling")).unwrap();
    let create = |path: &str| open_or_create(&world.at("volume"), path).map(|file| path_of(&file));
    create("to-dir/a/b").unwrap();
    assert_eq!((mode("volume/dir/a"), mode("volume/dir/a/b")), (0o2777, 0o2777));
    fs::set_permissions(world.at("volume/dir/a"), fs::Permissions::from_mode(0o700)).unwrap();
    create("dir/a/c").unwrap();
    assert_eq!(mode("volume/dir/a"), 0o700, "only what is new is opened up");
    assert!(matches!(create("dangling/x"), Err(SubPathError::Create(_))));
    assert!(matches!(create("dangling"), Err(SubPathError::Create(_))));
    assert!(matches!(create("out/x"), Err(SubPathError::Prepare(_))));
    assert!(matches!(create("dir/file/x"), Err(SubPathError::Prepare(_))));
    assert!(matches!(create(&"d/".repeat(3000)), Err(SubPathError::Prepare(_))));
    assert!(!world.at("outside/new").exists());
    // As deep as a path can be.
    create(&"d/".repeat(2000)).unwrap();
    create(&"d/".repeat(2000)).unwrap();
    assert!(matches!(
        open_or_create(&world.at("nothing"), "a"),
        Err(SubPathError::Prepare(error)) if error.kind() == io::ErrorKind::NotFound
    ));
}

#[test]
fn a_container_that_swaps_links_in_gets_nothing_from_outside() {
    let world = World::new();
    let volume = world.at("volume");
    symlink(world.at("outside"), volume.join("away")).unwrap();
    symlink("../outside", volume.join("near")).unwrap();
    let over = AtomicBool::new(false);
    let inside = fs::canonicalize(&volume).unwrap();
    let (mut opened, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = open(&volume, OFlags::PATH, Mode::empty()).unwrap();
            while !over.load(Ordering::Relaxed) {
                for link in ["away", "near"] {
                    for _ in 0..2 {
                        let _ = renameat_with(&dir, "dir", &dir, link, RenameFlags::EXCHANGE);
                    }
                }
            }
        });
        for count in 0..3000 {
            for path in ["dir/file".to_owned(), "dir/below/../file".to_owned(), format!("dir/new-{count}/x")]
            {
                let root = world.volume();
                let found = open_or_create(&volume, &path).ok();
                let walked = resolve::walk(root.as_fd(), path.as_bytes()).ok();
                for file in [found, walked] {
                    match file {
                        Some(file) => {
                            opened += 1;
                            let place = path_of(&file);
                            assert!(place.starts_with(&inside), "{path} opened {}", place.display());
                        }
                        None => refused += 1,
                    }
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(opened > 0 && refused > 0, "opened {opened}, refused {refused}");
    let beside: Vec<_> = fs::read_dir(world.at("outside")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "made outside: {beside:?}");
}

#[test]
fn what_is_bound_while_links_are_swapped_is_never_outside() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let volume = world.at("volume");
    symlink(world.at("outside"), volume.join("away")).unwrap();
    let over = AtomicBool::new(false);
    let mut read = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = open(&volume, OFlags::PATH, Mode::empty()).unwrap();
            while !over.load(Ordering::Relaxed) {
                let _ = renameat_with(&dir, "dir", &dir, "away", RenameFlags::EXCHANGE);
            }
        });
        // The other thread may stand still for a while with the link in place: rounds go on until enough were bound.
        for round in 0..1_000_000 {
            if round >= 300 && read.len() >= 50 {
                break;
            }
            let path = if round % 2 == 0 { "dir" } else { "dir/file" };
            if let Ok(target) = world.bind(path) {
                let file = if round % 2 == 0 { target.join("file") } else { target };
                read.push(fs::read_to_string(file).unwrap());
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(!read.is_empty() && read.iter().all(|text| text == "inside"), "{read:?}");
}

#[test]
fn every_kind_of_file_is_bound_once_and_goes_in_the_end() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let volume = world.at("volume");
    mkfifoat(CWD, volume.join("pipe"), Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(volume.join("socket")).unwrap();
    rustix::fs::mknodat(
        CWD,
        volume.join("null"),
        FileType::CharacterDevice,
        Mode::RWXU,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    symlink("dir/file", volume.join("link")).unwrap();
    type Fits = fn(&fs::FileType) -> bool;
    let kinds: [(&str, Fits); 5] = [
        ("pipe", fs::FileType::is_fifo),
        ("socket", fs::FileType::is_socket),
        ("null", fs::FileType::is_char_device),
        ("link", fs::FileType::is_file),
        ("dir", fs::FileType::is_dir),
    ];
    for (index, (path, fits)) in kinds.into_iter().enumerate() {
        let target = bind(&volume, path, &world.place(index)).unwrap();
        assert_eq!(target, world.at(&format!("pod/volume-subpaths/v/c/{index}")));
        assert!(fits(&fs::symlink_metadata(&target).unwrap().file_type()), "{path}");
        assert_eq!(bind(&volume, path, &world.place(index)).unwrap(), target, "it is left alone");
    }
    let listed = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pod = fs::canonicalize(world.at("pod")).unwrap();
    let mounts = listed.lines().filter(|line| line.contains(pod.to_str().unwrap())).count();
    assert_eq!(mounts, kinds.len(), "one mount each");
    tear_down(&world.at("pod")).unwrap();
    tear_down(&world.at("pod")).unwrap();
    assert_eq!(fs::read_dir(world.at("pod")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(volume.join("dir/file")).unwrap(), "inside");
    assert!(volume.join("pipe").exists());
}

#[test]
fn another_file_at_the_path_is_bound_anew() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let target = world.bind("dir/file").unwrap();
    // As the files of a ConfigMap change: another file by the same name.
    fs::write(world.at("volume/dir/next"), "next").unwrap();
    fs::rename(world.at("volume/dir/next"), world.at("volume/dir/file")).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "inside");
    world.bind("dir/file").unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "next");
    fs::remove_file(world.at("volume/dir/file")).unwrap();
    world.bind("dir/file").unwrap();
    assert!(target.is_dir(), "what is missing is a directory");
    assert!(matches!(world.bind("../outside"), Err(SubPathError::Prepare(_))));
}

#[test]
fn other_mounts_are_crossed_but_not_carried_along() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let below = world.at("volume/dir/below");
    crate::mounts::bind(&world.at("outside"), &below, &[rubelet_core::claims::BindFlag::ReadOnly]).unwrap();
    let through = world.bind("dir/below/dir").map(|target| {
        (fs::read_to_string(target.join("file")), fs::write(target.join("new"), "x").map_err(|e| e.kind()))
    });
    // The same file by way of a mount that can be written to: not taken for the one that is bound.
    let again =
        bind(&world.at("outside"), "dir", &world.place(0)).map(|target| fs::write(target.join("new"), "x"));
    let beside =
        bind(&world.at("volume"), "dir", &world.place(1)).map(|target| target.join("below/file").exists());
    let made = world.bind("dir/below/new");
    unmount_all(&below).unwrap();
    let (text, written) = through.unwrap();
    assert_eq!((text.unwrap().as_str(), written), ("secret", Err(io::ErrorKind::ReadOnlyFilesystem)));
    again.unwrap().unwrap();
    assert!(!beside.unwrap(), "what is mounted below a sub-path is not shown");
    assert!(matches!(made, Err(SubPathError::Create(_))), "{made:?}");
}

#[test]
fn a_place_that_is_taken_is_replaced_and_a_name_that_is_none_refused() {
    let world = World::new();
    for bad in ["", ".", "..", "a/b", "a\0b"] {
        let place = Place { container: bad.to_owned(), ..world.place(0) };
        assert!(place.path().is_err(), "{bad:?}");
    }
    if !is_root() {
        return;
    }
    let target = world.place(0).path().unwrap();
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    symlink(world.at("outside/file"), &target).unwrap();
    world.bind("dir/file").unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "inside");
    // Something of somebody else's stays, and stops the removal.
    fs::create_dir_all(world.at("pod/volume-subpaths/v/c/9/kept")).unwrap();
    assert!(tear_down(&world.at("pod")).is_err());
    assert!(world.at("pod/volume-subpaths/v/c/9/kept").exists());
    fs::remove_dir(world.at("pod/volume-subpaths/v/c/9/kept")).unwrap();
    tear_down(&world.at("pod")).unwrap();
    assert_eq!(fs::metadata(world.at("outside/file")).unwrap().size(), 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn no_path_leads_out(
        links in prop::collection::vec(("[abc]", "(/|\\.\\./|[abc]/|\\./){0,4}[abc.]{0,2}"), 0..6),
        path in "([abc]|\\.\\.|\\.|/){0,8}",
    ) {
        let world = World::new();
        for (index, (name, target)) in links.iter().enumerate() {
            let dir = if index % 2 == 0 { "volume" } else { "volume/dir" };
            let _ = symlink(target, world.at(dir).join(name));
        }
        let volume = fs::canonicalize(world.at("volume")).unwrap();
        let root = world.volume();
        let opened = open_beneath(root.as_fd(), path.trim_start_matches('/'));
        let walked = resolve::walk(root.as_fd(), path.as_bytes());
        for file in [opened, walked].into_iter().flatten() {
            let place = path_of(&file);
            prop_assert!(place.starts_with(&volume), "{} opens {}", path, place.display());
        }
    }
}
