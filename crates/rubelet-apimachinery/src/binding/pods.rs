//! Which claims a pod means: those it names, and those that are made for its `ephemeral` volumes.

use serde_json::{Value, json};

use super::text;

/// A claim that a pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim<'a> {
    /// Its name, in the pod's namespace.
    pub name: String,
    /// The pod's volume it is of.
    pub volume: &'a Value,
    /// It is to be made for this volume, and to be the pod's.
    pub ephemeral: bool,
}

/// The claims of a pod, in the order of its volumes.
pub fn claims_of(pod: &Value) -> impl Iterator<Item = PodClaim<'_>> {
    let of_pod = text(pod, &["metadata", "name"]);
    pod["spec"]["volumes"].as_array().into_iter().flatten().filter_map(move |volume| {
        let named = text(volume, &["persistentVolumeClaim", "claimName"]);
        if !named.is_empty() {
            return Some(PodClaim { name: named.to_owned(), volume, ephemeral: false });
        }
        volume.get("ephemeral")?;
        let name = format!("{of_pod}-{}", text(volume, &["name"]));
        Some(PodClaim { name, volume, ephemeral: true })
    })
}

/// Whether a claim was made for this pod.
pub fn is_made_for(claim: &Value, pod: &Value) -> bool {
    let owners = claim["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let mut owners = owners.filter(|owner| owner["controller"] == true);
    owners.any(|owner| text(owner, &["uid"]) == text(pod, &["metadata", "uid"]))
}

/// What is wrong with a claim that is in the place of a pod's own.
pub fn not_made_for(claim: &Value, pod: &Value) -> String {
    let place = |object| {
        format!("{}/{}", text(object, &["metadata", "namespace"]), text(object, &["metadata", "name"]))
    };
    format!("PVC {} was not created for pod {} (pod is not owner)", place(claim), place(pod))
}

/// The claim to make for an `ephemeral` volume: it goes with its pod.
pub fn new_claim(claim: &PodClaim<'_>, pod: &Value) -> Value {
    let template = &claim.volume["ephemeral"]["volumeClaimTemplate"];
    let mut made = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim.name, "namespace": pod["metadata"]["namespace"],
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": template["spec"],
    });
    for key in ["labels", "annotations"] {
        if let Some(wanted) = template["metadata"].get(key) {
            made["metadata"][key] = wanted.clone();
        }
    }
    made
}
