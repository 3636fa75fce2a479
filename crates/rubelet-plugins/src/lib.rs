//! Plugins of the node: the folder they register in is watched, each is asked who it is and told whether it was taken.
//! What a kind of plugin is for is its handler's business.
//!
//! One task, [`PluginRegistry::run`], does it all. What it looks at is `folder`, what it decides is `book` (a table and
//! no I/O), what it says to plugins is [`registration`].

mod book;
mod folder;
pub mod handler;
pub mod registration;
mod registry;

pub use handler::{CSI_PLUGIN, DEVICE_PLUGIN, DRA_PLUGIN, Plugin, PluginHandler};
pub use registry::{PluginRegistry, PluginState, PluginView};
