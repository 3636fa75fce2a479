//! The kernel's side of the node: cgroups, the file system, inotify, facts from `/proc`. The only crate that
//! may hold unsafe code. It reports and does; it decides nothing about pods.

pub mod beneath;
pub mod block;
pub mod cgroup;
mod crossing;
pub mod disk;
pub mod exec_leftovers;
pub mod exit;
pub mod facts;
pub mod fs_pool;
pub mod kmsg;
pub mod log_files;
pub mod memory_trigger;
pub mod mounts;
pub mod node_facts;
pub mod oom_events;
pub mod ownership;
pub mod preflight;
pub mod process;
pub mod record;
pub mod remove;
pub mod selinux;
pub mod sub_path;
pub mod tool;
pub mod topology;
pub mod usage;
pub mod watch;
