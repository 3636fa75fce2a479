//! The node agent's eyes: how it looks at the machine. A trait, so that tests and simulations own what is seen.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use rubelet_core::node::pressure::Observation;
use rubelet_linux::node_facts::{self, FileSystem};

/// How long the name service may take; a resolver that is down must not hold up the status.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// What is left of what the machine has; `None` where it cannot be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory in bytes.
    pub memory: Option<Observation>,
    /// Process IDs.
    pub pids: Option<Observation>,
    /// The file system of the root directory.
    pub node_fs: Option<FileSystem>,
    /// The file system of images.
    pub image_fs: Option<FileSystem>,
}

/// A way to look at a machine.
pub trait NodeProbe: Send + Sync {
    /// Measures. May block on file systems.
    fn usage(&self, root_dir: &Path, image_dir: Option<&Path>) -> Usage;
    /// The addresses on network interfaces.
    fn interface_ips(&self) -> Vec<IpAddr>;
    /// The source address towards the default route.
    fn default_route_ip(&self, prefer_v4: bool) -> Option<IpAddr>;
    /// The addresses of a name; `None` when there is no answer.
    fn lookup(&self, name: String) -> BoxFuture<'static, Option<Vec<IpAddr>>>;
}

/// Looks at this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineProbe;

impl NodeProbe for MachineProbe {
    fn usage(&self, root_dir: &Path, image_dir: Option<&Path>) -> Usage {
        Usage {
            memory: node_facts::memory_left(),
            pids: node_facts::pids_left(),
            node_fs: node_facts::file_system(root_dir).ok(),
            image_fs: image_dir.and_then(|dir| node_facts::file_system(dir).ok()),
        }
    }

    fn interface_ips(&self) -> Vec<IpAddr> {
        node_facts::interface_ips().unwrap_or_default()
    }

    fn default_route_ip(&self, prefer_v4: bool) -> Option<IpAddr> {
        node_facts::default_route_ip(prefer_v4)
    }

    fn lookup(&self, name: String) -> BoxFuture<'static, Option<Vec<IpAddr>>> {
        Box::pin(async move {
            let answer = tokio::time::timeout(LOOKUP_LIMIT, tokio::net::lookup_host((name, 0))).await.ok()?;
            // A name that does not exist is an answer.
            Some(
                answer
                    .map(|found| found.map(|address| address.ip().to_canonical()).collect())
                    .unwrap_or_default(),
            )
        })
    }
}

/// Sees the same machine for ever.
#[derive(Clone, Debug, Default)]
pub struct FixedProbe {
    /// What is left.
    pub usage: Usage,
    /// Addresses on interfaces; the first is the one towards the default route.
    pub ips: Vec<IpAddr>,
}

impl NodeProbe for FixedProbe {
    fn usage(&self, _root_dir: &Path, _image_dir: Option<&Path>) -> Usage {
        self.usage.clone()
    }
    fn interface_ips(&self) -> Vec<IpAddr> {
        self.ips.clone()
    }
    fn default_route_ip(&self, prefer_v4: bool) -> Option<IpAddr> {
        let preferred = self.ips.iter().find(|ip| ip.is_ipv4() == prefer_v4);
        preferred.or(self.ips.first()).copied()
    }
    fn lookup(&self, _name: String) -> BoxFuture<'static, Option<Vec<IpAddr>>> {
        Box::pin(std::future::ready(Some(vec![])))
    }
}
