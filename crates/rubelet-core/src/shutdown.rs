//! In which order, and with how much time, pods end when their node is shut down.
//!
//! Owns the periods that a configuration gives and which pods each is for (KEP-2000, KEP-2712). Never waits and never
//! ends anything.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::containers::spec_of;

/// Reason of what the API is told of a pod that ended so.
pub const REASON: &str = "Terminated";
/// The message that goes with it.
pub const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// From this priority on, pods get the time for critical pods (upstream `SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;

/// Time for pods of a priority and of those above it, up to the next period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The lowest priority it is for; the first one is for lower ones too.
    pub priority: i32,
    /// Seconds.
    pub seconds: u64,
}

/// What a shutdown gives to whom, lowest priority first; empty when shutdowns are not delayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Periods(Vec<Period>);

/// Pods that end together.
#[derive(Debug, PartialEq)]
pub struct Group<'a> {
    /// How long they are waited for.
    pub limit: Duration,
    /// The pods.
    pub pods: Vec<&'a Pod>,
}

impl Periods {
    /// Periods of `shutdownGracePeriodByPodPriority`, in any order.
    pub fn by_priority(periods: impl IntoIterator<Item = Period>) -> Self {
        let mut periods: Vec<Period> = periods.into_iter().collect();
        periods.sort_by_key(|period| period.priority);
        Self(periods)
    }

    /// Periods of `shutdownGracePeriod` and, at its end, `shutdownGracePeriodCriticalPods`; whole seconds.
    pub fn of_two(total: Duration, critical: Duration) -> Self {
        match total.checked_sub(critical) {
            Some(regular) if !total.is_zero() => Self(vec![
                Period { priority: 0, seconds: regular.as_secs() },
                Period { priority: CRITICAL, seconds: critical.as_secs() },
            ]),
            _ => Self::default(),
        }
    }

    /// Whether shutdowns are not delayed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of it: what has to be asked of logind.
    pub fn total(&self) -> Duration {
        Duration::from_secs(self.0.iter().fold(0, |sum, period| sum.saturating_add(period.seconds)))
    }

    /// Pods in the order in which they are to end. Periods that no pod is for cost no time.
    pub fn groups<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = self
            .0
            .iter()
            .map(|period| Group { limit: Duration::from_secs(period.seconds), pods: Vec::new() })
            .collect();
        for pod in pods {
            let priority = spec_of(pod).priority.unwrap_or(0);
            // The last one it reaches; what is below all of them goes with the lowest.
            let reached = self.0.partition_point(|period| period.priority <= priority);
            if let Some(group) = groups.get_mut(reached.saturating_sub(1)) {
                group.pods.push(pod);
            }
        }
        groups.retain(|group| !group.pods.is_empty());
        groups
    }
}

/// Grace of a pod in a group: its own unless the group has less.
pub fn grace(pod: &Pod, limit: Duration) -> u64 {
    let own = spec_of(pod).termination_grace_period_seconds.and_then(|own| u64::try_from(own).ok());
    own.map_or(limit.as_secs(), |own| own.min(limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: Option<i32>, grace: Option<i64>) -> Pod {
        let spec = json!({"containers": [], "priority": priority, "terminationGracePeriodSeconds": grace});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn told(periods: &Periods, pods: &[Pod]) -> String {
        let name = |pod: &&Pod| pod.metadata.name.clone().unwrap_or_default();
        let names = |group: &Group<'_>| group.pods.iter().map(name).collect::<Vec<_>>().join(", ");
        let groups = periods.groups(pods);
        groups.iter().map(|g| format!("{}s: {}", g.limit.as_secs(), names(g))).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn two_periods_make_two_groups() {
        let periods = Periods::of_two(Duration::from_secs(30), Duration::from_secs(10));
        assert_eq!(periods.total(), Duration::from_secs(30));
        let pods = [
            pod("critical", Some(CRITICAL), None),
            pod("plain", None, None),
            pod("negative", Some(-5), None),
            pod("high", Some(CRITICAL - 1), None),
            pod("node-critical", Some(CRITICAL + 1000), None),
        ];
        assert_eq!(told(&periods, &pods), "20s: plain, negative, high; 10s: critical, node-critical");
        assert!(Periods::of_two(Duration::ZERO, Duration::ZERO).is_empty());
        assert!(Periods::of_two(Duration::from_secs(1), Duration::from_secs(2)).is_empty());
    }

    #[test]
    fn a_pod_goes_with_the_last_period_it_reaches() {
        let period = |priority, seconds| Period { priority, seconds };
        let periods = Periods::by_priority([period(1000, 30), period(10, 60), period(100, 5)]);
        let pods: Vec<Pod> = [5, 10, 99, 100, 999, 1000, 5000]
            .map(|priority| pod(&priority.to_string(), Some(priority), None))
            .into();
        assert_eq!(told(&periods, &pods), "60s: 5, 10, 99; 5s: 100, 999; 30s: 1000, 5000");
        assert_eq!(told(&periods, &pods[..1]), "60s: 5");
        assert_eq!(told(&Periods::default(), &pods), "");
    }

    #[test]
    fn a_pod_gets_its_own_grace_within_the_time_of_its_group() {
        let limit = Duration::from_secs(10);
        assert_eq!(grace(&pod("a", None, None), limit), 10);
        assert_eq!(grace(&pod("a", None, Some(3)), limit), 3);
        assert_eq!(grace(&pod("a", None, Some(30)), limit), 10);
        assert_eq!(grace(&pod("a", None, Some(-1)), limit), 10);
    }

    proptest! {
        #[test]
        fn every_pod_is_in_one_group_and_no_group_goes_before_a_lower_one(
            periods in proptest::collection::vec((-10i32..10, 0u64..100), 1..6),
            priorities in proptest::collection::vec(proptest::option::of(-12i32..12), 0..20),
        ) {
            let periods = Periods::by_priority(periods.into_iter().map(|(priority, seconds)| Period { priority, seconds }));
            let pods: Vec<Pod> = priorities.iter().map(|priority| pod("p", *priority, None)).collect();
            let groups = periods.groups(&pods);
            prop_assert_eq!(groups.iter().map(|group| group.pods.len()).sum::<usize>(), pods.len());
            let of = |pod: &&Pod| pod.spec.as_ref().unwrap().priority.unwrap_or(0);
            for pair in groups.windows(2) {
                prop_assert!(pair[0].pods.iter().map(of).max() < pair[1].pods.iter().map(of).min());
            }
        }
    }
}
