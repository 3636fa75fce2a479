//! What tests of every crate share: builders of pods and a scripted container runtime.
//!
//! A dev-dependency only: nothing here runs in production, so it may panic where a test would.

pub mod pods;
pub mod scripted;

pub use pods::{ContainerBuilder, PodBuilder};
pub use scripted::ScriptedCri;
