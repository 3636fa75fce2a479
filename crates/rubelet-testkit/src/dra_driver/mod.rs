//! A driver of dynamic resource allocation for tests: a real one, on real sockets, whose devices are made up and come into
//! containers by CDI; and a scripted one, which fails, hangs, forgets and lies as a test orders.
//!
//! It registers as the helper of real drivers does, remembers what is prepared, and which calls only a mistake of its
//! client can have brought about ([`DraDriver::mistakes`]). It runs in a thread of its own, so that tests with and without a
//! runtime use it alike. Never used outside tests.

mod book;
mod services;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures::stream;
use rubelet_plugins::dra::wire::health::dra_resource_health_server::DraResourceHealthServer;
use rubelet_plugins::dra::wire::{v1, v1beta1};
use rubelet_plugins::registration::v1::registration_server::RegistrationServer;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::Router;

pub use book::{Call, Character, Device, Fault, FaultHandle, Health, Method};

use book::Shared;
use services::Wire;

/// A driver. Dropping it stops it.
#[derive(Debug)]
pub struct DraDriver {
    shared: Arc<Shared>,
    /// The socket of the driver, and the one of registration.
    sockets: (PathBuf, PathBuf),
    serving: Option<Serving>,
}

#[derive(Debug)]
struct Serving {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl DraDriver {
    /// A driver that is yet to be started, on a node with this root directory. `folder` names its places in `plugins` and
    /// `plugins_registry`.
    pub fn new(character: Character, folder: &str, root_dir: &Path) -> Self {
        let endpoint = root_dir.join("plugins").join(folder).join("dra.sock");
        let registration = root_dir.join("plugins_registry").join(format!("{folder}-reg.sock"));
        Self { shared: Arc::new(Shared::new(character)), sockets: (endpoint, registration), serving: None }
    }

    /// Serves, and registers. Calls of before are remembered, and so is what is prepared.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn start(&mut self) -> io::Result<()> {
        self.stop();
        let wire = Wire { shared: self.shared.clone(), endpoint: self.sockets.0.clone() };
        let (endpoint, registration) = (listen(&self.sockets.0)?, listen(&self.sockets.1)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let health = self.shared.character().tells_health;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let mut driver = Server::builder()
                    .add_service(v1::dra_plugin_server::DraPluginServer::new(wire.clone()))
                    .add_service(v1beta1::dra_plugin_server::DraPluginServer::new(wire.clone()));
                if health {
                    driver = driver.add_service(DraResourceHealthServer::new(wire.clone()));
                }
                let registrar = Server::builder().add_service(RegistrationServer::new(wire));
                tokio::select! {
                    () = serve(driver, endpoint) => {}
                    () = serve(registrar, registration) => {}
                    _ = ended => {}
                }
            });
            // Connections end here, and calls that hang with them.
            runtime.shutdown_background();
        });
        self.serving = Some(Serving { end, thread });
        Ok(())
    }

    /// Ends as a driver does that is killed: connections break, sockets stay in the file system.
    pub fn crash(&mut self) {
        if let Some(Serving { end, thread }) = self.serving.take() {
            let _it_ends_anyway = end.send(());
            let _it_tells_by_itself = thread.join();
        }
    }

    /// Ends as a driver does that is uninstalled: its sockets go too.
    pub fn stop(&mut self) {
        self.crash();
        for socket in [&self.sockets.0, &self.sockets.1] {
            let _it_may_be_gone = fs::remove_file(socket);
        }
    }

    /// The socket it serves on.
    pub fn endpoint(&self) -> &Path {
        &self.sockets.0
    }

    /// Orders a fault for calls about this claim, by name; for all when it is empty.
    pub fn fault(&self, method: Method, claim: &str, fault: Fault) -> FaultHandle {
        self.shared.add_fault(method, claim, fault)
    }

    /// Changes what the driver is like.
    pub fn change(&self, change: impl FnOnce(&mut Character)) {
        change(&mut self.shared.character());
    }

    /// Tells everyone who listens how devices are: name, health, words.
    pub fn tell(&self, devices: &[(&str, Health, &str)]) {
        self.shared.tell(devices);
    }

    /// Every call so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls()
    }

    /// The calls about a claim, in words: `prepare`, `unprepare`, with what was wrong.
    pub fn calls_of(&self, claim: &str) -> Vec<String> {
        let calls = self.calls().into_iter().filter(|call| call.claims.iter().any(|name| name == claim));
        calls.map(|call| call.to_string()).collect()
    }

    /// Names of the claims that are prepared.
    pub fn prepared(&self) -> Vec<String> {
        self.shared.prepared()
    }

    /// Calls that a client without mistakes never makes.
    pub fn mistakes(&self) -> Vec<String> {
        self.shared.mistakes()
    }

    /// What the client said of the registration: nothing yet, taken, or why not.
    pub fn verdict(&self) -> Option<Result<(), String>> {
        self.shared.verdict()
    }
}

impl Drop for DraDriver {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(router: Router, listener: std::os::unix::net::UnixListener) {
    let Ok(listener) = UnixListener::from_std(listener) else { return };
    let connections = stream::unfold(listener, async |listener| {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let _it_ends_with_its_driver = router.serve_with_incoming(connections).await;
}
