//! Builds the workspace's programs.
//!
//! Owns how cargo is called for a binary and where it leaves it. Never runs what it built. Called by `make run` and by
//! the benchmark, as the person who runs them: never as root through sudo.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::host;
use crate::process::{command, run};

/// Builds the binary of a package that has the package's name, and returns it.
pub(crate) fn build(package: &str, profile: &str) -> Result<PathBuf> {
    cargo_build(package, ["--bin", package], profile, package.into())
}

/// Builds an example of a package, and returns it.
pub(crate) fn example(package: &str, name: &str) -> Result<PathBuf> {
    cargo_build(package, ["--example", name], "dev", PathBuf::from("examples").join(name))
}

fn cargo_build(package: &str, what: [&str; 2], profile: &str, made: PathBuf) -> Result<PathBuf> {
    let root = host::repository();
    run(command(["cargo", "build", "--package", package, "--profile", profile])
        .args(what)
        .current_dir(&root))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // The dev profile is the one whose folder has another name.
    let binary = target.join(if profile == "dev" { "debug" } else { profile }).join(made);
    std::path::absolute(&binary)
        .ok()
        .filter(|path| path.is_file())
        .with_context(|| format!("cargo built no {}", binary.display()))
}
