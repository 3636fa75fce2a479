//! Which pods go so that a critical one finds room.
//!
//! Owns the choice (upstream `preemption.go`): as few Guaranteed pods as possible, then as few Burstable ones, then as
//! few BestEffort ones; among pods of a class whoever comes nearest to what is missing, the smaller one of two that
//! come as near. Ends nothing; called by the sync loop when a critical pod was refused for want of resources alone.

use k8s_openapi::api::core::v1::Pod;

use crate::admission::{Insufficient, is_critical_pod};
use crate::containers::spec_of;
use crate::qos::{QosClass, pod_qos};
use crate::resources::pod_requests;

/// Reason of preempted pods, in status and events.
pub const REASON: &str = "Preempting";
/// What they are told.
pub const MESSAGE: &str = "Preempted in order to admit critical pod";

/// Even without all pods that may be preempted there would not be room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: {left}"
)]
pub struct NoRoom {
    /// What would still be missing, in upstream's form.
    left: String,
}

/// Something that is missing: CPU in thousandths, all else in units.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    resource: String,
    amount: i64,
}

/// Whether one pod may be preempted for another: critical ones before others, else the higher priority.
pub fn may_preempt(preemptor: &Pod, other: &Pod) -> bool {
    if is_critical_pod(preemptor) && !is_critical_pod(other) {
        return true;
    }
    let priority = |pod| spec_of(pod).priority;
    priority(preemptor).zip(priority(other)).is_some_and(|(own, other)| own > other)
}

/// Chooses who goes for `preemptor`: places in `pods`.
///
/// # Errors
/// When nobody's end would make room.
pub fn victims(preemptor: &Pod, pods: &[&Pod], insufficient: &[Insufficient]) -> Result<Vec<usize>, NoRoom> {
    let missing: Vec<Missing> = insufficient
        .iter()
        .map(|short| Missing {
            resource: short.resource.clone(),
            amount: short.requested.saturating_sub(short.capacity.saturating_sub(short.used)),
        })
        .filter(|missing| missing.amount > 0)
        .collect();
    let of_class = |class| -> Vec<usize> {
        let may = |place: &usize| may_preempt(preemptor, pods[*place]) && pod_qos(pods[*place]) == class;
        (0..pods.len()).filter(may).collect()
    };
    let (best_effort, burstable, guaranteed) =
        (of_class(QosClass::BestEffort), of_class(QosClass::Burstable), of_class(QosClass::Guaranteed));
    let all = [&best_effort[..], &burstable, &guaranteed].concat();
    let left = without(&missing, pods, &all);
    if !left.is_empty() {
        return Err(no_room(&left));
    }
    let lesser = [&best_effort[..], &burstable].concat();
    let guaranteed = nearest(pods, guaranteed, without(&missing, pods, &lesser))?;
    let gone = [&best_effort[..], &guaranteed].concat();
    let burstable = nearest(pods, burstable, without(&missing, pods, &gone))?;
    let gone = [&burstable[..], &guaranteed].concat();
    let best_effort = nearest(pods, best_effort, without(&missing, pods, &gone))?;
    Ok([best_effort, burstable, guaranteed].concat())
}

fn no_room(left: &[Missing]) -> NoRoom {
    let told = left.iter().map(|missing| format!("(res: {}, q: {}), ", missing.resource, missing.amount));
    NoRoom { left: format!("[{}]", told.collect::<String>()) }
}

/// What a pod requests of a resource; each pod counts as one of `pods`.
fn request(pod: &Pod, resource: &str) -> i64 {
    if resource == "pods" {
        return 1;
    }
    let requests = pod_requests(pod, true);
    requests.get(resource).map_or(0, |sum| if resource == "cpu" { sum.milli_value() } else { sum.value() })
}

/// What is still missing without these pods.
fn without(missing: &[Missing], pods: &[&Pod], gone: &[usize]) -> Vec<Missing> {
    let left = missing.iter().map(|missing| {
        let freed = gone.iter().map(|place| request(pods[*place], &missing.resource));
        let freed = freed.fold(0_i64, i64::saturating_add);
        Missing { amount: missing.amount.saturating_sub(freed), ..missing.clone() }
    });
    left.filter(|missing| missing.amount > 0).collect()
}

/// Takes the nearest pod again and again until nothing is missing.
fn nearest(pods: &[&Pod], mut among: Vec<usize>, mut missing: Vec<Missing>) -> Result<Vec<usize>, NoRoom> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let nearness = |place: usize| {
            let pod = pods[place];
            (distance(pod, &missing), request(pod, "memory"), request(pod, "cpu"))
        };
        let best = among.iter().enumerate().min_by(|(_, a), (_, b)| {
            let (a, b) = (nearness(**a), nearness(**b));
            a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2)))
        });
        let Some((index, _)) = best else { return Err(no_room(&missing)) };
        let place = among.remove(index);
        missing = without(&missing, pods, &[place]);
        chosen.push(place);
    }
    Ok(chosen)
}

/// How much of each requirement a pod leaves, each weighted alike.
fn distance(pod: &Pod, missing: &[Missing]) -> f64 {
    let part = |missing: &Missing| {
        let left = missing.amount.saturating_sub(request(pod, &missing.resource)).max(0);
        (left as f64 / missing.amount as f64).powi(2)
    };
    missing.iter().map(part).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pod_builder::{ContainerBuilder, PodBuilder};

    /// `cpu` in thousandths, `memory` in Mi; guaranteed when `limits`.
    fn pod(cpu: u32, memory: u32, limits: bool, priority: i32) -> Pod {
        let mut container = ContainerBuilder::new("c", "i");
        if cpu > 0 || memory > 0 {
            let (cpu, memory) = (format!("{cpu}m"), format!("{memory}Mi"));
            container = container.request("cpu", &cpu).request("memory", &memory);
            if limits {
                container = container.limit("cpu", &cpu).limit("memory", &memory);
            }
        }
        PodBuilder::new("p").container(container).spec(|spec| spec.priority = Some(priority)).build()
    }

    fn critical() -> Pod {
        pod(100, 100, false, 2_000_000_000)
    }

    fn short(resource: &str, missing: i64) -> Insufficient {
        Insufficient { resource: resource.into(), requested: missing, used: 0, capacity: 0 }
    }

    #[track_caller]
    fn check(pods: &[Pod], missing: &[Insufficient], expected: Result<&[usize], &str>) {
        let places = victims(&critical(), &pods.iter().collect::<Vec<_>>(), missing);
        let places = places.map_err(|error| error.to_string());
        assert_eq!(places.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn lesser_classes_and_fewer_and_smaller_pods_go() {
        let best_effort = pod(0, 0, false, 0);
        let small = pod(100, 100, false, 0);
        let large = pod(500, 500, false, 0);
        let sure = pod(500, 500, true, 0);
        let all = [best_effort.clone(), small.clone(), large.clone(), sure.clone()];
        check(&all, &[short("cpu", 100)], Ok(&[1]));
        check(&all, &[short("cpu", 400)], Ok(&[2]));
        check(&all, &[short("cpu", 600)], Ok(&[2, 1]));
        check(&all, &[short("cpu", 700)], Ok(&[2, 3]));
        check(&all, &[short("pods", 1)], Ok(&[0]));
        check(&all, &[short("memory", 450 << 20), short("cpu", 50)], Ok(&[2]));
        let none = "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 900), ]";
        check(&all, &[short("cpu", 2000)], Err(none));
        check(&[critical()], &[short("pods", 1)], Err(&none.replace("cpu, q: 900", "pods, q: 1")));
        check(&[], &[], Ok(&[]));
    }

    #[test]
    fn higher_priority_preempts_lower_and_never_its_equal() {
        let (low, high) = (pod(1, 1, false, 5), pod(1, 1, false, 6));
        assert!(may_preempt(&high, &low) && !may_preempt(&low, &high) && !may_preempt(&low, &low));
        let static_pod = PodBuilder::new("s").annotation("kubernetes.io/config.source", "file").build();
        assert!(may_preempt(&static_pod, &high) && !may_preempt(&high, &static_pod));
        assert!(!may_preempt(&static_pod, &static_pod));
    }

    proptest! {
        #[test]
        fn what_is_chosen_makes_room_and_nobody_is_chosen_in_vain(
            pods in proptest::collection::vec((0u32..400, 0u32..400, any::<bool>()), 0..8),
            cpu in 0i64..1500, memory in 0i64..1500,
        ) {
            let pods: Vec<Pod> = pods.into_iter().map(|(cpu, memory, sure)| pod(cpu, memory, sure, 0)).collect();
            let refs: Vec<&Pod> = pods.iter().collect();
            let missing = [short("cpu", cpu), short("memory", memory << 20)];
            let freed = |places: &[usize], resource: &str| -> i64 {
                places.iter().map(|place| request(&pods[*place], resource)).sum()
            };
            let enough = |places: &[usize]| freed(places, "cpu") >= cpu && freed(places, "memory") >= memory << 20;
            let all: Vec<usize> = (0..pods.len()).collect();
            match victims(&critical(), &refs, &missing) {
                Err(_) => prop_assert!(!enough(&all)),
                Ok(places) => {
                    prop_assert!(enough(&places));
                    // The lesser classes alone would not have done, if a guaranteed pod goes.
                    if places.iter().any(|place| pod_qos(&pods[*place]) == QosClass::Guaranteed) {
                        let lesser: Vec<usize> = all.iter().copied()
                            .filter(|place| pod_qos(&pods[*place]) != QosClass::Guaranteed).collect();
                        prop_assert!(!enough(&lesser));
                    }
                }
            }
        }
    }
}
