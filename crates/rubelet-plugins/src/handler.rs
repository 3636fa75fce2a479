//! The seam to what plugins are for: one [`PluginHandler`] for each kind. Implemented by the shell; called by the registry,
//! from its task.

use std::path::PathBuf;

use futures::future::BoxFuture;

/// Drivers of volumes.
pub const CSI_PLUGIN: &str = "CSIPlugin";
/// Device plugins that register this way.
pub const DEVICE_PLUGIN: &str = "DevicePlugin";
/// Drivers of dynamic resource allocation.
pub const DRA_PLUGIN: &str = "DRAPlugin";

/// A plugin, as it says it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plugin {
    /// Its kind ([`CSI_PLUGIN`], …).
    pub kind: String,
    /// Its name, unique in its kind; never empty.
    pub name: String,
    /// The socket of its service; an absolute path. Is the registration socket where the plugin names none.
    pub endpoint: PathBuf,
    /// Versions that it speaks, in its own order.
    pub versions: Vec<String>,
    /// The socket it registers by.
    pub socket: PathBuf,
}

/// What takes plugins of one kind. The registry calls for one name at a time: `register` and `deregister` of a name never
/// overlap.
pub trait PluginHandler: Send + Sync {
    /// The kind it takes.
    fn kind(&self) -> &str;

    /// Whether the plugin may register: its name, its versions, and whether it may take the place of another socket's
    /// plugin that has this name now.
    ///
    /// # Errors
    /// Why not, in words that the plugin is told.
    fn validate(&self, plugin: &Plugin) -> Result<(), String>;

    /// Takes the plugin on. Where one of this name is registered, this one replaces it, without `deregister` between:
    /// the plugin was started anew, moved its endpoint, speaks other versions, or did not get our answer. Has to end
    /// by itself. Never dropped before it has ended, but when the agent ends.
    ///
    /// # Errors
    /// Why not, in words that the plugin is told. What was registered under the name then still is: it is tried again
    /// later.
    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), String>>;

    /// The plugin has gone.
    fn deregister<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, ()>;
}
