//! The books of allocated and actuated resources on disk: `allocated_pods_state` and `actuated_pods_state`, as upstream
//! writes them (`allocation/state/checkpoint.go`), so that a node changes hands either way with its resizes.
//!
//! Any bytes can be read; what is no checkpoint says why, and costs no pod anything.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Serialize};

use super::PodAllocation;
use crate::hash::fnv1a32;
use crate::ids::PodUid;

/// File name of the book of allocated resources, below the root directory.
pub const ALLOCATED: &str = "allocated_pods_state";
/// File name of the book of actuated resources.
pub const ACTUATED: &str = "actuated_pods_state";

/// A book.
pub type Book = BTreeMap<PodUid, PodAllocation>;

/// Why a text is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is not the JSON that it should be.
    #[error("it is not a checkpoint of resources")]
    Json(#[from] serde_json::Error),
    /// It was changed or torn.
    #[error("the checksum is {found}, and should be {expected}")]
    Checksum {
        /// What stands there.
        found: u64,
        /// What the data give.
        expected: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Outer {
    data: String,
    checksum: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Inner {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, Entry>,
}

#[derive(Default, Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "ContainerResources", default)]
    containers: Option<BTreeMap<String, ResourceRequirements>>,
    #[serde(rename = "PodLevelResources", default)]
    pod: Option<ResourceRequirements>,
}

/// The text of a book.
pub fn encode(book: &Book) -> String {
    let entry = |allocation: &PodAllocation| Entry {
        containers: Some(allocation.containers.clone()),
        pod: allocation.pod.clone(),
    };
    let entries = book.iter().map(|(uid, allocation)| (uid.to_string(), entry(allocation))).collect();
    // Maps with string keys, strings and numbers always serialise.
    let data = serde_json::to_string(&Inner { entries }).unwrap_or_default();
    let checksum = checksum_of(&data);
    serde_json::to_string(&Outer { data, checksum }).unwrap_or_default()
}

/// The book of a text.
///
/// # Errors
/// [`CheckpointError`]; the caller sets the file aside and goes on with an empty book.
pub fn decode(text: &[u8]) -> Result<Book, CheckpointError> {
    let outer: Outer = serde_json::from_slice(text)?;
    let expected = checksum_of(&outer.data);
    if outer.checksum != expected {
        return Err(CheckpointError::Checksum { found: outer.checksum, expected });
    }
    let inner: Inner = serde_json::from_str(&outer.data)?;
    Ok(inner
        .entries
        .into_iter()
        .filter(|(uid, _)| !uid.is_empty())
        .map(|(uid, entry)| {
            let allocation =
                PodAllocation { containers: entry.containers.unwrap_or_default(), pod: entry.pod };
            (PodUid::from(uid.as_str()), allocation)
        })
        .collect())
}

/// Upstream hashes Go's `%#v`-like dump of the text, which is its type and the text itself.
fn checksum_of(data: &str) -> u64 {
    u64::from(fnv1a32(format!("(string){data}").as_bytes()))
}
