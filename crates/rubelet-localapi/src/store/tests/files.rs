//! The file: whose it is, what becomes of a bad one, copies of it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

const STORE: &str = "store.redb";

async fn filled(folder: &Path) -> Store {
    let store = open(folder);
    for number in 0..40 {
        put(&store, &format!("pods/a/{number:02}"), &"text ".repeat(number)).await;
    }
    delete(&store, "pods/a/07").await;
    store
}

#[tokio::test]
async fn what_was_written_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path()).await;
    let (expected, revision) = (list(&store.snapshot().unwrap(), "pods"), store.revision());
    store.compact_to(10).await.unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(list(&store.snapshot().unwrap(), "pods"), expected);
    assert_eq!((store.revision(), store.oldest_revision()), (revision, 10));
    assert_eq!(drain(&mut store.watch("pods", None, None, 10).unwrap()).len(), 32);
    assert_eq!(put(&store, "pods/a/x", "1").await, revision + 1);
}

#[tokio::test]
async fn a_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/inside");
    let store = open(&path);
    let error = Store::open(&path, options()).unwrap_err();
    let expected = format!("the data folder {} is in use by process {}", path.display(), std::process::id());
    assert_eq!(error.to_string(), expected);
    // A watcher or a snapshot that is forgotten somewhere does not keep it.
    let snapshot = store.snapshot().unwrap();
    let _watcher = store.watch("pods", None, None, 1).unwrap();
    drop(store);
    let again = open(&path);
    assert!(snapshot.list("pods", None, None).is_err() || list(&snapshot, "pods").is_empty());
    drop(again);
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.clone()), 0o700);
    assert_eq!(mode(path.join(STORE)), 0o600);
}

#[tokio::test]
async fn what_an_interrupted_start_left_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("store.redb.new"), "half").unwrap();
    let store = filled(folder.path()).await;
    drop(store);
    std::fs::write(folder.path().join("store.redb.new"), "half").unwrap();
    assert_eq!(list(&open(folder.path()).snapshot().unwrap(), "pods").len(), 39);
    assert!(!folder.path().join("store.redb.new").exists());
}

#[tokio::test]
async fn a_bad_file_is_told_of() {
    let damaged = |folder: &Path| {
        let error = Store::open(folder, options()).unwrap_err();
        let expected =
            format!("the store {} is damaged, restore it from a backup", folder.join(STORE).display());
        assert_eq!(error.to_string(), expected, "{error:?}");
    };
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()).await);
    let path = folder.path().join(STORE);
    let good = std::fs::read(&path).unwrap();
    let bad_files: [(&str, Vec<u8>); 6] = [
        ("empty", vec![]),
        ("no database", b"hello, world".repeat(1000)),
        ("zeros", vec![0; good.len()]),
        ("short", good[..good.len() / 2].to_vec()),
        ("very short", good[..100].to_vec()),
        ("holes", {
            let mut bytes = good.clone();
            bytes[4096..].fill(0x55);
            bytes
        }),
    ];
    for (name, bytes) in bad_files {
        println!("{name}");
        std::fs::write(&path, &bytes).unwrap();
        damaged(folder.path());
        // Nothing was made of it that passes for a store.
        damaged(folder.path());
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(list(&open(folder.path()).snapshot().unwrap(), "pods").len(), 39);

    // A database, but none of ours.
    std::fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    damaged(folder.path());
}

#[tokio::test]
async fn a_flipped_bit_is_told_of_or_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path()).await;
    let expected = list(&store.snapshot().unwrap(), "pods");
    drop(store);
    let path = folder.path().join(STORE);
    let good = std::fs::read(&path).unwrap();
    let mut told = 0;
    for step in 0..200 {
        let mut bytes = good.clone();
        let at = (step * 7919 + step * step * 31) % bytes.len();
        bytes[at] ^= 1 << (step % 8);
        std::fs::write(&path, &bytes).unwrap();
        match Store::open(folder.path(), options()) {
            Ok(store) => assert_eq!(list(&store.snapshot().unwrap(), "pods"), expected, "byte {at}"),
            Err(OpenError::Store(StoreError::Damaged { .. })) => told += 1,
            Err(error) => panic!("byte {at}: {error:?}"),
        }
    }
    assert!(told > 20, "{told}");
}

#[tokio::test]
async fn a_newer_format_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let path = folder.path().join(STORE);
    {
        let database = redb::Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut meta = transaction.open_table(super::super::tables::META).unwrap();
        meta.insert("format", 9).unwrap();
        drop(meta);
        transaction.commit().unwrap();
    }
    let error = Store::open(folder.path(), options()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 9, known: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn a_backup_is_of_one_revision_and_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (data, saved) = (folder.path().join("data"), folder.path().join("saved"));
    let store = filled(&data).await;
    let (expected, revision) = (list(&store.snapshot().unwrap(), "pods"), store.revision());
    assert_eq!(store.backup(&saved).unwrap(), Backup { revision, objects: 39 });
    assert_eq!(std::fs::metadata(&saved).unwrap().permissions().mode() & 0o777, 0o600);
    let error = store.backup(&saved).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is there already", saved.display()));
    // Life goes on after the backup.
    put(&store, "pods/a/later", "1").await;
    let latest = delete(&store, "pods/a/00").await.unwrap();

    let error = restore(&saved, &data, Timestamp::UNIX_EPOCH).unwrap_err();
    assert!(error.to_string().contains("is in use by process"), "{error}");
    drop(store);

    let restored = restore(&saved, &data, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(restored, Backup { revision: latest + 1_000_000_000, objects: 39 });
    let store = open(&data);
    assert_eq!(list(&store.snapshot().unwrap(), "pods"), expected);
    assert_eq!(store.revision(), restored.revision);
    // Nobody can go on from what is no more.
    for after in [1, revision, latest] {
        let error = store.watch("pods", None, None, after).unwrap_err();
        assert!(matches!(error, WatchError::Compacted { oldest } if oldest == restored.revision));
    }
    assert_eq!(put(&store, "pods/a/01", "1").await, restored.revision + 1);
    drop(store);

    // Also where there was nothing, or nothing good.
    let elsewhere = folder.path().join("elsewhere");
    assert_eq!(restore(&saved, &elsewhere, Timestamp::UNIX_EPOCH).unwrap().objects, 39);
    std::fs::write(elsewhere.join(STORE), "garbage").unwrap();
    assert_eq!(restore(&saved, &elsewhere, Timestamp::UNIX_EPOCH).unwrap().objects, 39);
    assert_eq!(list(&open(&elsewhere).snapshot().unwrap(), "pods"), expected);
}

#[tokio::test]
async fn a_bad_backup_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (data, saved) = (folder.path().join("data"), folder.path().join("saved"));
    let store = filled(&data).await;
    store.backup(&saved).unwrap();
    drop(store);
    let good = std::fs::read(&saved).unwrap();
    let check = |bytes: Option<&[u8]>, expected: &str| {
        match bytes {
            Some(bytes) => std::fs::write(&saved, bytes).unwrap(),
            None => std::fs::remove_file(&saved).unwrap(),
        }
        let error = restore(&saved, &data, Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(error.to_string(), expected.replace("SAVED", &saved.display().to_string()));
        assert_eq!(list(&open(&data).snapshot().unwrap(), "pods").len(), 39);
    };
    check(Some(&good[..good.len() / 2]), "the backup SAVED is damaged");
    check(Some(&good[..100]), "the backup SAVED is damaged");
    check(Some(b""), "SAVED is no backup of a store (`rubelet local backup` makes one)");
    check(
        Some(b"garbage that is longer than a head"),
        "SAVED is no backup of a store (`rubelet local backup` makes one)",
    );
    check(None, "cannot read the backup SAVED");
}
