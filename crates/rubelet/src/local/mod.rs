//! `rubelet local`: the embedded API of this machine, and the agent's way to it without a socket.
//!
//! Puts `rubelet-localapi` and the agent together; decides nothing of either. Called by the program's start, and by
//! programs that want the same.

mod command;
mod folders;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;

use rubelet_apiclient::Connections;
use rubelet_apimachinery::User;
use rubelet_config::{LocalFlags, ServiceAccountAccess};
use rubelet_localapi::auth::authorize::{Rules, ServiceAccountAccess as Access};
use rubelet_localapi::local::{LocalApi, LocalError, LocalOptions, pki_dir};

pub use command::{CommandError, backup, restore};
pub use streams::{Agent, AgentApi, AgentUsage, Door};

use crate::clock::Clock;
use crate::fs_pool::FsPool;

/// Threads for the folders of volumes.
const FS_THREADS: usize = 2;

/// A local API that listens, and what the agent needs of it.
pub struct LocalNode {
    /// The API, to be run.
    pub api: LocalApi,
    /// The agent's connections, within this process.
    pub connections: Connections,
    /// The authority of the API's users, whom the agent's own API is to know too.
    pub client_ca: PathBuf,
    /// Where the agent is to be handed in.
    pub door: Door,
}

/// Opens the local API that `flags` describe, for the node of this name. Must be called inside a tokio runtime.
///
/// # Errors
/// [`LocalError`].
pub async fn open(flags: &LocalFlags, node: &str, clock: &Clock) -> Result<LocalNode, LocalError> {
    let now = {
        let clock = clock.clone();
        Arc::new(move || clock.now())
    };
    // Paths below it are given to the container runtime, which knows nothing of this process's working directory.
    let data_dir = absolute(flags.data_dir.clone());
    let client_ca = pki_dir(&data_dir).join("ca.crt");
    let (door, streams) = streams::deferred();
    let service_accounts = match flags.service_account_access {
        ServiceAccountAccess::None => Access::None,
        ServiceAccountAccess::View => Access::View,
        ServiceAccountAccess::Admin => Access::Admin,
    };
    let folders = folders::VolumeFolders::new(data_dir.join("volumes"), FsPool::new(FS_THREADS));
    let api = LocalApi::open(LocalOptions {
        data_dir,
        address: flags.address,
        advertise: flags.advertise_address,
        kubeconfig: absolute(flags.kubeconfig_path()),
        rules: Rules { service_accounts },
        service_network: flags.service_network,
        node: (node.to_owned(), Arc::new(streams)),
        folders: Some(Arc::new(folders)),
        now,
    })
    .await?;
    // One identity, three lanes: within a process nothing holds a heartbeat up.
    let client = || kube::Client::new(api.api().client_service(User::node(node)), "default");
    let connections = Connections { requests: client(), urgent: client(), heartbeats: client() };
    Ok(LocalNode { api, connections, client_ca, door })
}

/// The path from the root; as it is where the working directory is gone.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}
