//! `allocatedResourcesStatus` of containers with claims (upstream `UpdateAllocatedResourcesStatus` of its DRA manager). Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus};

use super::book::ClaimBook;
use super::health::HealthBook;
use super::references::claims_of_pod;

/// Adds to a pod's status how the devices of its claims are. What others told of other resources stays. `messages`:
/// `ResourceHealthStatusMessage` is on.
pub fn tell_health(
    pod: &Pod,
    status: &mut PodStatus,
    book: &ClaimBook,
    health: &HealthBook,
    messages: bool,
    now: Timestamp,
) {
    let Some(spec) = &pod.spec else { return };
    // A claim that is not known yet has no devices.
    let Ok(references) = claims_of_pod(pod, false) else { return };
    for told in status.container_statuses.iter_mut().flatten() {
        let Some(container) = spec.containers.iter().find(|container| container.name == told.name) else {
            continue;
        };
        let list = of_container(container, &references, book, health, messages, now);
        if list.is_empty() {
            continue;
        }
        let resources = told.allocated_resources_status.get_or_insert_default();
        resources.retain(|other| list.iter().all(|own| own.name != other.name));
        resources.extend(list);
    }
}

fn of_container(
    container: &Container,
    references: &[super::references::ClaimReference],
    book: &ClaimBook,
    health: &HealthBook,
    messages: bool,
    now: Timestamp,
) -> Vec<ResourceStatus> {
    let claims = container.resources.as_ref().and_then(|resources| resources.claims.as_ref());
    let mut list: Vec<ResourceStatus> = vec![];
    for claim in claims.into_iter().flatten() {
        let request = claim.request.as_deref().unwrap_or_default();
        let reference = references.iter().find(|reference| reference.entry == claim.name);
        let Some(entry) = reference.and_then(|reference| book.get(&reference.claim)) else { continue };
        let mut devices: Vec<ResourceHealth> = vec![];
        for (driver, device) in
            entry.drivers.iter().flat_map(|(d, list)| list.iter().map(move |one| (d, one)))
        {
            let id = match device.cdi.first() {
                Some(id) => id.clone(),
                None => format!("{driver}/{}/{}", device.pool, device.device),
            };
            if !device.is_for(request) || devices.iter().any(|other| other.resource_id == id) {
                continue;
            }
            let (state, message) = health.get(driver, &device.pool, &device.device, now);
            devices.push(ResourceHealth {
                health: Some(state.word().to_owned()),
                message: (messages && !message.is_empty()).then(|| message.to_owned()),
                resource_id: id,
            });
        }
        if !devices.is_empty() {
            let name = match request {
                "" => format!("claim:{}", claim.name),
                request => format!("claim:{}/{request}", claim.name),
            };
            list.push(ResourceStatus { name, resources: Some(devices) });
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::book::ClaimEntry;
    use super::super::health::{Health, Report};
    use super::super::{ClaimKey, Device};
    use super::*;

    #[test]
    fn devices_of_claims_are_told_beside_those_of_plugins() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"resourceClaims": [{"name": "gpus", "resourceClaimName": "c"}], "containers": [
                {"name": "a", "resources": {"claims": [{"name": "gpus"}]}},
                {"name": "b", "resources": {"claims": [{"name": "gpus", "request": "one"}]}},
                {"name": "c"},
            ]},
        }))
        .unwrap();
        let device = |name: &str, request: &str, cdi: &[&str]| Device {
            pool: "pool".to_owned(),
            device: name.to_owned(),
            share: None,
            requests: vec![request.to_owned()],
            cdi: cdi.iter().map(|id| (*id).to_owned()).collect(),
        };
        let devices =
            vec![device("d1", "one", &["v/x=1"]), device("d2", "two", &[]), device("d3", "two", &["v/x=1"])];
        let entry = ClaimEntry { drivers: [("drv".to_owned(), devices)].into(), ..ClaimEntry::default() };
        let book = ClaimBook::restore([(ClaimKey::new("ns", "c"), entry)]);
        let mut health = HealthBook::default();
        let now = Timestamp::UNIX_EPOCH;
        let report = Report {
            pool: "pool".to_owned(),
            device: "d1".to_owned(),
            health: Health::Unhealthy,
            message: "hot".to_owned(),
            timeout_seconds: 0,
        };
        health.report("drv", vec![report], now);
        let status = |name: &str| {
            json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResourcesStatus": [{"name": "example.com/dev", "resources": []}]})
        };
        let mut status: PodStatus =
            serde_json::from_value(json!({"containerStatuses": [status("a"), status("b"), status("c")]}))
                .unwrap();
        tell_health(&pod, &mut status, &book, &health, true, now);
        tell_health(&pod, &mut status, &book, &health, true, now);
        let told = serde_json::to_value(&status).unwrap();
        let list = |index: usize| told["containerStatuses"][index]["allocatedResourcesStatus"].clone();
        let plugin = json!({"name": "example.com/dev", "resources": []});
        let hot = json!({"resourceID": "v/x=1", "health": "Unhealthy", "message": "hot"});
        let other = json!({"resourceID": "drv/pool/d2", "health": "Unknown"});
        assert_eq!(list(0), json!([plugin, {"name": "claim:gpus", "resources": [hot, other]}]));
        assert_eq!(list(1), json!([plugin, {"name": "claim:gpus/one", "resources": [hot]}]));
        assert_eq!(list(2), json!([plugin]));
    }
}
