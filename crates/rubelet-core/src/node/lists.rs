//! What the runtime's lists say of the node's health.
//!
//! Lists that are slow or fail are one trouble, a runtime that does not answer at all is another
//! ([`super::conditions::RuntimeHealth`]), a pod that is stuck in it a third ([`super::stuck`]). Pods can be run while
//! anything can be read, be it one pod: only when nothing was read for as long as upstream's relist may take
//! (`relistThreshold`) is the node not ready. Before that there are events. Never measures; the shell's monitor of the
//! runtime gathers the facts and asks.

use std::time::Duration;

use super::conditions::RUNTIME_GRACE;

/// How long nothing may be read from the runtime before the node stops being Ready (upstream `relistThreshold`).
pub const LISTS_THRESHOLD: Duration = Duration::from_secs(180);
/// A full list that takes this long is slow.
pub const SLOW_LIST: Duration = Duration::from_secs(10);
/// One that takes no longer than this is not slow any more.
const QUICK_LIST: Duration = Duration::from_secs(5);
/// How long lists may fail before that is told: a runtime that restarts refuses a few.
const FAILING_LISTS: Duration = Duration::from_secs(10);

/// How reading the runtime goes. All times are how long ago, or for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFacts {
    /// The last full list that succeeded; `None` before the first.
    pub listed: Option<Duration>,
    /// The last time that one pod was read.
    pub observed: Option<Duration>,
    /// How long the full list has been under way that is.
    pub under_way: Option<Duration>,
    /// How long the last one took that succeeded.
    pub took: Duration,
    /// Since when no full list succeeds any more, and why the last did not.
    pub failing: Option<(Duration, String)>,
}

/// What is wrong with lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListTrouble {
    /// They take long.
    Slow,
    /// They fail.
    Failing,
}

impl ListFacts {
    /// When anything was read last.
    fn seen(&self) -> Option<Duration> {
        self.listed.into_iter().chain(self.observed).min()
    }

    /// Why the node is not ready, beginning as upstream's text does. `answering` is for how long the runtime has
    /// answered without a break, as far as this agent knows: what could not be read while it was silent is not held
    /// against it.
    ///
    /// The time told is in whole minutes, so that the Node is not written anew all the time.
    pub fn problem(&self, answering: Duration) -> Option<String> {
        let cause = self.failing.as_ref().map(|(_, cause)| format!(": {cause}")).unwrap_or_default();
        match self.seen() {
            None if answering >= RUNTIME_GRACE => {
                Some(format!("PLEG is not healthy: pleg has yet to be successful{cause}"))
            }
            Some(ago) if ago.min(answering) >= LISTS_THRESHOLD => Some(format!(
                "PLEG is not healthy: pleg was last seen active {} ago; threshold is {}{cause}",
                whole_minutes(ago),
                whole_minutes(LISTS_THRESHOLD)
            )),
            _ => None,
        }
    }

    /// What is wrong with lists. `before` is what was said last: what is slow stays so until it is quick again.
    pub fn trouble(&self, answering: Duration, before: Option<ListTrouble>) -> Option<ListTrouble> {
        let slow = if before == Some(ListTrouble::Slow) { QUICK_LIST } else { SLOW_LIST };
        let failing = self.failing.as_ref().map(|(lasts, _)| (*lasts).min(answering));
        match failing {
            Some(lasts) if lasts >= FAILING_LISTS || before == Some(ListTrouble::Failing) => {
                Some(ListTrouble::Failing)
            }
            _ if self.under_way.is_some_and(|lasts| lasts.min(answering) >= slow) => Some(ListTrouble::Slow),
            // Of a list that took long while the runtime was silent nothing is known.
            _ if self.took >= slow && answering >= self.took => Some(ListTrouble::Slow),
            _ => None,
        }
    }

    /// The trouble in words, for events and for who asks after the node's health.
    pub fn describe(&self, trouble: ListTrouble) -> String {
        let what = match (trouble, &self.failing, self.under_way) {
            (ListTrouble::Failing, Some((lasts, cause)), _) => {
                format!("what it runs cannot be listed since {} s ({cause})", lasts.as_secs())
            }
            (ListTrouble::Failing, None, _) => "what it runs could not be listed".to_owned(),
            (ListTrouble::Slow, _, Some(lasts)) if lasts >= SLOW_LIST => {
                format!("listing what it runs has taken {} s so far", lasts.as_secs())
            }
            (ListTrouble::Slow, ..) => format!("listing what it runs takes {} s", self.took.as_secs()),
        };
        format!("the container runtime answers, but {what}; pods go on, changes may be noticed late")
    }
}

/// Whole minutes as Go prints a duration: `3m0s`, `1h2m0s`.
fn whole_minutes(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes}m0s"),
        (hours, minutes) => format!("{hours}h{minutes}m0s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(100_000);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn facts(listed: Option<u64>, observed: Option<u64>) -> ListFacts {
        ListFacts { listed: listed.map(s), observed: observed.map(s), ..Default::default() }
    }

    #[test]
    fn the_node_is_not_ready_only_when_nothing_at_all_was_read() {
        #[track_caller]
        fn check(facts: &ListFacts, answering: u64, expected: Option<&str>) {
            assert_eq!(facts.problem(s(answering)).as_deref(), expected, "{facts:?}");
        }
        check(&facts(Some(0), None), 1000, None);
        check(&facts(Some(179), None), 1000, None);
        let old = "PLEG is not healthy: pleg was last seen active 3m0s ago; threshold is 3m0s";
        check(&facts(Some(180), None), 1000, Some(old));
        check(&facts(Some(239), Some(200)), 1000, Some(old));
        check(&facts(Some(9000), Some(12)), 10_000, None);
        // The runtime was silent until a moment ago.
        check(&facts(Some(9000), Some(9000)), 10, None);
        check(
            &ListFacts { failing: Some((s(3700), "out of memory".into())), ..facts(Some(3700), None) },
            9000,
            Some(
                "PLEG is not healthy: pleg was last seen active 1h1m0s ago; threshold is 3m0s: out of memory",
            ),
        );
        check(&facts(None, None), 29, None);
        check(&facts(None, None), 30, Some("PLEG is not healthy: pleg has yet to be successful"));
    }

    #[test]
    fn trouble_comes_before_the_node_is_not_ready_and_does_not_flicker() {
        use ListTrouble::{Failing, Slow};
        #[track_caller]
        fn check(facts: &ListFacts, before: Option<ListTrouble>, expected: Option<ListTrouble>) {
            assert_eq!(facts.trouble(LONG, before), expected, "{facts:?}, before {before:?}");
        }
        let took = |took| ListFacts { took: s(took), ..facts(Some(0), None) };
        check(&took(9), None, None);
        check(&took(10), None, Some(Slow));
        check(&took(6), Some(Slow), Some(Slow));
        check(&took(4), Some(Slow), None);
        let under_way = |lasts| ListFacts { under_way: Some(s(lasts)), ..took(0) };
        check(&under_way(9), None, None);
        check(&under_way(10), None, Some(Slow));
        let failing = |lasts| ListFacts { failing: Some((s(lasts), "no".into())), ..took(0) };
        check(&failing(9), None, None);
        check(&failing(10), None, Some(Failing));
        check(&failing(0), Some(Failing), Some(Failing));
        check(&took(0), Some(Failing), None);
        // Just back from a silence: none of it counts.
        let stale = ListFacts { under_way: Some(s(60)), took: s(60), ..failing(60) };
        assert_eq!(stale.trouble(s(3), None), None);
    }

    #[test]
    fn trouble_is_told_with_its_figures() {
        let facts = ListFacts { under_way: Some(s(42)), took: s(14), ..facts(Some(50), None) };
        assert_eq!(
            facts.describe(ListTrouble::Slow),
            "the container runtime answers, but listing what it runs has taken 42 s so far; pods go on, changes may be noticed late"
        );
        let facts = ListFacts { under_way: None, ..facts };
        assert!(facts.describe(ListTrouble::Slow).contains("listing what it runs takes 14 s;"));
        let facts = ListFacts { failing: Some((s(20), "ListContainers: broken".into())), ..facts };
        let told = facts.describe(ListTrouble::Failing);
        assert!(told.contains("cannot be listed since 20 s (ListContainers: broken)"), "{told}");
    }
}
