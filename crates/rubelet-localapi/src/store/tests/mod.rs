//! Tests of the store as its callers see it, and what they share: a clock that stands still, short names for objects
//! and events as lines of text.

mod disks;
mod files;
mod model;
mod snapshots;
mod watches;
mod writes;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

use super::*;

/// A clock that is moved by hand.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicI64>);

impl Clock {
    fn forward(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    fn options(&self) -> StoreOptions {
        let clock = self.0.clone();
        let start = 1_700_000_000;
        let options = StoreOptions::new(Arc::new(move || {
            Timestamp::from_second(start + clock.load(Ordering::SeqCst)).unwrap()
        }));
        // A megabyte of pages is more than these stores have: let them read the file.
        StoreOptions { cache_bytes: 64 << 10, ..options }
    }
}

fn options() -> StoreOptions {
    Clock::default().options()
}

fn memory() -> Store {
    Store::in_memory(options()).unwrap()
}

fn open(folder: &Path) -> Store {
    Store::open(folder, options()).unwrap()
}

/// `pods/a/x` or, without a namespace, `nodes/x`.
fn key(text: &str) -> Key {
    match *text.split('/').collect::<Vec<_>>() {
        [resource, namespace, name] => Key::new(resource, namespace, name),
        [resource, name] => Key::new(resource, "", name),
        _ => panic!("{text} is no key"),
    }
}

async fn put(store: &Store, at: &str, text: &str) -> u64 {
    let (key, text) = (key(at), text.to_owned());
    store.write(move |transaction| transaction.put(key, text)).await.unwrap()
}

async fn delete(store: &Store, at: &str) -> Option<u64> {
    let key = key(at);
    store.write(move |transaction| transaction.delete(&key, "last")).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `pods/a/x=text@modified` for each object, in order.
fn lines(objects: impl Iterator<Item = Result<(Key, Record), StoreError>>) -> Vec<String> {
    objects
        .map(|item| {
            let (key, record) = item.unwrap();
            format!("{key}={}@{}", text(&record.bytes), record.modified)
        })
        .collect()
}

fn list(snapshot: &Snapshot, resource: &str) -> Vec<String> {
    lines(snapshot.list(resource, None, None).unwrap())
}

/// `revision KIND key after<before`.
fn line(event: &Event) -> String {
    let before = event.previous.as_ref().map_or_else(String::new, |bytes| format!("<{}", text(bytes)));
    format!("{} {:?} {} {}{before}", event.revision, event.kind, event.key, text(&event.bytes))
}

/// All that a watcher has to tell now.
fn drain(watcher: &mut Watcher) -> Vec<String> {
    use futures::FutureExt;

    let mut lines = vec![];
    while let Some(next) = watcher.next().now_or_never() {
        match next {
            Ok(Some(event)) => lines.push(line(&event)),
            Ok(None) => {
                lines.push("closed".to_owned());
                break;
            }
            Err(error) => {
                lines.push(error.to_string());
                break;
            }
        }
    }
    lines
}
