//! List and watch of one collection, kept going through everything an API server does.
//!
//! Owns: the requests, their pace and their deadlines, and the decoding of each object on its own, so that one object
//! that cannot be decoded never hides the others. Never owns a store: a full set or a single change goes to the
//! caller's sink, in order. Called by the pod source, by [`crate::reflector`] and by [`crate::objects`].
//!
//! - `machine`: which request comes next and when, as values
//! - `failure`: what a failed request means
//! - `transport`: a page or a stream of lines out of `kube::Client`, bounded in size and time
//! - `decode`: bytes into objects, one by one

mod decode;
mod failure;
mod machine;
mod place;
mod transport;

#[cfg(test)]
pub(crate) mod convergence_tests;
#[cfg(test)]
mod script_tests;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};

use crate::connection::CLOSED_BY_AGENT;
use crate::wake::Wake;
pub use decode::BadObject;
use decode::{Event, Page};
pub use failure::ProblemKind;
use machine::{Attempt, End, Machine, Notice, PageVerdict, Request};
use transport::LineError;
pub(crate) use transport::chain;

/// How long a watch must have lived to count as healthy: back-off starts anew and problems are over.
const PROVEN_AFTER: Duration = Duration::from_secs(5);
/// A server that answers a watch does so at once; without headers for so long the connection is taken for dead.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// The server ends a watch after `timeoutSeconds`; one that lasts so much longer has a dead connection below it.
const END_GRACE: Duration = Duration::from_secs(30);

/// What can be listed and watched: every Kubernetes type with object metadata.
pub trait Watched:
    k8s_openapi::Resource + k8s_openapi::Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Watched for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct WatchSpec<K> {
    /// Only this namespace; `None` for cluster-scoped types and for all namespaces.
    pub namespace: Option<String>,
    /// As kubectl's `--field-selector`.
    pub field_selector: Option<String>,
    /// As kubectl's `--selector`.
    pub label_selector: Option<String>,
    /// Lists start at what etcd holds, not at what the server's cache holds (`resourceVersion` unset, not `0`). The
    /// cache is cheaper and what client-go asks for first; it can lag behind by milliseconds.
    pub latest: bool,
    /// A stream is asked to end after one to two times this, spread per stream (client-go's `MinWatchTimeout`).
    pub min_watch_timeout: Duration,
    /// How long one page may take from request to its last byte.
    pub list_deadline: Duration,
    /// Objects a page.
    pub page_limit: u32,
    /// Where jitter comes from. Nodes must differ, or they all come back at the same moment: see [`seed_of`].
    pub seed: u64,
    /// Drops what nobody reads, before an object is stored. The default drops `managedFields`.
    pub clean: fn(&mut K),
    /// Cuts back-off short when the server answers again. The default hears nothing.
    pub wake: Wake,
}

impl<K: Watched> WatchSpec<K> {
    /// The whole collection in all namespaces. `seed` as [`WatchSpec::seed`].
    pub fn all(seed: u64) -> Self {
        Self {
            namespace: None,
            field_selector: None,
            label_selector: None,
            latest: false,
            min_watch_timeout: Duration::from_secs(300),
            list_deadline: Duration::from_secs(60),
            page_limit: 500,
            seed,
            clean: drop_managed_fields,
            wake: Wake::default(),
        }
    }

    /// The one object of this name, which need not exist.
    pub fn one(namespace: Option<&str>, name: &str, seed: u64) -> Self {
        Self {
            namespace: namespace.map(str::to_owned),
            field_selector: Some(format!("metadata.name={name}")),
            ..Self::all(seed)
        }
    }

    /// Only objects with these fields, as `spec.nodeName=worker-1`.
    #[must_use]
    pub fn with_fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = Some(selector.into());
        self
    }

    /// Another [`WatchSpec::clean`]; it should call [`drop_managed_fields`] too.
    #[must_use]
    pub fn with_clean(mut self, clean: fn(&mut K)) -> Self {
        self.clean = clean;
        self
    }

    /// With [`WatchSpec::wake`].
    #[must_use]
    pub fn with_wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// The collection's path, without query.
    fn path(&self) -> String {
        let group = if K::GROUP.is_empty() { "api".to_owned() } else { format!("apis/{}", K::GROUP) };
        match &self.namespace {
            Some(namespace) => {
                format!("/{group}/{}/namespaces/{namespace}/{}", K::VERSION, K::URL_PATH_SEGMENT)
            }
            None => format!("/{group}/{}/{}", K::VERSION, K::URL_PATH_SEGMENT),
        }
    }

    /// What is watched, in words for messages.
    fn what(&self) -> String {
        let mut what = K::URL_PATH_SEGMENT.to_owned();
        if let Some(namespace) = &self.namespace {
            what.push_str(" in namespace ");
            what.push_str(namespace);
        }
        for selector in [&self.field_selector, &self.label_selector].into_iter().flatten() {
            what.push_str(" with ");
            what.push_str(selector);
        }
        what
    }

    fn uri(&self, request: &Request) -> String {
        let mut query = transport::Query::new(self.path());
        if let Some(selector) = &self.field_selector {
            query.push("fieldSelector", selector);
        }
        if let Some(selector) = &self.label_selector {
            query.push("labelSelector", selector);
        }
        match request {
            Request::List { resource_version, limit, token } => {
                if let Some(limit) = limit {
                    query.push("limit", &limit.to_string());
                }
                // A continue token carries its resource version; the server refuses both.
                match token {
                    Some(token) => query.push("continue", token),
                    None if !resource_version.is_empty() => query.push("resourceVersion", resource_version),
                    None => {}
                }
            }
            Request::Watch { resource_version, timeout } => {
                query.push("watch", "true");
                query.push("allowWatchBookmarks", "true");
                query.push("resourceVersion", resource_version);
                query.push("timeoutSeconds", &timeout.as_secs().to_string());
            }
        }
        query.finish()
    }
}

/// Clears `metadata.managedFields`, which is often the larger half of an object.
pub fn drop_managed_fields<K: k8s_openapi::Metadata<Ty = ObjectMeta>>(object: &mut K) {
    object.metadata_mut().managed_fields = None;
}

/// A jitter seed out of a text that differs between nodes, such as the node's name.
pub fn seed_of(text: &str) -> u64 {
    // FNV-1a: stable between versions and machines, so that simulations replay.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What a watch tells its sink, in the server's order.
#[derive(Debug)]
pub enum Update<K> {
    /// Everything there is: what was told before and is not in here is gone.
    Set {
        /// The objects that could be decoded.
        items: Vec<Arc<K>>,
        /// The objects that exist but could not.
        bad: Vec<BadObject>,
    },
    /// An object was created or changed.
    Applied(Arc<K>),
    /// An object was deleted, or no longer matches the selectors. This is its last state.
    Deleted {
        /// Its last state.
        object: Arc<K>,
    },
    /// An object was created as, or changed into, something that cannot be decoded.
    Bad(BadObject),
    /// An object was deleted whose last state cannot be decoded.
    BadDeleted(BadObject),
    /// The watch is behind and tries on. Told once per kind until it recovers.
    Problem(WatchProblem),
    /// The watch is up to date again.
    Recovered,
}

/// Why a watch is behind, for logs and for deciding what its store is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchProblem {
    /// What kind of failure.
    pub kind: ProblemKind,
    /// What is watched, in words.
    pub what: String,
    /// What the server or the connection said.
    pub message: String,
    /// Until the next attempt.
    pub retry_in: Duration,
}

impl fmt::Display for WatchProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, what, message, retry_in } = self;
        let seconds = retry_in.as_secs_f64();
        write!(f, "cannot watch {what}: {message}{}; next attempt in {seconds:.1} s", kind.advice())
    }
}

/// Watches until the future is dropped. Every update goes to `sink`, which must not block.
///
/// Errors never end it: they are told as [`Update::Problem`], and it tries on with back-off.
pub async fn run<K: Watched>(
    client: kube::Client,
    spec: WatchSpec<K>,
    mut sink: impl FnMut(Update<K>) + Send,
) -> Infallible {
    let mut machine = Machine::new(&spec);
    let mut wake = spec.wake.clone();
    let mut listing = Listing::default();
    loop {
        let Attempt { wait, ordered, request } = machine.next();
        if ordered {
            tokio::time::sleep(wait).await;
        } else if !wait.is_zero() && wake.pause(wait).await {
            tokio::time::sleep(machine.woken().min(wait)).await;
        }
        wake.forget();
        let uri = spec.uri(&request);
        match request {
            Request::List { token, .. } => {
                if token.is_none() {
                    listing = Listing::default();
                }
                list_page(&client, &spec, &uri, &mut machine, &mut listing, &mut sink).await;
            }
            Request::Watch { timeout, .. } => {
                let end = watch_stream(&client, &spec, &uri, timeout, &mut machine, &mut sink).await;
                tell(&spec, machine.on_watch_ended(end), &mut sink);
            }
        }
    }
}

/// What the pages so far have brought.
struct Listing<K> {
    items: Vec<Arc<K>>,
    bad: Vec<BadObject>,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self { items: Vec::new(), bad: Vec::new() }
    }
}

fn tell<K: Watched>(spec: &WatchSpec<K>, notice: Option<Notice>, sink: &mut impl FnMut(Update<K>)) {
    match notice {
        Some(Notice::Problem { kind, message, retry_in }) => {
            sink(Update::Problem(WatchProblem { kind, what: spec.what(), message, retry_in }));
        }
        Some(Notice::Recovered) => sink(Update::Recovered),
        None => {}
    }
}

async fn list_page<K: Watched>(
    client: &kube::Client,
    spec: &WatchSpec<K>,
    uri: &str,
    machine: &mut Machine,
    listing: &mut Listing<K>,
    sink: &mut (impl FnMut(Update<K>) + Send),
) {
    let answer = transport::get_page(client, uri, spec.list_deadline).await;
    let page = answer.and_then(|body| Page::decode(&body, spec.clean));
    let page = match page {
        Ok(page) => page,
        Err(failure) => return tell(spec, machine.on_list_failed(&failure), sink),
    };
    listing.items.extend(page.items);
    listing.bad.extend(page.bad);
    let (verdict, notice) = machine.on_page(page.resource_version, page.token);
    if verdict == PageVerdict::Complete {
        let Listing { items, bad } = std::mem::take(listing);
        sink(Update::Set { items, bad });
    }
    tell(spec, notice, sink);
}

async fn watch_stream<K: Watched>(
    client: &kube::Client,
    spec: &WatchSpec<K>,
    uri: &str,
    timeout: Duration,
    machine: &mut Machine,
    sink: &mut (impl FnMut(Update<K>) + Send),
) -> End {
    let mut lines = match transport::open_stream(client, uri, OPEN_DEADLINE).await {
        Ok(lines) => lines,
        Err(failure) => return End::Refused(failure),
    };
    tell(spec, machine.on_watch_opened(), sink);
    let opened = Instant::now();
    let silent_at = opened + timeout + END_GRACE;
    let mut wake_at = opened + PROVEN_AFTER;
    loop {
        let line = tokio::select! {
            biased;
            // First, so that a flood of events cannot keep the deadline from being noticed. Nothing is lost: the
            // timer holds no data.
            () = sleep_until(wake_at) => {
                if wake_at == silent_at {
                    return End::Silent;
                }
                wake_at = silent_at;
                tell(spec, machine.on_proven(), sink);
                continue;
            }
            // Cancel-safe: bytes read so far stay in `lines`.
            line = lines.next() => line,
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => return End::Clean,
            // The next connection has the new identity: nothing is wrong. h2 passes on no more than the text.
            Err(LineError::Broken(message)) if message.contains(CLOSED_BY_AGENT) => return End::Clean,
            Err(LineError::Broken(message)) => return End::Broken(message),
            Err(error @ LineError::TooLong(_)) => return End::Garbage(error.to_string()),
        };
        let (version, update) = match Event::decode(&line, spec.clean) {
            Ok(Event::Applied(object)) => {
                (object.metadata().resource_version.clone(), Some(Update::Applied(object)))
            }
            Ok(Event::Deleted(object)) => {
                (object.metadata().resource_version.clone(), Some(Update::Deleted { object }))
            }
            Ok(Event::Bad { object, deleted }) => {
                let version = object.resource_version.clone();
                (version, Some(if deleted { Update::BadDeleted(object) } else { Update::Bad(object) }))
            }
            Ok(Event::Bookmark(version)) => (version, None),
            Ok(Event::Error(failure)) => return End::Error(failure),
            Err(message) => return End::Garbage(message),
        };
        if !machine.on_event(version) {
            return End::WentBack;
        }
        if let Some(update) = update {
            sink(update);
        }
    }
}
