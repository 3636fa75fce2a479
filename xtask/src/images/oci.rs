//! An OCI image archive: one uncompressed layer, one config, one manifest, one index.
//!
//! Owns the format, byte for byte reproducible: no times, no owners but root. Never knows what an image is for.
//! Called by the image definitions next door.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Puts a root file system into one tar layer.
pub(crate) struct LayerBuilder(tar::Builder<Vec<u8>>);

impl LayerBuilder {
    /// An empty layer.
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds a folder; its parent must have been added before.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, format!("{path}/"), &[][..]).with_context(|| format!("folder {path}"))
    }

    /// Adds a regular file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
        self.0.append_data(&mut header, path, content).with_context(|| format!("file {path}"))
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target).with_context(|| format!("link {path}"))
    }

    /// The layer's bytes.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("cannot finish the layer")
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// What a runtime needs to know of an image, and its one layer.
pub(crate) struct Image {
    /// The uncompressed tar.
    pub(crate) layer: Vec<u8>,
    /// What is started.
    pub(crate) entrypoint: Vec<String>,
    /// The default arguments.
    pub(crate) command: Vec<String>,
    /// `user[:group]`, empty for root.
    pub(crate) user: String,
    /// Where it starts.
    pub(crate) working_dir: String,
}

/// The architecture's name as OCI spells it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

impl Image {
    /// The archive that makes a runtime know the image as `name`.
    pub(crate) fn archive(&self, name: &str) -> Result<Vec<u8>> {
        let platform = json!({"architecture": architecture(), "os": "linux"});
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "User": self.user,
                "WorkingDir": self.working_dir,
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(&self.layer)]},
            "history": [{"created_by": "cargo xtask images"}],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &config),
            "layers": [descriptor(LAYER_TYPE, &self.layer)],
        }))?;
        let mut entry = descriptor(MANIFEST_TYPE, &manifest);
        entry["platform"] = platform;
        entry["annotations"] =
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry],
        }))?;
        let mut archive = LayerBuilder::new();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.file("index.json", 0o644, &index)?;
        archive.folder("blobs", 0o755)?;
        archive.folder("blobs/sha256", 0o755)?;
        for blob in [&manifest, &config, &self.layer] {
            archive.file(&format!("blobs/{}", digest(blob).replace(':', "/")), 0o644, blob)?;
        }
        archive.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn sample() -> Image {
        let mut layer = LayerBuilder::new();
        layer.folder("bin", 0o755).unwrap();
        layer.file("bin/hello", 0o755, b"hello").unwrap();
        Image {
            layer: layer.finish().unwrap(),
            entrypoint: vec!["/bin/hello".to_owned()],
            command: vec!["world".to_owned()],
            user: "7:8".to_owned(),
            working_dir: "/".to_owned(),
        }
    }

    fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        files
    }

    /// Follows a descriptor to its blob, checking size and digest on the way.
    fn follow<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let wanted = descriptor["digest"].as_str().unwrap();
        let blob = &files[&format!("blobs/{}", wanted.replace(':', "/"))];
        assert_eq!(digest(blob), wanted);
        assert_eq!(blob.len() as u64, descriptor["size"].as_u64().unwrap());
        blob
    }

    #[test]
    fn an_archive_leads_from_its_name_to_its_files() {
        let files = unpack(&sample().archive("rubelet.local/hello:1").unwrap());
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let entry = &index["manifests"][0];
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "rubelet.local/hello:1");
        let manifest: Value = serde_json::from_slice(follow(&files, entry)).unwrap();
        let config: Value = serde_json::from_slice(follow(&files, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/hello"]));
        assert_eq!(config["config"]["Cmd"], json!(["world"]));
        assert_eq!(config["config"]["User"], "7:8");
        let layer = follow(&files, &manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(layer));
        assert_eq!(unpack(layer)["bin/hello"], b"hello");
    }

    #[test]
    fn the_same_content_makes_the_same_bytes() {
        assert_eq!(sample().archive("a:1").unwrap(), sample().archive("a:1").unwrap());
    }

    #[test]
    fn digests_are_sha256_in_hex() {
        assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
