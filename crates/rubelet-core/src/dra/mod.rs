//! Dynamic resource allocation as the node sees it: which ResourceClaims a pod uses, which are prepared for whom, what
//! drivers said of them, and how their devices are.
//!
//! Decides what drivers are to be asked; never asks them and never looks at a clock. The shell's `dra` carries it out.
//!
//! - [`references`]: the claims that a pod and its containers name, and whether the pod may use them
//! - [`book`]: claims that are prepared or may be, and the pods that use them
//! - [`answers`]: what a driver's answer has to be
//! - [`checkpoint`]: the book on disk, in upstream's form
//! - [`health`]: what drivers tell of their devices
//! - [`status`]: how that is told in a pod's status

pub mod answers;
pub mod book;
pub mod checkpoint;
pub mod health;
pub mod references;
pub mod status;

use std::fmt;

/// The name of a ResourceClaim. It stays the same when the claim is made anew; its UID does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ClaimKey {
    /// From namespace and name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ClaimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A device that a driver has prepared for a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Pool that has it.
    pub pool: String,
    /// Its name in the pool.
    pub device: String,
    /// Which share of it, where it is shared.
    pub share: Option<String>,
    /// Requests of the claim that it is for; all of them when there is none.
    pub requests: Vec<String>,
    /// CDI devices that bring it into a container.
    pub cdi: Vec<String>,
}

impl Device {
    /// Whether a container that asks for this request gets it; the empty request is all of the claim.
    pub fn is_for(&self, request: &str) -> bool {
        // Of a request with alternatives (`gpu/large`) drivers name the first part.
        let base = request.split('/').next().unwrap_or_default();
        request.is_empty()
            || self.requests.is_empty()
            || self.requests.iter().any(|of| of == request || of == base)
    }
}
