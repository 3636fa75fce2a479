//! The store as it is and as it was.

use super::*;

async fn filled() -> Store {
    let store = memory();
    for (at, text) in [
        ("nodes/n", "1"),
        ("pods/a/x", "1"),
        ("pods/a/y", "1"),
        ("pods/a-b/x", "1"),
        ("pods/b/x", "1"),
        ("podtemplates/a/x", "1"),
    ] {
        put(&store, at, text).await;
    }
    store
}

#[tokio::test]
async fn lists_are_in_order_and_of_one_scope() {
    let store = filled().await;
    let check = |resource: &str, namespace: Option<&str>, after: Option<(&str, &str)>, expected: &str| {
        let snapshot = store.snapshot().unwrap();
        let objects = snapshot.list(resource, namespace, after).unwrap();
        let names: Vec<String> = objects.map(|item| item.unwrap().0.to_string()).collect();
        assert_eq!(names.join(" "), expected, "{resource} {namespace:?} {after:?}");
        assert_eq!(snapshot.count(resource, namespace, after).unwrap(), names.len() as u64);
    };
    check("pods", None, None, "pods/a/x pods/a/y pods/a-b/x pods/b/x");
    check("pods", Some("a"), None, "pods/a/x pods/a/y");
    check("pods", Some("a"), Some(("a", "x")), "pods/a/y");
    check("pods", Some("a"), Some(("a", "y")), "");
    check("pods", None, Some(("a", "xx")), "pods/a/y pods/a-b/x pods/b/x");
    check("pods", None, Some(("a-b", "x")), "pods/b/x");
    check("pods", Some("c"), None, "");
    check("nodes", None, None, "nodes/n");
    check("nodes", Some(""), None, "nodes/n");
    check("nodes", None, Some(("", "n")), "");
    check("pod", None, None, "");
}

#[tokio::test]
async fn parts_of_keys_do_not_run_into_each_other() {
    let store = memory();
    for odd in [("pods", "a/b", "c"), ("pods", "a", "b/c"), ("pods/a", "b", "c"), ("pods", "", "a\0b")] {
        let key = Key::new(odd.0, odd.1, odd.2);
        store.write(move |transaction| transaction.put(key, "1")).await.unwrap();
    }
    assert_eq!(list(&store.snapshot().unwrap(), "pods").len(), 3);
    assert_eq!(list(&store.snapshot().unwrap(), "pods/a").len(), 1);
}

#[tokio::test]
async fn a_snapshot_does_not_see_what_comes_after_it() {
    let store = filled().await;
    let before = store.snapshot().unwrap();
    let expected = list(&before, "pods");
    delete(&store, "pods/a/x").await;
    put(&store, "pods/a/y", "2").await;
    store.compact_to(u64::MAX).await.unwrap();
    assert_eq!(list(&before, "pods"), expected);
    assert_eq!(before.revision(), 7);
    assert_eq!(list(&store.snapshot().unwrap(), "pods").len(), 3);
}

#[tokio::test]
async fn the_past_is_made_of_the_present_and_the_log() {
    let store = filled().await;
    put(&store, "pods/a/x", "2").await;
    put(&store, "pods/a/x", "3").await;
    delete(&store, "pods/a/y").await;
    put(&store, "pods/b/y", "1").await;
    delete(&store, "pods/b/x").await;
    put(&store, "pods/b/x", "again").await;
    let check = |revision: u64, expected: &[&str]| {
        let snapshot = store.snapshot_at(revision).unwrap();
        assert_eq!(list(&snapshot, "pods"), expected, "at {revision}");
        assert_eq!(snapshot.revision(), revision);
        assert_eq!(snapshot.count("pods", None, None).unwrap(), expected.len() as u64);
        for line in expected {
            let (name, rest) = line.split_once('=').unwrap();
            let record = snapshot.get(&key(name)).unwrap().unwrap();
            assert_eq!(format!("{}@{}", text(&record.bytes), record.modified), rest);
        }
    };
    check(1, &[]);
    check(4, &["pods/a/x=1@3", "pods/a/y=1@4"]);
    check(7, &["pods/a/x=1@3", "pods/a/y=1@4", "pods/a-b/x=1@5", "pods/b/x=1@6"]);
    check(8, &["pods/a/x=2@8", "pods/a/y=1@4", "pods/a-b/x=1@5", "pods/b/x=1@6"]);
    check(10, &["pods/a/x=3@9", "pods/a-b/x=1@5", "pods/b/x=1@6"]);
    check(12, &["pods/a/x=3@9", "pods/a-b/x=1@5", "pods/b/y=1@11"]);
    check(13, &["pods/a/x=3@9", "pods/a-b/x=1@5", "pods/b/x=again@13", "pods/b/y=1@11"]);
    let created = store.snapshot_at(11).unwrap().get(&key("pods/b/x")).unwrap().map(|record| record.created);
    assert_eq!(created, Some(6));
    let gone = store.snapshot_at(12).unwrap().get(&key("pods/b/x")).unwrap();
    assert_eq!(gone, None);

    let error = |revision| store.snapshot_at(revision).unwrap_err().to_string();
    assert_eq!(error(14), "too large resource version: 14, current: 13");
    store.compact_to(8).await.unwrap();
    assert_eq!(store.oldest_revision(), 8);
    assert_eq!(error(7), "the revision 7 is compacted, the oldest is 8");
    store.compact_to(5).await.unwrap();
    assert_eq!(store.oldest_revision(), 8);
    let at = store.snapshot_at(8).unwrap();
    assert_eq!(list(&at, "pods").len(), 4);
}

#[tokio::test]
async fn pages_are_of_one_revision_while_writes_go_on() {
    let store = memory();
    let fill = store.write(|transaction| {
        for number in 0..1000 {
            transaction.put(Key::new("pods", "a", format!("{number:04}")), "old")?;
        }
        Ok::<(), StoreError>(())
    });
    fill.await.unwrap();
    let revision = store.revision();
    let (mut seen, mut after): (Vec<String>, Option<String>) = (vec![], None);
    let mut round = 0;
    loop {
        let snapshot = store.snapshot_at(revision).unwrap();
        let cursor = after.as_deref().map(|name| ("a", name));
        let left = snapshot.count("pods", None, cursor).unwrap();
        assert_eq!(left, 1000 - seen.len() as u64);
        let page: Vec<_> =
            snapshot.list("pods", None, cursor).unwrap().take(64).map(|item| item.unwrap()).collect();
        let Some((last, _)) = page.last() else { break };
        after = Some(last.name.clone());
        assert!(page.iter().all(|(_, record)| record.bytes == "old"));
        seen.extend(page.into_iter().map(|(key, _)| key.name));
        for number in 0..20 {
            let number = (round * 37 + number * 53) % 1000;
            put(&store, &format!("pods/a/{number:04}"), "new").await;
            delete(&store, &format!("pods/a/{:04}", (number + 7) % 1000)).await;
            put(&store, &format!("pods/a/{number:04}-added"), "new").await;
        }
        round += 1;
    }
    let expected: Vec<String> = (0..1000).map(|number| format!("{number:04}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_log_is_bounded_by_count_bytes_and_age() {
    let clock = Clock::default();
    let with = |log: LogLimits| Store::in_memory(StoreOptions { log, ..clock.options() }).unwrap();
    let no = LogLimits { changes: u64::MAX / 2, bytes: u64::MAX / 2, age: Duration::from_secs(1 << 40) };

    let store = with(LogLimits { changes: 32, ..no });
    for number in 0..200 {
        put(&store, "pods/a/x", &number.to_string()).await;
    }
    let kept = store.revision() - store.oldest_revision();
    assert!((32..=34).contains(&kept), "{kept}");

    let store = with(LogLimits { bytes: 10_000, ..no });
    for _ in 0..200 {
        put(&store, "pods/a/x", &"x".repeat(100)).await;
    }
    // Each change weighs what was before it and what is after it.
    let kept = store.revision() - store.oldest_revision();
    assert!((50..=54).contains(&kept), "{kept}");
    // One that is too big by itself is still told.
    let mut watcher = store.watch("pods", None, None, store.revision()).unwrap();
    put(&store, "pods/a/big", &"x".repeat(20_000)).await;
    assert_eq!(drain(&mut watcher).len(), 1);
    assert_eq!(store.revision() - store.oldest_revision(), 1);

    let store = with(LogLimits { age: Duration::from_secs(300), ..no });
    for _ in 0..10 {
        put(&store, "pods/a/x", "1").await;
        clock.forward(60);
    }
    assert_eq!(store.revision() - store.oldest_revision(), 6);
    clock.forward(3600);
    // Nothing runs at rest, the next write does it.
    assert_eq!(store.revision() - store.oldest_revision(), 6);
    put(&store, "pods/a/x", "1").await;
    assert_eq!(store.revision() - store.oldest_revision(), 1);
}
