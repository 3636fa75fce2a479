//! Device plugins: how they register, what they list, what they are asked. What their devices are for and who gets which
//! is decided elsewhere; whoever does hears of them as [`DeviceEvents`].
//!
//! A plugin registers at the agent's socket ([`DevicePlugins::serve`]) or in the folder of all plugins
//! ([`DevicePlugins`] as a [`PluginHandler`](crate::PluginHandler)); either way it is asked for its options and listened to
//! until its list ends. One that registers anew takes the place of the one before.

mod client;
mod server;
pub mod v1beta1;

pub use client::{AllocateError, DevicePlugin, decode, encode};
pub use server::{DeviceEvents, DevicePlugins, SOCKET, VERSION};
