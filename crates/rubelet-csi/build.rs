//! Compiles `proto/csi.proto` into the module `rubelet_csi::v1`, client and server, without a `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/csi.proto");
    let descriptors = protox::compile(["proto/csi.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Ordered maps: what is sent and what is logged does not depend on a hash seed.
        .btree_map(".")
        // Secrets and tokens must not reach a log by way of `{:?}`; `src/redact.rs` writes Debug by hand.
        .skip_debug([
            ".csi.v1.NodeStageVolumeRequest",
            ".csi.v1.NodePublishVolumeRequest",
            ".csi.v1.NodeExpandVolumeRequest",
        ])
        // Comments in the proto are notes for its readers, not Rust documentation.
        .disable_comments(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
