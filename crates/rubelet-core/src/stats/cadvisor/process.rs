//! Processes of control groups. Called by `cadvisor`.

use super::subjects::Subject;
use super::{Family, Tell, between, gauge};
use crate::stats::exposition::Value;
use crate::stats::usage::ProcessUsage;

pub(super) const FAMILIES: &[Family] = &[
    gauge(
        "container_file_descriptors",
        "Open file descriptors",
        Tell::One(|subject| processes(subject)?.file_descriptors.map(Value::from)),
    ),
    gauge(
        "container_processes",
        "Processes",
        Tell::One(|subject| processes(subject).map(|processes| processes.processes.into())),
    ),
    gauge(
        "container_sockets",
        "Open sockets",
        Tell::One(|subject| processes(subject)?.sockets.map(Value::from)),
    ),
    gauge(
        "container_tasks_state",
        "Tasks by what they are doing",
        Tell::Each(|subject, samples| {
            let Some(tasks) = processes(subject).and_then(|processes| processes.tasks) else { return };
            for (state, count) in [
                ("sleeping", tasks.sleeping),
                ("running", tasks.running),
                ("stopped", tasks.stopped),
                ("uninterruptible", tasks.uninterruptible),
                ("iowaiting", tasks.waiting_for_io),
            ] {
                samples.push(&[(between::POD, "state", state)], count);
            }
        }),
    ),
    gauge("container_threads", "Threads", Tell::One(|subject| processes(subject)?.threads.map(Value::from))),
    gauge(
        "container_threads_max",
        "The most threads there may be; 0 without a limit",
        Tell::One(|subject| {
            // Where threads are not counted no limit is known either.
            let processes = processes(subject)?;
            processes.threads.map(|_| processes.threads_max.unwrap_or_default().into())
        }),
    ),
    gauge(
        "container_ulimits_soft",
        "Soft limits of the container's first process",
        Tell::Each(|subject, samples| {
            if let Some(limit) = processes(subject).and_then(|processes| processes.soft_limit_open_files) {
                samples.push(&[(between::POD, "ulimit", "max_open_files")], limit);
            }
        }),
    ),
];

fn processes<'a>(subject: &Subject<'a>) -> Option<&'a ProcessUsage> {
    subject.group.processes.as_ref()
}
