//! The crates that are in the agent: what cargo resolves for it, with the sources at hand.
//!
//! Owns the walk over `cargo metadata`: the agent's normal dependencies for this platform, without what only builds or
//! tests it. Called by `package` only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{command, output};

/// A crate in the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) version: String,
    /// As an SPDX expression; empty where the crate names none.
    pub(super) license: String,
    pub(super) authors: Vec<String>,
    /// The folder of its sources.
    pub(super) sources: PathBuf,
    /// Whether it is of this repository.
    pub(super) own: bool,
    /// SHA-256 of the crate as it was published, from the lock file.
    pub(super) checksum: Option<String>,
    /// What it uses, as name and version.
    pub(super) uses: Vec<(String, String)>,
}

/// Every crate in the agent, by name and version.
pub(super) fn of_agent(root: &Path) -> Result<Vec<Component>> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let text = output(
        command(["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", &platform])
            .current_dir(root),
    )?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata printed no JSON")?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    components("rubelet", &metadata, &checksums(&lock))
}

/// Checksums of the lock file, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for block in lock.split("[[package]]") {
        let value = |key: &str| {
            block.lines().find_map(|line| {
                Some(line.strip_prefix(key)?.strip_prefix(" = ")?.trim_matches('"').to_owned())
            })
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (value("name"), value("version"), value("checksum"))
        {
            found.insert((name, version), checksum);
        }
    }
    found
}

fn components(
    program: &str,
    metadata: &Value,
    checksums: &BTreeMap<(String, String), String>,
) -> Result<Vec<Component>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    // In the agent is what it uses when it runs; `kind` is null there.
    let used_by = |id: &str| -> Vec<String> {
        let dependencies = nodes.get(id).map(|node| list(&node["deps"])).unwrap_or_default();
        dependencies
            .iter()
            .filter(|dependency| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()))
            .map(|dependency| text(&dependency["pkg"]))
            .collect()
    };
    let start = packages
        .iter()
        .find_map(|(id, package)| (package["name"] == program).then(|| id.clone()))
        .with_context(|| format!("cargo knows no package {program}"))?;
    let (mut seen, mut open) = (BTreeSet::from([start.clone()]), vec![start]);
    while let Some(id) = open.pop() {
        open.extend(used_by(&id).into_iter().filter(|id| seen.insert(id.clone())));
    }
    let named =
        |id: &String| packages.get(id).map(|package| (text(&package["name"]), text(&package["version"])));
    let mut found = Vec::new();
    for id in &seen {
        let package = packages.get(id).with_context(|| format!("cargo tells nothing about {id}"))?;
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        found.push(Component {
            license: spdx(&text(&package["license"])),
            authors: list(&package["authors"]).iter().map(text).collect(),
            sources: manifest.parent().map(Path::to_owned).unwrap_or_default(),
            own: package["source"].is_null(),
            checksum: checksums.get(&(name.clone(), version.clone())).cloned(),
            uses: used_by(id).iter().filter_map(named).collect(),
            name,
            version,
        });
    }
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(found)
}

/// An expression of SPDX of what crates write, old ones with a slash.
fn spdx(license: &str) -> String {
    license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_builds_or_tests_the_agent_is_not_in_it() {
        let package = |id: &str, source: Value| {
            json!({"id": id, "name": id, "version": "1.0.0", "license": "MIT / Apache-2.0", "authors": ["a"],
                   "manifest_path": format!("/src/{id}/Cargo.toml"), "source": source})
        };
        let uses = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package("agent", Value::Null), package("used", json!("registry")),
                         package("deep", json!("registry")), package("build", json!("registry")),
                         package("test", json!("registry"))],
            "resolve": {"nodes": [
                {"id": "agent", "deps": [uses("used", Value::Null), uses("test", json!("dev"))]},
                {"id": "used", "deps": [uses("deep", Value::Null), uses("build", json!("build"))]},
                {"id": "deep", "deps": [uses("used", Value::Null)]},
            ]},
        });
        let lock = "[[package]]\nname = \"deep\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n\n\
                    [[package]]\nname = \"agent\"\nversion = \"1.0.0\"\n";
        let found = components("agent", &metadata, &checksums(lock)).unwrap();
        let names: Vec<&str> = found.iter().map(|component| &*component.name).collect();
        assert_eq!(names, ["agent", "deep", "used"]);
        assert_eq!(found[1].checksum.as_deref(), Some("abc"));
        assert_eq!(found[1].license, "MIT OR Apache-2.0");
        assert_eq!(found[1].sources, Path::new("/src/deep"));
        assert_eq!(found[2].uses, [("deep".to_owned(), "1.0.0".to_owned())]);
        assert!(found[0].own && !found[2].own);
        assert!(components("another", &metadata, &BTreeMap::new()).is_err());
    }
}
