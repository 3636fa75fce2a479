//! What is known about one ConfigMap or Secret, from its watch and from GETs, and what that means for who asks.
//!
//! Bookkeeping under a lock: no I/O and no clock of its own. Called by the cache and by the entry's keeper.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rubelet_core::ids::PodUid;
use tokio::sync::watch as level;
use tokio::time::Instant;

use super::{Kept, ObjectError, lock};
use crate::level::Level;
use crate::watch::{ProblemKind, Update};

/// A failed GET speaks for those who ask within this.
const FAILURE_SPEAKS_FOR: Duration = Duration::from_secs(1);
/// Watch and GETs overtake each other by less than this. Behind it, an older version is another history, such as a
/// restored backup, and counts.
const OVERTAKING: Duration = Duration::from_secs(30);

/// The last known state of the object.
#[derive(Debug)]
enum Known<K> {
    Unknown,
    Present(Arc<K>),
    /// With the API server's words, if it was asked for the object itself: a list may be a little behind.
    Missing(Option<String>),
}

/// What was last answered, to tell whether somebody must ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answered {
    Nothing,
    Version { uid: String, resource_version: String },
    Missing,
    Failed,
}

#[derive(Debug)]
struct State<K> {
    known: Known<K>,
    /// When the known value was taken up.
    known_at: Option<Instant>,
    /// The watch has delivered a full set.
    synced: bool,
    /// The watch is behind.
    trouble: Option<ProblemKind>,
    /// The object exists but cannot be decoded.
    unreadable: Option<String>,
    answered: Answered,
    /// When a GET last succeeded.
    fetched_at: Option<Instant>,
    failure: Option<(Instant, ObjectError)>,
}

/// What who asks should do.
#[derive(Debug)]
pub(super) enum Verdict<K> {
    /// This is the answer.
    Answer(Result<Arc<K>, ObjectError>),
    /// The first list is under way: wait for a change.
    Wait,
    /// Ask the API server.
    Fetch,
}

/// One object.
pub(super) struct Entry<K> {
    namespace: String,
    name: String,
    state: Mutex<State<K>>,
    /// Grows with each change of the state.
    revision: Level<u64>,
    holders: level::Sender<BTreeSet<PodUid>>,
    turn: tokio::sync::Mutex<()>,
}

impl<K: Kept> Entry<K> {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            state: Mutex::new(State {
                known: Known::Unknown,
                known_at: None,
                synced: false,
                trouble: None,
                unreadable: None,
                answered: Answered::Nothing,
                fetched_at: None,
                failure: None,
            }),
            revision: Level::new(0),
            holders: level::Sender::new(BTreeSet::new()),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn hold(&self, pod: &PodUid) {
        self.holders.send_modify(|pods| {
            pods.insert(pod.clone());
        });
    }

    pub(super) fn let_go(&self, pod: &PodUid) {
        self.holders.send_modify(|pods| {
            pods.remove(pod);
        });
    }

    pub(super) fn is_held(&self) -> bool {
        !self.holders.borrow().is_empty()
    }

    pub(super) fn holders(&self) -> level::Receiver<BTreeSet<PodUid>> {
        self.holders.subscribe()
    }

    /// A level that changes with what is known.
    pub(super) fn subscribe(&self) -> level::Receiver<u64> {
        self.revision.follow()
    }

    /// One GET at a time.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn in_trouble(&self) -> bool {
        self.state().trouble.is_some()
    }

    pub(super) fn is_immutable(&self) -> bool {
        matches!(&self.state().known, Known::Present(object) if object.is_immutable())
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        lock(&self.state)
    }

    /// Takes up what the watch says. Gives the pods that were answered otherwise before.
    pub(super) fn observe(&self, update: Update<K>, now: Instant) -> BTreeSet<PodUid> {
        let mut state = self.state();
        match update {
            Update::Set { items, bad } => {
                state.synced = true;
                let item = items.into_iter().find(|item| item.metadata().name.as_deref() == Some(&self.name));
                let bad = bad.into_iter().find(|bad| bad.name == self.name);
                match (item, bad) {
                    (Some(object), _) => state.adopt(object, now),
                    (None, Some(bad)) => state.unreadable = Some(bad.to_string()),
                    (None, None) => state.miss(None),
                }
            }
            Update::Applied(object) => state.adopt(object, now),
            Update::Deleted { object } if state.is_overtaken(&*object, now) => {}
            Update::Deleted { .. } | Update::BadDeleted(_) => {
                let words = format!("{} \"{}\" not found", K::WORD, self.name);
                state.miss(Some(words));
            }
            Update::Bad(bad) => state.unreadable = Some(bad.to_string()),
            Update::Problem(problem) => {
                tracing::debug!(kind = K::WORD, "{problem}");
                state.trouble = Some(problem.kind);
            }
            Update::Recovered => state.trouble = None,
        }
        let poke = self.stale(&mut state);
        drop(state);
        self.revision.update(|revision| *revision += 1);
        poke
    }

    /// Takes up what a GET said: the pods that were answered otherwise before.
    pub(super) fn learn(&self, fetched: &Result<Arc<K>, ObjectError>, now: Instant) -> BTreeSet<PodUid> {
        let mut state = self.state();
        match fetched {
            Ok(object) => {
                state.adopt(object.clone(), now);
                state.fetched_at = Some(now);
                state.failure = None;
            }
            Err(ObjectError::NotFound(message)) => {
                state.miss(Some(message.clone()));
                state.fetched_at = Some(now);
                state.failure = None;
            }
            Err(error @ ObjectError::Failed(_)) => state.failure = Some((now, error.clone())),
        }
        let poke = self.stale(&mut state);
        drop(state);
        self.revision.update(|revision| *revision += 1);
        poke
    }

    /// The pods to poke, if somebody was answered otherwise than the state says now.
    fn stale(&self, state: &mut State<K>) -> BTreeSet<PodUid> {
        let now = match state.last_known() {
            _ if state.answered == Answered::Nothing => return BTreeSet::new(),
            Some(answer) => answered_with(&answer),
            // It was there and, as far as a list can tell, is no more: whoever asks makes sure.
            None if matches!(
                (&state.known, &state.answered),
                (Known::Missing(None), Answered::Version { .. })
            ) =>
            {
                Answered::Missing
            }
            None => return BTreeSet::new(),
        };
        if state.answered == now {
            return BTreeSet::new();
        }
        // They will ask again; what they are answered then counts.
        state.answered = now;
        self.holders.borrow().clone()
    }

    /// Notes what somebody was told. Gives the pods to poke if that is already out of date.
    pub(super) fn note_answer(&self, answer: &Result<Arc<K>, ObjectError>) -> BTreeSet<PodUid> {
        let mut state = self.state();
        state.answered = answered_with(answer);
        self.stale(&mut state)
    }

    /// What to do for who asks, under the Watch strategy.
    pub(super) fn verdict(&self) -> Verdict<K> {
        let state = self.state();
        let known = state.last_known();
        if self.is_settled(&state) {
            return known.map_or(Verdict::Fetch, Verdict::Answer);
        }
        match (state.trouble, known) {
            // Nobody answers: what was known last is the best there is.
            (Some(kind), Some(known)) if kind.is_away() => Verdict::Answer(known),
            (Some(_), _) => Verdict::Fetch,
            // Just fetched, while the first list is under way.
            (None, Some(Ok(known))) if !state.synced => Verdict::Answer(Ok(known)),
            (None, _) if !state.synced => Verdict::Wait,
            (None, Some(known)) => Verdict::Answer(known),
            (None, None) => Verdict::Fetch,
        }
    }

    /// An immutable object is what it is.
    fn is_settled(&self, state: &State<K>) -> bool {
        matches!(&state.known, Known::Present(object) if object.is_immutable())
    }

    /// When it is one's turn to fetch: what others have learned meanwhile, if that is an answer.
    pub(super) fn after_turn(&self, now: Instant) -> Option<Result<Arc<K>, ObjectError>> {
        if let Verdict::Answer(answer) = self.verdict() {
            return Some(answer);
        }
        let state = self.state();
        let recent = |at: Instant| now.duration_since(at) < FAILURE_SPEAKS_FOR;
        if state.fetched_at.is_some_and(recent) && state.last_known().is_some() {
            return state.last_known();
        }
        let (_, failure) = state.failure.as_ref().filter(|(at, _)| recent(*at))?;
        Some(state.last_known().unwrap_or_else(|| Err(failure.clone())))
    }

    /// The last known state as an answer, if anything is known for sure.
    pub(super) fn last_known(&self) -> Option<Result<Arc<K>, ObjectError>> {
        self.state().last_known()
    }

    /// Under the Cache strategy: the value, if it was fetched within `ttl`.
    pub(super) fn fresh(&self, now: Instant, ttl: Duration) -> Option<Arc<K>> {
        let state = self.state();
        state.fetched_at.filter(|at| now.duration_since(*at) < ttl)?;
        match &state.known {
            Known::Present(object) => Some(object.clone()),
            Known::Unknown | Known::Missing(_) => None,
        }
    }

    /// Under the Cache strategy: whether a GET would only refresh a value that is there.
    pub(super) fn refreshable(&self) -> bool {
        let state = self.state();
        state.fetched_at.is_some() && matches!(state.known, Known::Present(_))
    }

    /// Under the Cache strategy: the next who asks fetches.
    pub(super) fn expire(&self) {
        self.state().fetched_at = None;
    }
}

impl<K: Kept> State<K> {
    /// Takes up a value, unless it has been overtaken.
    fn adopt(&mut self, object: Arc<K>, now: Instant) {
        if !self.is_overtaken(&*object, now) {
            self.known = Known::Present(object);
            self.known_at = Some(now);
            self.unreadable = None;
        }
    }

    /// Whether a later version became known just before.
    fn is_overtaken(&self, object: &K, now: Instant) -> bool {
        let Known::Present(known) = &self.known else { return false };
        let number = |metadata: &ObjectMeta| metadata.resource_version.as_deref()?.parse::<u128>().ok();
        let older =
            number(object.metadata()).zip(number(known.metadata())).is_some_and(|(new, known)| new < known);
        older && self.known_at.is_some_and(|at| now.duration_since(at) < OVERTAKING)
    }

    /// `words` are the API server's, or such as it would use; `None` if only a list says so.
    fn miss(&mut self, words: Option<String>) {
        self.unreadable = None;
        let confirmed = matches!(&self.known, Known::Missing(Some(_)));
        if words.is_some() || !confirmed {
            self.known = Known::Missing(words);
        }
    }

    fn last_known(&self) -> Option<Result<Arc<K>, ObjectError>> {
        match (&self.known, &self.unreadable) {
            (Known::Present(object), _) => Some(Ok(object.clone())),
            (_, Some(unreadable)) => Some(Err(ObjectError::Failed(unreadable.clone()))),
            (Known::Missing(Some(message)), None) => Some(Err(ObjectError::NotFound(message.clone()))),
            (Known::Missing(None) | Known::Unknown, None) => None,
        }
    }
}

fn answered_with<K: Kept>(answer: &Result<Arc<K>, ObjectError>) -> Answered {
    match answer {
        Ok(object) => {
            let metadata = object.metadata();
            Answered::Version {
                uid: metadata.uid.clone().unwrap_or_default(),
                resource_version: metadata.resource_version.clone().unwrap_or_default(),
            }
        }
        Err(ObjectError::NotFound(_)) => Answered::Missing,
        Err(ObjectError::Failed(_)) => Answered::Failed,
    }
}

#[cfg(test)]
mod tests;
