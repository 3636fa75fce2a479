//! A volume to start from, and inline volumes by rows.

use k8s_openapi::api::core::v1::Volume;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixtures::pod;

/// A volume of the driver `d.example`.
pub(super) fn csi_volume() -> CsiVolume {
    let source = serde_json::from_value(json!({"driver": "d.example", "volumeHandle": "h"})).unwrap();
    csi_of("pv", &source).unwrap()
}

fn inline(name: &str, source: serde_json::Value) -> Result<Option<CsiVolume>, SourceError> {
    let volume: Volume = serde_json::from_value(json!({"name": name, "csi": source})).unwrap();
    inline_csi(&pod(json!({"containers": []})), &volume)
}

#[test]
fn an_inline_volume_is_the_pods_own() {
    let source = json!({"driver": "d.example", "readOnly": true, "fsType": "ext4",
        "volumeAttributes": {"a": "b"}, "nodePublishSecretRef": {"name": "key"}});
    let found = inline("data", source).unwrap().unwrap();
    let expected = CsiVolume {
        // sha256 of "u1data".
        handle: "csi-394e2f1c7e9d97fca241351d1f3fe5e473d332141cbc3a61861a8e3a8a0caf84".into(),
        spec_name: "data".into(),
        inline: true,
        read_only: true,
        fs_type: "ext4".into(),
        attributes: BTreeMap::from([("a".into(), "b".into())]),
        publish_secret: Some(SecretPlace { namespace: "shop".into(), name: "key".into() }),
        ..csi_volume()
    };
    assert_eq!(found, expected);
    let plain = inline("data", json!({"driver": "d.example", "nodePublishSecretRef": {"name": ""}}))
        .unwrap()
        .unwrap();
    assert_eq!((plain.publish_secret, plain.read_only), (None, false));
    let other: Volume = serde_json::from_value(json!({"name": "x", "emptyDir": {}})).unwrap();
    assert_eq!(inline_csi(&pod(json!({"containers": []})), &other), Ok(None));
}

#[test]
fn volumes_have_names_of_directories() {
    for name in ["", ".", "..", "a/b", "a\0"] {
        assert_eq!(inline(name, json!({"driver": "d.example"})), Err(SourceError::Name), "{name:?}");
    }
}

#[test]
fn an_old_kind_is_its_drivers() {
    let of = |uri: &str| {
        let source = json!({"name": "v", "azureDisk": {"diskName": "d", "diskURI": uri}});
        inline_csi(&pod(json!({"containers": []})), &serde_json::from_value(source).unwrap())
    };
    assert_eq!(of("/s/d").unwrap().unwrap().driver, "disk.csi.azure.com");
    assert_eq!(of(""), Err(SourceError::NoHandle));
    assert_eq!(of(".."), Err(SourceError::Name));
}

#[test]
fn drivers_have_names_of_directories() {
    let problem =
        |driver: &str| inline("data", json!({"driver": driver})).map(|_| ()).map_err(|e| e.to_string());
    assert_eq!(problem("D.Example-1"), Ok(()));
    assert_eq!(problem(""), Err("csi: it names no driver".to_owned()));
    assert!(problem(&"d".repeat(64)).unwrap_err().ends_with("must be no more than 63 bytes"));
    for bad in ["..", "a/b", "../../x", "a b", ".a", "a.", "a\0"] {
        assert!(problem(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn no_driver_leaves_its_directory(driver in "\\PC*") {
        if inline("data", json!({"driver": driver})).is_ok() {
            prop_assert!(!driver.is_empty() && !driver.contains(['/', '\0']) && driver != "." && driver != "..");
        }
    }

    #[test]
    fn what_the_journal_keeps_is_read_back(handle in "\\PC*", key in "\\PC*", value in "\\PC*", inline: bool) {
        let volume = CsiVolume { handle, attributes: BTreeMap::from([(key, value)]), inline, ..csi_volume() };
        let written = serde_json::to_string(&volume).unwrap();
        prop_assert_eq!(serde_json::from_str::<CsiVolume>(&written).unwrap(), volume);
    }
}
