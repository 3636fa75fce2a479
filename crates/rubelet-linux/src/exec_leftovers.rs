//! What a command that was run in a container leaves behind when it times out, and its end.
//!
//! A runtime kills the first process of such a command; what that one started lives on, holds the output of the command
//! open (for which containerd may wait for ever) and piles up from probe to probe. This module finds the first process
//! while it still lives and kills the rest of its session when it is dead; it never kills the first process itself.
//!
//! It never touches what the container started by itself. A process is only taken for the first one of a command when
//! it is in the container's cgroup and PID namespace, its parent is outside of that namespace (which nothing that was
//! started inside can bring about: orphans stay inside), it leads a session, was started while the command ran and
//! shows the command's words. Who is in its session descends from it, for there is no other way into a session. In all
//! cases of doubt nothing is done; a container in the node's PID namespace is one.
//!
//! Reads procfs and blocks for it: callers use a blocking thread. Called by the shell's side of the exec probe.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

mod procfs;

use self::procfs::{Origin, Stat, cmdline, now_in_ticks, origin, pids_below, stat, ticks};

/// The most processes a container may have to be looked through.
const MOST_PROCESSES: usize = 4096;
/// How often a session is looked through for processes that were forked meanwhile.
const ROUNDS: usize = 16;
/// Start times are in hundredths of a second: so much (in ticks) a process may seem older than it is.
const TOLERANCE: u64 = 2;

/// Why no process was found that is beyond doubt the first one of a command.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// The first process of the container is gone or is not in a cgroup of that container.
    #[error("process {0} is not one of the container")]
    Container(i32),
    /// Too many processes to look at.
    #[error("the container has more than {MOST_PROCESSES} processes")]
    TooMany,
    /// None looks like it: the command has ended, runs under another name, or the container shares the node's processes.
    #[error("no process of the container is certainly the command's")]
    Nothing,
    /// The system did not answer.
    #[error("cannot read the container's processes")]
    Unreadable(#[from] io::Error),
}

/// A command that runs in a container.
#[derive(Debug)]
pub struct RunningCommand {
    /// The container's cgroup.
    cgroup: PathBuf,
    /// What may be the first process; more than one when the same command was begun several times.
    leaders: Vec<Process>,
    /// When all of them were seen to live, in ticks since boot.
    alive_at: u64,
}

/// A process that cannot be mistaken for another one.
#[derive(Debug)]
struct Process {
    pid: i32,
    start: u64,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes hold of a process that was seen, unless its number names another one by now.
    fn hold(seen: &Stat) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(seen.pid)?, PidfdFlags::empty()).ok()?;
        // The descriptor names whoever had the number when it was opened; who that was is read afterwards.
        let now = stat(seen.pid).ok()?;
        let same = now.start == seen.start && now.session == seen.session;
        same.then_some(Self { pid: seen.pid, start: seen.start, pidfd })
    }

    fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    fn signal(&self, signal: Signal) {
        // An error says that it is gone already.
        let _gone = pidfd_send_signal(&self.pidfd, signal);
    }
}

impl RunningCommand {
    /// Looks for the first process of a command that was begun `running_for` ago in the container whose first process is
    /// `init`, under a cgroup hierarchy mounted at `mount` (`/sys/fs/cgroup`).
    ///
    /// # Errors
    /// When none is found for certain.
    pub fn find(
        mount: &Path,
        container_id: &str,
        init: i32,
        command: &[String],
        running_for: Duration,
    ) -> Result<Self, NotFound> {
        let begun = now_in_ticks()?.saturating_sub(ticks(running_for) + TOLERANCE);
        let cgroup = procfs::cgroup_of(mount, container_id, init).ok_or(NotFound::Container(init))?;
        let namespace = procfs::pid_namespace(init)?;
        let pids = pids_below(&cgroup, MOST_PROCESSES)?.ok_or(NotFound::TooMany)?;
        if !pids.contains(&init) {
            return Err(NotFound::Container(init));
        }
        let leaders: Vec<Process> = pids
            .into_iter()
            .filter(|pid| *pid != init)
            .filter_map(|pid| stat(pid).ok())
            .filter(|seen| seen.leads_its_session() && seen.start >= begun && !seen.is_zombie())
            .filter(|seen| origin(seen, &namespace) == Origin::Outside)
            .filter(|seen| cmdline(seen.pid).is_ok_and(|words| shows(&words, command)))
            .filter_map(|seen| Process::hold(&seen))
            .collect();
        if leaders.is_empty() {
            return Err(NotFound::Nothing);
        }
        let alive_at = now_in_ticks()?;
        if leaders.iter().any(Process::has_ended) {
            return Err(NotFound::Nothing);
        }
        Ok(Self { cgroup, leaders, alive_at })
    }

    /// A pidfd of the first process; `None` when it may be one of several.
    ///
    /// # Errors
    /// When this process has no descriptor left.
    pub fn exit(&self) -> io::Result<Option<OwnedFd>> {
        match self.leaders.as_slice() {
            [leader] => leader.pidfd.try_clone().map(Some),
            _ => Ok(None),
        }
    }

    /// Kills all that is left of the command after its first process has ended. Of several that may be it, the one that
    /// has ended is it; when not exactly one has, nothing is done: one that lives may be another's. Returns how many
    /// processes were killed.
    ///
    /// # Errors
    /// When the processes of the container cannot be read.
    pub fn kill_rest(self) -> io::Result<usize> {
        let mut ended = self.leaders.iter().filter(|leader| leader.has_ended());
        let (Some(leader), None) = (ended.next(), ended.next()) else { return Ok(0) };
        let mut held: Vec<Process> = vec![];
        for _ in 0..ROUNDS {
            let Some(pids) = pids_below(&self.cgroup, MOST_PROCESSES)? else { break };
            let seen: Vec<Stat> = pids.into_iter().filter_map(|pid| stat(pid).ok()).collect();
            // Processes that are held stay in their session, so that its number is theirs.
            if held.is_empty() && !session_goes_on(&seen, leader, self.alive_at) {
                break;
            }
            let before = held.len();
            for member in seen.iter().filter(|seen| is_left(seen, leader)) {
                let known = held.iter().any(|known| known.pid == member.pid && known.start == member.start);
                if !known && let Some(process) = Process::hold(member) {
                    // Stopped, it starts no others while those that are left are looked for.
                    process.signal(Signal::STOP);
                    held.push(process);
                }
            }
            if held.len() == before {
                break;
            }
        }
        for process in &held {
            process.signal(Signal::KILL);
        }
        Ok(held.len())
    }
}

/// Whether a process shows the words of a command. A script shows its interpreter before them, and the path at which it
/// was found.
fn shows(words: &[Vec<u8>], command: &[String]) -> bool {
    let Some(tail) = words.len().checked_sub(command.len()).and_then(|start| words.get(start..)) else {
        return false;
    };
    let (Some((first, rest)), Some((name, arguments))) = (tail.split_first(), command.split_first()) else {
        return false;
    };
    let name = name.as_bytes();
    let is_name = first == name
        || (words.len() > command.len()
            && first.strip_suffix(name).is_some_and(|directory| directory.ends_with(b"/")));
    is_name && rest.iter().zip(arguments).all(|(word, argument)| word == argument.as_bytes())
}

/// Whether a process is in the session of a command's first process, which is dead.
fn is_left(seen: &Stat, leader: &Process) -> bool {
    seen.session == leader.pid && seen.pid != leader.pid && seen.start >= leader.start && !seen.is_zombie()
}

/// Whether the session that has the number of a dead first process is still the one it led: a number is not given away
/// while a session has it, so one member that was there in its lifetime is proof.
fn session_goes_on(seen: &[Stat], leader: &Process, alive_at: u64) -> bool {
    let reused = seen.iter().any(|seen| seen.pid == leader.pid && seen.start != leader.start);
    !reused && seen.iter().any(|seen| is_left(seen, leader) && seen.start < alive_at)
}

#[cfg(test)]
mod tests;
