//! What a write keeps and what it does not.

use super::*;

/// Runs the same over a store in memory and one in a folder.
macro_rules! on_both {
    ($name:ident, $store:ident, $body:block) => {
        #[tokio::test(start_paused = true)]
        async fn $name() {
            let folder = tempfile::tempdir().unwrap();
            for $store in [memory(), open(folder.path())] {
                $body
            }
        }
    };
}

on_both!(revisions_count_changes, store, {
    assert_eq!(store.revision(), 1);
    assert_eq!(store.snapshot().unwrap().revision(), 1);
    assert_eq!(put(&store, "pods/a/x", "one").await, 2);
    assert_eq!(put(&store, "pods/a/x", "two").await, 3);
    assert_eq!(put(&store, "pods/a/y", "one").await, 4);
    assert_eq!(delete(&store, "pods/a/y").await, Some(5));
    assert_eq!(delete(&store, "pods/a/y").await, None);
    assert_eq!(put(&store, "pods/a/y", "again").await, 6);
    assert_eq!(store.revision(), 6);
    let snapshot = store.snapshot().unwrap();
    assert_eq!(list(&snapshot, "pods"), ["pods/a/x=two@3", "pods/a/y=again@6"]);
    let created = |at| snapshot.get(&key(at)).unwrap().map(|record| record.created);
    assert_eq!((created("pods/a/x"), created("pods/a/y"), created("pods/a/z")), (Some(2), Some(6), None));
});

on_both!(a_job_sees_its_own_changes, store, {
    put(&store, "pods/a/x", "old").await;
    put(&store, "pods/b/x", "old").await;
    let seen = store.write(|transaction| {
        assert_eq!(transaction.revision(), 3);
        for (at, text) in [("pods/a/w", "new"), ("pods/a/x", "new"), ("secrets/a/x", "new")] {
            let revision = transaction.next_revision();
            assert_eq!(transaction.put(key(at), text.to_owned())?, revision);
        }
        assert_eq!(transaction.delete(&key("pods/b/x"), "last")?, Some(7));
        assert_eq!(transaction.get(&key("pods/b/x"))?, None);
        transaction.put(key("pods/b/y"), "new")?;
        assert_eq!(transaction.get(&key("pods/a/x"))?.map(|record| record.created), Some(2));
        Ok::<_, StoreError>([
            lines(transaction.list("pods", None, None)?),
            lines(transaction.list("pods", Some("a"), None)?),
            lines(transaction.list("pods", None, Some(("a", "w")))?),
            lines(transaction.list("pods", Some("c"), None)?),
        ])
    });
    let expected: [&[&str]; 4] = [
        &["pods/a/w=new@4", "pods/a/x=new@5", "pods/b/y=new@8"],
        &["pods/a/w=new@4", "pods/a/x=new@5"],
        &["pods/a/x=new@5", "pods/b/y=new@8"],
        &[],
    ];
    assert_eq!(seen.await.unwrap().to_vec(), expected.map(<[_]>::to_vec));
    assert_eq!(list(&store.snapshot().unwrap(), "pods"), expected[0]);
});

on_both!(a_job_that_fails_leaves_nothing, store, {
    put(&store, "pods/a/x", "old").await;
    let mut watcher = store.watch("pods", None, None, 1).unwrap();
    let rejected = store.write(|transaction| {
        transaction.put(key("pods/a/x"), "new").map_err(|_| "store")?;
        Err::<(), _>("no")
    });
    assert!(matches!(rejected.await, Err(WriteError::Rejected("no"))));
    let panicked = store.write(|transaction| -> Result<(), &str> {
        transaction.delete(&key("pods/a/x"), "last").map_err(|_| "store")?;
        panic!("the job is wrong")
    });
    let error = panicked.await.unwrap_err();
    assert!(matches!(&error, WriteError::Panicked { message } if message == "the job is wrong"), "{error:?}");
    let dry_run = store.write(|transaction| {
        transaction.discard();
        transaction.put(key("pods/a/y"), "new")
    });
    assert_eq!(dry_run.await.unwrap(), 3);
    assert_eq!(store.revision(), 2);
    assert_eq!(list(&store.snapshot().unwrap(), "pods"), ["pods/a/x=old@2"]);
    assert_eq!(drain(&mut watcher), ["2 Added pods/a/x old"]);
    assert_eq!(put(&store, "pods/a/y", "new").await, 3);
});

#[tokio::test]
async fn jobs_that_share_a_transaction_fail_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut watcher = store.watch("pods", None, None, 1).unwrap();
    // The first holds up the writer until all others are queued.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let first = tokio::spawn({
        let store = store.clone();
        async move {
            let held = store.write(move |transaction| {
                let _ = wait.recv();
                transaction.put(key("pods/a/first"), "1")
            });
            held.await.unwrap()
        }
    });
    tokio::task::yield_now().await;
    let others: Vec<_> = (0..100)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let written = store.write(move |transaction| {
                    // Everyone sees those before, whoever failed in between.
                    let before = transaction.list("pods", None, None)?.count();
                    transaction.put(key(&format!("pods/a/{number:03}")), "1")?;
                    match number % 4 {
                        1 => Err(StoreError::Closed { path: "rejected".into() }),
                        2 => panic!("the job is wrong"),
                        3 => {
                            transaction.discard();
                            Ok(before)
                        }
                        _ => Ok(before),
                    }
                });
                written.await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    go.send(()).unwrap();
    assert_eq!(first.await.unwrap(), 2);
    for (number, other) in others.into_iter().enumerate() {
        let kept_before = 1 + number.div_ceil(4);
        match (number % 4, other.await.unwrap()) {
            (0 | 3, Ok(before)) => assert_eq!(before, kept_before, "{number}"),
            (1, Err(WriteError::Rejected(_))) | (2, Err(WriteError::Panicked { .. })) => {}
            (_, outcome) => panic!("{number}: {outcome:?}"),
        }
    }
    assert_eq!(store.revision(), 27);
    assert_eq!(drain(&mut watcher).len(), 26);
    drop((store, watcher));
    assert_eq!(list(&open(folder.path()).snapshot().unwrap(), "pods").len(), 26);
}

#[tokio::test]
async fn the_last_handle_can_go_within_a_job() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut watcher = store.watch("pods", None, None, 1).unwrap();
    let inside = store.clone();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut write = Box::pin(store.write(move |transaction| {
        let _ = wait.recv();
        drop(inside);
        transaction.put(key("pods/a/x"), "1")
    }));
    // It is queued, and nobody waits for the answer.
    assert!(futures::poll!(&mut write).is_pending());
    drop(write);
    drop(store);
    go.send(()).unwrap();
    assert_eq!(watcher.next().await.unwrap().map(|event| line(&event)).unwrap(), "2 Added pods/a/x 1");
    assert!(watcher.next().await.unwrap().is_none());
}
