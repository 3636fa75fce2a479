//! What users are told of kills.

use super::{Constraint, OomKill, container_of, pod_of};

/// Event reason of kills that are the node's trouble (upstream `systemOOMEvent`).
pub const SYSTEM_OOM: &str = "SystemOOM";

/// A limit of at least this is none.
const UNLIMITED: u64 = 1 << 60;

/// The message of a `SystemOOM` event, as upstream words it.
pub fn system_message(kill: &OomKill) -> String {
    format!("System OOM encountered, victim process: {}, pid: {}", kill.process, kill.pid)
}

/// The message of an `OOMKilling` event: `kill` in a container, with `more` others since the last such event; `runs` is
/// whether the container goes on.
pub fn container_message(kill: &OomKill, more: u64, runs: bool) -> String {
    let mut text = format!(
        "The kernel killed process {} (pid {}) of the container because {}",
        kill.process,
        kill.pid,
        cause(kill)
    );
    if let Some(shmem) = kill.shmem.filter(|shmem| kill.limit.is_some_and(|limit| *shmem >= limit / 2)) {
        text += &format!(
            "; {} of it are files in memory (tmpfs, such as an emptyDir of medium Memory)",
            bytes(shmem)
        );
    }
    text + &others(more, true) + ending(runs)
}

/// The message where it is only known how many processes were killed.
pub fn counted_message(kills: u64, runs: bool) -> String {
    format!("The kernel killed processes of the container because memory ran out{}", others(kills, false))
        + ending(runs)
}

fn others(count: u64, more: bool) -> String {
    match (count, more) {
        (0, _) => String::new(),
        (1, true) => "; it killed 1 more since the last event".to_owned(),
        (_, true) => format!("; it killed {count} more since the last event"),
        (_, false) => format!(": {count} since the last event"),
    }
}

fn ending(runs: bool) -> &'static str {
    if runs { "; the container goes on running" } else { "" }
}

/// Why the kernel killed, with the limit if that is known.
fn cause(kill: &OomKill) -> String {
    let limit = kill.limit.filter(|limit| *limit < UNLIMITED);
    let of = limit.map(|limit| format!(" of {}", bytes(limit))).unwrap_or_default();
    match (kill.constraint, kill.oom_memcg.as_deref()) {
        (Constraint::Cpuset, _) => "the memory that its cpuset allows ran out".to_owned(),
        (Constraint::MemoryPolicy, _) => "the memory that its NUMA policy allows ran out".to_owned(),
        _ if kill.is_system() => "the node ran out of memory".to_owned(),
        (_, None) => "a memory limit was reached".to_owned(),
        _ if kill.is_own_limit() => format!("its memory limit{of} was reached"),
        (_, Some(group)) if container_of(group).is_none() && pod_of(group).is_some() => {
            format!("the memory limit{of} of its pod was reached")
        }
        (_, Some(group)) => format!("the memory limit{of} of control group {group} was reached"),
    }
}

/// Bytes in the largest unit that needs no fraction.
fn bytes(count: u64) -> String {
    let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let whole = units.into_iter().find(|(unit, _)| count >= *unit && count.is_multiple_of(*unit));
    whole.map_or_else(|| count.to_string(), |(unit, name)| format!("{}{name}", count / unit))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn kill(constraint: Constraint, group: Option<&str>) -> OomKill {
        OomKill {
            process: "tail".into(),
            pid: 7,
            task_memcg: Some(format!("/kubepods/pod1/{ID}")),
            oom_memcg: group.map(str::to_owned),
            constraint,
            limit: None,
            shmem: None,
            at: Duration::ZERO,
        }
    }

    #[test]
    fn the_words_name_what_ran_out() {
        let check = |constraint, group: Option<&str>, limit, expected: &str| {
            let kill = OomKill { limit, ..kill(constraint, group) };
            let expected =
                format!("The kernel killed process tail (pid 7) of the container because {expected}");
            assert_eq!(container_message(&kill, 0, false), expected);
        };
        let own = format!("/kubepods/pod1/{ID}");
        check(Constraint::Memcg, Some(&own), Some(64 << 20), "its memory limit of 64Mi was reached");
        check(
            Constraint::Memcg,
            Some(&own),
            Some((64 << 20) + 4096),
            "its memory limit of 65540Ki was reached",
        );
        check(Constraint::Memcg, Some(&own), Some(i64::MAX as u64), "its memory limit was reached");
        check(
            Constraint::Memcg,
            Some("/kubepods/pod1"),
            Some(3 << 30),
            "the memory limit of 3Gi of its pod was reached",
        );
        check(
            Constraint::Memcg,
            Some("/kubepods"),
            None,
            "the memory limit of control group /kubepods was reached",
        );
        check(Constraint::Memcg, None, None, "a memory limit was reached");
        check(Constraint::Memcg, Some("/"), None, "the node ran out of memory");
        check(Constraint::Node, None, None, "the node ran out of memory");
        check(Constraint::Cpuset, None, None, "the memory that its cpuset allows ran out");
    }

    #[test]
    fn the_words_tell_of_others_of_files_in_memory_and_of_what_goes_on() {
        let own = format!("/kubepods/pod1/{ID}");
        let kill =
            OomKill { limit: Some(64 << 20), shmem: Some(60 << 20), ..kill(Constraint::Memcg, Some(&own)) };
        assert_eq!(
            container_message(&kill, 2, true),
            "The kernel killed process tail (pid 7) of the container because its memory limit of 64Mi was reached; 60Mi \
             of it are files in memory (tmpfs, such as an emptyDir of medium Memory); it killed 2 more since the last \
             event; the container goes on running"
        );
        assert!(!container_message(&OomKill { shmem: Some(1), ..kill.clone() }, 0, true).contains("tmpfs"));
        assert_eq!(
            counted_message(3, true),
            "The kernel killed processes of the container because memory ran out: 3 since the last event; the \
             container goes on running"
        );
        assert_eq!(system_message(&kill), "System OOM encountered, victim process: tail, pid: 7");
    }
}
