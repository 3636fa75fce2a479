//! CPU time, quotas and pressure of control groups. Called by `cadvisor`.

use super::subjects::Subject;
use super::{Family, Tell, between, counter, gauge};
use crate::stats::exposition::Value;
use crate::stats::usage::{CpuUsage, Psi};

pub(super) const FAMILIES: &[Family] = &[
    counter(
        "container_cpu_cfs_burst_periods_total",
        "Periods in which more than the quota was used",
        Tell::One(|subject| limited(subject)?.burst_periods.map(Value::from)),
    ),
    counter(
        "container_cpu_cfs_burst_seconds_total",
        "CPU time used beyond the quota, in seconds",
        Tell::One(|subject| limited(subject)?.burst.map(Value::nanoseconds)),
    ),
    counter(
        "container_cpu_cfs_periods_total",
        "Periods that have passed while there was a quota",
        Tell::One(|subject| limited(subject)?.periods.map(Value::from)),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the container was throttled",
        Tell::One(|subject| limited(subject)?.throttled_periods.map(Value::from)),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time the container was throttled, in seconds",
        Tell::One(|subject| limited(subject)?.throttled.map(Value::nanoseconds)),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "CPU time spent in the kernel, in seconds",
        Tell::One(|subject| cpu(subject).map(|cpu| Value::nanoseconds(cpu.system))),
    ),
    counter(
        "container_cpu_usage_seconds_total",
        "CPU time used, in seconds",
        Tell::Each(|subject, samples| {
            if let Some(cpu) = cpu(subject).filter(|cpu| cpu.total > 0) {
                samples.push(&[(between::CONTAINER, "cpu", "total")], Value::nanoseconds(cpu.total));
            }
        }),
    ),
    counter(
        "container_cpu_user_seconds_total",
        "CPU time spent in user mode, in seconds",
        Tell::One(|subject| cpu(subject).map(|cpu| Value::nanoseconds(cpu.user))),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which all tasks waited for CPU time, in seconds",
        Tell::One(|subject| stalled(subject.group.pressure.cpu)),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which a task waited for CPU time, in seconds",
        Tell::One(|subject| waiting(subject.group.pressure.cpu)),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Time in which all tasks waited for block devices, in seconds",
        Tell::One(|subject| stalled(subject.group.pressure.io)),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Time in which a task waited for block devices, in seconds",
        Tell::One(|subject| waiting(subject.group.pressure.io)),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which all tasks waited for memory, in seconds",
        Tell::One(|subject| stalled(subject.group.pressure.memory)),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which a task waited for memory, in seconds",
        Tell::One(|subject| waiting(subject.group.pressure.memory)),
    ),
    gauge(
        "container_spec_cpu_period",
        "Length of a period, in microseconds",
        Tell::Fact(|subject| cpu(subject)?.period.map(Value::from)),
    ),
    gauge(
        "container_spec_cpu_quota",
        "CPU time that may be used in a period, in microseconds",
        Tell::Fact(|subject| limited(subject)?.quota.map(Value::from)),
    ),
    gauge(
        "container_spec_cpu_shares",
        "Share of CPU time among others that want it",
        Tell::Fact(|subject| cpu(subject)?.shares.map(Value::from)),
    ),
];

fn cpu<'a>(subject: &Subject<'a>) -> Option<&'a CpuUsage> {
    subject.group.cpu.as_ref()
}

/// CPU of a group that has a quota.
fn limited<'a>(subject: &Subject<'a>) -> Option<&'a CpuUsage> {
    cpu(subject).filter(|cpu| cpu.quota.is_some_and(|quota| quota > 0))
}

fn stalled(psi: Option<Psi>) -> Option<Value> {
    psi.map(|psi| Value::microseconds(psi.full.total))
}

fn waiting(psi: Option<Psi>) -> Option<Value> {
    psi.map(|psi| Value::microseconds(psi.some.total))
}
