//! `rubelet local backup` and `rubelet local restore`.
//!
//! A backup is made by whoever has the store: the running API when it answers, else this process. A restore needs the
//! store for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rubelet_apiclient::connection::{ConnectOptions, connect};
use rubelet_apiclient::kubeconfig::ClusterAccess;
use rubelet_config::{KUBERNETES_VERSION, LocalFlags};
use rubelet_localapi::local::{BACKUP_PATH, store_dir};
use rubelet_localapi::store::{self, Backup, BackupError, OpenError, RestoreError, Store, StoreOptions};
use serde_json::{Value, json};

use super::absolute;
use crate::clock::Clock;

/// Why a backup or a restore was not made.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The copy cannot be written.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The copy cannot be put in the store's place.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The store is in use by a process whose API does not make the copy.
    #[error(
        "the store is in use, and its API made no backup; it was asked as {kubeconfig} says (--write-kubeconfig names \
         another)"
    )]
    Asked {
        /// How it was asked.
        kubeconfig: PathBuf,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no store to copy.
    #[error("there is no store in {0}: --data-dir says where it is")]
    Nothing(PathBuf),
}

fn options(clock: &Clock) -> StoreOptions {
    let clock = clock.clone();
    StoreOptions::new(Arc::new(move || clock.now()))
}

/// Writes a copy of the store to a new file. Must be called inside a tokio runtime.
///
/// # Errors
/// [`CommandError`].
pub async fn backup(flags: &LocalFlags, to: &Path, clock: &Clock) -> Result<Backup, CommandError> {
    let (folder, to) = (store_dir(&flags.data_dir), absolute(to.to_owned()));
    // A folder that may not be looked into is for the store to complain about.
    if matches!(folder.try_exists(), Ok(false)) {
        return Err(CommandError::Nothing(flags.data_dir.clone()));
    }
    match Store::open(&folder, options(clock)) {
        Ok(store) => Ok(store.backup(&to)?),
        Err(OpenError::InUse { .. }) => {
            let kubeconfig = flags.kubeconfig_path();
            ask(&kubeconfig, &to, clock).await.map_err(|source| CommandError::Asked { kubeconfig, source })
        }
        Err(other) => Err(other.into()),
    }
}

/// Has the running API make the copy.
async fn ask(
    kubeconfig: &Path,
    to: &Path,
    clock: &Clock,
) -> Result<Backup, Box<dyn std::error::Error + Send + Sync>> {
    let access = ClusterAccess::load(kubeconfig)?;
    let clock = clock.clone();
    let options =
        ConnectOptions::new(env!("CARGO_PKG_VERSION"), KUBERNETES_VERSION, Arc::new(move || clock.now()));
    let (connections, _) = connect(access, options).await?;
    let body = serde_json::to_vec(&json!({"path": to}))?;
    let request = http::Request::post(BACKUP_PATH).header("content-type", "application/json").body(body)?;
    let answer: Value = connections.requests.request(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone().into(),
        other => Box::<dyn std::error::Error + Send + Sync>::from(other),
    })?;
    let number = |key: &str| answer[key].as_u64().unwrap_or_default();
    Ok(Backup { revision: number("revision"), objects: number("objects") })
}

/// Makes the store what a copy says.
///
/// # Errors
/// [`CommandError`]; what was there is as it was.
pub fn restore(flags: &LocalFlags, from: &Path, clock: &Clock) -> Result<Backup, CommandError> {
    Ok(store::restore(&absolute(from.to_owned()), &store_dir(&flags.data_dir), clock.now())?)
}
