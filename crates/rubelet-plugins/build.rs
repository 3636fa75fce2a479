//! Compiles what is in `proto` into modules of protocols, client and server, without a `protoc`: each set into a folder of its
//! own, since protocols of different origins share package names.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    compile(&["registration.proto"], "")?;
    compile(&["deviceplugin.proto"], "device")?;
    compile(&["podresources_v1.proto", "podresources_v1alpha1.proto"], "pod_resources")?;
    compile(&["dra_v1.proto", "dra_v1beta1.proto", "dra_health.proto"], "dra")?;
    Ok(())
}

fn compile(protos: &[&str], folder: &str) -> Result<(), Box<dyn Error>> {
    for proto in protos {
        println!("cargo:rerun-if-changed=proto/{proto}");
    }
    let out = Path::new(&env::var("OUT_DIR")?).join(folder);
    fs::create_dir_all(&out)?;
    let descriptors = protox::compile(protos, ["proto"])?;
    tonic_prost_build::configure()
        .out_dir(out)
        .build_client(true)
        .build_server(true)
        // Ordered maps: what is sent and what is logged does not depend on a hash seed.
        .btree_map(".")
        // Comments in the proto are notes for its readers, not Rust documentation.
        .disable_comments(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
