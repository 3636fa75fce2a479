//! Watches: what a new one starts with, and the stream of frames it becomes.
//!
//! Frames are ordered by the store's lock; the stream only waits for them, for its end and for time to say a bookmark.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::body::{self, Disconnected, ResponseBody};
use super::fault::Failure;
use super::request::ApiRequest;
use super::resources::ResourceRef;
use super::selector::Selector;
use super::status::{self, ApiError, bad_request};
use super::store::WatchItem;
use super::{Inner, State};

/// How often a watch that allows it is told the version it is at.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a watch lasts whose client asked for no timeout; a real server draws between 30 and 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A watch about to be streamed.
pub(crate) struct OpenWatch {
    id: u64,
    initial: VecDeque<WatchItem>,
    receiver: mpsc::UnboundedReceiver<WatchItem>,
    timeout: Duration,
    bookmarks: bool,
}

/// Opens a watch: registers it and collects the events it starts with.
pub(crate) fn open(
    state: &mut State,
    request: &ApiRequest,
    resource: ResourceRef,
) -> Result<OpenWatch, ApiError> {
    let selector = Selector::parse(
        resource,
        &request.namespace,
        request.param("fieldSelector"),
        request.param("labelSelector"),
    )?;
    let asked = parse_version(request)?;
    let bookmarks = request.flag("allowWatchBookmarks");
    let initial_events = request.flag("sendInitialEvents");
    if initial_events && request.param("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(bad_request(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let timeout = request
        .param("timeoutSeconds")
        .and_then(|t| t.parse().ok())
        .filter(|seconds| *seconds > 0)
        .map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let store = &mut state.store;
    let mut initial = VecDeque::new();
    let fresh = asked == 0 || initial_events;
    if fresh {
        for (_, object) in store.all(resource).filter(|(_, o)| selector.matches(o)) {
            initial.push_back(WatchItem::Event("ADDED", Value::clone(object)));
        }
        if initial_events && bookmarks {
            let mut mark = bookmark(resource, store.version());
            mark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            initial.push_back(WatchItem::Event("BOOKMARK", mark));
        }
    } else if asked < store.oldest() {
        // As the watch cache does it: the refusal is an event of a stream that was accepted.
        initial.push_back(expiry(asked, store.oldest()));
        initial.push_back(WatchItem::End);
    } else {
        for change in store.since(resource, asked) {
            initial.extend(change.seen_by(&selector).map(|(kind, object)| WatchItem::Event(kind, object)));
        }
    }
    let from = if fresh { store.version() } else { asked.max(store.version()) };
    let (id, _, receiver) = store.add_watcher(&request.user, resource, selector, from);
    Ok(OpenWatch { id, initial, receiver, timeout, bookmarks })
}

/// The version a watch or list asks for; nought when it does not care.
pub(crate) fn parse_version(request: &ApiRequest) -> Result<u64, ApiError> {
    match request.param("resourceVersion") {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| {
            bad_request(format!(
                "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: invalid syntax"
            ))
        }),
    }
}

fn bookmark(resource: ResourceRef, version: u64) -> Value {
    json!({"kind": resource.kind, "apiVersion": resource.api_version(),
           "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null}})
}

/// The frame that says a version is forgotten.
pub(crate) fn expiry(asked: u64, oldest: u64) -> WatchItem {
    WatchItem::Event("ERROR", status::expired(asked, oldest).body())
}

fn frame(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

/// Forgets the watch when its stream is dropped.
struct Guard {
    api: Weak<Inner>,
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(api) = self.api.upgrade() {
            api.state().store.remove_watcher(self.id);
        }
    }
}

impl Guard {
    fn is_silent(&self) -> bool {
        self.api.upgrade().is_none_or(|api| {
            api.state().store.watchers().iter().any(|watcher| watcher.id == self.id && watcher.silent)
        })
    }

    /// Queues a bookmark behind the events that were told before it.
    fn say_bookmark(&self) {
        let Some(api) = self.api.upgrade() else { return };
        let state = api.state();
        let version = state.store.version();
        for watcher in state.store.watchers().iter().filter(|w| w.id == self.id && !w.silent) {
            let mark = bookmark(watcher.resource, version);
            // The stream that asks for it holds the other end.
            let _ = watcher.sender.send(WatchItem::Event("BOOKMARK", mark));
        }
    }
}

struct Stream {
    guard: Guard,
    initial: VecDeque<WatchItem>,
    receiver: mpsc::UnboundedReceiver<WatchItem>,
    ends: Instant,
    bookmark: Option<Instant>,
    over: bool,
    /// How long the first frame waits.
    slow: Option<Duration>,
}

/// Applies what a fault does to a watch from its start.
pub(crate) fn afflict(state: &mut State, watch: &mut OpenWatch, failure: &Failure) {
    let version = state.store.version();
    match failure {
        Failure::Garbage => watch.initial.push_back(garbage()),
        Failure::CloseWatch => watch.initial.push_back(WatchItem::End),
        Failure::CutBody | Failure::ResetAfter => watch.initial.push_back(WatchItem::Reset),
        Failure::Expire => {
            watch.initial.push_back(expiry(version, version + 1));
            watch.initial.push_back(WatchItem::End);
        }
        Failure::HalfOpen => silence(state, |id| id == watch.id),
        _ => {}
    }
}

/// A frame nobody can read.
pub(crate) fn garbage() -> WatchItem {
    WatchItem::Raw(b"{\"type\":\"MODIFIED\",\"object\":{\"kind\":\n\x00\xff<html>garbage</html>\n".to_vec())
}

/// Makes watches go silent: told nothing any more, and never ended.
pub(crate) fn silence(state: &mut State, which: impl Fn(u64) -> bool) {
    for watcher in state.store.watchers_mut().iter_mut().filter(|w| which(w.id)) {
        watcher.silent = true;
    }
}

/// The frames of a watch as a response body.
pub(crate) fn stream(api: &Arc<Inner>, watch: OpenWatch, slow: Option<Duration>) -> ResponseBody {
    let now = Instant::now();
    let state = Stream {
        guard: Guard { api: Arc::downgrade(api), id: watch.id },
        initial: watch.initial,
        receiver: watch.receiver,
        ends: now + watch.timeout,
        bookmark: watch.bookmarks.then(|| now + BOOKMARK_INTERVAL),
        over: false,
        slow,
    };
    body::streamed(stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some((item, state))
    }))
}

impl Stream {
    async fn next(&mut self) -> Option<Result<Bytes, Disconnected>> {
        if self.over {
            return None;
        }
        if let Some(wait) = self.slow.take() {
            tokio::time::sleep(wait).await;
        }
        loop {
            let item = match self.initial.pop_front() {
                Some(item) => Some(item),
                None => self.wait().await,
            };
            match item {
                Some(WatchItem::Event(kind, object)) => return Some(Ok(frame(kind, &object))),
                Some(WatchItem::Raw(bytes)) => return Some(Ok(Bytes::from(bytes))),
                Some(WatchItem::End) => return None,
                Some(WatchItem::Reset) => {
                    self.over = true;
                    return Some(Err(Disconnected));
                }
                None => {}
            }
        }
    }

    /// The next item; `None` when only time has passed.
    async fn wait(&mut self) -> Option<WatchItem> {
        let until = self.bookmark.map_or(self.ends, |b| b.min(self.ends));
        // Cancel safe: recv loses nothing, and the deadline is a point in time.
        let received = tokio::select! { biased;
            item = self.receiver.recv() => Some(item.unwrap_or(WatchItem::End)),
            () = tokio::time::sleep_until(until) => None,
        };
        if received.is_some() {
            return received;
        }
        if self.guard.is_silent() {
            return std::future::pending().await;
        }
        if until == self.ends {
            return Some(WatchItem::End);
        }
        self.bookmark = Some(until + BOOKMARK_INTERVAL);
        self.guard.say_bookmark();
        None
    }
}
