//! Processes that the kernel killed because memory ran out.
//!
//! Owns what a kill is, how it is read from the kernel's log (`parse`), whose container a control group belongs to
//! (`groups`), what is remembered of kills (`ledger`) and how users are told (`words`). Reads nothing itself, knows no
//! clock. Called by the agent's OOM watch.

mod groups;
mod ledger;
mod parse;
mod words;

use std::time::Duration;

pub use self::groups::{container_of, pod_of};
pub use self::ledger::{Due, KillLedger, KillTime};
pub use self::parse::OomParser;
pub use self::words::{SYSTEM_OOM, container_message, counted_message, system_message};

/// Event reason for kills in a container (what node-problem-detector calls them).
pub const OOM_KILLING: &str = "OOMKilling";
/// Reason of a container that ended because memory ran out (the runtimes' word).
pub const OOM_KILLED: &str = "OOMKilled";

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// The node's memory.
    Node,
    /// The memory that a cpuset allows.
    Cpuset,
    /// The memory that a NUMA policy allows.
    MemoryPolicy,
    /// The limit of a control group.
    Memcg,
}

/// One process that the kernel killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomKill {
    /// Its name (`comm`), as the kernel's log escapes it: printable ASCII.
    pub process: String,
    /// Its ID in the node's PID namespace.
    pub pid: i32,
    /// The control group it was in; `None` when the kernel did not tell (it prints a few reports in five seconds only).
    pub task_memcg: Option<String>,
    /// The control group whose limit was reached; `None` when it was no group's, or when the kernel did not tell.
    pub oom_memcg: Option<String>,
    /// What ran out.
    pub constraint: Constraint,
    /// The limit that was reached, in bytes.
    pub limit: Option<u64>,
    /// What files in memory (tmpfs) took of that limit, in bytes, where the kernel tells.
    pub shmem: Option<u64>,
    /// When, on the kernel's clock since boot.
    pub at: Duration,
}

impl OomKill {
    /// Whether this is the node's trouble: no control group's limit was reached (what cAdvisor calls the victim
    /// container `/`, and upstream tells as `SystemOOM`).
    pub fn is_system(&self) -> bool {
        match &self.oom_memcg {
            Some(group) => group == "/",
            None => self.constraint != Constraint::Memcg,
        }
    }

    /// Whether the victim's container reached a limit of its own.
    pub fn is_own_limit(&self) -> bool {
        let of = |group: &Option<String>| group.as_deref().and_then(container_of);
        of(&self.oom_memcg).is_some() && of(&self.oom_memcg) == of(&self.task_memcg)
    }
}
