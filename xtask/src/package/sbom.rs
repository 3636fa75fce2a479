//! The list of the crates in the agent, as CycloneDX 1.5 JSON: what scanners of vulnerabilities read.
//!
//! Owns that form and nothing else. Called by `package` only.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::package::components::Component;

/// The whole document.
pub(super) fn cyclonedx(components: &[Component]) -> Result<String> {
    let agent = components
        .iter()
        .find(|component| component.name == "rubelet")
        .context("the agent is not among its components")?;
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": described(agent, "application")},
        "components": components
            .iter()
            .filter(|component| *component != agent)
            .map(|component| described(component, "library"))
            .collect::<Vec<_>>(),
        "dependencies": components
            .iter()
            .map(|component| json!({
                "ref": reference(&component.name, &component.version),
                "dependsOn": component.uses.iter().map(|(name, version)| reference(name, version)).collect::<Vec<_>>(),
            }))
            .collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// The package URL, which names it in this document, too.
fn reference(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{version}")
}

fn described(component: &Component, kind: &str) -> Value {
    let purl = reference(&component.name, &component.version);
    let mut told = json!({
        "type": kind,
        "bom-ref": purl,
        "name": component.name,
        "version": component.version,
    });
    if !component.own {
        // What is not published has no address.
        told["purl"] = json!(purl);
    }
    if !component.license.is_empty() {
        told["licenses"] = json!([{"expression": component.license}]);
    }
    if let Some(checksum) = &component.checksum {
        told["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_is_told_with_what_it_uses() {
        let component = |name: &str, uses: &[&str]| Component {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: "MIT".to_owned(),
            authors: Vec::new(),
            sources: std::path::PathBuf::new(),
            own: name == "rubelet",
            checksum: (name != "rubelet").then(|| "ab".repeat(32)),
            uses: uses.iter().map(|name| ((*name).to_owned(), "1.0.0".to_owned())).collect(),
        };
        let text = cyclonedx(&[component("leaf", &[]), component("rubelet", &["leaf"])]).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["metadata"]["component"]["name"], "rubelet");
        assert_eq!(document["components"].as_array().unwrap().len(), 1);
        assert_eq!(document["components"][0]["purl"], "pkg:cargo/leaf@1.0.0");
        assert_eq!(document["components"][0]["hashes"][0]["content"], "ab".repeat(32));
        assert_eq!(document["dependencies"][1]["dependsOn"], json!(["pkg:cargo/leaf@1.0.0"]));
        assert!(cyclonedx(&[component("leaf", &[])]).is_err());
    }
}
