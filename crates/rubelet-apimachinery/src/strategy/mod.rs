//! What the server makes of an object before it is stored: defaults, what it fills in, what it refuses.
//!
//! One file for what all kinds share (`meta`), one folder or file for each kind with rules of its own. Called inside the
//! store's transaction, so what is looked up is what the decision is stored against.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::Resource;
use crate::user::User;

/// What a rule may look up: the stored objects as of the transaction.
pub trait Lookup {
    /// One object; `namespace` is empty for those without.
    fn get(&self, resource: &'static Resource, namespace: &str, name: &str) -> Option<Value>;
    /// All objects of a resource, of all namespaces when `namespace` is empty.
    fn list(&self, resource: &'static Resource, namespace: &str) -> Vec<Value>;
}

/// A request that is about to change an object.
pub struct Change<'a> {
    /// The kind of object.
    pub resource: &'static Resource,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace of the path; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The name in the path; empty for a create.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// When.
    pub now: Timestamp,
    /// What is there.
    pub lookup: &'a dyn Lookup,
    /// Random text of this many characters of Kubernetes' alphabet for generated names.
    pub random: &'a dyn Fn(usize) -> String,
    /// A new UID.
    pub uid: &'a dyn Fn() -> String,
    /// What this server is set up as.
    pub settings: &'a Settings,
}

/// What a server is set up as, where rules depend on it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Cluster IPs of Services are taken from this IPv4 network: address and prefix length.
    pub service_network: (std::net::Ipv4Addr, u8),
    /// What `kube-root-ca.crt` says, PEM.
    pub root_ca: String,
}

/// What a rule wants said to the client, each as a Warning header.
pub type Warnings = Vec<String>;

/// The object as it is stored, besides what the store itself says (`resourceVersion`).
pub type Object = Value;
