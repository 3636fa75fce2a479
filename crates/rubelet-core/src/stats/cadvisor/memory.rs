//! Memory of control groups and its limits. Called by `cadvisor`.

use super::subjects::Subject;
use super::{Family, Tell, between, counter, gauge};
use crate::stats::exposition::Value;
use crate::stats::usage::{MachineUsage, MemoryUsage};

/// Above this a limit stands for none (cAdvisor's `maxMemorySize`).
const UNLIMITED: u64 = 1 << 62;

pub(super) const FAMILIES: &[Family] = &[
    gauge(
        "container_memory_cache",
        "Page cache, in bytes",
        Tell::One(|subject| memory(subject)?.cache.map(Value::from)),
    ),
    counter(
        "container_memory_failcnt",
        "How often a memory limit was hit",
        Tell::One(|subject| memory(subject)?.failures.map(Value::from)),
    ),
    counter(
        "container_memory_failures_total",
        "Page faults, by kind, of the group itself and with those below it",
        Tell::Each(|subject, samples| {
            let Some(memory) = memory(subject) else { return };
            for (kind, scope, count) in [
                ("pgfault", "container", memory.page_faults),
                ("pgmajfault", "container", memory.major_page_faults),
                ("pgfault", "hierarchy", memory.tree_page_faults),
                ("pgmajfault", "hierarchy", memory.tree_major_page_faults),
            ] {
                if let Some(count) = count {
                    let labels = [(between::CONTAINER, "failure_type", kind), (between::POD, "scope", scope)];
                    samples.push(&labels, count);
                }
            }
        }),
    ),
    gauge(
        "container_memory_kernel_usage",
        "Memory of the kernel for the container, in bytes",
        Tell::One(|subject| memory(subject)?.kernel.map(Value::from)),
    ),
    gauge(
        "container_memory_mapped_file",
        "Mapped files, in bytes",
        Tell::One(|subject| memory(subject)?.mapped_file.map(Value::from)),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "The most memory that was ever used, in bytes",
        Tell::One(|subject| memory(subject)?.max_usage.map(Value::from)),
    ),
    gauge(
        "container_memory_rss",
        "Anonymous memory, in bytes",
        Tell::One(|subject| memory(subject)?.rss.map(Value::from)),
    ),
    gauge(
        "container_memory_swap",
        "Swap used, in bytes",
        Tell::One(|subject| memory(subject)?.swap.map(Value::from)),
    ),
    gauge(
        "container_memory_total_active_file_bytes",
        "Active file pages, in bytes",
        Tell::One(|subject| memory(subject)?.active_file.map(Value::from)),
    ),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Inactive file pages, in bytes",
        Tell::One(|subject| memory(subject)?.inactive_file.map(Value::from)),
    ),
    gauge(
        "container_memory_usage_bytes",
        "Memory used, caches included, in bytes",
        Tell::One(|subject| memory(subject).map(|memory| memory.usage.into())),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Memory that cannot simply be taken back, in bytes",
        Tell::One(|subject| memory(subject).map(|memory| memory.working_set.into())),
    ),
    counter(
        "container_oom_events_total",
        "Processes killed because memory ran out",
        // As with cAdvisor every group has one, from zero, and a kill counts in the group of the process alone.
        Tell::One(|subject| {
            let kills = memory(subject)?.oom_kills.filter(|_| !subject.holds_containers);
            Some(kills.unwrap_or_default().into())
        }),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "The memory limit in bytes; 0 without one",
        Tell::Fact(|subject| limit(subject, |memory| memory.limit, |machine| machine.memory)),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory set aside for the container, in bytes; 0 without any",
        Tell::Fact(|subject| limit(subject, |memory| memory.soft_limit, |_| 0)),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "The limit of swap in bytes; 0 without one",
        Tell::Fact(|subject| limit(subject, |memory| memory.swap_limit, |machine| machine.swap)),
    ),
];

fn memory<'a>(subject: &Subject<'a>) -> Option<&'a MemoryUsage> {
    subject.group.memory.as_ref()
}

/// A limit as cAdvisor tells it: 0 is none, and the root has the machine's.
fn limit(
    subject: &Subject<'_>,
    of_group: fn(&MemoryUsage) -> Option<u64>,
    of_machine: fn(&MachineUsage) -> u64,
) -> Option<Value> {
    let own = of_group(memory(subject)?).filter(|limit| *limit <= UNLIMITED);
    Some(own.or(subject.machine.map(of_machine)).unwrap_or_default().into())
}
