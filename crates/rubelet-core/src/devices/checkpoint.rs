//! The checkpoint of devices (`kubelet_internal_checkpoint`), byte for byte what upstream reads and writes.
//!
//! Its checksum is the hash of what Go's dump printer makes of the data, type names included. Lists of IDs without nodes,
//! as kubelets before 1.20 wrote them, are read too.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

use super::NO_NODE;
use crate::hash::fnv1a32;
use crate::ids::PodUid;

/// Devices of one resource that a container has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The pod.
    pub pod: PodUid,
    /// The container's name.
    pub container: String,
    /// The resource.
    pub resource: String,
    /// IDs by NUMA node.
    pub devices: BTreeMap<i64, Vec<String>>,
    /// The plugin's answer.
    pub response: Vec<u8>,
}

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// What containers have.
    pub entries: Vec<Entry>,
    /// Healthy devices of each resource.
    pub registered: BTreeMap<String, Vec<String>>,
}

/// A text that is no checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be read")]
pub struct CheckpointError(#[source] serde_json::Error);

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(rename = "Data")]
    data: Data,
    #[serde(rename = "Checksum")]
    checksum: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    #[serde(default)]
    pod_device_entries: Option<Vec<FileEntry>>,
    #[serde(default)]
    registered_devices: Option<BTreeMap<String, Option<Vec<String>>>>,
}

#[derive(Serialize, Deserialize)]
struct FileEntry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ContainerName")]
    container_name: String,
    #[serde(rename = "ResourceName")]
    resource_name: String,
    #[serde(rename = "DeviceIDs", default)]
    device_ids: Option<Ids>,
    #[serde(rename = "AllocResp", default)]
    alloc_resp: Option<ByteString>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Ids {
    /// Keys are numbers; an untagged enum reads them as texts.
    ByNode(BTreeMap<String, Option<Vec<String>>>),
    Plain(Vec<String>),
}

impl Checkpoint {
    /// The text of the file.
    ///
    /// # Errors
    /// Never in practice: values are texts and numbers.
    pub fn encode(&self) -> Result<String, CheckpointError> {
        let entry = |entry: &Entry| FileEntry {
            pod_uid: entry.pod.to_string(),
            container_name: entry.container.clone(),
            resource_name: entry.resource.clone(),
            device_ids: Some(Ids::ByNode(
                entry.devices.iter().map(|(node, ids)| (node.to_string(), Some(ids.clone()))).collect(),
            )),
            alloc_resp: Some(ByteString(entry.response.clone())),
        };
        let entries: Vec<FileEntry> = self.entries.iter().map(entry).collect();
        let registered = self.registered.iter().map(|(name, ids)| (name.clone(), Some(ids.clone())));
        let data = Data {
            pod_device_entries: (!entries.is_empty()).then_some(entries),
            registered_devices: Some(registered.collect()),
        };
        let file = File { data, checksum: self.checksum().into() };
        serde_json::to_string(&file).map_err(CheckpointError)
    }

    /// Reads a file. The answer says too whether the checksum is right: what somebody has edited is still the best that is
    /// known of devices that containers use.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn decode(text: &[u8]) -> Result<(Self, bool), CheckpointError> {
        let File { data, checksum } = serde_json::from_slice(text).map_err(CheckpointError)?;
        let entries = data.pod_device_entries.unwrap_or_default().into_iter().map(|entry| Entry {
            pod: PodUid::new(entry.pod_uid),
            container: entry.container_name,
            resource: entry.resource_name,
            devices: match entry.device_ids {
                None => BTreeMap::new(),
                Some(Ids::Plain(ids)) => [(NO_NODE, ids)].into(),
                Some(Ids::ByNode(nodes)) => nodes
                    .into_iter()
                    .map(|(node, ids)| (node.parse().unwrap_or(NO_NODE), ids.unwrap_or_default()))
                    .collect(),
            },
            response: entry.alloc_resp.unwrap_or_default().0,
        });
        let registered = data.registered_devices.unwrap_or_default().into_iter();
        let checkpoint = Self {
            entries: entries.collect(),
            registered: registered.map(|(name, ids)| (name, ids.unwrap_or_default())).collect(),
        };
        let right = checksum == u64::from(checkpoint.checksum());
        Ok((checkpoint, right))
    }

    fn checksum(&self) -> u32 {
        let mut text = String::new();
        // Writing into a text cannot fail.
        let _ = self.dump(&mut text);
        fnv1a32(text.as_bytes())
    }

    /// As Go's dump printer has it.
    fn dump(&self, out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str("(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)")?;
        if self.entries.is_empty() {
            out.write_str("<nil>")?;
        } else {
            listed(out, &self.entries, |out, entry| {
                write!(
                    out,
                    "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} DeviceIDs:(checkpoint.DevicesPerNUMA)map",
                    entry.pod, entry.container, entry.resource
                )?;
                listed(out, &entry.devices, |out, (node, ids)| {
                    write!(out, "{node}:")?;
                    listed(out, ids, |out, id| out.write_str(id))
                })?;
                out.write_str(" AllocResp:([]uint8)")?;
                listed(out, &entry.response, |out, byte| write!(out, "{byte}"))?;
                out.write_char('}')
            })?;
        }
        out.write_str(" RegisteredDevices:(map[string][]string)map")?;
        listed(out, &self.registered, |out, (name, ids)| {
            write!(out, "{name}:")?;
            listed(out, ids, |out, id| out.write_str(id))
        })?;
        out.write_char('}')
    }
}

/// `[a b c]`
fn listed<W: fmt::Write, T>(
    out: &mut W,
    items: impl IntoIterator<Item = T>,
    each: impl Fn(&mut W, T) -> fmt::Result,
) -> fmt::Result {
    out.write_char('[')?;
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.write_char(' ')?;
        }
        each(out, item)?;
    }
    out.write_char(']')
}
