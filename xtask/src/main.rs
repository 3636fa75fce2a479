//! The project's tasks: what `make` and CI run, and the tools that tests need.
//!
//! Owns the command line. Every task lives in a module of its own and explains itself there. Nothing of this is
//! shipped. Called by people and CI as `cargo xtask …`, see docs/development.md.

mod bench;
mod containerd;
mod debian;
mod host;
mod http;
mod images;
mod kubectl;
mod node;
mod package;
mod process;
mod programs;
mod promtool;
mod python;
mod suite;
mod tidy;
mod vm;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "The project's tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Start a private containerd and the agent with a sample pod (`make run`).
    Up(node::UpOptions),
    /// Remove everything that `up` made (`make stop`).
    Down,
    /// Run everything that CI runs (`make test`).
    Test(suite::TestOptions),
    /// Run node tests in an emulated machine with cgroup v2 and systemd.
    Vm(vm::VmOptions),
    /// Measure the agent against the bare CRI calls.
    Bench(bench::BenchOptions),
    /// Make a Debian package and a tarball of the agent.
    Package(package::PackageOptions),
    /// Check what the compiler does not: dependency direction, documents, file headers.
    Tidy,
    /// Build the sandbox image and the workload image as archives.
    Images {
        /// Where the archives go.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Print the path of Prometheus' promtool, fetched when it is not there.
    Promtool,
    /// Print the path of a real kubectl, fetched when it is not there.
    Kubectl {
        /// The version line; without it, one for a person: your own if there is one.
        #[arg(long, value_enum)]
        version: Option<kubectl::Version>,
    },
    /// Print the folder of the Python client of Kubernetes, fetched when it is not there.
    PythonClient,
    /// Start, check and stop private containerds for tests.
    #[command(subcommand)]
    Containerd(ContainerdTask),
}

#[derive(Debug, Subcommand)]
enum ContainerdTask {
    /// Start one with our images in it, and print its handle as JSON. In a folder where one runs, print that one's.
    Start {
        /// The version line.
        #[arg(long, value_enum, default_value_t = containerd::Version::Installed)]
        version: containerd::Version,
        /// The folder for everything it makes; short, because its socket is in it.
        #[arg(long)]
        dir: PathBuf,
        /// Run a container to see that it works.
        #[arg(long)]
        check: bool,
        /// Have systemd make the control groups of containers.
        #[arg(long)]
        systemd_cgroups: bool,
    },
    /// Kill one with all its containers, and remove every trace of it.
    Stop {
        /// The folder it was started in.
        #[arg(long)]
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Up(options) => node::up(&options),
        Task::Down => node::down(),
        Task::Test(options) => suite::test(&options),
        Task::Vm(options) => vm::vm(&options),
        Task::Bench(options) => bench::bench(&options),
        Task::Package(options) => package::package(&options),
        Task::Tidy => tidy::check(),
        Task::Images { out } => {
            for archive in images::build(&out.unwrap_or_else(images::default_dir))?.0 {
                println!("{} {}", archive.image, archive.path.display());
            }
            Ok(())
        }
        Task::Promtool => {
            println!("{}", promtool::provide()?.display());
            Ok(())
        }
        Task::Kubectl { version } => {
            println!("{}", version.map_or_else(kubectl::for_person, kubectl::provide)?.display());
            Ok(())
        }
        Task::PythonClient => {
            println!("{}", python::provide()?.display());
            Ok(())
        }
        Task::Containerd(ContainerdTask::Start { version, dir, check, systemd_cgroups }) => {
            host::install_requirements()?;
            let handle = containerd::start_with(version, &dir, None, systemd_cgroups)?;
            if check {
                containerd::check(&handle)?;
            }
            println!("{:#}", handle.to_json());
            Ok(())
        }
        Task::Containerd(ContainerdTask::Stop { dir }) => containerd::bring_down(&dir),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
