//! What a pod may do with the token that is mounted in it, at each level of access, and when the token dies.
//!
//! The token is read where the agent has put it for the pod, and used over TLS, as the pod would with a client of its
//! own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::kubectl::{FOREVER, Kubectl, Version, pod};
use crate::local::LocalNode;
use crate::wait::{self, PATIENCE};

/// A pod's way to the API: the files of its volume.
struct Mounted(PathBuf);

impl Mounted {
    fn of(node: &LocalNode, kubectl: &Kubectl, pod: &str) -> Self {
        let uid = kubectl.ok(&format!("get pod {pod} -o jsonpath={{.metadata.uid}}"));
        let volumes =
            node.node().root().join("pods").join(uid.trim()).join("volumes/kubernetes.io~projected");
        let mut found = fs::read_dir(volumes).unwrap().flatten().map(|entry| entry.path());
        Self(found.find(|path| path.join("token").exists()).unwrap())
    }

    fn token(&self) -> String {
        fs::read_to_string(self.0.join("token")).unwrap()
    }

    /// The code and body of an answer.
    fn ask(&self, server: &str, token: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--write-out",
            "\n%{http_code}",
            "--cacert",
        ])
        .arg(self.0.join("ca.crt"))
        .args(["--header", &format!("Authorization: Bearer {token}"), &format!("{server}{path}")]);
        if let Some(body) = body {
            curl.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
        }
        let told = crate::runtime::output(&mut curl);
        let (text, code) = told.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), serde_json::from_str(text).unwrap())
    }
}

fn review(token: &str) -> String {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}})
        .to_string()
}

#[test]
fn pods_may_what_the_owner_lets_them_and_no_longer_than_they_live() {
    for (access, codes) in [
        // Own pods, own secrets, pods elsewhere, nodes, a new config map, an exec.
        ("none", [403, 403, 403, 403, 403, 403]),
        ("view", [200, 403, 403, 403, 403, 403]),
        ("admin", [200, 200, 200, 200, 201, 400]),
    ] {
        let node = LocalNode::with(&[&format!("--service-account-access={access}")]);
        let kubectl = node.kubectl(Version::V1_35);
        let hosted = pod("web", FOREVER).replace("spec:\n", "spec:\n  hostNetwork: true\n");
        kubectl.ok_with("create -f -", &hosted);
        kubectl.wait_ready("web");
        let mounted = Mounted::of(&node, &kubectl, "web");
        let namespace = &kubectl.namespace;
        assert_eq!(fs::read_to_string(mounted.0.join("namespace")).unwrap(), *namespace);
        let (host, port) = {
            let set =
                kubectl.ok("exec web -- sh -c 'echo $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT'");
            let (host, port) = set.trim().split_once(' ').unwrap();
            (host.to_owned(), port.to_owned())
        };
        let server = kubectl.ok("config view --minify -o jsonpath={.clusters[0].cluster.server}");
        println!("pods are told {host}:{port}, the API is {server}");
        let token = mounted.token();
        let own = format!("/api/v1/namespaces/{namespace}");
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}});
        for (path, body, code) in [
            (format!("{own}/pods"), None, codes[0]),
            (format!("{own}/secrets"), None, codes[1]),
            ("/api/v1/pods".to_owned(), None, codes[2]),
            ("/api/v1/nodes".to_owned(), None, codes[3]),
            (format!("{own}/configmaps"), Some(&map), codes[4]),
            // Allowed it is a request without an upgrade.
            (format!("{own}/pods/web/exec?command=true&stdout=1"), None, codes[5]),
        ] {
            let (told, body) = mounted.ask(&server, &token, &path, body);
            assert_eq!(told, code, "{access} {path}: {body}");
            if code == 403 {
                let who = format!("User \"system:serviceaccount:{namespace}:default\" cannot ");
                assert!(body["message"].as_str().unwrap().contains(&who), "{body}");
            }
        }
        for path in ["/version", "/api", "/apis", "/openapi/v2", "/readyz?verbose"] {
            let url = format!("{server}{path}");
            let told = crate::runtime::output(
                Command::new("curl")
                    .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert"])
                    .arg(mounted.0.join("ca.crt"))
                    .args(["--header", &format!("Authorization: Bearer {token}"), &url]),
            );
            assert_eq!(told, "200", "{access} {path}");
        }
        let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let (_, who) =
            mounted.ask(&server, &token, "/apis/authentication.k8s.io/v1/selfsubjectreviews", Some(&who));
        let user = &who["status"]["userInfo"];
        assert_eq!(user["username"], format!("system:serviceaccount:{namespace}:default"), "{who}");
        assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["web"]), "{who}");

        // Another client has it judged.
        let judged: Value =
            serde_json::from_str(&kubectl.ok_with("create -o json -f -", &review(&token))).unwrap();
        assert_eq!(judged["status"]["authenticated"], true, "{judged}");
        assert_eq!(judged["status"]["user"], *user, "{judged}");

        kubectl.ok("delete pod web --grace-period=1 --wait");
        wait::until("the token to die", PATIENCE, || {
            let judged: Value =
                serde_json::from_str(&kubectl.ok_with("create -o json -f -", &review(&token))).unwrap();
            match judged["status"]["authenticated"].as_bool() {
                None | Some(false) => Ok(()),
                _ => Err(judged.to_string()),
            }
        });
        let files = Mounted(fs::canonicalize(node.node().data_dir()).unwrap().join("pki"));
        let (code, body) = files.ask(&server, &token, &format!("{own}/pods"), None);
        assert_eq!((code, body["reason"].as_str()), (401, Some("Unauthorized")), "{body}");
        assert_eq!(
            fs::read_dir(node.node().root().join("pods")).unwrap().count(),
            0,
            "nothing of it is left"
        );
    }
}
