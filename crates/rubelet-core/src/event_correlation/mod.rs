//! From things that happen to Events in the API: counts what repeats, combines what is alike, and stops what
//! floods, as client-go's `EventCorrelator` does with its default settings.
//!
//! Owns names, counts and texts of Events; never sends one. The event sink of the shell asks for each occurrence.
//!
//! - The same event again (object, part of it, type, reason, message) raises the count of the Event there is.
//! - From the tenth message of one reason about one object on, with no pause of ten minutes in between, further
//!   messages share one Event, `(combined from similar events): …`. Messages known by then keep their own.
//! - Of one type, an object gets 25 at once and then one every five minutes; what is left out still counts.
//!
//! Each of the three remembers the 4096 keys last used.

mod key;
mod lru;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use self::key::Key;
use self::lru::Lru;
use crate::token_bucket::TokenBucket;

/// Keys that each cache remembers (client-go `maxLruCacheEntries`).
pub const CACHED_KEYS: usize = 4096;
/// So many messages of one reason make the next ones share an Event (`defaultAggregateMaxEvents`).
const SIMILAR_LIMIT: usize = 10;
/// A pause longer than this many seconds ends a series of similar events (`defaultAggregateIntervalInSeconds`).
const SIMILAR_SECONDS: i64 = 600;
/// Events of one type about one object at once (`defaultSpamBurst`).
const SPAM_BURST: u32 = 25;
/// And then so many a second (`defaultSpamQPS`).
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// Bytes of a message that are kept: the limit of `events.k8s.io`.
const MESSAGE_LIMIT: usize = 1024;
/// What a shortened message ends with.
const CUT: &str = "...";
const COMBINED: &str = "(combined from similar events): ";
/// Namespace of events about objects that have none, such as the node (`NamespaceDefault`).
const DEFAULT_NAMESPACE: &str = "default";

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Occurrence {
    /// What it is about.
    pub object: ObjectReference,
    /// `Normal` or `Warning`.
    pub kind: &'static str,
    /// CamelCase word.
    pub reason: String,
    /// Text for people; shortened to 1 KiB.
    pub message: String,
    /// Annotations of the Event, for programs; those of its first occurrence stay.
    pub annotations: BTreeMap<String, String>,
    /// When.
    pub at: Timestamp,
}

/// What to write to the API.
#[derive(Clone, Debug)]
pub struct Posting {
    /// The whole Event, with the count as it is now: what to create.
    pub event: Event,
    /// The Event should exist: [`Self::patch`] it, and create it when it is gone.
    pub update: bool,
}

impl Posting {
    /// The strategic merge patch of an update: what changes when the event happens again.
    pub fn patch(&self) -> Value {
        json!({
            "count": self.event.count,
            "lastTimestamp": self.event.last_timestamp,
            "message": self.event.message,
        })
    }
}

/// The state that correlation needs.
#[derive(Clone, Debug)]
pub struct Correlator {
    source: EventSource,
    similar: Lru<Similar>,
    known: Lru<Known>,
    spam: Lru<TokenBucket>,
    /// The last time that went into a name, in nanoseconds: no two Events of this process share a name.
    last_named: i128,
}

/// Messages of one reason about one object.
#[derive(Clone, Debug)]
struct Similar {
    messages: BTreeSet<Key>,
    last: Timestamp,
}

/// An Event that was made.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    count: i32,
    first: Timestamp,
}

impl Correlator {
    /// A correlator for events of `component` on `host`.
    pub fn new(component: &str, host: &str) -> Self {
        Self {
            source: EventSource { component: Some(component.to_owned()), host: Some(host.to_owned()) },
            similar: Lru::new(CACHED_KEYS),
            known: Lru::new(CACHED_KEYS),
            spam: Lru::new(CACHED_KEYS),
            last_named: i128::MIN,
        }
    }

    /// Takes an occurrence in; `None` when the object has too many events to send another one.
    pub fn observe(&mut self, occurrence: Occurrence) -> Option<Posting> {
        let Occurrence { object, kind, reason, message, annotations, at } = occurrence;
        let message = shortened(message);
        let (own, group) = (event_key(&object, kind, &reason, &message), group_key(&object, kind, &reason));
        let (key, message) = if self.is_one_of_many(group, Key::of(&[&message]), at) {
            (group, shortened(format!("{COMBINED}{message}")))
        } else {
            (own, message)
        };
        // A name is taken only for an Event that is new, but the number has to be known before.
        let nanos = at.as_nanosecond().max(self.last_named.saturating_add(1));
        let mut fresh = false;
        let known = self.known.entry(key, || {
            fresh = true;
            let name = event_name(object.name.as_deref().unwrap_or_default(), nanos);
            Known { name, count: 0, first: at }
        });
        if fresh {
            self.last_named = nanos;
        }
        known.count = known.count.saturating_add(1);
        let event = Event {
            metadata: ObjectMeta {
                name: Some(known.name.clone()),
                namespace: Some(namespace_of(&object).to_owned()),
                annotations: (!annotations.is_empty()).then_some(annotations),
                ..Default::default()
            },
            count: Some(known.count),
            first_timestamp: Some(Time(known.first)),
            last_timestamp: Some(Time(at)),
            message: Some(message),
            reason: Some(reason),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some(self.source.clone()),
            type_: Some(kind.to_owned()),
            involved_object: object,
            ..Default::default()
        };
        // Last, as in client-go: what is not sent has been counted, and the next that is sent says so.
        let now = since_epoch(at);
        let bucket = self.spam.entry(object_key(&event.involved_object, kind), || {
            TokenBucket::new(SPAM_PER_SECOND, SPAM_BURST, now)
        });
        bucket.try_take(now).then_some(Posting { update: event.count > Some(1), event })
    }

    /// Whether a message belongs into the Event that similar ones share.
    fn is_one_of_many(&mut self, group: Key, message: Key, at: Timestamp) -> bool {
        let similar = self.similar.entry(group, || Similar { messages: BTreeSet::new(), last: at });
        if at.as_second().saturating_sub(similar.last.as_second()) > SIMILAR_SECONDS {
            similar.messages.clear();
        }
        similar.last = at;
        // The last place of the set stays free: it is never taken by the message that found it taken.
        if similar.messages.contains(&message) {
            return false;
        }
        if similar.messages.len() + 1 >= SIMILAR_LIMIT {
            return true;
        }
        similar.messages.insert(message);
        false
    }
}

/// The reference to a pod, or with `container` to one of its containers (upstream `GenerateContainerRef`).
pub fn pod_reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: container.map(|name| field_path(pod, name)),
    }
}

/// The reference to a node. Its UID is the node's name: by that `kubectl describe node` finds a kubelet's events.
pub fn node_reference(node: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        uid: Some(node.to_owned()),
        ..Default::default()
    }
}

/// Where in a pod a container is.
fn field_path(pod: &Pod, name: &str) -> String {
    let Some(spec) = &pod.spec else { return format!("spec.containers{{{name}}}") };
    let init = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let field = if spec.containers.iter().any(|c| c.name == name) {
        "containers"
    } else if init.into_iter().any(|c| c.name == name) {
        "initContainers"
    } else if ephemeral.into_iter().any(|c| c.name == name) {
        "ephemeralContainers"
    } else {
        return format!("implicitly required container {name}");
    };
    format!("spec.{field}{{{name}}}")
}

fn namespace_of(object: &ObjectReference) -> &str {
    object.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(DEFAULT_NAMESPACE)
}

/// `<object>.<nanoseconds in hexadecimal>`; a name of its own where that is not allowed as a name.
fn event_name(object: &str, nanos: i128) -> String {
    let name = format!("{object}.{nanos:x}");
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label = |label: &str| {
        label.bytes().all(allowed) && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    if nanos >= 0 && name.len() <= 253 && name.split('.').all(label) {
        return name;
    }
    Key::of(&[object, &nanos.to_string()]).as_name()
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_LIMIT {
        message.truncate(message.floor_char_boundary(MESSAGE_LIMIT - CUT.len()));
        message.push_str(CUT);
    }
    message
}

fn since_epoch(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default()
}

/// What an object is told by: everything but the part of it that an event is about.
fn object_parts(object: &ObjectReference) -> [&str; 5] {
    [&object.kind, &object.namespace, &object.name, &object.uid, &object.api_version]
        .map(|part| part.as_deref().unwrap_or_default())
}

/// client-go `getEventKey`, without the source, which is the same for all.
fn event_key(object: &ObjectReference, kind: &str, reason: &str, message: &str) -> Key {
    let [a, b, c, d, e] = object_parts(object);
    let path = object.field_path.as_deref().unwrap_or_default();
    Key::of(&["event", a, b, c, d, e, path, kind, reason, message])
}

/// client-go `EventAggregatorByReasonFunc`.
fn group_key(object: &ObjectReference, kind: &str, reason: &str) -> Key {
    let [a, b, c, d, e] = object_parts(object);
    Key::of(&["group", a, b, c, d, e, kind, reason])
}

/// client-go `getSpamKey`.
fn object_key(object: &ObjectReference, kind: &str) -> Key {
    let [a, b, c, d, e] = object_parts(object);
    Key::of(&["object", a, b, c, d, e, kind])
}
