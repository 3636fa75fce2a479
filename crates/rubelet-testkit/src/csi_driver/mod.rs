//! A CSI driver for tests: a real one, on real sockets, with volumes that are folders, images on loop devices or come
//! with their pod; and a scripted one, which fails, hangs and lies as a test orders.
//!
//! It registers as node-driver-registrar would, refuses every call that the protocol forbids, and remembers which of
//! them only a mistake of its client can have brought about ([`CsiDriver::mistakes`]). It runs in a thread of its own,
//! so that tests with and without a runtime use it alike. Mounting needs root. Never used outside tests.

mod calls;
mod disk;
mod script;
mod services;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures::stream;
use rubelet_csi::v1::identity_server::IdentityServer;
use rubelet_csi::v1::node_server::NodeServer;
use rubelet_plugins::registration::v1::registration_server::RegistrationServer;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::Router;

pub use calls::Call;
pub use script::{Capability, Character, Fault, FaultHandle, Method, NotARule, Rule, Usage};

use calls::Shared;
use disk::Disk;
use services::Wire;

/// A driver. Dropping it stops it and takes away what it still has mounted.
#[derive(Debug)]
pub struct CsiDriver {
    shared: Arc<Shared>,
    /// The socket of identity and node, and the one of registration.
    sockets: (PathBuf, PathBuf),
    serving: Option<Serving>,
}

#[derive(Debug)]
struct Serving {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl CsiDriver {
    /// A driver that is yet to be started, on a node with this root directory; what it stores is below `data`. `folder`
    /// names its places in `plugins` and `plugins_registry`.
    ///
    /// # Errors
    /// When directories cannot be made.
    pub fn new(character: Character, folder: &str, root_dir: &Path, data: &Path) -> io::Result<Self> {
        let endpoint = root_dir.join("plugins").join(folder).join("csi.sock");
        let registration = root_dir.join("plugins_registry").join(format!("{folder}-reg.sock"));
        let shared = Arc::new(Shared::new(character, Disk::new(data.to_owned())?));
        Ok(Self { shared, sockets: (endpoint, registration), serving: None })
    }

    /// Serves, and registers. Calls of before are remembered, and so is what is mounted.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn start(&mut self) -> io::Result<()> {
        self.stop();
        let wire = Wire { shared: self.shared.clone(), endpoint: self.sockets.0.clone() };
        let (endpoint, registration) = (listen(&self.sockets.0)?, listen(&self.sockets.1)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let driver = Server::builder()
                    .add_service(IdentityServer::new(wire.clone()))
                    .add_service(NodeServer::new(wire.clone()));
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
            self.shared.forget_calls();
        }
    }

    /// Ends as a driver does that is uninstalled: its sockets go too.
    pub fn stop(&mut self) {
        self.crash();
        for socket in [&self.sockets.0, &self.sockets.1] {
            let _it_may_be_gone = fs::remove_file(socket);
        }
    }

    /// The socket that identity and node are on.
    pub fn endpoint(&self) -> &Path {
        &self.sockets.0
    }

    /// The socket it registers with.
    pub fn registration_socket(&self) -> &Path {
        &self.sockets.1
    }

    /// Makes a volume of files, as a controller would, and gives the folder where they really are.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn provide(&self, handle: &str, capacity: i64) -> io::Result<PathBuf> {
        self.shared.disk.provide(handle, capacity, false)?;
        Ok(self.shared.disk.folder(handle))
    }

    /// Makes a volume that is a device.
    ///
    /// # Errors
    /// When its image cannot be made.
    pub fn provide_device(&self, handle: &str, capacity: i64) -> io::Result<()> {
        self.shared.disk.provide(handle, capacity, true)
    }

    /// The size of a volume in bytes.
    pub fn capacity(&self, handle: &str) -> Option<i64> {
        self.shared.disk.capacity(handle)
    }

    /// Where volumes are staged and published at this moment: handle and path.
    pub fn places(&self) -> Vec<(String, PathBuf)> {
        self.shared.disk.places()
    }

    /// Orders a fault.
    pub fn fault(&self, rule: Rule) -> FaultHandle {
        self.shared.add_fault(rule)
    }

    /// Changes what the driver tells of itself.
    pub fn change(&self, change: impl FnOnce(&mut Character)) {
        change(&mut self.shared.character());
    }

    /// Every call so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls()
    }

    /// The calls of this kind for this volume.
    pub fn calls_of(&self, method: Method, handle: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.method == method && call.volume == handle);
        calls
    }

    /// The calls that change this volume, in words.
    pub fn changes_of(&self, handle: &str) -> Vec<String> {
        let calls = self.calls().into_iter();
        let of_volume = calls.filter(|call| call.volume == handle && call.method.changes());
        of_volume.map(|call| call.to_string().replace(&format!(" {handle}"), "")).collect()
    }

    /// Refusals that a client without mistakes never meets.
    pub fn mistakes(&self) -> Vec<String> {
        self.shared.mistakes()
    }
}

impl Drop for CsiDriver {
    fn drop(&mut self) {
        self.stop();
        self.shared.disk.clear();
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
