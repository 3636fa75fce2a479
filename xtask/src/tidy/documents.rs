//! Documents name only what exists.
//!
//! Owns how a path, a crate, a task and a make target are recognised in Markdown. Never judges prose. Called by the
//! tidy task for every Markdown file.

use clap::CommandFactory;

use super::TextFile;

/// What documents may name.
pub(crate) struct Facts<'a> {
    /// The workspace's crates.
    pub(crate) crates: Vec<String>,
    /// The tasks of `cargo xtask`.
    pub(crate) tasks: Vec<String>,
    /// The targets of the Makefile.
    pub(crate) targets: Vec<String>,
    /// Whether a path from the repository's root exists.
    pub(crate) exists: &'a dyn Fn(&str) -> bool,
}

/// Folders whose names make a backticked word a path of this repository.
const FOLDERS: [&str; 9] =
    ["crates/", "docs/", "examples/", "images/", "packaging/", "xtask/", ".ci/", ".cargo/", ".config/"];
/// Endings that make a word in a folder of the repository, or at its top, a path.
const ENDINGS: [&str; 3] = [".md", ".rs", ".toml"];
/// Files that documents name although they are not ours.
const FOREIGN: [&str; 2] = ["config.toml", "mod.rs"];

/// The tasks that the command line knows.
pub(crate) fn tasks() -> Vec<String> {
    crate::Cli::command().get_subcommands().map(|task| task.get_name().to_owned()).collect()
}

/// The targets of a Makefile.
pub(crate) fn make_targets(makefile: &str) -> Vec<String> {
    let heads = makefile.lines().filter(|line| !line.starts_with(['\t', '#', '.', ' ']));
    let targets = heads.filter_map(|line| line.split_once(':')).filter(|(_, rest)| !rest.starts_with('='));
    targets.flat_map(|(names, _)| names.split_whitespace()).map(str::to_owned).collect()
}

/// Every name in the file that stands for nothing.
pub(crate) fn problems(file: &TextFile, facts: &Facts<'_>) -> Vec<String> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut problems = Vec::new();
    let mut fenced = false;
    for (index, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, index + 1);
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            problems.extend(commands(line, facts).map(|problem| format!("{place}: {problem}")));
            continue;
        }
        for span in line.split('`').skip(1).step_by(2) {
            problems.extend(in_backticks(span, facts).map(|problem| format!("{place}: {problem}")));
            problems.extend(commands(span, facts).map(|problem| format!("{place}: {problem}")));
        }
        for target in links(line) {
            if !target.contains("://") && !target.starts_with('#') {
                let path = target.split('#').next().unwrap_or_default();
                let from_root = if folder.is_empty() { path.to_owned() } else { format!("{folder}/{path}") };
                if !(facts.exists)(&from_root) {
                    problems.push(format!("{place}: link to {path}, which does not exist"));
                }
            }
        }
    }
    problems
}

/// The problem with one backticked span, when it is a path or a crate.
fn in_backticks(span: &str, facts: &Facts<'_>) -> Option<String> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._-/".contains(character);
    if span.is_empty() || !span.chars().all(plain) {
        return None;
    }
    let in_folder = FOLDERS.iter().any(|folder| span.starts_with(folder));
    let top_file = !span.contains('/') && ENDINGS.iter().any(|ending| span.ends_with(ending));
    if in_folder || (top_file && !FOREIGN.contains(&span)) {
        return (!(facts.exists)(span.trim_end_matches('/'))).then(|| format!("{span} does not exist"));
    }
    let is_crate = span.starts_with("rubelet-") && !span.contains(['/', '.']);
    (is_crate && !facts.crates.iter().any(|known| known == span)).then(|| format!("there is no crate {span}"))
}

/// The problems with `cargo xtask …` and `make …` in a line of code.
fn commands<'a>(line: &'a str, facts: &'a Facts<'_>) -> impl Iterator<Item = String> + 'a {
    let word_after = |command: &str| {
        let rest = line.trim_start().trim_start_matches("$ ").strip_prefix(command)?;
        let word = rest.split_whitespace().next()?;
        (word.starts_with(|first: char| first.is_ascii_lowercase())
            && word.chars().all(|character| character.is_ascii_lowercase() || character == '-'))
        .then_some(word)
    };
    let task = word_after("cargo xtask ")
        .filter(|task| !facts.tasks.iter().any(|known| known == task))
        .map(|task| format!("there is no task {task}"));
    let target = word_after("make ")
        .filter(|target| !facts.targets.iter().any(|known| known == target))
        .map(|target| format!("there is no make target {target}"));
    task.into_iter().chain(target)
}

/// The targets of Markdown links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wanted: &[&str]) {
        let facts = Facts {
            crates: vec!["rubelet-core".to_owned()],
            tasks: vec!["tidy".to_owned()],
            targets: vec!["run".to_owned()],
            exists: &|path| ["README.md", "docs/a.md", "crates/rubelet-core"].contains(&path),
        };
        let file = TextFile { path: "docs/x.md".to_owned(), text: text.to_owned() };
        assert_eq!(problems(&file, &facts), wanted, "in:\n{text}");
    }

    #[test]
    fn what_exists_may_be_named() {
        check(
            "`README.md`, `crates/rubelet-core/`, `rubelet-core`, `cargo xtask tidy --x`, `cargo xtask --help`, `make run`",
            &[],
        );
        check(
            "[a](a.md#part), [up](../docs/a.md)",
            &["docs/x.md:1: link to ../docs/a.md, which does not exist"],
        );
        check("```\nmake run\ncargo xtask tidy\n```\n", &[]);
    }

    #[test]
    fn what_does_not_exist_is_found() {
        check("\n`docs/gone.md`", &["docs/x.md:2: docs/gone.md does not exist"]);
        check("`GONE.md`", &["docs/x.md:1: GONE.md does not exist"]);
        check("`rubelet-gone`", &["docs/x.md:1: there is no crate rubelet-gone"]);
        check("`cargo xtask gone`", &["docs/x.md:1: there is no task gone"]);
        check("```\n$ make gone\n```", &["docs/x.md:2: there is no make target gone"]);
        check("[a](gone.md)", &["docs/x.md:1: link to gone.md, which does not exist"]);
    }

    #[test]
    fn other_words_are_left_alone() {
        check(
            "`/etc/x.toml`, `rubelet --config FILE`, `Arc<dyn X>`, `rubelet`, [web](https://x.invalid/y)",
            &[],
        );
    }

    #[test]
    fn targets_are_the_heads_of_rules() {
        assert_eq!(
            make_targets("A := b\n.PHONY: run\nrun: x\n\techo a: b\ntest stop:\n"),
            ["run", "test", "stop"]
        );
    }
}
