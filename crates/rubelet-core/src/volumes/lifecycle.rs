//! Whether a driver takes volumes that live with their pod, or only those that outlive it (`volumeLifecycleModes`), and
//! what else its CSIDriver object asks for.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;

use super::CsiVolume;
use crate::containers::spec_of;

const EPHEMERAL: &str = "Ephemeral";
const PERSISTENT: &str = "Persistent";

/// The driver does not take volumes of that life (upstream `supportsVolumeLifecycleMode`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("volume mode {mode:?} not supported by driver {driver} ({why})")]
pub struct LifecycleError {
    /// `Ephemeral` or `Persistent`.
    pub mode: &'static str,
    /// Name of the driver.
    pub driver: String,
    /// What it takes instead.
    pub why: String,
}

/// The word for the life of a volume, as in `vol_data.json` (`volumeLifecycleMode`).
pub fn lifecycle_mode(volume: &CsiVolume) -> &'static str {
    if volume.inline { EPHEMERAL } else { PERSISTENT }
}

/// Checks that the driver takes the volume.
///
/// # Errors
/// It does not; an inline volume needs a CSIDriver object that says so.
pub fn check_lifecycle(volume: &CsiVolume, driver: Option<&CSIDriver>) -> Result<(), LifecycleError> {
    let mode = lifecycle_mode(volume);
    let why = match driver {
        None if !volume.inline => return Ok(()),
        None => "no CSIDriver object".to_owned(),
        Some(driver) => {
            let modes = driver.spec.volume_lifecycle_modes.as_deref().unwrap_or_default();
            if modes.iter().any(|known| known == mode) {
                return Ok(());
            }
            let modes: Vec<String> = modes.iter().map(|mode| format!("{mode:?}")).collect();
            format!("only supports [{}]", modes.join(" "))
        }
    };
    Err(LifecycleError { mode, driver: volume.driver.clone(), why })
}

/// Whether the driver wants to be called again now and then while the volume is mounted (`requiresRepublish`).
pub fn requires_republish(driver: Option<&CSIDriver>) -> bool {
    driver.is_some_and(|driver| driver.spec.requires_republish == Some(true))
}

/// What a driver wants to know of the pod (`podInfoOnMount`), as attributes of the volume; none if it does not ask.
pub fn pod_info(volume: &CsiVolume, pod: &Pod, driver: Option<&CSIDriver>) -> Vec<(String, String)> {
    if driver.is_none_or(|driver| driver.spec.pod_info_on_mount != Some(true)) {
        return Vec::new();
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let known = [
        ("pod.name", text(&pod.metadata.name)),
        ("pod.namespace", text(&pod.metadata.namespace)),
        ("pod.uid", text(&pod.metadata.uid)),
        ("serviceAccount.name", text(&spec_of(pod).service_account_name)),
        ("ephemeral", volume.inline.to_string()),
    ];
    known.into_iter().map(|(name, value)| (format!("csi.storage.k8s.io/{name}"), value)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::pod;
    use crate::volumes::tests::csi_volume;

    fn driver(spec: Value) -> CSIDriver {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn a_driver_takes_what_it_lists() {
        let check = |inline: bool, modes: Option<Value>, expected: Result<(), &str>| {
            let driver = modes.map(|modes| driver(json!({"volumeLifecycleModes": modes})));
            let volume = CsiVolume { inline, ..csi_volume() };
            let found = check_lifecycle(&volume, driver.as_ref()).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned));
        };
        check(false, None, Ok(()));
        check(
            true,
            None,
            Err("volume mode \"Ephemeral\" not supported by driver d.example (no CSIDriver object)"),
        );
        check(false, Some(json!(["Persistent"])), Ok(()));
        check(true, Some(json!(["Persistent", "Ephemeral"])), Ok(()));
        check(
            true,
            Some(json!(["Persistent"])),
            Err(
                "volume mode \"Ephemeral\" not supported by driver d.example (only supports [\"Persistent\"])",
            ),
        );
        check(
            false,
            Some(Value::Null),
            Err("volume mode \"Persistent\" not supported by driver d.example (only supports [])"),
        );
    }

    #[test]
    fn a_pod_is_told_to_drivers_that_ask() {
        let pod = pod(json!({"containers": [], "serviceAccountName": "robot"}));
        let volume = CsiVolume { inline: true, ..csi_volume() };
        assert_eq!(pod_info(&volume, &pod, None), []);
        assert_eq!(pod_info(&volume, &pod, Some(&driver(json!({"podInfoOnMount": false})))), []);
        let told = pod_info(&volume, &pod, Some(&driver(json!({"podInfoOnMount": true}))));
        let told: Vec<String> = told.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            told,
            [
                "csi.storage.k8s.io/pod.name=web",
                "csi.storage.k8s.io/pod.namespace=shop",
                "csi.storage.k8s.io/pod.uid=u1",
                "csi.storage.k8s.io/serviceAccount.name=robot",
                "csi.storage.k8s.io/ephemeral=true",
            ]
        );
    }

    #[test]
    fn only_who_asks_is_called_again() {
        assert!(!requires_republish(None));
        assert!(!requires_republish(Some(&driver(json!({})))));
        assert!(requires_republish(Some(&driver(json!({"requiresRepublish": true})))));
    }
}
