//! Makes the OpenAPI documents, and packs them as the files that `src/openapi.rs` embeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::model::Definitions;
use crate::schemas::Dialect;
use crate::{Failure, gnostic, kinds, paths, schemas};

/// Writes all documents into the folder, and `documents.rs`, which names them.
pub fn write(out: &Path, all: &Definitions) -> Result<(), Failure> {
    let mut documents = Packer { out, source: String::new(), rows: Vec::new() };
    let v2 = version_2(all);
    documents.add("V2_JSON", &serde_json::to_vec(&v2)?)?;
    documents.add("V2_PROTOBUF", &gnostic::document(&v2))?;
    let mut index = Map::new();
    for (root, document) in version_3(all) {
        let place = root.trim_start_matches('/').to_owned();
        let name = format!("V3_{}", place.replace(['/', '.', '-'], "_").to_uppercase());
        let hash = documents.add(&name, &serde_json::to_vec(&document)?)?;
        documents.rows.push(format!("({place:?}, {name})"));
        index.insert(place, json!({"serverRelativeURL": format!("/openapi/v3{root}?hash={hash}")}));
    }
    documents.add("V3_INDEX", &serde_json::to_vec(&json!({"paths": index}))?)?;
    let Packer { mut source, rows, .. } = documents;
    writeln!(source, "static V3: &[(&str, Document)] = &[{}];", rows.join(", "))?;
    std::fs::write(out.join("documents.rs"), source)?;
    Ok(())
}

struct Packer<'a> {
    out: &'a Path,
    source: String,
    rows: Vec<String>,
}

impl Packer<'_> {
    /// Packs one document and gives its hash.
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<String, Failure> {
        let mut hash = String::new();
        for byte in Sha256::digest(bytes).iter().take(16) {
            write!(hash, "{byte:02X}")?;
        }
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes)?;
        std::fs::write(self.out.join(format!("{name}.gz")), packed.finish()?)?;
        writeln!(
            self.source,
            "const {name}: Document = Document {{ gzip: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.gz\")), \
             hash: \"{hash}\", length: {} }};",
            bytes.len()
        )?;
        Ok(hash)
    }
}

fn info() -> Value {
    json!({"title": "Rubelet's local Kubernetes API", "version": "v1.36"})
}

fn version_2(all: &Definitions) -> Value {
    let mut said = Map::new();
    for resource in kinds::all() {
        for (path, operations) in paths::of(resource) {
            said.insert(path.clone(), paths::say(&path, &operations, Dialect::V2));
        }
    }
    let definitions: Map<String, Value> =
        all.iter().map(|(name, of)| (name.clone(), schemas::definition(of, all, Dialect::V2))).collect();
    json!({"swagger": "2.0", "info": info(), "paths": said, "definitions": definitions})
}

/// One document a group version, by the path of the group version.
fn version_3(all: &Definitions) -> BTreeMap<String, Value> {
    let mut by_root: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for resource in kinds::all() {
        let said = by_root.entry(paths::root(resource)).or_default();
        for (path, operations) in paths::of(resource) {
            said.insert(path.clone(), paths::say(&path, &operations, Dialect::V3));
        }
    }
    by_root
        .into_iter()
        .map(|(root, paths)| {
            let mut reached = BTreeSet::new();
            let paths = Value::Object(paths);
            reach(&paths, all, &mut reached);
            let schemas: Map<String, Value> = reached
                .iter()
                .filter_map(|name| {
                    Some((name.clone(), schemas::definition(all.get(name)?, all, Dialect::V3)))
                })
                .collect();
            let components = json!({"schemas": schemas});
            (root, json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": components}))
        })
        .collect()
}

/// Adds the definitions that a schema or path refers to, and those they refer to.
fn reach(value: &Value, all: &Definitions, reached: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| reach(item, all, reached)),
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next())
                && reached.insert(name.to_owned())
                && let Some(of) = all.get(name)
            {
                reach(&schemas::definition(of, all, Dialect::V3), all, reached);
            }
            fields.values().for_each(|field| reach(field, all, reached));
        }
        _ => {}
    }
}
