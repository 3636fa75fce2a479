//! A server, a kubeconfig for it in a directory of its own, and connections as the agent makes them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use rubelet_apiclient::Connections;
use rubelet_apiclient::connection::{ConnectOptions, IdentityHandle, Observed, Observer, connect};
use rubelet_apiclient::kubeconfig::ClusterAccess;
use tempfile::TempDir;

use crate::certs::Ca;
use crate::server::{Body, Options, Seen, Server, text};

/// Everything a test needs; fields are dropped in order.
pub struct Setup {
    pub directory: TempDir,
    pub ca: Ca,
    pub server: Server,
}

/// The time in tests, inside every certificate's validity.
pub const NOW: &str = "2026-06-01T12:00:00Z";

pub fn options() -> ConnectOptions {
    options_at(NOW)
}

pub fn options_at(now: &str) -> ConnectOptions {
    let now: jiff::Timestamp = now.parse().unwrap();
    let mut options = ConnectOptions::new("0.1.0", "v1.36.2", Arc::new(move || now));
    options.qps = 0.0;
    options.environment = |_| None;
    options.request_timeout = Duration::from_secs(20);
    options
}

impl Setup {
    /// A server that answers every request as `handler` does.
    pub async fn new<F, R>(handler: F) -> Self
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::with(|_| {}, handler).await
    }

    /// The same with other options.
    pub async fn with<F, R>(change: impl FnOnce(&mut Options), handler: F) -> Self
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let ca = Ca::new("cluster");
        let mut options =
            Options { pair: Some(ca.server()), client_ca: Some(ca.pem.clone()), ..Options::default() };
        change(&mut options);
        let server = Server::start(options, handler).await;
        Self { directory: tempfile::tempdir().unwrap(), ca, server }
    }

    /// A server that says `ok`.
    pub async fn ok() -> Self {
        Self::new(|_| async { text(200, "ok") }).await
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A kubeconfig with the cluster's authority in `ca.crt` and these lines of a user.
    pub fn access(&self, user: &str) -> ClusterAccess {
        self.access_with(user, "certificate-authority: ca.crt")
    }

    pub fn access_with(&self, user: &str, cluster: &str) -> ClusterAccess {
        self.write("ca.crt", &self.ca.pem);
        let server = format!("https://{}", self.server.address);
        let path = self.write("kubeconfig", &kubeconfig(&server, cluster, user));
        ClusterAccess::load(&path).unwrap()
    }

    pub async fn connect(&self, user: &str) -> (Connections, IdentityHandle) {
        connect(self.access(user), options()).await.unwrap()
    }
}

/// What an observer was told, a line each: `GET 200`, `POST <error>`, `POST again 429`, `GET paced`.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    /// Has requests told from here on.
    pub fn observe(options: &mut ConnectOptions, host: String) -> Self {
        let told = Self::default();
        let lines = told.clone();
        options.observer = Observer::new(move |observed| {
            let (line, of) = match *observed {
                Observed::Answered { method, host, code: Some(code), .. } => {
                    (format!("{method} {code}"), host)
                }
                Observed::Answered { method, host, code: None, .. } => (format!("{method} <error>"), host),
                Observed::Retried { method, host, code } => (format!("{method} again {code}"), host),
                Observed::Paced { method, host, .. } => (format!("{method} paced"), host),
            };
            assert_eq!(of, host);
            lines.0.lock().unwrap().push(line);
        });
        told
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// `cluster` and `user` are lines, indented here.
pub fn kubeconfig(server: &str, cluster: &str, user: &str) -> String {
    let indent = |lines: &str| lines.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let user = if user.is_empty() { "    {}\n".to_owned() } else { indent(user) };
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\ncontexts:\n- name: here\n  context: {{cluster: c, user: u}}\n\
         clusters:\n- name: c\n  cluster:\n    server: {server}\n{}users:\n- name: u\n  user:\n{user}",
        indent(cluster)
    )
}

/// One GET, its answer as text.
pub async fn get(client: &kube::Client, path: &str) -> kube::Result<String> {
    client.request_text(Request::get(path).body(Vec::new()).unwrap()).await
}
