//! A small registry with one image, the workload image under any name. Serves until the test process ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::runtime::{Containerd, output};
use crate::wait;

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;
/// Parts in which a slow registry sends a layer.
const PARTS: u32 = 200;
/// Size of the layer that a slow registry adds to the image, bytes.
const HEAVY: usize = 8_000_000;

/// How a registry behaves.
#[derive(Clone, Copy, Default)]
pub struct Manners {
    /// User and password, when not everybody may pull.
    pub user: Option<&'static str>,
    /// The image gets one more layer, of eight megabytes and different each time, which takes so long.
    pub layer_takes: Duration,
    /// It sends half of that layer and then nothing, without hanging up.
    pub stalls: bool,
}

/// A registry.
pub struct Registry {
    /// Its host and port.
    pub address: String,
}

impl Registry {
    /// Serves the workload image of a runtime, for which `dir` is to have room.
    pub fn serve(runtime: &Containerd, dir: &Path, manners: Manners) -> Self {
        let archive = dir.join("image.tar");
        runtime.ctr(&["images", "export", &archive.display().to_string(), "rubelet.local/busybox:1"]);
        output(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir));
        let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap();
        let blobs = dir.join("blobs/sha256");
        let mut top = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        let mut slow = String::new();
        if !manners.layer_takes.is_zero() {
            (top, slow) = add_layer(&blobs, dir, &top);
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let site = Arc::new(Site { blobs, top, slow, manners });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = site.clone();
                std::thread::spawn(move || site.answer(stream));
            }
        });
        Self { address }
    }

    /// The image under a name of its own, so that it is pulled again.
    pub fn image(&self, name: &str) -> String {
        format!("{}/team/{name}:1", self.address)
    }
}

/// What the registry serves.
struct Site {
    blobs: PathBuf,
    /// Digest of what the tag names.
    top: String,
    /// Digest of the layer that takes long.
    slow: String,
    manners: Manners,
}

fn read_json(blobs: &Path, digest: &str) -> Value {
    serde_json::from_slice(&fs::read(blobs.join(digest.trim_start_matches("sha256:"))).unwrap()).unwrap()
}

/// Puts a file among the blobs; its digest.
fn add_blob(blobs: &Path, content: &[u8]) -> String {
    let part = blobs.join("part");
    fs::write(&part, content).unwrap();
    let sum = output(Command::new("sha256sum").arg(&part));
    let hex = sum.split(' ').next().unwrap().to_owned();
    fs::rename(part, blobs.join(&hex)).unwrap();
    format!("sha256:{hex}")
}

/// Makes of an image one with a layer more; the digests of its manifest and of that layer.
fn add_layer(blobs: &Path, dir: &Path, top: &str) -> (String, String) {
    let mut manifest = read_json(blobs, top);
    while let Some(first) = manifest["manifests"][0]["digest"].as_str() {
        manifest = read_json(blobs, first);
    }
    let mut noise = vec![0; HEAVY];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    fs::write(dir.join("heavy"), noise).unwrap();
    let tar = dir.join("layer.tar");
    output(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(dir).arg("heavy"));
    let layer = fs::read(tar).unwrap();
    let slow = add_blob(blobs, &layer);
    let mut config = read_json(blobs, manifest["config"]["digest"].as_str().unwrap());
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(slow.clone().into());
    if let Some(history) = config["history"].as_array_mut() {
        history.push(json!({"created_by": "test"}));
    }
    let config = serde_json::to_vec(&config).unwrap();
    manifest["config"]["size"] = config.len().into();
    manifest["config"]["digest"] = add_blob(blobs, &config).into();
    let docker = manifest["mediaType"].as_str().is_some_and(|kind| kind.contains("docker"));
    let kind = match docker {
        true => "application/vnd.docker.image.rootfs.diff.tar",
        false => "application/vnd.oci.image.layer.v1.tar",
    };
    let layer = json!({"mediaType": kind, "digest": slow, "size": layer.len()});
    manifest["layers"].as_array_mut().unwrap().push(layer);
    (add_blob(blobs, &serde_json::to_vec(&manifest).unwrap()), slow)
}

impl Site {
    /// Answers one request; clients that hang up need no answer.
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        if reader.fill_buf().ok()?.first() == Some(&TLS_HANDSHAKE) {
            // Clients that find no TLS here go on without it, as they may on the loopback.
            return stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").ok();
        }
        let mut lines = reader.lines();
        let first = lines.next()?.ok()?;
        let mut words = first.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ")?;
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let (code, kind, digest, body) = self.look(&path, headers.get("authorization"));
        let head = format!(
            "HTTP/1.1 {code}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Docker-Content-Digest: {digest}\r\nWWW-Authenticate: Basic realm=\"registry\"\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        match method.as_str() {
            "HEAD" => Some(()),
            _ if digest == self.slow => self.send_slowly(&mut stream, &body),
            _ => stream.write_all(&body).ok(),
        }
    }

    /// Sends the layer that takes long.
    fn send_slowly(&self, stream: &mut TcpStream, body: &[u8]) -> Option<()> {
        let parts = body.chunks(body.len().div_ceil(PARTS as usize));
        let sent = if self.manners.stalls { PARTS as usize / 2 } else { PARTS as usize };
        for part in parts.take(sent) {
            stream.write_all(part).ok()?;
            wait::pause(self.manners.layer_takes / PARTS);
        }
        // Until the client hangs up.
        while self.manners.stalls && stream.read(&mut [0]).ok()? > 0 {}
        Some(())
    }

    fn look(&self, path: &str, credentials: Option<&String>) -> (&'static str, String, String, Vec<u8>) {
        let text = || "application/json".to_owned();
        let wanted = self.manners.user.map(|user| format!("Basic {}", STANDARD.encode(user)));
        if wanted.is_some() && credentials != wanted.as_ref() {
            return ("401 Unauthorized", text(), String::new(), b"{}".to_vec());
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        let digest = if last == "1" { &self.top } else { last };
        let Ok(body) = fs::read(self.blobs.join(digest.trim_start_matches("sha256:"))) else {
            return ("404 Not Found", text(), String::new(), b"{}".to_vec());
        };
        let kind = if path.contains("/manifests/") {
            let manifest: Value = serde_json::from_slice(&body).unwrap();
            manifest["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json").to_owned()
        } else {
            "application/octet-stream".to_owned()
        };
        ("200 OK", kind, digest.to_owned(), body)
    }
}
