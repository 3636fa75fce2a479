//! Memory is not taken from who uses it: a limit below what is used now would have the kernel kill (upstream
//! `validateMemoryResizeAction`).

use std::collections::BTreeMap;

use super::ResizePlan;

/// Limits of memory that a resize lowers, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryShrink {
    /// The new limit of the pod.
    pub pod: Option<i64>,
    /// New limits by container name.
    pub containers: BTreeMap<String, i64>,
}

impl MemoryShrink {
    /// Whether nothing is lowered.
    pub fn is_empty(&self) -> bool {
        self.pod.is_none() && self.containers.is_empty()
    }
}

/// Which limits a plan lowers. Limits of the pod's cgroup: now and as it is to be, none when not above zero.
pub fn memory_shrink(plan: &ResizePlan, pod_now: Option<i64>, pod_wanted: Option<i64>) -> MemoryShrink {
    let lower = |now: i64, wanted: i64| wanted > 0 && (now <= 0 || wanted < now);
    let updates = plan.memory.iter().filter(|u| lower(u.current.memory_limit, u.wanted.memory_limit));
    MemoryShrink {
        pod: pod_wanted.filter(|wanted| plan.touches_group(true) && lower(pod_now.unwrap_or(0), *wanted)),
        containers: updates.map(|update| (update.name.clone(), update.wanted.memory_limit)).collect(),
    }
}

/// Why limits cannot be lowered now; `None` when they can. What is used, in bytes; of a container that has no entry it is
/// not known.
pub fn shrink_problem(
    shrink: &MemoryShrink,
    pod_usage: Option<u64>,
    usage: &BTreeMap<String, u64>,
) -> Option<String> {
    let below = |limit: i64, used: u64| used >= u64::try_from(limit).unwrap_or(0);
    let mut problems = vec![];
    match (shrink.pod, pod_usage) {
        (Some(_), None) => problems.push("missing pod memory usage".to_owned()),
        (Some(limit), Some(used)) if below(limit, used) => problems
            .push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})")),
        _ => {}
    }
    for (name, limit) in &shrink.containers {
        match usage.get(name) {
            None => problems.push(format!("missing container {name:?} memory usage")),
            Some(used) if below(*limit, *used) => problems.push(format!(
                "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
            )),
            Some(_) => {}
        }
    }
    let text = match problems.as_slice() {
        [] => return None,
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Some(format!("cannot decrease memory limits: {text}"))
}
