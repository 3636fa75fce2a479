//! What is remembered of kills in containers: how many, when the last one was, and what users are still to be told.
//!
//! Time is the age of the agent; only the moment of a kill is wall-clock time, because the runtime tells ends of
//! containers so. Bounded: of very many containers those without a kill for the longest time are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{OomKill, container_of};
use crate::ids::{ContainerId, PodUid};

/// How many containers are remembered.
const MAX_CONTAINERS: usize = 1024;
/// How many counts of earlier instances are remembered.
const MAX_EARLIER: usize = 1024;
/// How long a kill is kept to oneself: by then it shows whether the container goes on.
const SETTLE: Duration = Duration::from_secs(3);
/// Shortest time between two events about one container.
const QUIET: Duration = Duration::from_secs(60);
/// How soon after a kill a container ends that ends of it; taking a large memory apart takes its time.
const END_AFTER_KILL: Duration = Duration::from_secs(5);

/// When a kill was, in wall-clock time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KillTime {
    /// When.
    pub at: Timestamp,
    /// How far off that may be.
    pub give_or_take: Duration,
}

/// Kills by container.
#[derive(Debug, Default)]
pub struct KillLedger {
    containers: BTreeMap<ContainerId, Entry>,
    /// Kills in forgotten containers, by pod and container name.
    earlier: BTreeMap<(PodUid, String), u64>,
    /// Kills in ended containers that were seen to by pod, where only counters tell.
    settled: BTreeMap<PodUid, u64>,
}

#[derive(Debug)]
struct Entry {
    /// Whose instance it is, once somebody knew.
    owner: Option<(PodUid, String)>,
    kills: u64,
    last: Option<KillTime>,
    /// When the last one was noted.
    noted: Duration,
    /// The last kill that was not told, and how many there were before it.
    untold: Option<(Option<OomKill>, u64)>,
    /// When users are to be told.
    due: Option<Duration>,
    /// When they were told last.
    told: Option<Duration>,
}

/// Something that users are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The container.
    pub container: ContainerId,
    /// The last kill, where more is known than a number.
    pub kill: Option<OomKill>,
    /// How many more there were since users were told last.
    pub more: u64,
}

impl KillLedger {
    /// Notes a kill. `news` is false for what the kernel's log held already when it was opened: that explains ends of
    /// containers and counts, and is not told again. Says whether it was in a container.
    pub fn note(&mut self, kill: &OomKill, time: KillTime, now: Duration, news: bool) -> bool {
        let Some(id) = kill.task_memcg.as_deref().and_then(container_of) else { return false };
        let entry = self.entry(id, now);
        entry.last = Some(time);
        entry.add(1, Some(kill.clone()), now, news);
        true
    }

    /// Notes that a counter of a container stands at `kills`, for where the kernel's log cannot be read. The first
    /// reading is where the counting begins.
    pub fn note_count(&mut self, id: &ContainerId, kills: u64, now: Duration) {
        if kills == 0 && !self.containers.contains_key(id) {
            // Most never lose a process: only a number above nothing is remembered.
            return;
        }
        let is_new = !self.containers.contains_key(id);
        let entry = self.entry(id.clone(), now);
        let risen = kills.saturating_sub(entry.kills);
        if risen > 0 {
            entry.add(risen, None, now, !is_new);
        }
    }

    /// Notes whose instance a container is.
    pub fn own(&mut self, id: &ContainerId, pod: &PodUid, name: &str) {
        if let Some(entry) = self.containers.get_mut(id)
            && entry.owner.is_none()
        {
            entry.owner = Some((pod.clone(), name.to_owned()));
        }
    }

    /// The containers of which nobody has said whose instances they are.
    pub fn unowned(&self) -> impl Iterator<Item = &ContainerId> {
        self.containers.iter().filter(|(_, entry)| entry.owner.is_none()).map(|(id, _)| id)
    }

    /// Whether a kill in a container explains that its first process ended by SIGKILL at that time.
    pub fn explains(&self, id: &ContainerId, finished_at: Timestamp) -> bool {
        let Some(last) = self.containers.get(id).and_then(|entry| entry.last) else { return false };
        let allowed = SignedDuration::try_from(END_AFTER_KILL.saturating_add(last.give_or_take));
        // A kill that seems to be later was read late: nothing is killed in a container that has ended.
        allowed.is_ok_and(|allowed| finished_at.duration_since(last.at) <= allowed)
    }

    /// Kills in all instances of a pod's container, of which `id` is the one that is there; `counted` is what the
    /// kernel's counter of that instance says.
    pub fn total(&self, pod: &PodUid, name: &str, id: &ContainerId, counted: u64) -> u64 {
        let is_other = |other: &ContainerId, entry: &Entry| {
            other != id && entry.owner.as_ref().is_some_and(|(uid, of)| uid == pod && of == name)
        };
        let others = self.containers.iter().filter(|(other, entry)| is_other(other, entry));
        let own = self.containers.get(id).map_or(0, |entry| entry.kills).max(counted);
        let earlier = self.earlier.get(&(pod.clone(), name.to_owned())).copied().unwrap_or_default();
        others.fold(own.saturating_add(earlier), |sum, (_, entry)| sum.saturating_add(entry.kills))
    }

    /// Kills in the ended containers of a pod since this was last asked, where only counters tell: `tree` is what its
    /// group counted with all that were ever in it, `others` what the groups that are still there counted. `whole` is
    /// whether the pod was seen from its beginning; of another the first answer is 0, because the kills may be old.
    pub fn settle(&mut self, pod: &PodUid, tree: u64, others: u64, whole: bool) -> u64 {
        let ended = tree.saturating_sub(others);
        if self.settled.len() >= MAX_EARLIER && !self.settled.contains_key(pod) {
            self.settled.pop_first();
        }
        let before = self.settled.insert(pod.clone(), ended);
        ended.saturating_sub(before.unwrap_or(if whole { 0 } else { ended }))
    }

    /// Whether anything is remembered at all: most nodes have nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.earlier.is_empty()
    }

    /// When users are to be told something next.
    pub fn next_due(&self) -> Option<Duration> {
        self.containers.values().filter_map(|entry| entry.due).min()
    }

    /// Takes what users are to be told now.
    pub fn take_due(&mut self, now: Duration) -> Vec<Due> {
        let mut taken = Vec::new();
        for (id, entry) in &mut self.containers {
            if entry.due.is_none_or(|due| due > now) {
                continue;
            }
            entry.due = None;
            if let Some((kill, more)) = entry.untold.take() {
                entry.told = Some(now);
                taken.push(Due { container: id.clone(), kill, more });
            }
        }
        taken
    }

    /// Forgets the pods that are not among these.
    pub fn keep_pods(&mut self, pods: &BTreeSet<PodUid>) {
        let is_kept =
            |owner: &Option<(PodUid, String)>| owner.as_ref().is_none_or(|(uid, _)| pods.contains(uid));
        self.containers.retain(|_, entry| is_kept(&entry.owner));
        self.earlier.retain(|(uid, _), _| pods.contains(uid));
        self.settled.retain(|uid, _| pods.contains(uid));
    }

    fn entry(&mut self, id: ContainerId, now: Duration) -> &mut Entry {
        if self.containers.len() >= MAX_CONTAINERS && !self.containers.contains_key(&id) {
            self.make_room();
        }
        self.containers.entry(id).or_insert_with(|| Entry {
            owner: None,
            kills: 0,
            last: None,
            noted: now,
            untold: None,
            due: None,
            told: None,
        })
    }

    fn make_room(&mut self) {
        let oldest = self.containers.iter().min_by_key(|(_, entry)| entry.noted).map(|(id, _)| id.clone());
        let Some(entry) = oldest.and_then(|id| self.containers.remove(&id)) else { return };
        if let Some(owner) = entry.owner
            && (self.earlier.len() < MAX_EARLIER || self.earlier.contains_key(&owner))
        {
            *self.earlier.entry(owner).or_default() += entry.kills;
        }
    }
}

impl Entry {
    fn add(&mut self, count: u64, kill: Option<OomKill>, now: Duration, news: bool) {
        self.kills = self.kills.saturating_add(count);
        self.noted = now;
        if !news {
            return;
        }
        let before = self.untold.take().map_or(0, |(kill, more)| more + u64::from(kill.is_some()));
        // With a kill in hand it is not one of those that are only counted.
        let more = before.saturating_add(count - u64::from(kill.is_some()));
        self.untold = Some((kill, more));
        self.due.get_or_insert_with(|| {
            let quiet = self.told.map_or(Duration::ZERO, |told| told.saturating_add(QUIET));
            now.saturating_add(SETTLE).max(quiet)
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oom::Constraint;

    fn id(number: usize) -> ContainerId {
        format!("{number:064x}").into()
    }

    fn kill(number: usize, pid: i32) -> OomKill {
        OomKill {
            process: "a".into(),
            pid,
            task_memcg: Some(format!("/kubepods/podu/{}", id(number))),
            oom_memcg: None,
            constraint: Constraint::Node,
            limit: None,
            shmem: None,
            at: Duration::ZERO,
        }
    }

    fn time(second: i64) -> KillTime {
        KillTime { at: Timestamp::from_second(second).unwrap(), give_or_take: Duration::ZERO }
    }

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_kill_explains_the_end_of_its_container_that_follows() {
        let mut ledger = KillLedger::default();
        assert!(ledger.note(&kill(1, 7), time(100), second(0), true));
        let check = |container, end: i64, expected| {
            assert_eq!(
                ledger.explains(&id(container), Timestamp::from_second(end).unwrap()),
                expected,
                "{end}"
            );
        };
        check(1, 99, true);
        check(1, 100, true);
        check(1, 105, true);
        check(1, 106, false);
        check(2, 100, false);
        let vague = KillTime { give_or_take: second(3), ..time(100) };
        ledger.note(&kill(1, 8), vague, second(0), false);
        assert!(ledger.explains(&id(1), Timestamp::from_second(108).unwrap()));
    }

    #[test]
    fn kills_outside_containers_are_nobodys() {
        let mut ledger = KillLedger::default();
        for group in [None, Some("/system.slice/a.service".to_owned())] {
            assert!(!ledger.note(&OomKill { task_memcg: group, ..kill(1, 7) }, time(0), second(0), true));
        }
        assert!(ledger.is_empty());
    }

    #[test]
    fn users_are_told_once_it_shows_what_became_and_then_rarely_with_a_count() {
        let mut ledger = KillLedger::default();
        let told = |ledger: &mut KillLedger, now| {
            let due = ledger.take_due(second(now)).into_iter();
            due.map(|due| (due.kill.map(|kill| kill.pid), due.more)).collect::<Vec<_>>()
        };
        ledger.note(&kill(1, 1), time(0), second(0), true);
        ledger.note(&kill(1, 2), time(0), second(1), true);
        assert_eq!((ledger.next_due(), told(&mut ledger, 2)), (Some(second(3)), vec![]));
        assert_eq!(told(&mut ledger, 3), [(Some(2), 1)]);
        assert_eq!(ledger.next_due(), None);
        for pid in 3..10 {
            ledger.note(&kill(1, pid), time(0), second(10), true);
        }
        assert_eq!((ledger.next_due(), told(&mut ledger, 62)), (Some(second(63)), vec![]));
        assert_eq!(told(&mut ledger, 63), [(Some(9), 6)]);
        ledger.note(&kill(1, 10), time(0), second(1000), true);
        assert_eq!(told(&mut ledger, 1003), [(Some(10), 0)]);
    }

    #[test]
    fn what_was_in_the_log_before_is_not_told() {
        let mut ledger = KillLedger::default();
        ledger.note(&kill(1, 1), time(0), second(0), false);
        assert_eq!(ledger.next_due(), None);
        assert_eq!(ledger.total(&"u".into(), "c", &id(1), 0), 1);
    }

    #[test]
    fn counters_tell_what_they_rose_by() {
        let mut ledger = KillLedger::default();
        ledger.note_count(&id(1), 0, second(0));
        assert!(ledger.is_empty());
        ledger.note_count(&id(1), 2, second(0));
        assert_eq!(ledger.next_due(), None, "this may be old");
        ledger.note_count(&id(1), 5, second(1));
        ledger.note_count(&id(1), 5, second(2));
        let due = ledger.take_due(second(4));
        assert_eq!(due, [Due { container: id(1), kill: None, more: 3 }]);
        assert_eq!(ledger.total(&"u".into(), "c", &id(1), 5), 5);
    }

    #[test]
    fn counters_of_trees_tell_of_containers_that_are_gone() {
        let mut ledger = KillLedger::default();
        let mut settle = |pod: &str, tree, others, whole| ledger.settle(&pod.into(), tree, others, whole);
        assert_eq!([settle("a", 0, 0, true), settle("a", 1, 0, true), settle("a", 1, 0, true)], [0, 1, 0]);
        assert_eq!([settle("a", 3, 2, true), settle("a", 3, 0, true)], [0, 2]);
        assert_eq!([settle("b", 5, 1, false), settle("b", 7, 1, false)], [0, 2]);
    }

    #[test]
    fn the_count_of_a_container_survives_its_instances() {
        let mut ledger = KillLedger::default();
        let uid = PodUid::from("u");
        let total = |ledger: &KillLedger, current, counted| ledger.total(&uid, "c", &id(current), counted);
        ledger.note(&kill(1, 1), time(0), second(0), true);
        ledger.own(&id(1), &uid, "c");
        ledger.note(&kill(2, 2), time(0), second(0), true);
        assert_eq!(ledger.unowned().collect::<Vec<_>>(), [&id(2)]);
        ledger.own(&id(2), &uid, "other");
        assert_eq!((total(&ledger, 1, 0), total(&ledger, 1, 1), total(&ledger, 1, 5)), (1, 1, 5));
        assert_eq!((total(&ledger, 3, 0), total(&ledger, 3, 2)), (1, 3));
        // Even when so many others came that the instance is forgotten.
        for number in 10..10 + 2 * MAX_CONTAINERS {
            ledger.note(&kill(number, 1), time(0), second(1), true);
        }
        assert_eq!(ledger.containers.len(), MAX_CONTAINERS);
        assert_eq!(total(&ledger, 3, 0), 1);
        ledger.keep_pods(&[uid.clone()].into());
        assert_eq!(total(&ledger, 3, 0), 1);
        ledger.keep_pods(&BTreeSet::new());
        assert_eq!(total(&ledger, 3, 0), 0);
    }

    proptest! {
        #[test]
        fn every_kill_is_told_once(steps in proptest::collection::vec((0_usize..3, 0_u64..40), 1..40)) {
            let mut ledger = KillLedger::default();
            let (mut now, mut told, mut events) = (0, 0, 0);
            for (number, pause) in &steps {
                ledger.note(&kill(*number, 1), time(0), second(now), true);
                now += pause;
                let due = ledger.take_due(second(now));
                events += due.len();
                told += due.iter().map(|due| due.more + 1).sum::<u64>();
            }
            prop_assert!(events as u64 <= 3 * (now / 60 + 2));
            now += 100;
            told += ledger.take_due(second(now)).iter().map(|due| due.more + 1).sum::<u64>();
            prop_assert_eq!(told, steps.len() as u64);
            prop_assert_eq!(ledger.next_due(), None);
        }
    }
}
