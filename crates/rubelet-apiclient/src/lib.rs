//! The agent's way to a Kubernetes API server: who it is, how it connects, what it watches.
//!
//! Typed requests and API errors are kube's; connections, TLS, identity and watches are ours, because an agent
//! must reload certificates, notice dead connections within seconds and let no bad object hide the others.
//!
//! Files:
//! - `kubeconfig`, `credentials`, `exec_plugin`: who the agent is, from files that may change
//! - `connection`: HTTP/2 over TLS, one set of connections for requests and one for heartbeats
//! - `bootstrap`, `rotation`, `cert_store`: a certificate of its own, from the first token to the next renewal
//! - `watch`: list and watch as a machine that survives everything a server does
//! - `objects`: ConfigMaps and Secrets that pods refer to, watched while a pod needs them

/// The two ways to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Connections {
    /// For everything but heartbeats.
    pub requests: kube::Client,
    /// For leases and node status: connections of their own, so that nothing else can hold a heartbeat up.
    pub heartbeats: kube::Client,
}
