//! Calls that the runtime does not answer, and so the pods that are stuck in it.
//!
//! Each call about a container, a sandbox or a pod is entered when it is made and taken out when it is answered,
//! whatever the answer. One that was given up without an answer stays: the same call made again goes on counting from
//! the first time. What is not answered for longer than its patience is stuck. Silence of the whole runtime is another
//! trouble ([`Calls::forgive`]). Pure: its time is the age of the agent; it is bounded by what is under way and what was
//! asked in the last minute.

use std::collections::BTreeMap;
use std::time::Duration;

/// A call that nobody has repeated for this long is nobody's trouble any more.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Calls beyond this many are not watched, whatever happens.
const MOST: usize = 8192;

/// What was asked: the name of the call and the ID of what it is about.
pub type CallKey = (&'static str, String);

/// A call about `T`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry<T> {
    about: T,
    /// When it was first made without an answer since.
    since: Duration,
    /// When it was last made or given up.
    last: Duration,
    /// How long an answer may take.
    patience: Duration,
    /// How many are under way.
    under_way: u32,
    /// It was given up at least once.
    given_up: bool,
}

/// A call that is stuck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckCall<T> {
    /// Its name in the protocol.
    pub call: &'static str,
    /// What it is about.
    pub about: T,
    /// For how long it has not been answered.
    pub lasts: Duration,
}

/// Why a call ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// Its time was up.
    Deadline,
    /// Whoever made it wanted it no longer. That says something only of a call that had had this long.
    Early(Duration),
}

/// The calls under way and those given up lately.
#[derive(Clone, Debug)]
pub struct Calls<T> {
    entries: BTreeMap<CallKey, Entry<T>>,
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<T: Clone> Calls<T> {
    /// A call is made. Returns when it will be stuck.
    pub fn begin(
        &mut self,
        key: CallKey,
        about: impl FnOnce() -> T,
        patience: Duration,
        now: Duration,
    ) -> Option<Duration> {
        if self.entries.len() >= MOST && !self.entries.contains_key(&key) {
            return None;
        }
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            about: about(),
            since: now,
            last: now,
            patience,
            under_way: 0,
            given_up: false,
        });
        entry.under_way += 1;
        (entry.last, entry.patience) = (now, patience);
        Some(entry.due())
    }

    /// It was answered, so that nothing of it is stuck. Says whether it was.
    pub fn answered(&mut self, key: &CallKey, now: Duration) -> bool {
        self.entries.remove(key).is_some_and(|entry| now >= entry.due())
    }

    /// It ended without an answer.
    pub fn gave_up(&mut self, key: &CallKey, why: GaveUp, now: Duration) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.under_way = entry.under_way.saturating_sub(1);
        // What is wanted no longer may have been about to be answered.
        entry.given_up |= match why {
            GaveUp::Deadline => true,
            GaveUp::Early(telling) => now.saturating_sub(entry.last) >= telling,
        };
        entry.last = now;
        if entry.under_way == 0 && !entry.given_up {
            self.entries.remove(key);
        }
    }

    /// The runtime answers nobody: everything counts anew from `now`. Forgets what nobody asks any more.
    pub fn forgive(&mut self, now: Duration) {
        self.forget(now);
        for entry in self.entries.values_mut() {
            entry.since = now;
        }
    }

    /// What is stuck at age `now`. Forgets what nobody asks any more.
    pub fn stuck(&mut self, now: Duration) -> Vec<StuckCall<T>> {
        self.forget(now);
        let stuck = self.entries.iter().filter(|(_, entry)| now >= entry.due());
        stuck
            .map(|((call, _), entry)| StuckCall {
                call,
                about: entry.about.clone(),
                lasts: now.saturating_sub(entry.since),
            })
            .collect()
    }

    /// When [`Self::stuck`] will say something else if nothing happens; always later than `now`.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let due = self.entries.values().map(Entry::due);
        let forgotten = self.entries.values().filter(|entry| entry.under_way == 0).map(Entry::forgotten);
        due.chain(forgotten).filter(|at| *at > now).min()
    }

    fn forget(&mut self, now: Duration) {
        self.entries.retain(|_, entry| entry.under_way > 0 || now < entry.forgotten());
    }

    /// Whether nothing is under way or remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<T> Entry<T> {
    fn due(&self) -> Duration {
        self.since.saturating_add(self.patience)
    }

    fn forgotten(&self) -> Duration {
        self.last.saturating_add(FORGOTTEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const CUT: GaveUp = GaveUp::Early(Duration::from_secs(10));

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn key() -> CallKey {
        ("ContainerStatus", "c1".to_owned())
    }

    /// Makes the call at each of `times` and gives it up 10 s later.
    fn given_up(times: &[u64], why: GaveUp) -> Calls<&'static str> {
        let mut calls = Calls::default();
        for at in times {
            calls.begin(key(), || "pod", PATIENCE, s(*at));
            calls.gave_up(&key(), why, s(at + 10));
        }
        calls
    }

    #[test]
    fn a_call_under_way_is_stuck_after_its_patience() {
        let mut calls = Calls::default();
        assert_eq!(calls.begin(key(), || "pod", PATIENCE, s(100)), Some(s(130)));
        assert_eq!((calls.stuck(s(129)), calls.next(s(129))), (vec![], Some(s(130))));
        let stuck = StuckCall { call: "ContainerStatus", about: "pod", lasts: s(31) };
        assert_eq!((calls.stuck(s(131)), calls.next(s(131))), (vec![stuck], None));
        assert!(calls.answered(&key(), s(140)));
        assert!(calls.stuck(s(141)).is_empty() && calls.is_empty());
    }

    #[test]
    fn one_that_is_given_up_again_and_again_is_stuck_from_the_first() {
        for why in [GaveUp::Deadline, CUT] {
            let mut calls = given_up(&[0, 11, 23, 37], why);
            assert_eq!(calls.stuck(s(50)).iter().map(|call| call.lasts).collect::<Vec<_>>(), [s(50)]);
            // Nobody asks any more.
            assert!(calls.stuck(s(47) + FORGOTTEN).is_empty());
            assert!(calls.is_empty());
        }
        let mut calls = given_up(&[0], CUT);
        assert_eq!(calls.next(s(10)), Some(s(30)));
        assert_eq!(calls.stuck(s(30)).len(), 1);
        assert_eq!(calls.next(s(30)), Some(s(70)));
    }

    #[test]
    fn an_answer_between_begins_anew() {
        let mut calls = given_up(&[0, 11], CUT);
        calls.begin(key(), || "pod", PATIENCE, s(22));
        assert!(!calls.answered(&key(), s(22)));
        calls.begin(key(), || "pod", PATIENCE, s(23));
        assert!(calls.stuck(s(52)).is_empty());
        assert_eq!(calls.stuck(s(53)).len(), 1);
    }

    #[test]
    fn what_is_wanted_no_longer_says_nothing() {
        let calls = given_up(&[0], GaveUp::Early(s(11)));
        assert!(calls.is_empty());
        // One of two that are under way.
        let mut calls = Calls::default();
        calls.begin(key(), || "pod", PATIENCE, s(0));
        calls.begin(key(), || "pod", PATIENCE, s(5));
        calls.gave_up(&key(), CUT, s(6));
        assert_eq!(calls.stuck(s(30)).len(), 1);
        // What comes after the answer belongs to a call that is settled.
        calls.answered(&key(), s(31));
        calls.gave_up(&key(), GaveUp::Deadline, s(32));
        assert!(calls.is_empty());
    }

    #[test]
    fn silence_of_the_runtime_is_forgiven() {
        let mut calls = given_up(&[0, 11, 23], CUT);
        calls.forgive(s(60));
        assert!(calls.stuck(s(60)).is_empty());
        calls.begin(key(), || "pod", PATIENCE, s(61));
        assert_eq!(calls.stuck(s(90)).len(), 1);
    }

    #[test]
    fn what_nobody_asks_any_more_is_forgotten_in_a_silence_too() {
        let mut calls = given_up(&[0], CUT);
        for at in [20, 69, 70, 100] {
            calls.forgive(s(at));
            assert!(calls.next(s(at)).is_none_or(|next| next > s(at)), "{at}");
        }
        assert!(calls.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut calls = Calls::default();
        for number in 0..MOST + 10 {
            calls.begin(("StopContainer", number.to_string()), || (), PATIENCE, s(0));
        }
        assert_eq!(calls.stuck(s(100)).len(), MOST);
    }
}
