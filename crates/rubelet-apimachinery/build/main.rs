//! Makes, from the published types, what a server says of them: the type tables and the OpenAPI documents.

#[path = "../src/schema/empty.rs"]
mod empty;
mod facts;
mod gnostic;
#[allow(dead_code, reason = "the registry serves the crate first; the script reads its rows only")]
#[path = "../src/kinds.rs"]
mod kinds;
mod metrics;
mod model;
mod openapi;
mod paths;
mod schemas;
mod tables;
mod wire;

/// Why the build stops.
type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=src/kinds.rs");
    println!("cargo::rerun-if-changed=src/schema/empty.rs");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let facts = facts::read(include_str!("facts.txt"))?;
    let definitions = model::definitions(&facts)?;
    std::fs::write(out.join("tables.rs"), tables::source(&definitions)?)?;
    std::fs::write(out.join("wire.rs"), wire::source(include_str!("wire.txt"))?)?;
    openapi::write(&out, &definitions)?;
    Ok(())
}
