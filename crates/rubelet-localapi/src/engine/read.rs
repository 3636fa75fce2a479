//! GET of one object and lists: stored bytes are sent as they are wherever the client asks for nothing else, and long
//! lists piece by piece, so that ten thousand objects are never in memory at once.

use std::io;

use bytes::Bytes;
use futures::stream;
use http::Response;
use jiff::Timestamp;
use rubelet_apimachinery::kinds::Resource;
use rubelet_apimachinery::selector::Selector;
use rubelet_apimachinery::status::{self, ApiError, bad_request};
use rubelet_apimachinery::table::TableOptions;
use serde_json::{Value, json};

use super::dispatch::Call;
use super::media::{Accepted, Encoding, Form};
use super::options::{self, ListOptions, Match};
use super::page::{self, Token};
use super::tables;
use super::{body, encode, lookup, respond};
use crate::node::Body;
use crate::store::{Snapshot, SnapshotError, Store};

/// How large a piece of a list is, about.
const PIECE: usize = 128 * 1024;
/// How many objects, and how many bytes of them, are looked at for one piece at most: a selector can pass over many.
const LOOKED_AT: (usize, usize) = (1000, 1024 * 1024);

/// GET of an object, or of what is below it that is the object itself.
pub(crate) fn get(call: &Call) -> Result<Response<Body>, ApiError> {
    let resource = call.resource;
    if call.info.query.flag("export") == Some(true) {
        return Err(bad_request("the export parameter, deprecated since v1.14, is no longer supported"));
    }
    let asked = options::version(&call.info.query)?;
    let snapshot = call.api.store().snapshot().map_err(lookup::failed)?;
    check_reached(asked, snapshot.revision())?;
    let record = lookup::record(&snapshot, resource, call.namespace(), &call.info.name)?
        .ok_or_else(|| status::not_found(resource, &call.info.name))?;
    if respond::is_verbatim(call.accepted) && lookup::is_stored_form(resource) {
        return Ok(respond::answer(200, call.accepted.content_type(), body::whole(record.bytes)));
    }
    let object = lookup::from_stored(resource, encode::decode(&record.bytes)?);
    respond::object(200, resource, object, call.accepted, &call.info.query, call.api.now())
}

/// A version that the store has not come to is another store's: there is nothing to wait for.
pub(crate) fn check_reached(asked: Option<u64>, current: u64) -> Result<(), ApiError> {
    match asked {
        Some(asked) if asked > current => Err(too_large(asked, current)),
        _ => Ok(()),
    }
}

/// The 504 answer to a version from the future (`storage.NewTooLargeResourceVersionError`).
pub(crate) fn too_large(asked: u64, current: u64) -> ApiError {
    let mut error = body::timeout(&format!("Too large resource version: {asked}, current: {current}"));
    error.details =
        json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]});
    error.retry_after = Some(1);
    error
}

/// GET of a collection.
pub(crate) async fn list(call: Call) -> Result<Response<Body>, ApiError> {
    let options = ListOptions::read(&call.info.query, false)?;
    let selector = Selector::parse(call.resource, &options.fields, &options.labels)?;
    let table = match call.accepted.form {
        Form::Table(_) => Some(tables::options(&call.info.query)?),
        Form::Metadata(_) => {
            let made = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
            return Err(status::not_acceptable(&[made]));
        }
        _ => None,
    };
    let start = start(call.api.store(), &options)?;
    let mut list = List {
        store: call.api.store().clone(),
        resource: call.resource,
        namespace: call.namespace().to_owned(),
        head: encode::head_of(call.resource.stored_as()),
        everything: selector.is_everything(),
        selector,
        accepted: call.accepted,
        table,
        now: call.api.now(),
        revision: start.revision,
        after: start.after,
        left: if options.limit == 0 { usize::MAX } else { options.limit },
        rest: start.rest,
        begun: false,
        items: 0,
        over: false,
    };
    if call.accepted.encoding == Encoding::Yaml {
        let mut whole = Vec::new();
        while let Some(piece) = list.piece()? {
            whole.extend_from_slice(&piece);
        }
        let value = encode::decode(&whole)?;
        return Ok(respond::value(200, &value, call.accepted));
    }
    let content_type = call.accepted.content_type();
    let first = list.piece()?.unwrap_or_default();
    if list.over {
        return Ok(respond::answer(200, content_type, body::whole(first)));
    }
    let pieces = stream::unfold((Some(first), list), |(first, mut list)| async move {
        if let Some(first) = first {
            return Some((Ok(first), (None, list)));
        }
        loop {
            match list.piece() {
                // All of it was passed over. A frame without data is not sent: clients take many of them for an attack.
                Ok(Some(piece)) if piece.is_empty() => tokio::task::yield_now().await,
                Ok(Some(piece)) => return Some((Ok(piece), (None, list))),
                Ok(None) => return None,
                Err(error) => {
                    // The answer has begun: all that is left is to cut it off.
                    list.over = true;
                    return Some((Err(io::Error::other(error)), (None, list)));
                }
            }
        }
    });
    Ok(respond::answer(200, content_type, body::streamed(pieces)))
}

/// At which version a list reads, and where it begins.
struct Start {
    revision: u64,
    after: Option<(String, String)>,
    /// How many objects there are from there on, where the page before has said it.
    rest: Option<u64>,
}

fn start(store: &Store, options: &ListOptions) -> Result<Start, ApiError> {
    let current = store.snapshot().map_err(lookup::failed)?.revision();
    if let Some(text) = &options.continued {
        if options.version.is_some_and(|version| version != 0) {
            return Err(bad_request("specifying resource version is not allowed when using continue"));
        }
        let token = Token::decode(text)?;
        let revision = token.version.unwrap_or(current);
        reach(store, revision, || page::expired(&token))?;
        return Ok(Start { revision, after: Some(token.after), rest: token.left });
    }
    check_reached(options.version, current)?;
    let exact = match (options.version, options.version_match) {
        (Some(version), Some(Match::Exact)) => Some(version),
        // Before there was resourceVersionMatch, pages of a version were exact.
        (Some(version), None) if version > 0 && options.limit > 0 => Some(version),
        _ => None,
    };
    if let Some(version) = exact {
        let message = "The resourceVersion for the provided list is too old.";
        reach(store, version, || ApiError::new(410, "Expired", message))?;
    }
    Ok(Start { revision: exact.unwrap_or(current), after: None, rest: None })
}

fn reach(store: &Store, revision: u64, expired: impl FnOnce() -> ApiError) -> Result<(), ApiError> {
    match store.snapshot_at(revision) {
        Ok(_) => Ok(()),
        Err(SnapshotError::Compacted { .. }) => Err(expired()),
        Err(SnapshotError::Ahead { asked, current }) => Err(too_large(asked, current)),
        Err(SnapshotError::Store(error)) => Err(lookup::failed(error)),
    }
}

/// A list being told.
struct List {
    store: Store,
    resource: &'static Resource,
    namespace: String,
    /// How stored objects of the resource begin.
    head: String,
    selector: Selector,
    everything: bool,
    accepted: Accepted,
    /// There when the list is told as a table.
    table: Option<TableOptions>,
    now: Timestamp,
    /// The version all pieces are read at.
    revision: u64,
    /// The last object that was told or passed over.
    after: Option<(String, String)>,
    /// How many objects may be told yet.
    left: usize,
    /// How many objects there were from its beginning on, where that is known.
    rest: Option<u64>,
    /// Whether what stands before the items has been told.
    begun: bool,
    /// How many items have been told.
    items: u64,
    /// Whether it has ended.
    over: bool,
}

impl List {
    /// The next piece; `None` after the last.
    ///
    /// The snapshot is let go between pieces: a client that does not read keeps nothing of the file in use.
    fn piece(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.over {
            return Ok(None);
        }
        let snapshot = self.store.snapshot_at(self.revision).map_err(|error| match error {
            SnapshotError::Store(error) => lookup::failed(error),
            other => status::internal(other),
        })?;
        let mut out = Vec::with_capacity(PIECE + PIECE / 4);
        let mut rows = Vec::new();
        let mut complete = true;
        if self.table.is_none() && !self.begun {
            self.begun = true;
            out.extend_from_slice(self.begin().as_bytes());
        }
        let passed = self.after.clone();
        let after = passed.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let mut seen = (0, 0);
        let mut weight = 0;
        let mut more = false;
        for entry in lookup::objects(&snapshot, self.resource, &self.namespace, after)? {
            let (key, record) = entry.map_err(lookup::failed)?;
            if !lookup::may_match(&self.selector, &key) {
                continue;
            }
            if weight >= PIECE || seen.0 >= LOOKED_AT.0 || seen.1 >= LOOKED_AT.1 {
                complete = false;
                break;
            }
            seen = (seen.0 + 1, seen.1 + record.bytes.len());
            if self.left == 0 {
                more = self.is_selected(&record.bytes)?;
                if more {
                    break;
                }
                // Passed over: neither the next piece nor the next page need look at it again.
                self.after = Some((key.namespace, key.name));
                continue;
            }
            let told = self.tell(&record.bytes, &mut out, &mut rows)?;
            self.after = Some((key.namespace, key.name));
            if told {
                self.left -= 1;
                weight += record.bytes.len();
            }
        }
        if self.table.is_some() {
            self.write_table(&rows, &mut out);
        }
        if complete {
            let end = self.end(&snapshot, more)?;
            out.extend_from_slice(end.as_bytes());
            self.over = true;
        }
        Ok(Some(out.into()))
    }

    fn is_selected(&self, bytes: &[u8]) -> Result<bool, ApiError> {
        Ok(self.everything || self.selector.matches(&encode::selectable(bytes)?))
    }

    /// Writes one object, if it is selected; tables only collect them.
    fn tell(&mut self, bytes: &[u8], out: &mut Vec<u8>, rows: &mut Vec<Value>) -> Result<bool, ApiError> {
        if !self.is_selected(bytes)? {
            return Ok(false);
        }
        let spliced = self.accepted.form == Form::Whole
            && !self.accepted.pretty
            && lookup::is_stored_form(self.resource);
        if spliced {
            self.separate(out);
            encode::item(&self.head, bytes, out);
            return Ok(true);
        }
        let object = encode::decode(bytes)?;
        let mut object = lookup::from_stored(self.resource, object);
        match self.accepted.form {
            Form::Table(_) => {
                rows.push(object);
                return Ok(true);
            }
            Form::MetadataList(version) | Form::Metadata(version) => {
                object = encode::metadata_only(&mut object, version);
            }
            Form::Whole => {
                if let Some(fields) = object.as_object_mut() {
                    fields.remove("kind");
                    fields.remove("apiVersion");
                }
            }
        }
        self.separate(out);
        self.write_value(&object, out);
        Ok(true)
    }

    fn separate(&mut self, out: &mut Vec<u8>) {
        if self.items > 0 {
            out.push(b',');
        }
        if self.accepted.pretty {
            out.extend_from_slice(b"\n    ");
        }
        self.items += 1;
    }

    fn write_value(&self, value: &Value, out: &mut Vec<u8>) {
        if self.accepted.pretty {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            out.extend_from_slice(text.replace('\n', "\n    ").as_bytes());
        } else {
            out.extend_from_slice(&encode::object(value));
        }
    }

    /// What stands before the first item.
    fn begin(&self) -> String {
        let (kind, version) = match self.accepted.form {
            Form::MetadataList(version) | Form::Metadata(version) => {
                ("PartialObjectMetadataList".to_owned(), version.to_owned())
            }
            _ => (format!("{}List", self.resource.kind), self.resource.api_version()),
        };
        if self.accepted.pretty {
            format!("{{\n  \"kind\": \"{kind}\",\n  \"apiVersion\": \"{version}\",\n  \"items\": [")
        } else {
            format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"items\":[")
        }
    }

    /// The rows of these objects, and before the first the columns.
    fn write_table(&mut self, objects: &[Value], out: &mut Vec<u8>) {
        let (Form::Table(version), Some(options)) = (self.accepted.form, &self.table) else { return };
        let mut table = tables::table(self.resource, objects, options, version, self.now);
        if !self.begun {
            self.begun = true;
            let columns = &table["columnDefinitions"];
            let begin = format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"{version}\",\"columnDefinitions\":{columns},\"rows\":["
            );
            out.extend_from_slice(begin.as_bytes());
        }
        let Value::Array(rows) = table["rows"].take() else { return };
        for row in rows {
            if self.items > 0 {
                out.push(b',');
            }
            self.items += 1;
            out.extend_from_slice(row.to_string().as_bytes());
        }
    }

    /// What stands after the last item: where the list can be gone on with.
    fn end(&self, snapshot: &Snapshot, more: bool) -> Result<String, ApiError> {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let (true, Some(after)) = (more, &self.after) {
            let left = match self.rest {
                _ if !self.everything => None,
                Some(rest) => Some(rest.saturating_sub(self.items)),
                None => {
                    let after = Some((after.0.as_str(), after.1.as_str()));
                    Some(lookup::count(snapshot, self.resource, &self.namespace, after)?)
                }
            };
            let token = Token { version: Some(self.revision), after: after.clone(), left };
            metadata["continue"] = json!(token.encode());
            if let Some(left) = left {
                metadata["remainingItemCount"] = json!(left);
            }
        }
        Ok(if self.accepted.pretty && self.table.is_none() {
            let text = serde_json::to_string_pretty(&metadata).unwrap_or_default().replace('\n', "\n  ");
            format!("\n  ],\n  \"metadata\": {text}\n}}\n")
        } else {
            format!("],\"metadata\":{metadata}}}\n")
        })
    }
}
