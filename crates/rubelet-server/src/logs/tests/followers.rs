//! Followers of logs that are rotated while they follow.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// Files that are open for writing, by inode.
#[derive(Clone, Default)]
struct Open(Arc<Mutex<Vec<u64>>>);

impl Open {
    fn set(&self, inodes: &[u64]) {
        *self.0.lock().unwrap() = inodes.to_vec();
    }
    fn writers(&self) -> Writers {
        let open = self.0.clone();
        Arc::new(move |file| Some(open.lock().unwrap().contains(&file.metadata().unwrap().ino())))
    }
    fn follow(&self, dir: &Dir) -> LogReader {
        let files = LogFiles::at(&dir.path("0.log")).unwrap();
        let options = LogOptions::from_query("follow=true").unwrap();
        LogReader::open(files, Some(self.writers()), &options, NOW.parse().unwrap()).unwrap()
    }
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn a_follower_stays_with_a_file_until_its_writer_leaves() {
    let dir = Dir::new();
    let (path, old) = (dir.path("0.log"), dir.path("0.log.20240101-000001"));
    append(&path, &entry(1, "F", "1"));
    let open = Open::default();
    open.set(&[inode(&path)]);
    let mut reader = open.follow(&dir);
    let more = |reader: &mut LogReader, expected: &str| {
        assert_eq!(drain(reader), (expected.to_owned(), Step::CaughtUp));
    };
    more(&mut reader, "1\n");
    std::fs::rename(&path, &old).unwrap();
    append(&path, &entry(3, "F", "3"));
    more(&mut reader, "");
    append(&old, &entry(2, "F", "2"));
    more(&mut reader, "2\n");
    append(&old, &entry(2, "F", "more"));
    open.set(&[]);
    more(&mut reader, "more\n3\n");
    // Somebody else may have it open for ever.
    open.set(&[inode(&path)]);
    let third = dir.path("0.log.20240101-000002");
    std::fs::rename(&path, &third).unwrap();
    append(&path, &entry(4, "F", "4"));
    more(&mut reader, "");
    let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
    set_changed(&third, changed - Duration::from_secs(6));
    more(&mut reader, "4\n");
    // The container has ended: what is there is all there will be.
    open.set(&[inode(&path)]);
    std::fs::rename(&path, dir.path("0.log.20240101-000003")).unwrap();
    append(&path, &entry(5, "F", "5"));
    reader.close();
    assert_eq!(drain(&mut reader), ("5\n".to_owned(), Step::Done));
}

#[test]
fn a_follower_that_falls_behind_goes_on_with_what_is_left() {
    let dir = Dir::new();
    let path = dir.path("0.log");
    append(&path, &entry(1, "F", "1"));
    let mut reader = dir.open("follow=true");
    assert_eq!(drain(&mut reader).0, "1\n");
    append(&path, &entry(2, "F", "2"));
    set_changed(&path, SystemTime::UNIX_EPOCH);
    // Rotated away and removed before the follower looks again.
    std::fs::remove_file(&path).unwrap();
    append(&dir.path("0.log.20240101-000003"), &entry(3, "F", "3"));
    append(&dir.path("0.log.20240101-000004"), &entry(4, "F", "4"));
    append(&path, &entry(5, "F", "5"));
    assert_eq!(drain(&mut reader), ("2\n3\n4\n5\n".to_owned(), Step::CaughtUp));
}

/// What may happen to a log that is followed.
#[derive(Debug, Clone)]
enum Happens {
    Written(usize),
    /// The old file is written for as many lines after the new one was begun.
    Rotated(usize),
    /// The old file's writer leaves it.
    Left,
    Compressed,
    /// The follower looks, so many steps.
    Looks(usize),
}

proptest! {
    #[test]
    fn followers_lose_and_double_nothing(
        happens in proptest::collection::vec(prop_oneof![
            (0usize..4).prop_map(Happens::Written),
            (0usize..3).prop_map(Happens::Rotated),
            Just(Happens::Left),
            Just(Happens::Compressed),
            (1usize..4).prop_map(Happens::Looks),
        ], 0..60),
    ) {
        let dir = Dir::new();
        let (path, open) = (dir.path("0.log"), Open::default());
        let mut lines = 0;
        let mut write = |path: &Path, count: usize| {
            for _ in 0..count {
                append(path, &entry(0, "F", &lines.to_string()));
                lines += 1;
            }
        };
        write(&path, 1);
        open.set(&[inode(&path)]);
        let mut reader = open.follow(&dir);
        let mut got = Vec::new();
        // The rotated files, and how many lines are still to be written to the last of them.
        let mut rotated: Vec<PathBuf> = Vec::new();
        let mut late = 0;
        // A file's time of last change tells it from others: here one second each.
        let mut second = 1_000;
        let settle = |rotated: &[PathBuf], late: &mut usize, write: &mut dyn FnMut(&Path, usize), second: &mut u64| {
            if let Some(last) = rotated.last().filter(|last| last.exists()) {
                write(last, std::mem::take(late));
                *second += 1;
                set_changed(last, SystemTime::UNIX_EPOCH + Duration::from_secs(*second));
            }
            open.set(&[inode(&path)]);
        };
        for happens in happens.into_iter().chain([Happens::Left]) {
            match happens {
                // The new file is written after the old one has been left.
                Happens::Written(count) => {
                    settle(&rotated, &mut late, &mut write, &mut second);
                    write(&path, count);
                }
                Happens::Rotated(count) => {
                    settle(&rotated, &mut late, &mut write, &mut second);
                    let name = dir.path(&format!("0.log.20240101-{:06}", rotated.len()));
                    std::fs::rename(&path, &name).unwrap();
                    append(&path, "");
                    open.set(&[inode(&path), inode(&name)]);
                    rotated.push(name);
                    late = count;
                }
                Happens::Left => settle(&rotated, &mut late, &mut write, &mut second),
                Happens::Compressed => {
                    let older = rotated.len().saturating_sub(1);
                    if let Some(plain) = rotated[..older].iter().find(|path| path.exists()) {
                        let changed = std::fs::metadata(plain).unwrap().modified().unwrap();
                        let compressed = PathBuf::from(format!("{}.gz", plain.display()));
                        compress(&compressed, &std::fs::read_to_string(plain).unwrap());
                        set_changed(&compressed, changed);
                        std::fs::remove_file(plain).unwrap();
                    }
                }
                Happens::Looks(steps) => {
                    for _ in 0..steps {
                        if let Step::Bytes(bytes) = reader.step().unwrap() {
                            got.extend_from_slice(&bytes);
                        }
                    }
                }
            }
        }
        reader.close();
        got.extend_from_slice(drain(&mut reader).0.as_bytes());
        let expected: String = (0..lines).map(|number| format!("{number}\n")).collect();
        prop_assert_eq!(String::from_utf8(got).unwrap(), expected);
    }
}
