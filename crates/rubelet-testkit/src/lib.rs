//! What tests of every crate share: builders of pods, a scripted container runtime, a fake API server,
//! a CSI driver, a driver of dynamic resource allocation, a collector of traces.
//!
//! A dev-dependency only: nothing here runs in production, so it may panic where a test would.

pub mod csi_driver;
pub mod dra_driver;
pub mod fake_api;
pub mod otlp;
pub mod pods;
pub mod scripted;

pub use fake_api::FakeApi;
pub use scripted::ScriptedCri;
