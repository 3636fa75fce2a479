//! Plugins of the node: the folder they register in is watched, each is asked who it is and told whether it was taken.
//! What a kind of plugin is for is its handler's business.
//!
//! One task, [`PluginRegistry::run`], does it all. What it looks at is `folder`, what it decides is `book` (a table and
//! no I/O), what it says to plugins is [`registration`].
//!
//! - [`device`]: device plugins, which may register at a socket of their own
//! - [`pod_resources`]: the API that tells what containers have
//! - [`dra`]: calls of drivers of dynamic resource allocation

mod book;
pub mod device;
pub mod dra;
mod folder;
pub mod handler;
pub mod pod_resources;
pub mod registration;
mod registry;
mod socket;

pub use handler::{CSI_PLUGIN, DEVICE_PLUGIN, DRA_PLUGIN, Plugin, PluginHandler};
pub use registry::{PluginRegistry, PluginState, PluginView};
