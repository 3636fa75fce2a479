//! The agent's way to a Kubernetes API server: who it is, how it connects, what it watches.
//!
//! Typed requests and API errors are kube's; connections, TLS, identity and watches are ours, because an agent
//! must reload certificates, notice dead connections within seconds and let no bad object hide the others.
//!
//! Files:
//! - `kubeconfig`, `identity`, `credentials`, `exec_plugin`: who the agent is, from files that may change
//! - `connection`, `rate_limit`: HTTP/2 over TLS, one set of connections for requests and one for heartbeats
//! - `bootstrap`, `rotation`, `cert_store`: a certificate of its own, from the first token to the next renewal
//! - `wake`: news that the server answers again
//! - `watch`: list and watch as a machine that survives everything a server does
//! - `reflector`: a watch with a store, for what is few and always needed
//! - `objects`: ConfigMaps and Secrets that pods refer to, watched while a pod needs them

pub mod bootstrap;
pub mod cert_store;
pub mod connection;
pub mod credentials;
pub mod csr;
pub mod exec_plugin;
pub mod identity;
pub mod kubeconfig;
pub mod level;
pub mod objects;
pub mod rate_limit;
pub mod reflector;
pub mod rotation;
pub mod wake;
pub mod watch;

/// Tells the wall-clock time; the shell's clock, so that a simulation owns it.
pub type Now = std::sync::Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// The ways to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Connections {
    /// For everything but heartbeats; held to the pace of `kubeAPIQPS` and `kubeAPIBurst`.
    pub requests: kube::Client,
    /// Over the same connections as `requests` but not held to its pace: for what a user waits for, such as the
    /// status of a pod that became ready. A pause that the server orders holds here too.
    pub urgent: kube::Client,
    /// For leases and node status: connections of their own, so that nothing else can hold a heartbeat up.
    pub heartbeats: kube::Client,
}
