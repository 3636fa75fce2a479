//! Who has registered, and listening to each: one task a plugin, which ends with its list.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::future::{BoxFuture, FutureExt as _};
use tokio::task::AbortHandle;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::client::DevicePlugin;
use super::v1beta1::registration_server::{Registration, RegistrationServer};
use super::v1beta1::{self as wire, Device};
use crate::handler::{DEVICE_PLUGIN, Plugin, PluginHandler};
use crate::socket::{connections, listen, words_of};

/// Name of the agent's socket in the folder of device plugins.
pub const SOCKET: &str = "kubelet.sock";
/// The version of the protocol.
pub const VERSION: &str = "v1beta1";

/// Hears of device plugins. Calls of one resource never overlap and come in the order in which things happened; they
/// must not block.
pub trait DeviceEvents: Send + Sync + 'static {
    /// Whether a resource may be called like this.
    fn accepts(&self, resource: &str) -> bool;
    /// Somebody asks to register, rightly or not.
    fn asked(&self, resource: &str);
    /// A plugin is there, in place of any before.
    fn connected(&self, plugin: &DevicePlugin);
    /// All its devices.
    fn listed(&self, plugin: &DevicePlugin, devices: Vec<Device>);
    /// It has gone.
    fn ended(&self, plugin: &DevicePlugin, problem: &str);
}

/// The plugins of a node; cheap to clone. Dropping the last forgets them.
#[derive(Clone)]
pub struct DevicePlugins(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    events: Arc<dyn DeviceEvents>,
    /// By resource.
    known: Mutex<BTreeMap<String, Known>>,
}

struct Known {
    plugin: DevicePlugin,
    listening: AbortHandle,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugin has gone, unless another has taken its place.
    fn end(&self, plugin: &DevicePlugin, problem: &str) {
        let mut known = self.known();
        if known.get(plugin.resource()).is_some_and(|one| one.plugin.is(plugin)) {
            known.remove(plugin.resource());
            self.events.ended(plugin, problem);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for known in self.known().values() {
            known.listening.abort();
        }
    }
}

impl DevicePlugins {
    /// Plugins whose sockets are in `dir`, together with the agent's.
    pub fn new(dir: PathBuf, events: Arc<dyn DeviceEvents>) -> Self {
        Self(Arc::new(Shared { dir, events, known: Mutex::default() }))
    }

    /// The plugin of a resource.
    pub fn get(&self, resource: &str) -> Option<DevicePlugin> {
        self.0.known().get(resource).map(|known| known.plugin.clone())
    }

    /// Takes registrations until it is dropped. Sockets of before are removed first: plugins see that, and register anew.
    ///
    /// # Errors
    /// The socket cannot be made or has broken.
    pub async fn serve(self) -> io::Result<()> {
        let dir = self.0.dir.clone();
        let listener = tokio::task::spawn_blocking(move || {
            remove_sockets(&dir)?;
            listen(&dir.join(SOCKET))
        });
        let listener = listener.await.map_err(io::Error::other)??;
        let server = Server::builder().add_service(RegistrationServer::new(self));
        server.serve_with_incoming(connections(listener)).await.map_err(io::Error::other)
    }

    fn validate(&self, versions: &[String], resource: &str) -> Result<(), String> {
        if !versions.iter().any(|version| version == VERSION) {
            let asked = versions.join(", ");
            return Err(format!(
                "requested API version {asked:?} is not supported by kubelet. Supported version is {VERSION:?}"
            ));
        }
        if !self.0.events.accepts(resource) {
            return Err(format!("the ResourceName {resource:?} is invalid"));
        }
        Ok(())
    }

    /// Takes a plugin on and listens to it.
    async fn take(&self, resource: &str, socket: &Path) -> Result<(), String> {
        let plugin = DevicePlugin::connect(resource, socket).await?;
        let shared = Arc::downgrade(&self.0);
        let mut known = self.0.known();
        if let Some(before) = known.remove(resource) {
            before.listening.abort();
        }
        self.0.events.connected(&plugin);
        let listening = tokio::spawn(listen_to(shared, plugin.clone())).abort_handle();
        tracing::info!(resource, socket = %socket.display(), "device plugin registered");
        known.insert(resource.to_owned(), Known { plugin, listening });
        Ok(())
    }
}

/// Listens to a plugin until its list ends.
async fn listen_to(shared: Weak<Shared>, plugin: DevicePlugin) {
    let problem = hear(&shared, &plugin).await;
    if let Some(shared) = shared.upgrade() {
        shared.end(&plugin, &problem);
    }
}

/// Passes on what a plugin lists; returns why it ended.
async fn hear(shared: &Weak<Shared>, plugin: &DevicePlugin) -> String {
    let mut lists = match plugin.list_and_watch().await {
        Ok(lists) => lists,
        Err(problem) => return problem,
    };
    loop {
        match lists.message().await {
            Ok(Some(list)) => {
                let Some(shared) = shared.upgrade() else { return "the agent ends".to_owned() };
                let known = shared.known();
                // Another may have registered while this list was on its way.
                if known.get(plugin.resource()).is_some_and(|one| one.plugin.is(plugin)) {
                    shared.events.listed(plugin, list.devices);
                }
            }
            Ok(None) => return "its list has ended".to_owned(),
            Err(status) => return words_of(&status),
        }
    }
}

/// Removes sockets from a folder; whatever else lies there stays.
fn remove_sockets(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_socket()
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(socket = %entry.path().display(), %error, "a socket of a device plugin cannot be removed");
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl Registration for DevicePlugins {
    async fn register(
        &self,
        request: Request<wire::RegisterRequest>,
    ) -> Result<Response<wire::Empty>, Status> {
        let wire::RegisterRequest { version, endpoint, resource_name, .. } = request.into_inner();
        self.0.events.asked(&resource_name);
        let refused = |problem: String| {
            tracing::warn!(resource = resource_name, problem, "device plugin not registered");
            Status::unknown(problem)
        };
        self.validate(&[version], &resource_name).map_err(refused)?;
        // The name of a socket beside the agent's; upstream joins an absolute one to the folder too.
        let socket = self.0.dir.join(endpoint.trim_start_matches('/'));
        self.take(&resource_name, &socket).await.map_err(refused)?;
        Ok(Response::new(wire::Empty {}))
    }
}

impl PluginHandler for DevicePlugins {
    fn kind(&self) -> &str {
        DEVICE_PLUGIN
    }

    fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        if !plugin.versions.iter().any(|version| version == VERSION) {
            return Err(format!(
                "manager version, {VERSION}, is not among plugin supported versions {:?}",
                plugin.versions
            ));
        }
        let valid = self.validate(&plugin.versions, &plugin.name);
        valid.map_err(|problem| format!("invalid name of device plugin socket: {problem}"))
    }

    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), String>> {
        self.take(&plugin.name, &plugin.endpoint).boxed()
    }

    fn deregister<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, ()> {
        async {
            let known =
                self.0.known().get(&plugin.name).map(|known| (known.plugin.clone(), known.listening.clone()));
            if let Some((known, listening)) = known.filter(|(known, _)| known.socket() == plugin.endpoint) {
                listening.abort();
                self.0.end(&known, "it was deregistered");
            }
        }
        .boxed()
    }
}
