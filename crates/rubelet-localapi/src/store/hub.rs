//! Who watches what, and the few events that they have yet to see.
//!
//! It owns the list of watchers with where each has got to, and a small ring of recent events. An event enters the ring
//! only when somebody waits for it and leaves it when the last of them has taken it, or when it is too far behind: who
//! still wants it then reads it from the log. Nothing here waits or reads the file; a write publishes, `Watcher` asks.
//! Wakers are called in the order in which the watchers came, so that a simulation can be replayed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::RecentLimits;
use super::event::Event;
use super::key::Key;

/// What a watcher follows; absent parts stand for all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interest {
    pub resource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

impl Interest {
    /// Whether a change to this object is of interest.
    pub(super) fn matches(&self, (resource, namespace, name): (&str, &str, &str)) -> bool {
        self.resource == resource
            && self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }

    /// All interests that a change to this object is of.
    fn of(key: &Key) -> [Self; 4] {
        let interest = |namespace: bool, name: bool| Self {
            resource: key.resource.clone(),
            namespace: namespace.then(|| key.namespace.clone()),
            name: name.then(|| key.name.clone()),
        };
        [interest(false, false), interest(true, false), interest(false, true), interest(true, true)]
    }
}

/// Names a watcher; a later one has a greater number.
pub(super) type WatcherId = u64;

/// Where a watcher looks next.
#[derive(Debug)]
pub(super) enum Next {
    /// Here it is.
    Event(Arc<Event>),
    /// In the log, after the first revision and up to the second.
    Log(u64, u64),
    /// Nowhere until it is woken.
    Wait,
    /// Nothing will come any more.
    Closed,
}

#[derive(Debug)]
struct Slot {
    interest: Arc<Interest>,
    /// All that is of interest up to here has been seen.
    position: u64,
    /// The newest revision when it came: the ring counts it for later events only.
    came_at: u64,
    /// The revision from which there may be something to see; `None` when there is nothing.
    pending: Option<u64>,
    waker: Option<Waker>,
}

impl Slot {
    /// The newest revision up to which all has been seen, before those published after it was last looked at.
    fn seen(&self) -> u64 {
        // Nothing of interest lies between the position and what is pending.
        self.pending.map_or(self.position, |first| self.position.max(first - 1))
    }
}

#[derive(Debug)]
struct Held {
    event: Arc<Event>,
    /// How many watchers have yet to take it.
    needed: usize,
}

#[derive(Debug)]
struct State {
    /// The newest revision that watchers were told of.
    published: u64,
    /// The newest revision that may be in the file already.
    announced: u64,
    floor: u64,
    closed: bool,
    slots: BTreeMap<WatcherId, Slot>,
    interests: BTreeMap<Arc<Interest>, BTreeSet<WatcherId>>,
    next_id: WatcherId,
    ring: VecDeque<Held>,
    ring_bytes: usize,
    /// The newest revision that the ring had to give up though someone wanted it.
    ring_floor: u64,
}

/// The watchers of a store.
#[derive(Debug)]
pub(super) struct Hub {
    limits: RecentLimits,
    state: Mutex<State>,
}

impl Hub {
    pub(super) fn new(limits: RecentLimits, revision: u64, floor: u64) -> Self {
        let state = State {
            published: revision,
            announced: revision,
            floor,
            closed: false,
            slots: BTreeMap::new(),
            interests: BTreeMap::new(),
            next_id: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            ring_floor: 0,
        };
        Self { limits, state: Mutex::new(state) }
    }

    pub(super) fn revision(&self) -> u64 {
        self.lock().published
    }

    pub(super) fn floor(&self) -> u64 {
        self.lock().floor
    }

    /// The newest revision that a reader of the file may have seen.
    pub(super) fn announced(&self) -> u64 {
        self.lock().announced
    }

    /// A revision is about to be in the file, before watchers are told.
    pub(super) fn announce(&self, revision: u64) {
        let mut state = self.lock();
        state.announced = state.announced.max(revision);
    }

    /// Adds a watcher that has seen everything up to `after`.
    pub(super) fn add(&self, interest: Interest, after: u64) -> WatcherId {
        let interest = Arc::new(interest);
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let came_at = state.published;
        let pending = (after < came_at).then_some(after + 1);
        let slot = Slot { interest: interest.clone(), position: after, came_at, pending, waker: None };
        state.slots.insert(id, slot);
        state.interests.entry(interest).or_default().insert(id);
        id
    }

    /// Forgets a watcher.
    pub(super) fn remove(&self, id: WatcherId) {
        let mut state = self.lock();
        state.advance(id, u64::MAX);
        let Some(slot) = state.slots.remove(&id) else { return };
        if let Some(others) = state.interests.get_mut(&slot.interest) {
            others.remove(&id);
            if others.is_empty() {
                state.interests.remove(&slot.interest);
            }
        }
    }

    /// Up to which revision a watcher has seen everything.
    pub(super) fn seen(&self, id: WatcherId) -> u64 {
        let state = self.lock();
        match state.slots.get(&id) {
            Some(slot) if slot.pending.is_none() => slot.position.max(state.published),
            Some(slot) => slot.seen(),
            None => state.published,
        }
    }

    /// Where the watcher looks next; when nowhere, `waker` is called once there is something.
    pub(super) fn next(&self, id: WatcherId, waker: &Waker) -> Next {
        let mut state = self.lock();
        let (published, ring_floor, closed) = (state.published, state.ring_floor, state.closed);
        let Some(slot) = state.slots.get_mut(&id) else { return Next::Closed };
        if slot.pending.is_some() {
            let seen = slot.seen();
            if seen < ring_floor || seen < slot.came_at {
                return Next::Log(seen, published);
            }
            let interest = slot.interest.clone();
            if let Some(event) = state.recent(&interest, seen) {
                state.took(id, event.revision);
                return Next::Event(event);
            }
        }
        if closed {
            return Next::Closed;
        }
        if let Some(slot) = state.slots.get_mut(&id) {
            slot.position = slot.position.max(published);
            slot.pending = None;
            slot.waker = Some(waker.clone());
        }
        Next::Wait
    }

    /// The watcher has seen everything up to `revision`, and perhaps not what comes after it.
    pub(super) fn advance(&self, id: WatcherId, revision: u64) {
        self.lock().took(id, revision);
    }

    /// Tells of changes that are in the file, in the order of their revisions.
    pub(super) fn publish(&self, events: Vec<Event>, revision: u64, floor: u64) {
        let mut wakers = vec![];
        {
            let mut state = self.lock();
            for event in events {
                if event.revision > state.published {
                    state.push(event, &self.limits, &mut wakers);
                }
            }
            state.published = state.published.max(revision);
            state.announced = state.announced.max(revision);
            state.floor = state.floor.max(floor);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes everyone, for the last time.
    pub(super) fn close(&self) {
        let wakers: Vec<Waker> = {
            let mut state = self.lock();
            state.closed = true;
            state.slots.values_mut().filter_map(|slot| slot.waker.take()).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watchers, events in the ring and their bytes.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let state = self.lock();
        assert_eq!(state.slots.len(), state.interests.values().map(BTreeSet::len).sum::<usize>());
        (state.slots.len(), state.ring.len(), state.ring_bytes)
    }
}

impl State {
    fn push(&mut self, event: Event, limits: &RecentLimits, wakers: &mut Vec<Waker>) {
        let mut watchers: Vec<WatcherId> = Interest::of(&event.key)
            .iter()
            .filter_map(|interest| self.interests.get(interest))
            .flatten()
            .copied()
            .collect();
        watchers.sort_unstable();
        let mut needed = 0;
        for id in watchers {
            // Who asked for later changes only has "seen" it.
            let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.position < event.revision) else {
                continue;
            };
            needed += 1;
            slot.pending.get_or_insert(event.revision);
            wakers.extend(slot.waker.take());
        }
        if needed == 0 {
            return;
        }
        self.ring_bytes += event.weight();
        self.ring.push_back(Held { event: Arc::new(event), needed });
        while self.ring.len() > limits.events || self.ring_bytes > limits.bytes {
            let Some(held) = self.ring.pop_front() else { break };
            self.ring_bytes -= held.event.weight();
            self.ring_floor = held.event.revision;
        }
    }

    fn recent(&self, interest: &Interest, after: u64) -> Option<Arc<Event>> {
        let start = self.ring.partition_point(|held| held.event.revision <= after);
        let held = self.ring.range(start..).find(|held| interest.matches(held.event.key.parts()))?;
        Some(held.event.clone())
    }

    /// A watcher goes on after `revision`.
    fn took(&mut self, id: WatcherId, revision: u64) {
        self.advance(id, revision);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.position = slot.position.max(revision);
            slot.pending = Some(slot.position.saturating_add(1));
        }
    }

    /// Lets go of the events up to `revision` that were held for a watcher.
    fn advance(&mut self, id: WatcherId, revision: u64) {
        let Some(slot) = self.slots.get(&id) else { return };
        let after = slot.position.max(slot.came_at);
        let start = self.ring.partition_point(|held| held.event.revision <= after);
        let mut done = false;
        for held in self.ring.range_mut(start..) {
            if held.event.revision > revision {
                break;
            }
            if slot.interest.matches(held.event.key.parts()) {
                held.needed = held.needed.saturating_sub(1);
                done |= held.needed == 0;
            }
        }
        if done {
            self.ring.retain(|held| held.needed > 0);
            self.ring_bytes = self.ring.iter().map(|held| held.event.weight()).sum();
        }
    }
}
