//! The writer on real directories: layout, changes, planted links, a cut at every step, readers beside it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;

fn files(list: &[(&str, &str)]) -> Payload {
    let file = |text: &str| ProjectedFile { bytes: text.into(), mode: 0o644, owner: None };
    list.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_412_700 + second).unwrap()
}

/// What a user sees: every file below the visible names, through their links.
fn visible(volume: &Path) -> BTreeMap<String, String> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if prefix.is_empty() && name.starts_with("..") {
                continue;
            }
            let path = format!("{prefix}{name}");
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{path}/"), found);
            } else {
                let text = fs::read_to_string(entry.path()).unwrap_or_else(|error| error.kind().to_string());
                found.insert(path, text);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(volume, "", &mut found);
    found
}

fn texts(payload: &Payload) -> BTreeMap<String, String> {
    let text = |file: &ProjectedFile| String::from_utf8(file.bytes.clone()).unwrap();
    payload.iter().map(|(path, file)| (path.clone(), text(file))).collect()
}

fn names(volume: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(volume)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_layout_is_upstreams() {
    let volume = tempfile::tempdir().unwrap();
    let first = files(&[("podName", "a"), ("user/labels", "b"), ("user/more/annotations", "c")]);
    let nanos = at(0).checked_add(jiff::SignedDuration::from_nanos(123_456_789)).unwrap();
    assert_eq!(write(volume.path(), &first, None, nanos).unwrap(), Written::Changed);
    assert_eq!(names(volume.path()), ["..2026_11_23_05_45_00.123456789", "..data", "podName", "user"]);
    let link = |name: &str| fs::read_link(volume.path().join(name)).unwrap().display().to_string();
    assert_eq!(link("..data"), "..2026_11_23_05_45_00.123456789");
    assert_eq!((link("podName"), link("user")), ("..data/podName".to_owned(), "..data/user".to_owned()));
    assert_eq!(visible(volume.path()), texts(&first));
    let mode = |name: &str| fs::metadata(volume.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("..data/"), mode("user"), mode("user/more"), mode("podName")),
        (0o755, 0o755, 0o755, 0o644)
    );
    // The next version takes the place of the first, and what is gone is not to be seen.
    let second = files(&[("podName", "z"), ("new", "n")]);
    assert_eq!(write(volume.path(), &second, None, at(1)).unwrap(), Written::Changed);
    assert_eq!(names(volume.path()), ["..2026_11_23_05_45_01.000000000", "..data", "new", "podName"]);
    assert_eq!(visible(volume.path()), texts(&second));
    // No file at all is a version too.
    write(volume.path(), &Payload::new(), None, at(1)).unwrap();
    assert_eq!(names(volume.path()), ["..2026_11_23_05_45_01.000000001", "..data"]);
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let volume = tempfile::tempdir().unwrap();
    let mut payload = files(&[("a", "1"), ("d/b", "2")]);
    write(volume.path(), &payload, None, at(0)).unwrap();
    let inode = || fs::metadata(volume.path().join("a")).unwrap().ino();
    let before = inode();
    assert_eq!(write(volume.path(), &payload, None, at(1)).unwrap(), Written::Unchanged);
    assert_eq!(inode(), before);
    // A visible link that went missing comes back without a new version.
    fs::remove_file(volume.path().join("d")).unwrap();
    assert_eq!(write(volume.path(), &payload, None, at(2)).unwrap(), Written::Unchanged);
    assert_eq!(visible(volume.path()), texts(&payload));
    payload.get_mut("a").unwrap().mode = 0o600;
    assert_eq!(write(volume.path(), &payload, None, at(3)).unwrap(), Written::Changed);
    assert_eq!(fs::metadata(volume.path().join("a")).unwrap().mode() & 0o7777, 0o600);
    payload.remove("d/b");
    assert_eq!(write(volume.path(), &payload, None, at(4)).unwrap(), Written::Changed);
    assert_eq!(visible(volume.path()), texts(&payload));
}

#[test]
fn a_group_reads_and_a_user_owns() {
    let volume = tempfile::tempdir().unwrap();
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let mut payload = files(&[("token", "t"), ("d/e", "")]);
    *payload.get_mut("token").unwrap() =
        ProjectedFile { bytes: b"t".to_vec(), mode: 0o600, owner: Some(1000) };
    write(volume.path(), &payload, Some(77), at(0)).unwrap();
    let of = |name: &str| {
        let found = fs::metadata(volume.path().join(name)).unwrap();
        (found.mode() & 0o7777, found.uid(), found.gid())
    };
    assert_eq!(of("token"), (0o640, 1000, 77));
    assert_eq!(of("d/e"), (0o644, 0, 77));
    assert_eq!((of("..data/"), of("d/")), ((0o2755, 0, 77), (0o2755, 0, 77)));
    assert_eq!(write(volume.path(), &payload, Some(77), at(1)).unwrap(), Written::Unchanged);
    assert_eq!(write(volume.path(), &payload, Some(78), at(2)).unwrap(), Written::Changed);
    assert_eq!(write(volume.path(), &payload, None, at(3)).unwrap(), Written::Changed);
    assert_eq!(of("token"), (0o600, 1000, 0));
}

#[test]
fn planted_links_lead_nowhere() {
    let base = tempfile::tempdir().unwrap();
    let (volume, outside) = (base.path().join("volume"), base.path().join("outside"));
    for dir in [&volume, &outside] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(outside.join("precious"), "x").unwrap();
    let untouched = || {
        assert_eq!(names(&outside), ["precious"]);
        assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "x");
    };
    let payload = files(&[("a", "1"), ("d/precious", "2")]);
    symlink(&outside, volume.join("..data")).unwrap();
    symlink(outside.join("precious"), volume.join("a")).unwrap();
    symlink(&outside, volume.join("d")).unwrap();
    symlink(&outside, volume.join("..2020_01_01_00_00_00.1")).unwrap();
    symlink(&outside, volume.join("..data_tmp")).unwrap();
    write(&volume, &payload, None, at(0)).unwrap();
    assert_eq!(visible(&volume), texts(&payload));
    untouched();
    // A version whose inside was swapped for links is replaced.
    fs::remove_dir_all(volume.join("..data/d")).unwrap();
    symlink(&outside, volume.join("..data/d")).unwrap();
    write(&volume, &payload, None, at(1)).unwrap();
    assert_eq!(visible(&volume), texts(&payload));
    untouched();
    // So is `..data` as a directory or file.
    for plant in [true, false] {
        fs::remove_file(volume.join("..data")).unwrap();
        if plant {
            fs::create_dir(volume.join("..data")).unwrap();
            fs::write(volume.join("..data/a"), "planted").unwrap();
        } else {
            fs::write(volume.join("..data"), "planted").unwrap();
        }
        write(&volume, &payload, None, at(2)).unwrap();
        assert_eq!(visible(&volume), texts(&payload));
    }
    let link = base.path().join("link");
    symlink(&volume, &link).unwrap();
    assert!(write(&link, &payload, None, at(3)).is_err(), "the volume itself may not be a link");
}

#[test]
fn directories_that_other_volumes_are_mounted_on_stay() {
    let volume = tempfile::tempdir().unwrap();
    fs::create_dir_all(volume.path().join("nested")).unwrap();
    write(volume.path(), &files(&[("nested", "x"), ("a", "1")]), None, at(0)).unwrap();
    assert_eq!(visible(volume.path()), texts(&files(&[("a", "1")])));
    assert!(volume.path().join("nested").is_dir());
}

#[test]
fn a_cut_at_any_step_leaves_the_old_or_the_new() {
    let old = files(&[("same", "old"), ("gone/x", "old"), ("kept", "both")]);
    let new = files(&[("same", "new"), ("fresh/y", "new"), ("kept", "both")]);
    let mut steps = 0;
    for cut in 0.. {
        let volume = tempfile::tempdir().unwrap();
        write(volume.path(), &old, None, at(0)).unwrap();
        let mut left = cut;
        let done = write_stepwise(volume.path(), &new, None, at(1), &mut |_| {
            left -= 1;
            if left < 0 { Err(io::Error::other("killed")) } else { Ok(()) }
        });
        // The version that `..data` shows is whole, and its visible names lead to it or nowhere.
        let data = visible(&volume.path().join("..data/"));
        assert!(data == texts(&old) || data == texts(&new), "cut at {cut}: {data:?}");
        for (path, text) in visible(volume.path()) {
            assert!(data.get(&path).is_none_or(|whole| *whole == text), "cut at {cut}: {path}");
        }
        // Whatever was cut off, the next write completes it, to either content.
        for payload in [&new, &old] {
            write(volume.path(), payload, None, at(2)).unwrap();
            assert_eq!(visible(volume.path()), texts(payload), "after a cut at {cut}");
            assert_eq!(names(volume.path()).iter().filter(|name| name.starts_with("..")).count(), 2);
        }
        steps = cut;
        if done.is_ok() {
            break;
        }
    }
    assert!(steps >= 10, "only {steps} steps");
}

#[test]
fn a_reader_never_sees_a_mix() {
    let volume = tempfile::tempdir().unwrap();
    let version = |number: usize| {
        let text = format!("{number}").repeat(200);
        files(&[("a", &text), ("b", &text), ("c/d", &text)])
    };
    write(volume.path(), &version(0), None, at(0)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut whole = 0;
            while !done.load(Ordering::Relaxed) || whole == 0 {
                // An open version may go away under the reader, but it does not change.
                let Ok(dir) = fs::File::open(volume.path().join("..data")) else { continue };
                let read = |name: &str| {
                    let flags = rustix::fs::OFlags::RDONLY;
                    let file = rustix::fs::openat(&dir, name, flags, rustix::fs::Mode::empty()).ok()?;
                    io::read_to_string(fs::File::from(file)).ok()
                };
                if let (Some(a), Some(b), Some(d)) = (read("a"), read("b"), read("c/d")) {
                    assert!(a == b && b == d && !a.is_empty());
                    whole += 1;
                }
            }
        });
        for number in 1..150 {
            write(volume.path(), &version(number), None, at(1)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}

fn payloads() -> impl Strategy<Value = Payload> {
    let path = prop_oneof![Just("a"), Just("b"), Just("d/x"), Just("d/y"), Just("e/f/g"), Just("e/h")];
    let file = ("[a-c]{0,3}", prop_oneof![Just(0o644_u32), Just(0o600), Just(0o755)]);
    proptest::collection::btree_map(path.prop_map(str::to_owned), file, 0..6).prop_map(|map| {
        let file = |(text, mode): (String, u32)| ProjectedFile { bytes: text.into(), mode, owner: None };
        map.into_iter().map(|(path, content)| (path, file(content))).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_ends_with_its_last(sequence in proptest::collection::vec((payloads(), 0_i32..12), 1..6)) {
        let volume = tempfile::tempdir().unwrap();
        for (payload, cut) in &sequence {
            let mut left = *cut;
            let _ = write_stepwise(volume.path(), payload, None, at(0), &mut |_| {
                left -= 1;
                if left < 0 { Err(io::Error::other("killed")) } else { Ok(()) }
            });
        }
        let (last, _) = sequence.last().unwrap();
        write(volume.path(), last, None, at(0)).unwrap();
        prop_assert_eq!(visible(volume.path()), texts(last));
        for (path, file) in last {
            let mode = fs::metadata(volume.path().join(path)).unwrap().permissions().mode();
            prop_assert_eq!(mode & 0o7777, file.mode);
        }
        prop_assert_eq!(write(volume.path(), last, None, at(0)).unwrap(), Written::Unchanged);
    }
}
