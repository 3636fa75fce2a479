//! Disks that are full or broken: writes say so, reads go on, and all is well when the disk is.

use std::io::ErrorKind;

use super::*;

/// From the `after`th write to the disk on, each fails as `kind`. Returns how many writes failed and happened all the
/// same.
async fn check(kind: ErrorKind, after: u32) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut expected = vec![];
    for number in 0..4 {
        let revision = put(&store, &format!("pods/a/{number:02}"), &"x".repeat(5000)).await;
        expected.push(format!("pods/a/{number:02}={}@{revision}", "x".repeat(5000)));
    }
    let mut watcher = store.watch("pods", None, None, store.revision()).unwrap();
    let faults = store.shared.faults();
    faults.set(kind, after);
    let mut failures = 0;
    for number in 0..6 {
        let at = format!("pods/b/{number}");
        let written = {
            let at = at.clone();
            store.write(move |transaction| transaction.put(key(&at), "y".repeat(5000))).await
        };
        match written {
            Ok(revision) => expected.push(format!("{at}={}@{revision}", "y".repeat(5000))),
            Err(WriteError::Store(StoreError::NoSpace { .. })) if kind == ErrorKind::StorageFull => {
                failures += 1
            }
            Err(WriteError::Store(StoreError::Io { .. })) if kind != ErrorKind::StorageFull => failures += 1,
            Err(error) => panic!("{error:?}"),
        }
        // Whatever was acknowledged is there; what was not may be, and is then told.
        let listed = list(&store.snapshot().unwrap(), "pods");
        assert!(expected.iter().all(|line| listed.contains(line)), "after {after}, {number}: {listed:?}");
        let (_, readable) = store.shared.can();
        assert!(readable);
    }
    assert!(failures > 0, "after {after}");
    // Not even mending the file can be written.
    assert_eq!(store.shared.can(), (false, true));
    faults.clear();
    let revision = put(&store, "pods/c/x", "again").await;
    let told = drain(&mut watcher);
    let listed = list(&store.snapshot().unwrap(), "pods");
    assert_eq!(told.len() + 4, listed.len(), "after {after}");
    assert_eq!(*told.last().unwrap(), format!("{revision} Added pods/c/x again"));
    assert_eq!(store.shared.can(), (true, true));
    drop(store);
    assert_eq!(list(&open(folder.path()).snapshot().unwrap(), "pods"), listed);
    listed.len() - expected.len() - 1
}

#[tokio::test]
async fn a_full_disk() {
    let mut survived = 0;
    for after in 0..40 {
        survived += check(ErrorKind::StorageFull, after).await;
    }
    // When the very last write of a transaction fails.
    assert!(survived > 0);
}

#[tokio::test]
async fn a_broken_disk() {
    for after in [0, 1, 3, 6, 10, 25] {
        check(ErrorKind::Other, after).await;
    }
}

#[tokio::test]
async fn everyone_in_a_transaction_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut held = Box::pin(store.write(move |_| {
        let _ = wait.recv();
        Ok::<(), StoreError>(())
    }));
    assert!(futures::poll!(&mut held).is_pending());
    let mut first = Box::pin(store.write(|transaction| transaction.put(key("pods/a/x"), "1")));
    assert!(futures::poll!(&mut first).is_pending());
    // It says no because of what the first did, which is not kept.
    let mut second = Box::pin(store.write(|transaction| match transaction.get(&key("pods/a/x")) {
        Ok(Some(_)) => Err("there already"),
        _ => Ok(()),
    }));
    assert!(futures::poll!(&mut second).is_pending());
    store.shared.faults().set(ErrorKind::StorageFull, 0);
    go.send(()).unwrap();
    drop(held.await);
    let first = first.await.unwrap_err();
    assert!(matches!(first, WriteError::Store(StoreError::NoSpace { .. })), "{first:?}");
    match second.await {
        // In the same transaction, or in one of its own after the first had failed.
        Err(WriteError::Store(StoreError::NoSpace { .. })) => {}
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(list(&store.snapshot().unwrap(), "pods"), [""; 0]);
}
