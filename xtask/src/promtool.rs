//! Prometheus' own checker of metrics, for the tests of what the agent tells of itself.
//!
//! Owns where it comes from (Debian's package) and the cache of the unpacked one. Nothing is installed. Called by
//! `cargo xtask promtool`, and by the node tests through it.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::process::{command, find_program, output, step};
use crate::{debian, host};

/// The Debian suite and package, and where the package puts the program.
const SUITE: &str = "bookworm";
const PACKAGE: &str = "prometheus";
const PROGRAM: &str = "usr/bin/promtool";

/// The machine's own promtool, or one that is fetched.
pub(crate) fn provide() -> Result<PathBuf> {
    if let Some(own) = find_program("promtool") {
        return Ok(own);
    }
    let folder = host::cache_dir().join("promtool");
    let program = folder.join(PROGRAM);
    if !program.is_file() {
        step("fetching promtool", || debian::fetch(SUITE, &[PACKAGE], &folder, PROGRAM))?;
    }
    let said = output(command([&program]).arg("--version"))?;
    if !said.starts_with("promtool") {
        bail!("{} is not promtool: it says {said:?}", program.display());
    }
    Ok(program)
}
