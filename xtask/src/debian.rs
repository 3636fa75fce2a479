//! Packages of a Debian suite, unpacked beside the machine's own.
//!
//! Owns how apt is asked: at the machine's own mirror, with only the suite replaced, and with lists and caches of its
//! own. Nothing is installed and nothing of the machine's apt changes. Called for programs of a certain version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host;
use crate::process::output;

/// Fetches and unpacks packages of a Debian suite into `folder`, which appears whole or not at all; `witness` is a
/// file in it that says so.
pub(crate) fn fetch(suite: &str, packages: &[&str], folder: &Path, witness: &str) -> Result<()> {
    if host::os_release("ID").as_deref() != Some("debian") {
        bail!(
            "packages are taken from the Debian mirror of a Debian machine; this is {}",
            host::os_release("PRETTY_NAME").unwrap_or_else(|| "an unknown system".to_owned())
        );
    }
    let part = folder.with_extension(format!("part-{}", std::process::id()));
    let fetched =
        fetch_into(&part, suite, packages).and_then(|()| match fs::rename(part.join("root"), folder) {
            // Somebody else was faster: theirs is as good.
            Err(_) if folder.join(witness).is_file() => Ok(()),
            renamed => renamed.with_context(|| format!("cannot create {}", folder.display())),
        });
    let _not_worth_an_error = fs::remove_dir_all(&part);
    fetched
}

fn fetch_into(part: &Path, suite: &str, packages: &[&str]) -> Result<()> {
    for name in ["lists/partial", "archives/partial", "debs", "root"] {
        fs::create_dir_all(part.join(name)).with_context(|| format!("cannot create {}", part.display()))?;
    }
    let sources =
        one_suite(&machine_sources()?, suite).context("no Debian archive in the machine's apt sources")?;
    let list = part.join(format!("{suite}.{}", sources.extension));
    fs::write(&list, &sources.text)?;
    output(apt(part, &list).arg("update"))?;
    output(apt(part, &list).arg("download").args(packages).current_dir(part.join("debs")))?;
    host::unpack_debs(&part.join("debs"), &part.join("root"))
}

/// An apt-get that reads one list of sources and keeps its state to itself.
fn apt(part: &Path, list: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    let set = |key: &str, path: &Path| format!("{key}={}", path.display());
    for option in [
        set("Dir::Etc::sourcelist", list),
        "Dir::Etc::sourceparts=-".to_owned(),
        "Dir::Etc::preferences=-".to_owned(),
        "Dir::Etc::preferencesparts=-".to_owned(),
        set("Dir::State::lists", &part.join("lists")),
        set("Dir::Cache", part),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        "Acquire::Retries=3".to_owned(),
        // A mirror that lags behind is good enough for tests; signatures are checked all the same.
        "Acquire::Check-Valid-Until=false".to_owned(),
    ] {
        apt.arg("-o").arg(option);
    }
    apt.arg("-q");
    apt
}

/// Every text of the machine's apt sources, with its format's extension.
fn machine_sources() -> Result<Vec<Sources>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.append(&mut more);
    }
    let read = |file: PathBuf| {
        let extension = file.extension()?.to_str()?.to_owned();
        let known = ["list", "sources"].contains(&extension.as_str());
        let text = fs::read_to_string(&file).ok().filter(|_| known)?;
        Some(Sources { extension, text })
    };
    Ok(files.into_iter().filter_map(read).collect())
}

/// The address of Debian's main archive in the machine's apt sources.
pub(crate) fn main_archive() -> Option<String> {
    let found = machine_sources()
        .ok()?
        .iter()
        .find_map(|source| one_suite(std::slice::from_ref(source), "stable"))?;
    let address = found.text.split_whitespace().find(|word| is_main_archive(word))?;
    Some(address.to_owned())
}

/// Apt sources in one of apt's two formats.
#[derive(Debug, PartialEq, Eq)]
struct Sources {
    extension: String,
    text: String,
}

/// The first entry for Debian's main archive, with its suites replaced by `suite`. The security archive has other
/// suite names, and third parties have none of these suites, so both are passed over.
fn one_suite(sources: &[Sources], suite: &str) -> Option<Sources> {
    sources.iter().find_map(|source| {
        let text = match source.extension.as_str() {
            "sources" => stanza_with_suite(&source.text, suite),
            _ => line_with_suite(&source.text, suite),
        };
        Some(Sources { extension: source.extension.clone(), text: text? })
    })
}

/// Whether an archive's address is Debian's main archive: its path ends in `/debian`.
fn is_main_archive(address: &str) -> bool {
    address.trim_end_matches('/').ends_with("/debian")
}

fn stanza_with_suite(text: &str, suite: &str) -> Option<String> {
    let stanza = text.split("\n\n").find(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        field("Types:").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"))
            && field("URIs:").is_some_and(|addresses| addresses.split_whitespace().any(is_main_archive))
            && field("Enabled:") != Some("no")
    })?;
    let lines = stanza.lines().filter(|line| !line.starts_with('#')).map(|line| match line.split_once(':') {
        Some(("Suites", _)) => format!("Suites: {suite}\n"),
        Some(("Types", _)) => "Types: deb\n".to_owned(),
        Some(("Components", _)) => "Components: main\n".to_owned(),
        _ => format!("{line}\n"),
    });
    Some(lines.collect())
}

fn line_with_suite(text: &str, suite: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').map(|(options, rest)| (format!("[{options}] "), rest))?,
            None => (String::new(), rest),
        };
        let address = rest.split_whitespace().next().filter(|address| is_main_archive(address))?;
        Some(format!("deb {options}{address} {suite} main\n"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(extension: &str, text: &str, wanted: Option<&str>) {
        let source = Sources { extension: extension.to_owned(), text: text.to_owned() };
        let found = one_suite(&[source], "sid").map(|sources| sources.text);
        assert_eq!(found.as_deref(), wanted, "from:\n{text}");
    }

    #[test]
    fn the_main_archive_is_found_and_its_suite_replaced() {
        check(
            "sources",
            "Types: deb\n# note\nURIs: http://mirror.invalid/debian\nSuites: bookworm bookworm-updates\n\
             Components: main contrib\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://mirror.invalid/debian-security\n",
            Some(
                "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: sid\nComponents: main\nSigned-By: /k.gpg\n",
            ),
        );
        check(
            "list",
            "# deb http://old.invalid/debian x main\ndeb [signed-by=/k.gpg] http://mirror.invalid/debian/ bookworm main\n",
            Some("deb [signed-by=/k.gpg] http://mirror.invalid/debian/ sid main\n"),
        );
        check(
            "list",
            "deb http://mirror.invalid/debian bookworm main\n",
            Some("deb http://mirror.invalid/debian sid main\n"),
        );
    }

    #[test]
    fn other_archives_are_passed_over() {
        check("sources", "Types: deb\nURIs: http://mirror.invalid/debian-security\nSuites: x\n", None);
        check("sources", "Types: deb-src\nURIs: http://mirror.invalid/debian\nSuites: x\n", None);
        check("sources", "Enabled: no\nTypes: deb\nURIs: http://mirror.invalid/debian\nSuites: x\n", None);
        check("list", "deb http://third.invalid/apt stable main\n", None);
        check("list", "deb-src http://mirror.invalid/debian bookworm main\n", None);
    }
}
