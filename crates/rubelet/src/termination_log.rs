//! Reads what a container left behind as its last words: the termination message file, or the end of its log.
//! How much of it becomes the message is decided by `rubelet_core::termination`. Called by Pleg once for
//! each container that has ended.

use std::path::Path;

use rubelet_core::observed::ObservedContainer;
use rubelet_core::termination::{MAX_MESSAGE_BYTES, MessageSource, choose_message, message_from_log};
use tracing::debug;

use crate::fs_pool::FsPool;

/// How much of the end of a log is read: 80 lines fit into it unless they are long, and then 2 KiB count.
const LOG_TAIL_BYTES: u64 = 64 * 1024;

/// The message of an ended container, `None` when there is none to be had.
pub async fn read(fs: &FsPool, container: &ObservedContainer) -> Option<String> {
    let facts = &container.facts;
    let file = container
        .mounts
        .iter()
        .find(|mount| {
            !facts.termination_message_path.is_empty()
                && mount.container_path == facts.termination_message_path
        })
        .map(|mount| mount.host_path.clone());
    let content = match file {
        Some(path) => tail(fs, path, MAX_MESSAGE_BYTES as u64).await,
        None => None,
    };
    let source = choose_message(
        content.as_deref(),
        &facts.termination_message_policy,
        container.exit_code,
        &container.reason,
    );
    let message = match source {
        MessageSource::Text(text) => text,
        MessageSource::Log => {
            message_from_log(&tail(fs, container.log_path.clone(), LOG_TAIL_BYTES).await.unwrap_or_default())
        }
    };
    (!message.is_empty()).then_some(message)
}

/// The last bytes of a file; `None` when it cannot be read.
async fn tail(fs: &FsPool, path: String, limit: u64) -> Option<Vec<u8>> {
    let what = format!("read the end of {path}");
    fs.run(what, move || rubelet_linux::beneath::read_tail(Path::new(&path), limit))
        .await
        .inspect_err(|error| debug!("no termination message: {error}"))
        .ok()
}
