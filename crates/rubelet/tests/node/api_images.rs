//! Images that need credentials: pull secrets of pods and of service accounts, with a small registry of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::pods::{self, waiting_message};
use crate::runtime::output;

/// Who may pull.
const USER: &str = "robot:pass:word";
/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// A registry with one image, for those who know the password. Serves until the test process ends.
struct Registry {
    address: String,
}

impl Registry {
    /// Serves the workload image, which `dir` is to hold.
    fn serve(cluster: &Cluster, dir: &Path) -> Self {
        let archive = dir.join("image.tar");
        cluster.node.runtime.ctr(&[
            "images",
            "export",
            &archive.display().to_string(),
            "rubelet.local/busybox:1",
        ]);
        output(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir));
        let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap();
        let top = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let site = Arc::new(Site { blobs: dir.join("blobs/sha256"), top });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = site.clone();
                std::thread::spawn(move || site.answer(stream));
            }
        });
        Self { address }
    }

    /// The image under a name of its own, so that it is pulled again.
    fn image(&self, name: &str) -> String {
        format!("{}/team/{name}:1", self.address)
    }
}

/// What the registry serves.
struct Site {
    blobs: PathBuf,
    /// Digest of what the tag names.
    top: String,
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
        if method != "HEAD" {
            stream.write_all(&body).ok()?;
        }
        Some(())
    }

    fn look(&self, path: &str, credentials: Option<&String>) -> (&'static str, String, String, Vec<u8>) {
        let text = || "application/json".to_owned();
        if credentials != Some(&format!("Basic {}", STANDARD.encode(USER))) {
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

#[test]
fn api_images_are_pulled_with_the_secrets_of_pods_and_service_accounts() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::serve(&cluster, dir.path());
    for (name, user) in [("right", USER), ("wrong", "robot:nope")] {
        let auths = json!({"auths": {registry.address.clone(): {"auth": STANDARD.encode(user)}}});
        cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": STANDARD.encode(auths.to_string())}}));
    }
    let pod = |name: &str, secrets: &str| {
        let image = registry.image(name);
        format!(
            "imagePullSecrets: [{secrets}]\ncontainers: [{{name: c, image: '{image}', command: [sleep, '1000']}}]"
        )
    };
    cluster.run("none", &pod("none", ""));
    cluster.run("wrong", &pod("wrong", "{name: wrong}"));
    cluster.run("absent", &pod("absent", "{name: absent}, {name: right}"));
    cluster.run("both", &pod("both", "{name: wrong}, {name: right}"));
    for name in ["none", "wrong"] {
        let waiting = cluster.wait_state(name, "c", "waiting ImagePullBackOff");
        let message = waiting_message(&waiting, "c");
        assert!(message.contains(&registry.image(name)) && !message.contains("nope"), "{message}");
        assert_eq!(pods::phase(&waiting), "Pending");
    }
    for name in ["absent", "both"] {
        cluster.wait_ready(name);
    }
    let event = cluster.wait_event("absent", "FailedToRetrieveImagePullSecret");
    assert!(event.message.as_ref().is_some_and(|text| text.contains("absent")), "{:?}", event.message);

    cluster.api.modify::<ServiceAccount>("default", "default", |account| {
        account.image_pull_secrets = Some(vec![LocalObjectReference { name: "right".to_owned() }]);
    });
    cluster.run("account", &pod("account", ""));
    cluster.wait_ready("account");
    // Passwords are nobody's business.
    let log = cluster.node.agent_log();
    assert!(!log.contains("pass:word") && !log.contains(&STANDARD.encode(USER)));
}
