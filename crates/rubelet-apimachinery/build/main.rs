//! Makes, from the published types, what a server says of them: the type tables and the OpenAPI documents.

fn main() {
    println!("cargo::rerun-if-changed=build");
}
