//! What the licences of the crates in the agent ask to be passed on with it.
//!
//! Owns which files of a crate are notices, and their one text: each licence text once, with the crates that it covers.
//! Called by `package` only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::package::components::Component;

/// How a notice's file name begins.
const NOTICES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// The file that Debian wants: whose work it is and under which terms.
pub(super) fn copyright(components: &[Component]) -> String {
    let mut text = String::from(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: rubelet\n\n\
         Files: *\n\
         Copyright: The Rubelet authors\n\
         License: Apache-2.0\n\n",
    );
    let mut by_license: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for component in components.iter().filter(|component| !component.own) {
        let named = by_license.entry(&component.license).or_default();
        named.push(format!("{} {}", component.name, component.version));
    }
    text.push_str("Comment: The program holds these crates; their notices are in third-party-notices.gz.\n");
    for (license, crates) in by_license {
        // Writing to a String cannot fail.
        let _ = writeln!(text, " {}: {}", or_none(license), crates.join(", "));
    }
    text.push_str(
        "\nLicense: Apache-2.0\n On Debian systems, the text of the Apache License 2.0 is in\n \
         /usr/share/common-licenses/Apache-2.0.\n",
    );
    text
}

fn or_none(license: &str) -> &str {
    if license.is_empty() { "no licence named" } else { license }
}

/// Every notice of every foreign crate, each text once.
pub(super) fn notices(components: &[Component]) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut without: Vec<&Component> = Vec::new();
    for component in components.iter().filter(|component| !component.own) {
        let found = notices_in(&component.sources)?;
        if found.is_empty() {
            without.push(component);
        }
        for notice in found {
            let named = format!("{} {}", component.name, component.version);
            let covered = texts.entry(notice).or_default();
            if !covered.contains(&named) {
                covered.push(named);
            }
        }
    }
    let mut text = String::from("Notices of the crates in rubelet\n");
    for component in without {
        let _ = writeln!(
            text,
            "\n{} {}: {}, by {}; it comes without a text of its own",
            component.name,
            component.version,
            or_none(&component.license),
            if component.authors.is_empty() {
                "its authors".to_owned()
            } else {
                component.authors.join(", ")
            }
        );
    }
    for (notice, crates) in texts {
        let _ = writeln!(text, "\n{}\n{}\n\n{notice}", "=".repeat(80), crates.join(", "));
    }
    Ok(text)
}

/// The texts of the notices in a crate's folder, in the order of their names.
fn notices_in(sources: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(sources).with_context(|| format!("cannot read {}", sources.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", sources.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && NOTICES.iter().any(|begin| name.starts_with(begin)) {
            files.push(path);
        }
    }
    files.sort();
    files
        .iter()
        .map(|path| {
            let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n").trim().to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, license: &str, sources: &Path) -> Component {
        Component {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: license.to_owned(),
            authors: Vec::new(),
            sources: sources.to_owned(),
            own: false,
            checksum: None,
            uses: Vec::new(),
        }
    }

    #[test]
    fn each_text_is_there_once_with_all_its_crates() {
        let dir = tempfile::tempdir().unwrap();
        for (name, file, text) in [
            ("one", "LICENSE-MIT", "the same text\r\n"),
            ("two", "license.md", "the same text"),
            ("three", "src.rs", "no notice"),
        ] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join(file), text).unwrap();
        }
        let components = ["one", "two", "three"].map(|name| component(name, "MIT", &dir.path().join(name)));
        let text = notices(&components).unwrap();
        assert_eq!(text.matches("the same text").count(), 1, "{text}");
        assert!(text.contains("one 1.0.0, two 1.0.0"), "{text}");
        assert!(text.contains("three 1.0.0: MIT, by its authors"), "{text}");
        assert!(!text.contains("no notice"), "{text}");
        let own = Component { own: true, ..component("own", "Apache-2.0", dir.path()) };
        let told = copyright(&[own, component("one", "MIT", dir.path())]);
        assert!(told.contains(" MIT: one 1.0.0\n") && !told.contains("own 1.0.0"), "{told}");
    }
}
