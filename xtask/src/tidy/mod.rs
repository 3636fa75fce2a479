//! `cargo xtask tidy`: rules of the house that no compiler checks.
//!
//! Owns the list of checks; every rule lives in a module of its own as a pure function from text to problems, and this
//! one reads the repository. Never changes a file. Called by `make test`.

mod dependencies;
mod documents;
mod sources;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::host;
use crate::process::{command, output, say};

/// A text file of the repository, with its path from the root.
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Runs every check and reports all problems at once.
pub(crate) fn check() -> Result<()> {
    let root = host::repository();
    let metadata = output(
        command(["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(&root),
    )?;
    let metadata = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let paths = tracked(&root)?;
    let read = |extension: &str| -> Result<Vec<TextFile>> {
        let wanted = paths.iter().filter(|path| path.ends_with(extension));
        wanted
            .map(|path| {
                let text =
                    fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
                Ok(TextFile { path: path.clone(), text })
            })
            .collect()
    };
    let makefile = fs::read_to_string(root.join("Makefile")).context("cannot read Makefile")?;
    let facts = documents::Facts {
        crates: dependencies::members(&metadata),
        tasks: documents::tasks(),
        targets: documents::make_targets(&makefile),
        exists: &|path: &str| root.join(path).exists(),
    };
    let mut problems = dependencies::problems(&metadata);
    for file in read(".rs")? {
        problems.extend(sources::problems(&file));
    }
    for file in read(".md")? {
        problems.extend(documents::problems(&file, &facts));
    }
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        say(problem);
    }
    bail!("{} problem(s)", problems.len())
}

/// What git knows or would add: nothing that is built or ignored.
fn tracked(root: &Path) -> Result<Vec<String>> {
    let listed =
        output(command(["git", "ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root))?;
    Ok(listed.lines().filter(|path| root.join(path).is_file()).map(str::to_owned).collect())
}
