//! Builds the pause program with `rustc` alone.
//!
//! Owns the flags of images/pause/pause.rs, which is no workspace member because nothing else is built like it.
//! Never puts it into an image. Called by the image definitions next door.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host;
use crate::process::{command, output};

/// No start files, no libc, no loader, no build id, no relocation: what is left is a kilobyte of code.
const FLAGS: [&str; 19] = [
    "--edition=2024",
    "--crate-name=pause",
    "-Dwarnings",
    "-Copt-level=z",
    "-Cpanic=abort",
    "-Clto=fat",
    "-Ccodegen-units=1",
    "-Cstrip=symbols",
    "-Crelocation-model=static",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,--gc-sections",
    "-Clink-arg=-Wl,-z,norelro",
    "-Clink-arg=-Wl,-z,noexecstack",
    "-Cforce-unwind-tables=no",
    "-Cdebuginfo=0",
];

/// The program's only source file.
pub(super) fn source() -> PathBuf {
    host::repository().join("images/pause/pause.rs")
}

/// The pause program for this machine's architecture.
pub(crate) fn build() -> Result<Vec<u8>> {
    let folder = host::repository().join("target/xtask");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let binary = folder.join(format!("pause-{}", std::process::id()));
    compile(&source(), &binary)?;
    let bytes = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    fs::remove_file(&binary)?;
    Ok(bytes)
}

fn compile(source: &Path, binary: &Path) -> Result<()> {
    // In the repository, so that rustup takes the pinned toolchain.
    output(command(["rustc"]).args(FLAGS).arg("-o").arg(binary).arg(source).current_dir(host::repository()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;
    use crate::process::{command_line, process_ids, signal};
    use crate::wait;

    /// A child that does not outlive a failing test.
    struct Guarded(Child);

    impl Drop for Guarded {
        fn drop(&mut self) {
            let _ended_already = self.0.kill();
            let _reaped_already = self.0.wait();
        }
    }

    fn compiled(folder: &Path) -> PathBuf {
        let binary = folder.join("pause");
        compile(&source(), &binary).unwrap();
        binary
    }

    /// Waits until the process is the pause program and sleeps, which it does only where it waits for signals.
    /// Before that, a signal would still have its default effect.
    fn wait_until_it_sleeps(pid: u32, binary: &Path) {
        wait::until("the signals to be waited for", Duration::from_secs(10), || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let sleeps = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'));
            Ok((sleeps && fs::read_link(format!("/proc/{pid}/exe"))? == binary).then_some(()))
        })
        .unwrap();
    }

    #[test]
    fn it_is_small_and_ends_well_on_both_signals() {
        for name in ["TERM", "INT"] {
            let folder = tempfile::tempdir().unwrap();
            let binary = compiled(folder.path());
            let size = fs::metadata(&binary).unwrap().len();
            assert!(size < 8192, "pause has grown to {size} bytes");
            let mut child = Guarded(Command::new(&binary).spawn().unwrap());
            wait_until_it_sleeps(child.0.id(), &binary);
            signal(child.0.id(), name);
            assert!(child.0.wait().unwrap().success(), "SIG{name} should end it with code 0");
        }
    }

    /// The shell becomes the pause program while its child still runs, which makes pause the parent of a process
    /// that it never started, as orphans of a shared process namespace do.
    #[test]
    fn it_reaps_children_that_it_did_not_start() {
        let folder = tempfile::tempdir().unwrap();
        let binary = compiled(folder.path());
        let pipe = folder.path().join("pipe");
        output(command(["mkfifo"]).arg(&pipe)).unwrap();
        let script = format!("(read line < {}) & exec {}", pipe.display(), binary.display());
        let mut parent = Guarded(Command::new("sh").args(["-c", &script]).spawn().unwrap());
        wait_until_it_sleeps(parent.0.id(), &binary);
        let parent_line = format!("PPid:\t{}", parent.0.id());
        let children = || -> Vec<u32> {
            let is_child = |pid: &u32| {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                status.lines().any(|line| line == parent_line)
            };
            process_ids().into_iter().filter(is_child).collect()
        };
        assert_eq!(children().len(), 1, "{:?}", children().into_iter().map(command_line).collect::<Vec<_>>());
        fs::write(&pipe, "done\n").unwrap();
        wait::until("the child to be reaped", Duration::from_secs(10), || {
            Ok(children().is_empty().then_some(()))
        })
        .unwrap();
        signal(parent.0.id(), "TERM");
        assert!(parent.0.wait().unwrap().success());
    }
}
