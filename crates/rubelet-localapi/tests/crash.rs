//! kill -9 in a storm of writes: no acknowledged write is lost, nothing is half there, the log and the objects agree,
//! and watches go on from any revision that was told, or are told that it is too old.
//!
//! The test runs itself as a child process that writes from many tasks and tells of each write that was acknowledged.
//! `RUBELET_CRASH_ROUNDS` says how often it is killed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use rubelet_localapi::store::{
    EventKind, Key, LogLimits, Record, Store, StoreError, StoreOptions, WatchError,
};

const CHILD: &str = "RUBELET_STORE_STORM";
const ROUNDS: &str = "RUBELET_CRASH_ROUNDS";
const DEFAULT_ROUNDS: u32 = 16;
const TASKS: u64 = 16;
const KINDS: [&str; 3] = ["never", "pairs", "storm"];

fn options() -> StoreOptions {
    let options = StoreOptions::new(Arc::new(|| Timestamp::UNIX_EPOCH));
    StoreOptions {
        log: LogLimits { changes: 300, ..LogLimits::default() },
        cache_bytes: 128 << 10,
        ..options
    }
}

/// A generator of numbers that look random; the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// An object tells its revision, and weighs this much.
fn content(revision: u64, weight: u64) -> String {
    format!("{{\"revision\":{revision},\"weight\":\"{}\"}}", "x".repeat(weight as usize))
}

/// The child's part; as a test of its own it does nothing.
#[test]
fn storm() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    println!();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().unwrap();
    runtime.block_on(async {
        let store = Store::open(Path::new(&folder), options()).unwrap();
        let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(write_a_lot(store.clone(), task))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn write_a_lot(store: Store, task: u64) {
    let mut dice = Dice(store.revision() * TASKS + task);
    // An end, should the parent be gone.
    for _ in 0..20_000 {
        let key = Key::new("storm", format!("{task}"), format!("{}", dice.roll(5)));
        let weight = [0, 100, 1000, 6000][dice.roll(4) as usize];
        let (choice, name) = (dice.roll(10), key.clone());
        let written = store.write(move |transaction| {
            let revision = transaction.next_revision();
            match choice {
                0 => {
                    transaction.put(Key::new("never", "", "rejected"), "half")?;
                    Err(StoreError::Closed { path: "rejected".into() })
                }
                1 => {
                    transaction.discard();
                    transaction.put(Key::new("never", "", "dry run"), "half")?;
                    Ok(None)
                }
                2 => Ok(transaction.delete(&key, "last")?.map(|revision| (revision, "deleted"))),
                3 => {
                    for (name, offset) in [("left", 0), ("right", 1)] {
                        let text = content(revision + offset, weight);
                        transaction.put(Key::new("pairs", key.namespace.clone(), name), text)?;
                    }
                    Ok(Some((revision + 1, "paired")))
                }
                _ => Ok(Some((transaction.put(key, content(revision, weight))?, "put"))),
            }
        });
        if let Ok(Some((revision, done))) = written.await {
            let line = format!("ack {revision} {done} {} {}\n", name.namespace, name.name);
            if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// A write that the child was told is done.
#[derive(Debug)]
struct Acknowledged {
    revision: u64,
    key: Key,
    kind: Option<EventKind>,
}

impl Acknowledged {
    /// `None` for other lines, and for one that the child did not finish.
    fn parse(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\n')?.strip_prefix("ack ")?;
        let [revision, done, namespace, name] = *line.split(' ').collect::<Vec<_>>() else { return None };
        let revision = revision.parse().ok()?;
        Some(match done {
            "paired" => Self { revision, key: Key::new("pairs", namespace, "right"), kind: None },
            "deleted" => {
                Self { revision, key: Key::new("storm", namespace, name), kind: Some(EventKind::Deleted) }
            }
            _ => Self { revision, key: Key::new("storm", namespace, name), kind: None },
        })
    }
}

/// Starts the child, kills it and returns what it was told until then.
fn round(folder: &Path, dice: &mut Dice) -> Vec<Acknowledged> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "storm", "--nocapture", "--test-threads", "1"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = vec![];
    let mut line = String::new();
    if dice.roll(4) > 0 {
        // In the storm.
        let enough = 1 + dice.roll(150) as usize;
        while acknowledged.len() < enough && lines.read_line(&mut line).unwrap() > 0 {
            acknowledged.extend(Acknowledged::parse(&line));
            line.clear();
        }
        for _ in 0..dice.roll(100_000) {
            std::hint::spin_loop();
        }
    } else {
        // At any time, most often while it opens the store.
        let patience = Duration::from_micros(dice.roll(40_000));
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        timer.block_on(async { tokio::time::sleep(patience).await });
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while lines.read_line(&mut line).unwrap() > 0 {
        acknowledged.extend(Acknowledged::parse(&line));
        line.clear();
    }
    acknowledged
}

type Objects = BTreeMap<Key, Record>;

fn objects(store: &Store, revision: u64) -> Objects {
    let snapshot = store.snapshot_at(revision).unwrap();
    let lists = KINDS.map(|kind| snapshot.list(kind, None, None).unwrap());
    lists.into_iter().flatten().map(|item| item.unwrap()).collect()
}

/// Key, kind and the object after each change, by revision.
type Changes = BTreeMap<u64, (Key, EventKind, Record)>;

/// All changes after `revision`.
fn changes(store: &Store, revision: u64) -> Changes {
    let mut changes = BTreeMap::new();
    for kind in KINDS {
        let mut watcher = store.watch(kind, None, None, revision).unwrap();
        while let Some(next) = watcher.next().now_or_never() {
            let event = next.unwrap().unwrap();
            let record =
                Record { created: event.created, modified: event.revision, bytes: event.bytes.clone() };
            changes.insert(event.revision, (event.key.clone(), event.kind, record));
        }
    }
    changes
}

/// What `before` has become by the changes after `revision`.
fn replay(log: &Changes, mut before: Objects, revision: u64) -> Objects {
    for (_, (key, kind, record)) in log.range(revision + 1..) {
        let was_there = before.contains_key(key);
        assert_eq!(was_there, *kind != EventKind::Added, "{key} {kind:?}");
        match kind {
            EventKind::Deleted => drop(before.remove(key)),
            EventKind::Added | EventKind::Modified => drop(before.insert(key.clone(), record.clone())),
        }
    }
    before
}

/// Opens the store that was killed and looks at all of it. Returns what is there.
fn verify(folder: &Path, before: (u64, Objects), acknowledged: &[Acknowledged]) -> (u64, Objects) {
    let store = Store::open(folder, options()).unwrap();
    let (revision, oldest) = (store.revision(), store.oldest_revision());
    let now = objects(&store, revision);

    // The log and the objects agree.
    let log = changes(&store, oldest);
    let each: Vec<u64> = (oldest + 1..=revision).collect();
    assert_eq!(log.keys().copied().collect::<Vec<_>>(), each, "each revision is one change");
    assert_eq!(replay(&log, objects(&store, oldest), oldest), now);
    if before.0 >= oldest {
        assert_eq!(objects(&store, before.0), before.1);
        assert_eq!(replay(&log, before.1, before.0), now);
    }

    // Nothing is half there.
    let mut namespaces = BTreeSet::new();
    for (key, record) in &now {
        assert_ne!(key.resource, "never", "{key}");
        let value: serde_json::Value = serde_json::from_slice(&record.bytes).unwrap();
        assert_eq!(value["revision"], record.modified, "{key}");
        namespaces.insert(key.namespace.clone());
    }
    for namespace in namespaces {
        let side = |name: &str| now.get(&Key::new("pairs", namespace.clone(), name));
        let [left, right] = [side("left"), side("right")].map(|side| side.map(|record| record.modified));
        assert_eq!(left.map(|revision| revision + 1), right, "the pair of {namespace}");
    }

    // Nothing that was acknowledged is lost.
    let mut last: BTreeMap<&Key, &Acknowledged> = BTreeMap::new();
    for acknowledged in acknowledged {
        assert!(acknowledged.revision <= revision, "{acknowledged:?} is after {revision}");
        if acknowledged.revision > oldest {
            let (key, kind, _) = &log[&acknowledged.revision];
            assert_eq!(*key, acknowledged.key);
            assert_eq!(*kind == EventKind::Deleted, acknowledged.kind == Some(EventKind::Deleted));
        }
        last.insert(&acknowledged.key, acknowledged);
        // Watches go on.
        match store.watch("storm", None, None, acknowledged.revision) {
            Ok(watcher) => assert_eq!(watcher.revision(), acknowledged.revision),
            Err(WatchError::Compacted { oldest: told }) => {
                assert!(acknowledged.revision < told && told == oldest);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    for (key, last) in last {
        let later = log.iter().any(|(revision, (changed, ..))| *revision > last.revision && changed == key);
        if !later {
            let modified = now.get(key).map(|record| record.modified);
            let expected = (last.kind != Some(EventKind::Deleted)).then_some(last.revision);
            assert_eq!(modified, expected, "{last:?}");
        }
    }
    // At most what each task was waiting for is there without having been acknowledged.
    let told: BTreeSet<u64> = acknowledged.iter().map(|acknowledged| acknowledged.revision).collect();
    let mut untold: BTreeMap<String, u64> = BTreeMap::new();
    for (revision, (key, ..)) in log.iter().filter(|(revision, _)| **revision > before.0) {
        let is_left = key.resource == "pairs" && key.name == "left";
        if !told.contains(revision) && !is_left {
            *untold.entry(key.namespace.clone()).or_default() += 1;
        }
    }
    assert!(untold.values().all(|count| *count <= 1), "{untold:?}");
    (revision, now)
}

#[test]
fn no_acknowledged_write_is_lost() {
    let rounds = std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_ROUNDS);
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice(u64::from(std::process::id()));
    let mut state = (1, Objects::new());
    let mut total = 0;
    for number in 0..rounds {
        let acknowledged = round(folder.path(), &mut dice);
        total += acknowledged.len();
        println!(
            "round {number}: {} acknowledged, the last {:?}",
            acknowledged.len(),
            acknowledged.last().map(|last| last.revision)
        );
        state = verify(folder.path(), state, &acknowledged);
    }
    println!("{rounds} rounds, {total} acknowledged writes, revision {}", state.0);
    assert!(rounds < 8 || total > 0);
}
