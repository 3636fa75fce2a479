//! WATCH: what is there, then what changes, as frames of a body that ends with its time.
//!
//! A stream holds nothing but its place: objects and events are read when the client takes them, so a slow client costs
//! no memory. One that is slower than the store's log is told 410 and ends.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::Response;
use jiff::Timestamp;
use rubelet_apimachinery::kinds::Resource;
use rubelet_apimachinery::selector::Selector;
use rubelet_apimachinery::status::{self, ApiError};
use rubelet_apimachinery::table::TableOptions;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dispatch::Call;
use super::media::{Encoding, Form, JSON};
use super::options::ListOptions;
use super::read::check_reached;
use super::tables;
use super::{Now, body, encode, lookup, respond};
use crate::node::Body;
use crate::store::{Event, EventKind, SnapshotError, Store, WatchError, Watcher};

/// How often a watch that allows it is told the version it is at.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// How long before its end a watch gets its last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// The shortest a watch lasts whose client asks for no time, and how much longer it may last (`--min-request-timeout`).
const DEFAULT_SECONDS: u64 = 1800;
/// How large a piece of the initial events is, about.
const PIECE: usize = 64 * 1024;
/// How many objects are looked at for one piece at most.
const PIECE_OBJECTS: usize = 1000;

/// GET of a collection with `watch`.
pub(crate) fn open(call: Call) -> Result<Response<Body>, ApiError> {
    let options = ListOptions::read(&call.info.query, true)?;
    let selector = Selector::parse(call.resource, &options.fields, &options.labels)?;
    if call.accepted.encoding == Encoding::Yaml {
        return Err(status::not_acceptable(&["application/json;stream=watch"]));
    }
    let table = match call.accepted.form {
        Form::Table(_) => Some(tables::options(&call.info.query)?),
        _ => None,
    };
    let store = call.api.store().clone();
    let name = Some(call.info.name.clone()).filter(|name| !name.is_empty());
    let namespace = Some(call.namespace().to_owned()).filter(|namespace| !namespace.is_empty());
    let resource = call.resource.stored_as().qualified();
    let watch = |after| store.watch(&resource, namespace.as_deref(), name.as_deref(), after);
    let (source, start, initial) = if options.initial_events {
        let current = store.snapshot().map_err(lookup::failed)?.revision();
        check_reached(options.version, current)?;
        (watch(current), current, Some(None))
    } else {
        let from = match options.version {
            // Not caring where it begins, and not wanting what is there: from now on.
            None | Some(0) => store.revision(),
            Some(version) => version,
        };
        (watch(from), from, None)
    };
    let source = match source {
        Ok(watcher) => Source::Watcher(watcher),
        Err(WatchError::Store(error)) => return Err(lookup::failed(error)),
        // As the watch cache does it: the refusal is an event of a stream that was accepted.
        Err(WatchError::Compacted { oldest }) => Source::Refused(status::expired(start, oldest)),
        Err(error @ WatchError::Ahead { .. }) => {
            // A version of another store. Clients list anew when they are told 410, and only then.
            Source::Refused(ApiError::new(410, "Expired", error.to_string()))
        }
    };
    let seconds = options
        .timeout_seconds
        .unwrap_or_else(|| DEFAULT_SECONDS + (call.api.inner.random)() % DEFAULT_SECONDS);
    let opened = Instant::now();
    // Far enough, and no date that a clock cannot tell.
    let ends = opened + Duration::from_secs(seconds.min(365 * 24 * 3600));
    let watch = Watch {
        store: store.clone(),
        now: call.api.inner.now.clone(),
        stopping: call.api.inner.stopping.clone(),
        resource: call.resource,
        namespace: call.namespace().to_owned(),
        name,
        everything: selector.is_everything(),
        selector,
        form: call.accepted.form,
        table,
        source,
        initial,
        mark_end: options.watch_list && options.bookmarks,
        start,
        ends,
        bookmark: options.bookmarks.then(|| next_bookmark(opened, ends)),
    };
    let frames = stream::unfold(watch, |mut watch| async move {
        let frame = watch.next().await?;
        Some((Ok::<_, io::Error>(frame), watch))
    });
    Ok(respond::answer(200, JSON, body::streamed(frames)))
}

/// When the next bookmark after `now` is due.
fn next_bookmark(now: Instant, ends: Instant) -> Instant {
    let last = ends.checked_sub(LAST_BOOKMARK).filter(|last| *last > now);
    let regular = now + BOOKMARK_INTERVAL;
    last.map_or(regular, |last| regular.min(last))
}

/// Where events come from.
enum Source {
    Watcher(Watcher),
    /// Nowhere: the version cannot be watched from.
    Refused(ApiError),
    /// All has been told.
    Over,
}

struct Watch {
    store: Store,
    now: Now,
    stopping: CancellationToken,
    resource: &'static Resource,
    namespace: String,
    name: Option<String>,
    selector: Selector,
    everything: bool,
    form: Form,
    table: Option<TableOptions>,
    source: Source,
    /// While what is there is being told: the last of it that was, or none yet.
    initial: Option<Option<(String, String)>>,
    /// Whether the end of the initial events is to be marked.
    mark_end: bool,
    /// The version from which it watches.
    start: u64,
    ends: Instant,
    bookmark: Option<Instant>,
}

impl Watch {
    /// The next frames; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.stopping.is_cancelled() {
                return None;
            }
            match &self.source {
                Source::Over => return None,
                Source::Refused(error) => {
                    let frame = error_frame(error);
                    self.source = Source::Over;
                    return Some(frame);
                }
                Source::Watcher(_) => {}
            }
            if let Some(after) = self.initial.take() {
                match self.initial_piece(after) {
                    Ok(piece) if piece.is_empty() => continue,
                    Ok(piece) => return Some(piece.into()),
                    Err(error) => {
                        self.source = Source::Refused(error);
                        continue;
                    }
                }
            }
            let Source::Watcher(watcher) = &mut self.source else { continue };
            let until = self.bookmark.map_or(self.ends, |bookmark| bookmark.min(self.ends));
            // Cancel safe: a change is taken only when it is returned, and the others are points in time.
            let event = tokio::select! { biased;
                () = self.stopping.cancelled() => return None,
                event = watcher.next() => event,
                () = tokio::time::sleep_until(until) => {
                    if until == self.ends {
                        return None;
                    }
                    self.bookmark = Some(next_bookmark(until, self.ends)).filter(|next| *next > until);
                    let version = watcher.revision().max(self.start);
                    return Some(self.bookmark_frame(version, false));
                }
            };
            match event {
                Ok(Some(event)) => {
                    if let Some(frame) = self.event_frame(&event) {
                        return Some(frame);
                    }
                }
                Ok(None) => return None,
                Err(WatchError::Compacted { oldest }) => {
                    let seen = watcher.revision().max(self.start);
                    self.source = Source::Refused(status::expired(seen, oldest));
                }
                Err(error) => self.source = Source::Refused(status::internal(error)),
            }
        }
    }

    /// Some of what is there, as frames; after the last, the mark of its end. The snapshot is let go between pieces.
    fn initial_piece(&mut self, after: Option<(String, String)>) -> Result<Vec<u8>, ApiError> {
        let snapshot = self.store.snapshot_at(self.start).map_err(|error| match error {
            SnapshotError::Store(error) => lookup::failed(error),
            SnapshotError::Compacted { asked, oldest } => status::expired(asked, oldest),
            ahead @ SnapshotError::Ahead { .. } => status::internal(ahead),
        })?;
        let from = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let mut out = Vec::new();
        let mut seen = 0;
        for entry in lookup::objects(&snapshot, self.resource, &self.namespace, from)? {
            let (key, record) = entry.map_err(lookup::failed)?;
            seen += 1;
            let named = self.name.as_ref().is_none_or(|name| *name == key.name);
            if named
                && lookup::may_match(&self.selector, &key)
                && (self.everything || self.selector.matches(&encode::selectable(&record.bytes)?))
            {
                let frame = self.frame("ADDED", &record.bytes, None);
                out.extend_from_slice(&frame);
            }
            if out.len() >= PIECE || seen >= PIECE_OBJECTS {
                self.initial = Some(Some((key.namespace, key.name)));
                return Ok(out);
            }
        }
        if self.mark_end {
            let mark = self.bookmark_frame(self.start, true);
            out.extend_from_slice(&mark);
        }
        Ok(out)
    }

    /// What a change is to this watch, if it is anything: an object can join or leave the selection.
    fn event_frame(&mut self, event: &Event) -> Option<Bytes> {
        let selected = |object: Option<&Value>| {
            self.everything || object.is_some_and(|object| self.selector.matches(object))
        };
        let (before, after) = match event.kind {
            EventKind::Added => (false, self.everything || selected(event.selectable())),
            EventKind::Modified if self.everything => (true, true),
            EventKind::Modified => (selected(event.previous_selectable()), selected(event.selectable())),
            EventKind::Deleted => (self.everything || selected(event.previous_selectable()), false),
        };
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(self.frame("ADDED", &event.bytes, None)),
            (true, true) => Some(self.frame("MODIFIED", &event.bytes, None)),
            (true, false) if event.kind == EventKind::Deleted => {
                Some(self.frame("DELETED", &event.bytes, None))
            }
            (true, false) => {
                // It leaves the selection as it last was in it, with the version at which it left.
                let mut object = encode::decode(event.previous.as_deref()?).ok()?;
                object["metadata"]["resourceVersion"] = json!(event.revision.to_string());
                Some(self.frame("DELETED", &[], Some(object)))
            }
        }
    }

    /// A frame with a stored object: `object` where it is decoded already, else `bytes`.
    fn frame(&mut self, kind: &str, bytes: &[u8], object: Option<Value>) -> Bytes {
        let mut out = Vec::with_capacity(bytes.len() + 40);
        out.extend_from_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
        let verbatim = self.form == Form::Whole && lookup::is_stored_form(self.resource);
        match object {
            None if verbatim => out.extend_from_slice(bytes),
            object => {
                let object = match object {
                    Some(object) => object,
                    None => encode::decode(bytes).unwrap_or_default(),
                };
                let object = self.shape(lookup::from_stored(self.resource, object));
                out.extend_from_slice(&encode::object(&object));
            }
        }
        out.extend_from_slice(b"}\n");
        out.into()
    }

    /// The object in the form that was agreed on. Only the first table has columns.
    fn shape(&mut self, mut object: Value) -> Value {
        match (self.form, &mut self.table) {
            (Form::Whole, _) | (Form::Table(_), None) => object,
            (Form::Metadata(version) | Form::MetadataList(version), _) => {
                encode::metadata_only(&mut object, version)
            }
            (Form::Table(version), Some(options)) => {
                let now: Timestamp = (self.now)();
                let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let mut table = tables::table(self.resource, &[object], options, version, now);
                table["metadata"] = meta;
                options.no_headers = true;
                table
            }
        }
    }

    fn bookmark_frame(&mut self, version: u64, ends_initial: bool) -> Bytes {
        let mut mark = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
        });
        if ends_initial {
            mark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = self.shape(mark);
        let mut out = b"{\"type\":\"BOOKMARK\",\"object\":".to_vec();
        out.extend_from_slice(&encode::object(&object));
        out.extend_from_slice(b"}\n");
        out.into()
    }
}

fn error_frame(error: &ApiError) -> Bytes {
    let mut out = b"{\"type\":\"ERROR\",\"object\":".to_vec();
    out.extend_from_slice(&encode::object(&error.body()));
    out.extend_from_slice(b"}\n");
    out.into()
}
