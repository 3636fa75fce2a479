//! Compiles `proto/registration.proto` into the module `rubelet_plugins::registration::v1`, client and server, without a `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/registration.proto");
    let descriptors = protox::compile(["proto/registration.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Ordered maps: what is sent and what is logged does not depend on a hash seed.
        .btree_map(".")
        // Comments in the proto are notes for its readers, not Rust documentation.
        .disable_comments(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
