//! Arbitrary sequences of what can be done, against a model that keeps all that ever was.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Object, size.
    Put(u8, u16),
    Delete(u8),
    /// Several changes at once, and whether they are kept.
    Together(Vec<(u8, Option<u16>)>, bool),
    /// So many revisions before the newest.
    Compact(u8),
    /// A watcher that begins so many revisions before the newest: of all, of a namespace or of one object.
    Watch(u8, u8),
    /// The watcher tells what it has.
    Drain(u8),
    Forget(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![4 => 0..200u16, 1 => 3000..9000u16];
    let change = (0..12u8, proptest::option::of(size.clone()));
    let step = prop_oneof![
        8 => (0..12u8, size).prop_map(|(object, size)| Step::Put(object, size)),
        3 => (0..12u8).prop_map(Step::Delete),
        2 => (proptest::collection::vec(change, 0..6), any::<bool>())
            .prop_map(|(changes, keep)| Step::Together(changes, keep)),
        1 => (0..10u8).prop_map(Step::Compact),
        3 => (0..6u8, 0..3u8).prop_map(|(back, of)| Step::Watch(back, of)),
        3 => (0..8u8).prop_map(Step::Drain),
        1 => (0..8u8).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

fn object(number: u8) -> Key {
    Key::new(
        ["pods", "secrets"][usize::from(number % 2)],
        ["a", "b"][usize::from(number / 2 % 2)],
        format!("{number}"),
    )
}

#[derive(Debug, Clone, PartialEq)]
struct Told {
    revision: u64,
    key: Key,
    line: String,
}

/// What should be.
#[derive(Default)]
struct Model {
    /// The objects at each revision, from 1 on.
    states: Vec<BTreeMap<Key, Record>>,
    log: Vec<Told>,
}

impl Model {
    fn revision(&self) -> u64 {
        self.states.len() as u64
    }

    fn now(&self) -> BTreeMap<Key, Record> {
        self.states.last().cloned().unwrap_or_default()
    }

    fn change(&mut self, key: Key, content: Option<String>) {
        let mut state = self.now();
        let revision = self.revision() + 1;
        let before = state.get(&key).cloned();
        let (kind, after) = match (&before, &content) {
            (None, None) => return,
            (None, Some(text)) => ("Added", text.clone()),
            (Some(_), Some(text)) => ("Modified", text.clone()),
            (Some(_), None) => ("Deleted", "last".to_owned()),
        };
        let created = before.as_ref().map_or(revision, |record| record.created);
        match content {
            Some(text) => {
                state.insert(key.clone(), Record { created, modified: revision, bytes: text.into() });
            }
            None => {
                state.remove(&key);
            }
        }
        let before = before.map_or_else(String::new, |record| format!("<{}", text(&record.bytes)));
        let line = format!("{revision} {kind} {key} {after}{before}");
        self.log.push(Told { revision, key, line });
        self.states.push(state);
    }
}

struct Following {
    watcher: Watcher,
    resource: &'static str,
    namespace: Option<&'static str>,
    name: Option<String>,
    seen: u64,
}

impl Following {
    fn check(&mut self, model: &Model, store: &Store) {
        let expected: Vec<&Told> = model
            .log
            .iter()
            .filter(|told| told.revision > self.seen && told.key.resource == self.resource)
            .filter(|told| self.namespace.is_none_or(|namespace| told.key.namespace == namespace))
            .filter(|told| self.name.as_ref().is_none_or(|name| told.key.name == *name))
            .collect();
        let first_missed = expected.first().is_some_and(|told| told.revision <= store.oldest_revision());
        let lines = drain(&mut self.watcher);
        match lines.first() {
            Some(line) if line.starts_with("too old") => {
                // It may have got further in memory, but then something that it follows is missing.
                assert!(self.seen < store.oldest_revision(), "{line}");
            }
            _ => {
                let expected: Vec<&String> = expected.into_iter().map(|told| &told.line).collect();
                assert_eq!(lines.iter().collect::<Vec<_>>(), expected, "missed {first_missed}");
                self.seen = model.revision();
                assert_eq!(self.watcher.revision(), model.revision());
            }
        }
    }
}

fn compare(store: &Store, model: &Model) {
    assert_eq!(store.revision(), model.revision());
    let oldest = store.oldest_revision();
    for revision in oldest.max(model.revision().saturating_sub(6))..=model.revision() {
        let snapshot = store.snapshot_at(revision).unwrap();
        let state = &model.states[revision as usize - 1];
        for resource in ["pods", "secrets"] {
            for namespace in [None, Some("a")] {
                let expected: Vec<(&Key, &Record)> = state
                    .iter()
                    .filter(|(key, _)| {
                        key.resource == resource && namespace.is_none_or(|wanted| key.namespace == wanted)
                    })
                    .collect();
                let got: Vec<(Key, Record)> =
                    snapshot.list(resource, namespace, None).unwrap().map(|item| item.unwrap()).collect();
                assert_eq!(got.iter().map(|(key, record)| (key, record)).collect::<Vec<_>>(), expected);
                assert_eq!(snapshot.count(resource, namespace, None).unwrap(), expected.len() as u64);
                // From the middle on.
                if let Some((middle, _)) = expected.get(expected.len() / 2) {
                    let after = Some((middle.namespace.as_str(), middle.name.as_str()));
                    let rest = snapshot.list(resource, namespace, after).unwrap().count();
                    assert_eq!(rest, expected.len() - expected.len() / 2 - 1);
                }
            }
        }
        let one = object((revision % 12) as u8);
        assert_eq!(snapshot.get(&one).unwrap(), state.get(&one).cloned());
    }
    if oldest > 1 {
        assert!(matches!(store.snapshot_at(oldest - 1), Err(SnapshotError::Compacted { .. })));
        assert!(matches!(store.watch("pods", None, None, oldest - 1), Err(WatchError::Compacted { .. })));
    }
    assert!(matches!(store.snapshot_at(model.revision() + 1), Err(SnapshotError::Ahead { .. })));
}

fn run(steps: Vec<Step>, folder: Option<&Path>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = StoreOptions {
            log: LogLimits { changes: 24, bytes: 60_000, ..LogLimits::default() },
            recent: RecentLimits { events: 4, bytes: 10_000 },
            ..options()
        };
        let reopen = || match folder {
            Some(folder) => Store::open(folder, options.clone()).unwrap(),
            None => Store::in_memory(options.clone()).unwrap(),
        };
        let mut store = reopen();
        let mut model = Model { states: vec![BTreeMap::new()], log: vec![] };
        let mut following: Vec<Following> = vec![];
        for (number, step) in steps.into_iter().enumerate() {
            let content = |size: u16| format!("{number}:{}", "x".repeat(size.into()));
            let changes = |changes: Vec<(u8, Option<u16>)>| -> Vec<(Key, Option<String>)> {
                changes.into_iter().map(|(number, size)| (object(number), size.map(content))).collect()
            };
            let (wanted, keep) = match step {
                Step::Put(object, size) => (changes(vec![(object, Some(size))]), true),
                Step::Delete(object) => (changes(vec![(object, None)]), true),
                Step::Together(wanted, keep) => (changes(wanted), keep),
                Step::Compact(back) => {
                    store.compact_to(model.revision().saturating_sub(back.into())).await.unwrap();
                    continue;
                }
                Step::Watch(back, of) => {
                    let after = model.revision().saturating_sub(back.into()).max(store.oldest_revision());
                    let namespace = (of > 0).then_some("a");
                    let name = (of > 1).then(|| "4".to_owned());
                    let watcher = store.watch("pods", namespace, name.as_deref(), after).unwrap();
                    following.push(Following { watcher, resource: "pods", namespace, name, seen: after });
                    continue;
                }
                Step::Drain(which) => {
                    if let Some(following) = following.get_mut(usize::from(which)) {
                        following.check(&model, &store);
                    }
                    continue;
                }
                Step::Forget(which) => {
                    if usize::from(which) < following.len() {
                        following.remove(which.into());
                    }
                    continue;
                }
                Step::Reopen => {
                    if folder.is_some() {
                        following.clear();
                        drop(store);
                        store = reopen();
                    }
                    continue;
                }
            };
            let job = wanted.clone();
            let written = store.write(move |transaction| {
                for (key, content) in job {
                    match content {
                        Some(content) => drop(transaction.put(key, content)?),
                        None => drop(transaction.delete(&key, "last")?),
                    }
                }
                if keep { Ok(()) } else { Err(StoreError::Closed { path: "rejected".into() }) }
            });
            assert_eq!(written.await.is_ok(), keep);
            if keep {
                wanted.into_iter().for_each(|(key, content)| model.change(key, content));
            }
            compare(&store, &model);
        }
        for mut following in following {
            following.check(&model, &store);
        }
        assert_eq!(store.shared.hub.sizes(), (0, 0, 0));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_memory(steps in steps()) {
        run(steps, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_a_folder(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        run(steps, Some(folder.path()));
    }
}
