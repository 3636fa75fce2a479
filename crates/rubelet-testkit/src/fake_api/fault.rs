//! What can go wrong between a node and its API server, as tests order it.
//!
//! Which fault a request meets is decided here; what it does to the answer is done in `handle` and `watch`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::request::ApiRequest;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// An error answer with this code, and a Retry-After header in seconds.
    Status(u16, Option<u32>),
    /// The connection breaks without an answer.
    Reset,
    /// The connection breaks after the request was carried out: the client cannot know.
    ResetAfter,
    /// No answer, ever.
    Hang,
    /// The answer stops half way for this long.
    SlowBody(Duration),
    /// The body is cut off half way.
    CutBody,
    /// A body, or a frame in a watch, that is no JSON.
    Garbage,
    /// A watch ends right after its first events.
    CloseWatch,
    /// A watch says 410 Gone after its first events.
    Expire,
    /// A watch goes silent after its first events and never ends; other requests hang.
    HalfOpen,
}

/// A test of a request.
type Predicate = Arc<dyn Fn(&ApiRequest) -> bool + Send + Sync>;

/// A failure and the requests it is for.
#[derive(Clone)]
pub struct Fault {
    matching: Predicate,
    what: Failure,
    times: Option<usize>,
    after: usize,
}

impl Fault {
    /// For every request the predicate picks, until the handle is stopped.
    pub fn when(matching: impl Fn(&ApiRequest) -> bool + Send + Sync + 'static, what: Failure) -> Self {
        Self { matching: Arc::new(matching), what, times: None, after: 0 }
    }

    /// For a verb on a resource (`pods`, `pods/status`); `*` stands for any.
    pub fn on(verb: &str, resource: &str, what: Failure) -> Self {
        let (verb, resource) = (verb.to_owned(), resource.to_owned());
        Self::when(
            move |request| {
                let full = if request.subresource.is_empty() {
                    request.resource.clone()
                } else {
                    format!("{}/{}", request.resource, request.subresource)
                };
                (verb == "*" || verb == request.verb) && (resource == "*" || resource == full)
            },
            what,
        )
    }

    /// Only for objects of this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        let (name, matching) = (name.to_owned(), self.matching);
        self.matching = Arc::new(move |request| request.name == name && matching(request));
        self
    }

    /// Only for requests of this user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        let (user, matching) = (user.to_owned(), self.matching);
        self.matching = Arc::new(move |request| request.user == user && matching(request));
        self
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    /// Only once.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Lets so many matching requests pass first.
    #[must_use]
    pub fn after(mut self, passes: usize) -> Self {
        self.after = passes;
        self
    }
}

/// An ordered fault: says how often it struck, and ends it. Dropping the handle leaves the fault as it is.
#[derive(Debug, Clone)]
pub struct FaultHandle {
    stopped: Arc<AtomicBool>,
    hits: Arc<AtomicUsize>,
}

impl FaultHandle {
    /// No request meets the fault from now on.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// How many requests met it.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// The whole server's state of health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Works.
    None,
    /// Every connection is refused, and those that were open break.
    Refuse,
    /// Nothing is answered, and open connections go silent.
    Hang,
}

/// The faults in force.
#[derive(Default)]
pub(crate) struct Faults {
    ordered: Vec<(Fault, FaultHandle, usize)>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) -> FaultHandle {
        let handle = FaultHandle { stopped: Arc::default(), hits: Arc::default() };
        self.ordered.push((fault, handle.clone(), 0));
        handle
    }

    /// The first fault that this request meets; it counts as struck.
    pub(crate) fn strike(&mut self, request: &ApiRequest) -> Option<Failure> {
        self.ordered.retain(|(fault, handle, _)| {
            !handle.stopped.load(Ordering::SeqCst) && fault.times.is_none_or(|times| handle.hits() < times)
        });
        for (fault, handle, seen) in &mut self.ordered {
            if !(fault.matching)(request) {
                continue;
            }
            *seen += 1;
            if *seen > fault.after {
                handle.hits.fetch_add(1, Ordering::SeqCst);
                return Some(fault.what.clone());
            }
        }
        None
    }
}
