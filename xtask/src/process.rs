//! Runs other programs and says what is going on.
//!
//! Owns the progress lines (on stderr, so that stdout stays free for answers) and the rule that a failing program is
//! reported with its command line and what it printed. Never decides what to run. Called by every task.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::wait::Stopwatch;

/// Where programs may be that a plain user's PATH leaves out.
const EXTRA_PATH: [&str; 5] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Prints `what` before the work and the time it took after it, when it took longer than a second.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(&format!("{what} ..."));
    let watch = Stopwatch::start();
    let answer = work().with_context(|| format!("{what} failed"))?;
    let seconds = watch.seconds();
    if seconds >= 1.0 {
        say(&format!("{what}: done in {seconds:.1} s"));
    }
    Ok(answer)
}

/// One progress line.
pub(crate) fn say(line: &str) {
    eprintln!("==> {line}");
}

/// The command line as a person would type it.
fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a program that talks to the person itself: its output goes to stderr as it comes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = describe(command);
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs a program and returns what it printed on stdout; what it said on stderr is shown only when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = describe(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!(
            "`{shown}` ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command from a list of words.
pub(crate) fn command<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut words = words.into_iter();
    let program = words.next().map(|word| word.as_ref().to_owned()).unwrap_or_default();
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// The first executable of that name in PATH or in the usual system folders.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(EXTRA_PATH.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// As [`find_program`], with an error that names what is missing.
pub(crate) fn need_program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("`{name}` is not installed"))
}

/// Whether process `pid` lives and its command line contains `mark`; a pid that was given to someone else does not.
pub(crate) fn is_alive(pid: u32, mark: &str) -> bool {
    let Ok(state) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let zombie = state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    !zombie && command_line(pid).contains(mark)
}

/// The command line of a process, words parted by blanks; empty when it is gone.
pub(crate) fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Every process id of the machine.
pub(crate) fn process_ids() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Sends `signal` (a name like `TERM`) to one process; a process that is gone already is no error.
pub(crate) fn signal(pid: u32, signal: &str) {
    // The shell's own `kill`: the program of that name is not on every machine.
    let _gone_already = output(&mut command(["sh", "-c", &format!("kill -s {signal} {pid}")]));
}

/// Reads a pid file; anything but a number counts as no file.
pub(crate) fn read_pid(file: &Path) -> Option<u32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_reported_with_its_words_and_output() {
        let error =
            output(&mut command(["sh", "-c", "echo out; echo err >&2; exit 3"])).unwrap_err().to_string();
        for part in ["sh -c", "exit status: 3", "out", "err"] {
            assert!(error.contains(part), "{part:?} is missing in {error:?}");
        }
    }

    #[test]
    fn a_pid_of_another_program_does_not_count_as_alive() {
        let own = std::process::id();
        assert!(is_alive(own, "xtask"));
        assert!(!is_alive(own, "no-such-mark"));
        assert!(!is_alive(u32::MAX, ""));
    }

    #[test]
    fn programs_are_found_outside_of_path() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program"), None);
    }
}
