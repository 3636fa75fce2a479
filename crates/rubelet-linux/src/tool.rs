//! Runs the few tools of the node that the agent cannot do without: mount helpers, `blkid`, `fsck`, `mkfs`. Owns that one
//! ends within its deadline and that what it says is bounded. Blocks; called from threads that may.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// What is kept of a tool's words, bytes.
const OUTPUT_BYTES: u64 = 16 * 1024;
/// How long a tool that is killed may take to be gone.
const KILLED: Duration = Duration::from_secs(2);

/// The tools of this node.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// Where they are looked for; `None`: where the agent's own `PATH` says.
    pub directory: Option<PathBuf>,
}

/// What a tool did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it said on both outputs.
    pub output: String,
}

impl Ended {
    /// It ended with code 0.
    pub fn is_ok(&self) -> bool {
        self.code == Some(0)
    }

    /// How it ended, in the words that Go programs use and users search for.
    pub fn status(&self) -> String {
        self.code.map_or_else(|| "signal: killed".to_owned(), |code| format!("exit status {code}"))
    }
}

impl Tools {
    /// Runs one tool to its end.
    ///
    /// # Errors
    /// `NotFound` when there is no such tool, `TimedOut` when it had to be killed; what it does then may be done, half
    /// done, or still come.
    pub fn run<A: AsRef<OsStr>>(&self, name: &str, arguments: &[A], deadline: Duration) -> io::Result<Ended> {
        let program = match &self.directory {
            Some(directory) => directory.join(name).into_os_string(),
            None => OsString::from(name),
        };
        // A file and no pipe, which nobody would have to empty while the tool runs.
        let mut output = File::from(memfd_create("tool-output", MemfdFlags::CLOEXEC)?);
        let mut child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(output.try_clone()?))
            .process_group(0)
            .spawn()?;
        if !ends_within(&child, deadline)? {
            kill(&mut child);
            let seconds = deadline.as_secs();
            let problem = format!("{name} did not end within {seconds} s and was killed");
            return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
        }
        let code = child.wait()?.code();
        output.seek(SeekFrom::Start(0))?;
        let mut said = Vec::new();
        output.take(OUTPUT_BYTES).read_to_end(&mut said)?;
        Ok(Ended { code, output: String::from_utf8_lossy(&said).into_owned() })
    }
}

fn ends_within(child: &Child, deadline: Duration) -> io::Result<bool> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Timespec::try_from(deadline).map_err(io::Error::other)?;
    loop {
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&deadline)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// Kills a tool with all it started. One that the kernel holds (a server that is gone) is left to end later.
fn kill(child: &mut Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    if ends_within(child, KILLED).unwrap_or(false) {
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_tells_how_it_ended_and_what_it_said() {
        let tools = Tools::default();
        let run = |script: &str| tools.run("sh", &["-c", script], Duration::from_secs(20)).unwrap();
        assert_eq!(run("echo a; echo b >&2"), Ended { code: Some(0), output: "a\nb\n".into() });
        assert_eq!(run("exit 32").status(), "exit status 32");
        assert_eq!(run("kill -9 $$").status(), "signal: killed");
        assert_eq!(run("head -c 100000 /dev/zero").output.len() as u64, OUTPUT_BYTES);
        let none = Tools { directory: Some("/nowhere".into()) }.run("sh", &["-c"], KILLED);
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_tool_that_does_not_end_is_killed_with_its_children() {
        let root = tempfile::tempdir().unwrap();
        let pid = root.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let error =
            Tools::default().run("sh", &["-c", script.as_str()], Duration::from_millis(500)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "sh did not end within 0 s and was killed");
        let Ok(pid) = std::fs::read_to_string(pid) else { return };
        let Ok(number) = pid.trim().parse() else { return };
        // Gone, or a zombie that somebody else has to collect.
        let state = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        let running: i32 = number;
        assert!(state.is_empty() || state.contains(") Z"), "{running} still runs: {state}");
    }
}
