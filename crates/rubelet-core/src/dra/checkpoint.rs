//! The book of claims on disk, in upstream's form (`dra_manager_state`, `DRACheckpoint`): a node can change hands with claims
//! prepared. A text with a checksum inside a small JSON object. Any bytes can be read; what is no checkpoint says why.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::book::{ClaimBook, ClaimEntry};
use super::{ClaimKey, Device};
use crate::ids::PodUid;

/// Name of the file in the root directory.
pub const FILE: &str = "dra_manager_state";

const KIND: &str = "DRACheckpoint";
const API_VERSION: &str = "checkpoint.dra.kubelet.k8s.io/v1";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Outer {
    data: String,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct Inner {
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "apiVersion")]
    api_version: String,
    #[serde(default, rename = "ClaimInfoStateList")]
    claims: Option<Vec<Claim>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Claim {
    #[serde(rename = "ClaimUID", default)]
    uid: String,
    claim_name: String,
    #[serde(default)]
    namespace: String,
    #[serde(rename = "PodUIDs", default)]
    pods: Option<BTreeMap<String, Nothing>>,
    #[serde(default)]
    driver_state: Option<BTreeMap<String, Driver>>,
}

/// An empty object: what Go's sets have as values.
#[derive(Serialize, Deserialize)]
struct Nothing {}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Driver {
    #[serde(default)]
    devices: Option<Vec<Given>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    #[serde(default)]
    pool_name: String,
    #[serde(default)]
    device_name: String,
    #[serde(rename = "ShareID", default)]
    share: Option<String>,
    #[serde(default)]
    request_names: Option<Vec<String>>,
    #[serde(rename = "CDIDeviceIDs", default)]
    cdi: Option<Vec<String>>,
}

/// Why a file is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum NotACheckpoint {
    /// It is torn or something else.
    #[error("it is not a checkpoint of claims")]
    Json(#[from] serde_json::Error),
    /// It was changed.
    #[error("the checksum is {found}, and should be {expected}")]
    Checksum {
        /// What the file says.
        found: u32,
        /// What its content has.
        expected: u32,
    },
    /// It is of another kind or version.
    #[error("it is {kind:?} of {api_version:?}, not {KIND:?} of {API_VERSION:?}")]
    Kind {
        /// `kind`.
        kind: String,
        /// `apiVersion`.
        api_version: String,
    },
}

/// The text of the file.
pub fn encode(book: &ClaimBook) -> String {
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let given = |device: &Device| Given {
        pool_name: device.pool.clone(),
        device_name: device.device.clone(),
        share: device.share.clone(),
        request_names: some(&device.requests),
        cdi: some(&device.cdi),
    };
    let driver = |(name, devices): (&String, &Vec<Device>)| {
        let devices = (!devices.is_empty()).then(|| devices.iter().map(given).collect());
        (name.clone(), Driver { devices })
    };
    let claim = |(key, entry): (&ClaimKey, &ClaimEntry)| Claim {
        uid: entry.uid.clone(),
        claim_name: key.name.clone(),
        namespace: key.namespace.clone(),
        pods: Some(entry.pods.iter().map(|pod| (pod.to_string(), Nothing {})).collect()),
        driver_state: Some(entry.drivers.iter().map(driver).collect()),
    };
    let inner = Inner {
        kind: KIND.to_owned(),
        api_version: API_VERSION.to_owned(),
        claims: Some(book.claims().iter().map(claim).collect()),
    };
    // Structs of texts and maps with text as keys always serialise.
    let data = serde_json::to_string(&inner).unwrap_or_default();
    let checksum = crc32(data.as_bytes());
    serde_json::to_string(&Outer { data, checksum }).unwrap_or_default()
}

/// The book that a file has.
///
/// # Errors
/// See [`NotACheckpoint`].
pub fn decode(text: &[u8]) -> Result<ClaimBook, NotACheckpoint> {
    let outer: Outer = serde_json::from_slice(text)?;
    let (found, expected) = (outer.checksum, crc32(outer.data.as_bytes()));
    if found != expected {
        return Err(NotACheckpoint::Checksum { found, expected });
    }
    let inner: Inner = serde_json::from_str(&outer.data)?;
    if inner.kind != KIND || inner.api_version != API_VERSION {
        return Err(NotACheckpoint::Kind { kind: inner.kind, api_version: inner.api_version });
    }
    let device = |given: Given| Device {
        pool: given.pool_name,
        device: given.device_name,
        share: given.share,
        requests: given.request_names.unwrap_or_default(),
        cdi: given.cdi.unwrap_or_default(),
    };
    let entry = |claim: Claim| {
        let key = ClaimKey { namespace: claim.namespace, name: claim.claim_name };
        let drivers = claim.driver_state.unwrap_or_default().into_iter();
        let devices = |driver: Driver| driver.devices.unwrap_or_default().into_iter().map(device).collect();
        let pods: BTreeSet<PodUid> = claim.pods.unwrap_or_default().into_keys().map(PodUid::new).collect();
        let drivers = drivers.map(|(name, driver)| (name, devices(driver))).collect();
        (key, ClaimEntry { uid: claim.uid, pods, drivers, prepared: false })
    };
    Ok(ClaimBook::restore(inner.claims.unwrap_or_default().into_iter().map(entry)))
}

/// CRC-32 of IEEE 802.3, as Go's `crc32.ChecksumIEEE`.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Upstream's own vectors (`TestCheckpointStateStore`).
    const SHARED: &str = r#"{"Data":"{\"kind\":\"DRACheckpoint\",\"apiVersion\":\"checkpoint.dra.kubelet.k8s.io/v1\",\"ClaimInfoStateList\":[{\"ClaimUID\":\"067798be-454e-4be4-9047-1aa06aea63f7\",\"ClaimName\":\"example\",\"Namespace\":\"default\",\"PodUIDs\":{\"139cdb46-f989-4f17-9561-ca10cfb509a6\":{}},\"DriverState\":{\"test-driver.cdi.k8s.io\":{\"Devices\":[{\"PoolName\":\"worker-1\",\"DeviceName\":\"dev-1\",\"ShareID\":\"aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa\",\"RequestNames\":[\"test request\"],\"CDIDeviceIDs\":[\"example.com/example=cdi-example\"]}]}}}]}","Checksum":736302156}"#;
    const TWO: &str = r#"{"Data":"{\"kind\":\"DRACheckpoint\",\"apiVersion\":\"checkpoint.dra.kubelet.k8s.io/v1\",\"ClaimInfoStateList\":[{\"ClaimUID\":\"067798be-454e-4be4-9047-1aa06aea63f7\",\"ClaimName\":\"example-1\",\"Namespace\":\"default\",\"PodUIDs\":{\"139cdb46-f989-4f17-9561-ca10cfb509a6\":{}},\"DriverState\":{\"test-driver.cdi.k8s.io\":{\"Devices\":[{\"PoolName\":\"worker-1\",\"DeviceName\":\"dev-1\",\"ShareID\":null,\"RequestNames\":[\"test request\"],\"CDIDeviceIDs\":[\"example.com/example=cdi-example\"]}]}}},{\"ClaimUID\":\"4cf8db2d-06c0-7d70-1a51-e59b25b2c16c\",\"ClaimName\":\"example-2\",\"Namespace\":\"default\",\"PodUIDs\":{\"139cdb46-f989-4f17-9561-ca10cfb509a6\":{}},\"DriverState\":{\"test-driver.cdi.k8s.io\":{\"Devices\":[{\"PoolName\":\"worker-1\",\"DeviceName\":\"dev-2\",\"ShareID\":null,\"RequestNames\":null,\"CDIDeviceIDs\":null}]}}}]}","Checksum":2820117767}"#;

    #[test]
    fn files_of_upstream_are_read_and_written_byte_by_byte() {
        for text in [SHARED, TWO] {
            assert_eq!(encode(&decode(text.as_bytes()).unwrap()), text);
        }
        let book = decode(SHARED.as_bytes()).unwrap();
        let entry = book.get(&ClaimKey::new("default", "example")).unwrap();
        let device = &entry.drivers["test-driver.cdi.k8s.io"][0];
        assert_eq!(device.share.as_deref(), Some("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"));
        assert_eq!((device.cdi.len(), entry.prepared), (1, false));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused_with_a_reason() {
        let check = |text: &str, why: &str| {
            let error = decode(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        check("", "not a checkpoint");
        check("{}", "not a checkpoint");
        check(&SHARED.replace("736302156", "1"), "should be 736302156");
        check(&SHARED.replace("dev-1", "dev-2"), "checksum");
        let data = r#"{"kind":"Other","apiVersion":"v1"}"#;
        let other = serde_json::json!({"Data": data, "Checksum": crc32(data.as_bytes())}).to_string();
        check(&other, "Other");
        // An empty list of Go's is null.
        let data = format!(r#"{{"kind":"{KIND}","apiVersion":"{API_VERSION}","ClaimInfoStateList":null}}"#);
        let none = serde_json::json!({"Data": data, "Checksum": crc32(data.as_bytes())}).to_string();
        assert!(decode(none.as_bytes()).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..600_usize) {
            let _ = decode(&bytes);
            let cut = cut.min(SHARED.len() - 1);
            prop_assert!(decode(&SHARED.as_bytes()[..cut]).is_err());
        }
    }
}
