//! The ResourceClaims that pods and containers name, and whether a pod may use one (upstream package `resourceclaim`).
//! Looks at objects only.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;

use super::ClaimKey;
use crate::ids::pod_uid;

/// Prefix of extended resources that stand for a class of devices.
const DEVICE_CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimReference {
    /// Name of the entry in `spec.resourceClaims`; empty for the claim of extended resources.
    pub entry: String,
    /// The claim.
    pub claim: ClaimKey,
    /// It was made for this pod, which therefore has to own it.
    pub generated: bool,
}

/// The claim of an entry is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Neither claim nor template is named.
    #[error("pod {pod}, spec.resourceClaim {entry}: none of the supported fields are set")]
    Unsupported {
        /// `namespace/name` of the pod.
        pod: String,
        /// The entry.
        entry: String,
    },
    /// The controller that makes claims of templates has not made it yet.
    #[error("pod {pod}, spec.resourceClaim {entry}: ResourceClaim not created yet")]
    NotCreated {
        /// `namespace/name` of the pod.
        pod: String,
        /// The entry.
        entry: String,
    },
}

/// Why a pod may not use a claim, or not yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    /// A claim that should be the pod's own is somebody else's.
    #[error("ResourceClaim {claim} was not created for pod {pod} (pod is not owner)")]
    NotOwner {
        /// The claim.
        claim: ClaimKey,
        /// `namespace/name` of the pod.
        pod: String,
    },
    /// The scheduler has not reserved it for the pod.
    #[error("pod {pod} ({uid}) is not allowed to use ResourceClaim {claim} ({claim_uid})")]
    NotReserved {
        /// Name of the pod.
        pod: String,
        /// Its UID.
        uid: String,
        /// Name of the claim.
        claim: String,
        /// Its UID.
        claim_uid: String,
    },
    /// Nothing is allocated for it.
    #[error("ResourceClaim {0}: not allocated")]
    NotAllocated(String),
}

/// A claim that a pod may use, with what has to be known to prepare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedClaim {
    /// Which.
    pub key: ClaimKey,
    /// Its UID.
    pub uid: String,
    /// Drivers whose devices are allocated.
    pub drivers: BTreeSet<String>,
}

/// What a container wants of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerClaim {
    /// The claim.
    pub claim: ClaimKey,
    /// The request in it; empty for all.
    pub request: String,
}

fn full_name(pod: &Pod) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

fn key(pod: &Pod, name: &str) -> ClaimKey {
    ClaimKey::new(pod.metadata.namespace.as_deref().unwrap_or_default(), name)
}

/// The claim of one entry; `None` when none was needed for it.
fn resolve(pod: &Pod, entry: &str) -> Result<Option<(ClaimKey, bool)>, ReferenceError> {
    let entries = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
    let Some(found) = entries.into_iter().flatten().find(|found| found.name == entry) else {
        return Ok(None);
    };
    if let Some(name) = &found.resource_claim_name {
        return Ok(Some((key(pod, name), false)));
    }
    let (pod_name, entry) = (full_name(pod), entry.to_owned());
    if found.resource_claim_template_name.is_none() {
        return Err(ReferenceError::Unsupported { pod: pod_name, entry });
    }
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    match statuses.into_iter().flatten().find(|status| status.name == entry) {
        Some(status) => Ok(status.resource_claim_name.as_deref().map(|name| (key(pod, name), true))),
        None => Err(ReferenceError::NotCreated { pod: pod_name, entry }),
    }
}

/// Whether anything of the pod is allocated by claims. `extended`: `DRAExtendedResource` is on.
pub fn has_claims(pod: &Pod, extended: bool) -> bool {
    let named = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
    named.is_some_and(|claims| !claims.is_empty()) || extended && extended_claim(pod).is_some()
}

fn extended_claim(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::PodExtendedResourceClaimStatus> {
    pod.status.as_ref()?.extended_resource_claim_status.as_ref()
}

/// The claims that a pod uses, each once, in the order of its spec. `extended`: `DRAExtendedResource` is on.
///
/// # Errors
/// See [`ReferenceError`].
pub fn claims_of_pod(pod: &Pod, extended: bool) -> Result<Vec<ClaimReference>, ReferenceError> {
    let mut found: Vec<ClaimReference> = vec![];
    let entries = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
    for entry in entries.into_iter().flatten() {
        // Upstream takes a claim that two entries name twice, to the same effect.
        if let Some((claim, generated)) = resolve(pod, &entry.name)?
            && found.iter().all(|other| other.claim != claim)
        {
            found.push(ClaimReference { entry: entry.name.clone(), claim, generated });
        }
    }
    if let Some(status) = extended_claim(pod).filter(|_| extended) {
        let claim = key(pod, &status.resource_claim_name);
        if found.iter().all(|other| other.claim != claim) {
            found.push(ClaimReference { entry: String::new(), claim, generated: false });
        }
    }
    Ok(found)
}

/// What a container wants, in the order of the pod's claims; nothing twice.
///
/// # Errors
/// See [`ReferenceError`].
pub fn claims_of_container(
    pod: &Pod,
    container: &Container,
    extended: bool,
) -> Result<Vec<ContainerClaim>, ReferenceError> {
    let wanted = container.resources.as_ref().and_then(|resources| resources.claims.as_ref());
    let entries = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
    let mut found = vec![];
    for entry in entries.into_iter().flatten() {
        let requests = wanted.into_iter().flatten().filter(|claim| claim.name == entry.name);
        let requests: Vec<_> = requests.map(|claim| claim.request.clone().unwrap_or_default()).collect();
        if requests.is_empty() {
            continue;
        }
        let Some((claim, _)) = resolve(pod, &entry.name)? else { continue };
        found.extend(requests.into_iter().map(|request| ContainerClaim { claim: claim.clone(), request }));
    }
    if let Some(status) = extended_claim(pod).filter(|_| extended) {
        let claim = key(pod, &status.resource_claim_name);
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        for mapping in &status.request_mappings {
            let has = asked.is_some_and(|asked| {
                asked.get(&mapping.resource_name).is_some_and(|amount| !is_zero(&amount.0))
            });
            if mapping.container_name == container.name && has && may_be_claimed(&mapping.resource_name) {
                let request = mapping.request_name.clone();
                found.push(ContainerClaim { claim: claim.clone(), request });
            }
        }
    }
    let mut once: Vec<ContainerClaim> = vec![];
    for claim in found {
        if !once.contains(&claim) {
            once.push(claim);
        }
    }
    Ok(once)
}

fn is_zero(quantity: &str) -> bool {
    let digits = quantity.trim_start_matches(['+', '-']);
    digits
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .all(|byte| !(b'1'..=b'9').contains(&byte))
}

/// Whether a resource of this name may be allocated by a claim: extended resources, and those that name a class (upstream
/// `IsDRAExtendedResourceName`).
fn may_be_claimed(name: &str) -> bool {
    name.starts_with(DEVICE_CLASS_PREFIX)
        || name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// Checks that the claim is there for the pod: its own if it was made for it, reserved, and allocated.
///
/// # Errors
/// See [`ClaimRefused`].
pub fn check_claim(
    pod: &Pod,
    reference: &ClaimReference,
    claim: &ResourceClaim,
) -> Result<AllowedClaim, ClaimRefused> {
    let uid = pod_uid(pod);
    let claim_uid = claim.metadata.uid.clone().unwrap_or_default();
    let owners = claim.metadata.owner_references.iter().flatten();
    let owned = owners.clone().any(|owner| owner.controller == Some(true) && owner.uid == uid.as_str());
    if reference.generated && !owned {
        return Err(ClaimRefused::NotOwner { claim: reference.claim.clone(), pod: full_name(pod) });
    }
    let status = claim.status.as_ref();
    let reserved = status.and_then(|status| status.reserved_for.as_ref());
    if !reserved.into_iter().flatten().any(|consumer| consumer.uid == uid.as_str()) {
        return Err(ClaimRefused::NotReserved {
            pod: pod.metadata.name.clone().unwrap_or_default(),
            uid: uid.to_string(),
            claim: reference.claim.name.clone(),
            claim_uid,
        });
    }
    let Some(allocation) = status.and_then(|status| status.allocation.as_ref()) else {
        return Err(ClaimRefused::NotAllocated(reference.claim.name.clone()));
    };
    let results = allocation.devices.as_ref().and_then(|devices| devices.results.as_ref());
    let drivers = results.into_iter().flatten().map(|result| result.driver.clone()).collect();
    Ok(AllowedClaim { key: reference.claim.clone(), uid: claim_uid, drivers })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value, status: Value) -> Pod {
        let metadata = json!({"name": "p", "namespace": "ns", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
    }

    fn spec() -> Value {
        json!({
            "resourceClaims": [
                {"name": "shared", "resourceClaimName": "given"},
                {"name": "own", "resourceClaimTemplateName": "template"},
                {"name": "none", "resourceClaimTemplateName": "template"},
            ],
            "containers": [
                {"name": "a", "resources": {"claims": [{"name": "own", "request": "gpu"}, {"name": "own", "request": "nic"}]}},
                {"name": "b", "resources": {"claims": [{"name": "shared"}, {"name": "none"}],
                                            "requests": {"example.com/gpu": "1", "example.com/nil": "0"}}},
            ],
        })
    }

    fn status() -> Value {
        json!({
            "resourceClaimStatuses": [{"name": "own", "resourceClaimName": "p-own-x1"}, {"name": "none"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "p-extended", "requestMappings": [
                {"containerName": "b", "resourceName": "example.com/gpu", "requestName": "r-0"},
                {"containerName": "b", "resourceName": "example.com/nil", "requestName": "r-1"},
                {"containerName": "a", "resourceName": "example.com/gpu", "requestName": "r-2"},
            ]},
        })
    }

    #[test]
    fn claims_of_a_pod_come_from_spec_template_and_extended_resources() {
        let pod = pod(spec(), status());
        let found = claims_of_pod(&pod, true).unwrap();
        let told: Vec<_> =
            found.iter().map(|of| (of.entry.as_str(), of.claim.name.as_str(), of.generated)).collect();
        assert_eq!(told, [("shared", "given", false), ("own", "p-own-x1", true), ("", "p-extended", false)]);
        assert_eq!(claims_of_pod(&pod, false).unwrap().len(), 2);
        assert!(has_claims(&pod, false));
    }

    #[test]
    fn a_claim_that_nobody_made_yet_is_waited_for() {
        let error = claims_of_pod(&pod(spec(), json!({})), true).unwrap_err();
        assert_eq!(error.to_string(), "pod ns/p, spec.resourceClaim own: ResourceClaim not created yet");
        let spec = json!({"resourceClaims": [{"name": "odd"}], "containers": []});
        let error = claims_of_pod(&pod(spec, json!({})), true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pod ns/p, spec.resourceClaim odd: none of the supported fields are set"
        );
    }

    #[test]
    fn containers_get_the_requests_they_name() {
        let pod = pod(spec(), status());
        let of = |index: usize, extended| -> Vec<(String, String)> {
            let container = &pod.spec.as_ref().unwrap().containers[index];
            let claims = claims_of_container(&pod, container, extended).unwrap();
            claims.into_iter().map(|wanted| (wanted.claim.name, wanted.request)).collect()
        };
        let texts = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
        };
        assert_eq!(of(0, true), texts(&[("p-own-x1", "gpu"), ("p-own-x1", "nic")]));
        assert_eq!(of(1, true), texts(&[("given", ""), ("p-extended", "r-0")]));
        assert_eq!(of(1, false), texts(&[("given", "")]));
    }

    #[test]
    fn only_claims_that_are_there_for_the_pod_may_be_used() {
        let pod = pod(spec(), status());
        let refs = claims_of_pod(&pod, true).unwrap();
        let claim = |metadata: Value, status: Value| -> ResourceClaim {
            serde_json::from_value(json!({"metadata": metadata, "spec": {}, "status": status})).unwrap()
        };
        let check = |index: usize, metadata: Value, status: Value| {
            check_claim(&pod, &refs[index], &claim(metadata, status)).map_err(|error| error.to_string())
        };
        let reserved = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
        let result = |driver: &str| json!({"request": "r", "driver": driver, "pool": "n", "device": "d"});
        let allocation = json!({"devices": {"results": [result("b"), result("a"), result("b")]}});
        let good = json!({"reservedFor": reserved, "allocation": allocation});
        let allowed = check(0, json!({"uid": "c"}), good.clone()).unwrap();
        assert_eq!((allowed.uid.as_str(), allowed.drivers), ("c", ["a".to_owned(), "b".to_owned()].into()));
        let refused = "pod p (u) is not allowed to use ResourceClaim given (c)";
        assert_eq!(check(0, json!({"uid": "c"}), json!({})), Err(refused.to_owned()));
        let other =
            json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "v"}], "allocation": allocation});
        assert_eq!(check(0, json!({"uid": "c"}), other), Err(refused.to_owned()));
        let waiting = json!({"reservedFor": reserved});
        assert_eq!(check(0, json!({}), waiting), Err("ResourceClaim given: not allocated".to_owned()));
        let owner = |uid: &str| {
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p",
            "uid": uid, "controller": true}]})
        };
        assert!(check(1, owner("u"), good.clone()).is_ok());
        let not_own = "ResourceClaim ns/p-own-x1 was not created for pod ns/p (pod is not owner)";
        assert_eq!(check(1, owner("v"), good), Err(not_own.to_owned()));
    }

    #[test]
    fn amounts_of_nothing_are_known() {
        for (text, zero) in
            [("0", true), ("1", false), ("0.0", true), ("10", false), ("0k", true), ("", true)]
        {
            assert_eq!(is_zero(text), zero, "{text:?}");
        }
        for (name, may) in [
            ("example.com/gpu", true),
            ("deviceclass.resource.kubernetes.io/gpu", true),
            ("cpu", false),
            ("hugepages-2Mi", false),
            ("kubernetes.io/batch", false),
            ("requests.example.com/gpu", false),
        ] {
            assert_eq!(may_be_claimed(name), may, "{name}");
        }
    }
}
