//! The rules as tables, and real processes in a directory that looks like a cgroup.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;

use super::*;
use std::fs;

#[track_caller]
fn check_words(words: &[&str], command: &[&str], expected: bool) {
    let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
    assert_eq!(shows(&words, &command), expected, "{words:?} {command:?}");
}

#[test]
fn a_process_shows_the_words_of_its_command() {
    check_words(&["sh", "-c", "sleep 9"], &["sh", "-c", "sleep 9"], true);
    check_words(&["/bin/sh", "/probe.sh", "x"], &["/probe.sh", "x"], true);
    check_words(&["/bin/sh", "-e", "/usr/bin/probe"], &["probe"], true);
    check_words(&["/bin/sh", "/usr/bin/probe"], &["obe"], false);
    check_words(&["/usr/bin/probe"], &["probe"], false);
    check_words(&["sleep", "9"], &["sh", "-c", "exec sleep 9"], false);
    check_words(&["sh", "-c", "sleep 8"], &["sh", "-c", "sleep 9"], false);
    check_words(&["sh"], &["sh", "-c"], false);
    check_words(&["sh"], &[], false);
    check_words(&[""], &["sh"], false);
}

#[test]
fn stat_lines_are_read_whatever_the_name() {
    let line = |name: &str| {
        format!(
            "25897 ({name}) S 25841 25890 25891 0 -1 4194304 56 0 0 0 0 0 0 0 20 0 1 0 4758521 2322432 316"
        )
    };
    for name in ["sleep", "a) S 1 2 3 (b", "x y", ""] {
        let stat = Stat::parse(&line(name)).unwrap();
        let expected =
            Stat { pid: 25897, state: b'S', parent: 25841, group: 25890, session: 25891, start: 4758521 };
        assert_eq!(stat, expected, "{name}");
    }
    let own = stat(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(own.start > 0 && own.start <= now_in_ticks().unwrap());
}

proptest! {
    #[test]
    fn stat_lines_of_any_bytes_are_survived(line in any::<String>()) {
        let _ = Stat::parse(&line);
    }
}

#[test]
fn cgroups_are_found_by_the_id_in_their_name() {
    let id = "0123456789abcdef";
    use super::procfs::cgroup_dirs;
    let dirs = |text: &str| {
        let dirs = cgroup_dirs(Path::new("/c"), id, text);
        dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(dirs("0::/kubepods/pod1/0123456789abcdef"), "/c/kubepods/pod1/0123456789abcdef");
    assert_eq!(
        dirs("0::/kubepods.slice/cri-containerd-0123456789abcdef.scope/init.scope"),
        "/c/kubepods.slice/cri-containerd-0123456789abcdef.scope"
    );
    assert_eq!(
        dirs("8:cpu,cpuacct:/p/0123456789abcdef\n1:name=systemd:/p/0123456789abcdef\n0::/"),
        "/c/cpu/p/0123456789abcdef /c/systemd/p/0123456789abcdef"
    );
    assert_eq!(dirs("0::/kubepods/pod1/another"), "");
    assert_eq!(dirs("0::/../../0123456789abcdef"), "");
    assert_eq!(dirs("nonsense"), "");
    assert!(cgroup_dirs(Path::new("/c"), "", "0::/x").is_empty());
}

/// A leader of a session that has started others; it is killed, with its session, when dropped.
struct Tree {
    leader: Child,
    pids: Vec<i32>,
}

impl Tree {
    /// Runs a script that prints the numbers of the processes it starts and then `ready`.
    fn start(script: &str) -> Self {
        // It does not fork: a process that was just started leads no group.
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(leader.stdout.take().unwrap()).lines();
        let pids =
            lines.map_while(Result::ok).take_while(|line| line != "ready").map(|line| line.parse().unwrap());
        let pids = pids.collect();
        Self { leader, pids }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.leader.id()).unwrap()
    }

    fn kill_leader(&mut self) {
        self.leader.kill().unwrap();
        self.leader.wait().unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = self.leader.kill();
        let _ = self.leader.wait();
        for pid in self.pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

fn runs(pid: i32) -> bool {
    stat(pid).is_ok_and(|seen| !seen.is_zombie())
}

/// Waits for the end of a process whose number nobody else gets meanwhile.
fn wait_end(pid: i32) {
    if let Ok(pidfd) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) {
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        assert_eq!(poll(&mut polled, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap(), 1, "{pid} lives");
    }
}

/// A directory that lists processes as a cgroup does.
fn cgroup_with(pids: &[i32]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
    fs::write(dir.path().join("cgroup.procs"), text).unwrap();
    dir
}

fn running(cgroup: &Path, leaders: &[&Tree]) -> RunningCommand {
    let hold = |tree: &&Tree| Process::hold(&stat(tree.pid()).unwrap()).unwrap();
    // Start times are coarse: what was just started counts as started before.
    let alive_at = now_in_ticks().unwrap() + 1;
    RunningCommand { cgroup: cgroup.to_owned(), leaders: leaders.iter().map(hold).collect(), alive_at }
}

const FORKS: &str = "sleep 1000 >/dev/null & echo $!; sleep 1000 >/dev/null & echo $!; echo ready; wait";

#[test]
fn the_rest_of_a_session_is_killed_and_nobody_else() {
    let mut command = Tree::start(FORKS);
    let other = Tree::start(FORKS);
    let all: Vec<i32> =
        [other.pid()].into_iter().chain(command.pids.clone()).chain(other.pids.clone()).collect();
    let cgroup = cgroup_with(&all);
    let running = running(cgroup.path(), &[&command]);
    assert!(running.exit().unwrap().is_some());
    command.kill_leader();
    assert_eq!(running.kill_rest().unwrap(), 2);
    command.pids.iter().for_each(|pid| wait_end(*pid));
    assert!(runs(other.pid()) && other.pids.iter().all(|pid| runs(*pid)));
}

#[test]
fn a_process_that_left_the_session_is_left_alone() {
    let mut command = Tree::start(
        "setsid sleep 1000 >/dev/null & echo $!; sleep 1000 >/dev/null & echo $!; echo ready; wait",
    );
    // It is another session's only once it has called setsid.
    let escaped = command.pids[0];
    while stat(escaped).unwrap().session != escaped {
        std::thread::yield_now();
    }
    let cgroup = cgroup_with(&command.pids);
    let running = running(cgroup.path(), &[&command]);
    command.kill_leader();
    assert_eq!(running.kill_rest().unwrap(), 1);
    wait_end(command.pids[1]);
    assert!(runs(escaped));
}

#[test]
fn nothing_is_done_while_the_first_process_lives() {
    let command = Tree::start(FORKS);
    let cgroup = cgroup_with(&command.pids);
    assert_eq!(running(cgroup.path(), &[&command]).kill_rest().unwrap(), 0);
    assert!(runs(command.pid()) && command.pids.iter().all(|pid| runs(*pid)));
}

#[test]
fn of_several_only_the_one_that_ended_is_taken() {
    let (mut first, second) = (Tree::start(FORKS), Tree::start(FORKS));
    let all: Vec<i32> = first.pids.iter().chain(&second.pids).copied().collect();
    let cgroup = cgroup_with(&all);
    let both = running(cgroup.path(), &[&first, &second]);
    assert!(both.exit().unwrap().is_none());
    assert_eq!(both.kill_rest().unwrap(), 0, "neither has ended");
    assert!(all.iter().all(|pid| runs(*pid)));

    let both = running(cgroup.path(), &[&first, &second]);
    first.kill_leader();
    assert_eq!(both.kill_rest().unwrap(), 2);
    first.pids.iter().for_each(|pid| wait_end(*pid));
    assert!(second.pids.iter().all(|pid| runs(*pid)));
}

#[test]
fn a_session_without_a_witness_of_its_leader_is_left_alone() {
    let mut command = Tree::start(FORKS);
    let cgroup = cgroup_with(&command.pids);
    let mut running = running(cgroup.path(), &[&command]);
    running.alive_at = stat(command.pids[0]).unwrap().start;
    command.kill_leader();
    assert_eq!(running.kill_rest().unwrap(), 0);
    assert!(command.pids.iter().all(|pid| runs(*pid)));
}

#[test]
fn in_a_namespace_with_everybody_nothing_is_certain() {
    let command = Tree::start(FORKS);
    let mount = tempfile::tempdir().unwrap();
    // The real cgroup of the test process has no container's ID in its name.
    let words = ["sh".to_owned(), "-c".to_owned(), FORKS.to_owned()];
    let found = RunningCommand::find(
        mount.path(),
        "0123456789abcdef",
        command.pid(),
        &words,
        Duration::from_secs(60),
    );
    assert!(matches!(found, Err(NotFound::Container(_))), "{found:?}");
    let namespace = procfs::pid_namespace(command.pid()).unwrap();
    let leader = stat(command.pid()).unwrap();
    assert!(leader.leads_its_session());
    assert_eq!(origin(&leader, &namespace), Origin::Inside, "its parent is in the same namespace");
}
