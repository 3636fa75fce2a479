//! The best of the volumes that are there for a claim that has none.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use rubelet_core::quantity::Amount;
use serde_json::Value;

use super::{is_deleted, is_of, text};
use crate::strategy::pods::schedule::selects;

/// The volume made for this claim, or the smallest that fits and is free. A claim that waits for its pod gets only what
/// was made for it.
pub(super) fn volume<'a>(claim: &Value, volumes: &'a [Value], waits: bool) -> Option<&'a Value> {
    let fitting = |volume: &&Value| fits(claim, volume);
    let made_for_it = |volume: &&Value| !volume["spec"]["claimRef"].is_null() && is_of(volume, claim);
    if let Some(volume) = volumes.iter().find(|v| made_for_it(v) && fitting(v)) {
        return Some(volume);
    }
    if waits {
        return None;
    }
    volumes
        .iter()
        .filter(|v| v["spec"]["claimRef"].is_null() && fitting(v))
        .min_by_key(|v| (capacity(&v["spec"]["capacity"]["storage"]), text(v, &["metadata", "name"])))
}

/// A storage size in bytes, rounded up.
fn capacity(size: &Value) -> Option<i64> {
    Amount::parse(size.as_str()?).ok().map(Amount::value)
}

fn fits(claim: &Value, volume: &Value) -> bool {
    let wanted = capacity(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or(0);
    let modes = |object: &Value| -> Vec<String> {
        let all = object["spec"]["accessModes"].as_array();
        all.into_iter().flatten().filter_map(|m| m.as_str().map(str::to_owned)).collect()
    };
    let mode = |object: &Value| match text(object, &["spec", "volumeMode"]) {
        "" => "Filesystem".to_owned(),
        mode => mode.to_owned(),
    };
    let offered = modes(volume);
    !is_deleted(volume)
        && text(volume, &["spec", "storageClassName"]) == text(claim, &["spec", "storageClassName"])
        && text(volume, &["spec", "volumeAttributesClassName"])
            == text(claim, &["spec", "volumeAttributesClassName"])
        && mode(volume) == mode(claim)
        && modes(claim).iter().all(|wanted| offered.contains(wanted))
        && capacity(&volume["spec"]["capacity"]["storage"]).is_some_and(|has| has >= wanted)
        && is_selected(&claim["spec"]["selector"], &volume["metadata"]["labels"])
}

/// Whether a claim's label selector, if it has one, takes these labels.
fn is_selected(selector: &Value, labels: &Value) -> bool {
    selector.is_null()
        || rubelet_core::json::from_value::<LabelSelector>(selector)
            .is_ok_and(|selector| selects(&selector, |key| labels[key].as_str()))
}
