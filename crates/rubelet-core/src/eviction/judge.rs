//! Which thresholds are crossed, since when, and what the node's conditions say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::EvictionConfig;
use crate::node::pressure::{Observation, Observations, Pressure, Pressures, Threshold};

/// What is remembered between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// Thresholds that are met, by their place, and since when.
    since: BTreeMap<usize, Timestamp>,
    /// Those among them that were due: they stay until their minimum reclaim is reached.
    due: BTreeSet<usize>,
    /// When each kind of pressure was last there.
    last_seen: BTreeMap<Pressure, Timestamp>,
}

/// What follows from a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// What the node's conditions say.
    pub pressures: Pressures,
    /// Thresholds that call for action, by their place: met for their grace.
    pub due: Vec<usize>,
    /// Whether a threshold is met at all.
    pub any_met: bool,
    /// When the answer changes though the observations stay: a grace or the transition period is over.
    pub changes_in: Option<Duration>,
}

/// Judges one look at the node (upstream `synchronize` up to the thresholds that drive eviction). What could not be
/// observed makes no pressure.
///
/// A clock that was set back never keeps pressure longer than the transition period from the new time on.
pub fn judge(
    config: &EvictionConfig,
    observations: &Observations,
    book: &Book,
    now: Timestamp,
) -> (Book, Judgement) {
    let mut next = Book { last_seen: book.last_seen.clone(), ..Book::default() };
    for at in next.last_seen.values_mut() {
        *at = (*at).min(now);
    }
    let mut changes = Vec::new();
    for (place, threshold) in config.thresholds.iter().enumerate() {
        let Some(observation) = sensible(observations, threshold) else { continue };
        if !threshold.is_met(observation, book.due.contains(&place)) {
            continue;
        }
        let since = book.since.get(&place).map_or(now, |since| (*since).min(now));
        next.since.insert(place, since);
        next.last_seen.insert(threshold.signal.pressure(), now);
        let lasts = passed(since, now);
        if lasts >= threshold.grace {
            next.due.insert(place);
        } else {
            changes.push(threshold.grace - lasts);
        }
    }
    next.last_seen.retain(|_, at| {
        let gone_for = passed(*at, now);
        gone_for.is_zero() || gone_for < config.transition_period
    });
    changes.extend(
        next.last_seen
            .values()
            .filter(|at| **at < now)
            .map(|at| config.transition_period.saturating_sub(passed(*at, now))),
    );
    let has = |pressure| next.last_seen.contains_key(&pressure);
    let judgement = Judgement {
        pressures: Pressures {
            memory: has(Pressure::Memory),
            disk: has(Pressure::Disk),
            pid: has(Pressure::Pid),
        },
        due: next.due.iter().copied().collect(),
        any_met: !next.since.is_empty(),
        changes_in: changes.into_iter().min(),
    };
    (next, judgement)
}

/// What was observed of a threshold's signal. Of nothing, nothing can be left: such a reading (of a file system without
/// a size, say) is none.
pub(super) fn sensible(observations: &Observations, threshold: &Threshold) -> Option<Observation> {
    observations.get(&threshold.signal).copied().filter(|observation| observation.capacity > 0)
}

fn passed(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).try_into().unwrap_or_default()
}
