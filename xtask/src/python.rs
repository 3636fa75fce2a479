//! The Python client of Kubernetes (package `kubernetes`), for the node tests.
//!
//! Owns which version it is and the cache it is unpacked into. pip is asked, whose configuration says where packages
//! come from; nothing is installed. Called by `cargo xtask python-client`, and by the node tests through it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::host;
use crate::process::{command, need_program, output, step};

/// The version that the transcripts are of.
const REQUIREMENT: &str = "kubernetes==37.0.2";

/// The folder that has the client in it, to be put on PYTHONPATH: from the cache, or fetched.
pub(crate) fn provide() -> Result<PathBuf> {
    let python = need_program("python3")?;
    let version =
        output(command([&python]).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]))?;
    // Parts of it are compiled for one version of Python.
    let folder = host::cache_dir().join("python").join(version.trim()).join(REQUIREMENT);
    if folder.join("kubernetes").is_dir() {
        return Ok(folder);
    }
    let part = folder.with_extension(format!("part-{}", std::process::id()));
    fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
    let words = ["-m", "pip", "install", "--quiet", "--no-compile", "--root-user-action=ignore", "--target"];
    let fetched = step(&format!("fetching the Python package {REQUIREMENT}"), || {
        output(command([&python]).args(words).arg(&part).arg(REQUIREMENT))
    });
    let placed = fetched.and_then(|_| match fs::rename(&part, &folder) {
        // Somebody else was faster: theirs is as good.
        Err(_) if folder.join("kubernetes").is_dir() => Ok(()),
        renamed => renamed.with_context(|| format!("cannot create {}", folder.display())),
    });
    let _not_worth_an_error = fs::remove_dir_all(&part);
    placed.context(
        "the Python client cannot be had: python3 and its pip are needed (packages python3, python3-pip)",
    )?;
    Ok(folder)
}
