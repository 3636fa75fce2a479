//! What a pod refers to: the objects whose names stand in its spec.
//!
//! The authorizer opens these to the pod's node; NodeRestriction refuses mirror pods that have any. The fields are
//! those of upstream's `podutil` visitors.

use std::collections::BTreeSet;

use serde_json::Value;

/// Whether this pod is the image of a static pod.
pub(crate) fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some()
}

pub(crate) fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    object.get(field).and_then(Value::as_array).into_iter().flatten()
}

pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| items(&pod["spec"], list))
}

fn insert(names: &mut BTreeSet<String>, name: &Value) {
    if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
        names.insert(name.to_owned());
    }
}

fn of_environment(names: &mut BTreeSet<String>, pod: &Value, from: &str, key: &str) {
    for container in containers(pod) {
        items(container, "envFrom").for_each(|source| insert(names, &source[from]["name"]));
        items(container, "env").for_each(|variable| insert(names, &variable["valueFrom"][key]["name"]));
    }
}

/// Names of Secrets.
pub(crate) fn secrets(pod: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    items(&pod["spec"], "imagePullSecrets").for_each(|reference| insert(&mut names, &reference["name"]));
    of_environment(&mut names, pod, "secretRef", "secretKeyRef");
    for volume in items(&pod["spec"], "volumes") {
        insert(&mut names, &volume["secret"]["secretName"]);
        insert(&mut names, &volume["azureFile"]["secretName"]);
        insert(&mut names, &volume["csi"]["nodePublishSecretRef"]["name"]);
        for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            insert(&mut names, &volume[source]["secretRef"]["name"]);
        }
        items(&volume["projected"], "sources")
            .for_each(|source| insert(&mut names, &source["secret"]["name"]));
    }
    names
}

/// Names of ConfigMaps.
pub(crate) fn config_maps(pod: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    of_environment(&mut names, pod, "configMapRef", "configMapKeyRef");
    for volume in items(&pod["spec"], "volumes") {
        insert(&mut names, &volume["configMap"]["name"]);
        items(&volume["projected"], "sources")
            .for_each(|source| insert(&mut names, &source["configMap"]["name"]));
    }
    names
}

/// Names of PersistentVolumeClaims, those of ephemeral volumes included.
pub(crate) fn claims(pod: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for volume in items(&pod["spec"], "volumes") {
        insert(&mut names, &volume["persistentVolumeClaim"]["claimName"]);
        if volume.get("ephemeral").is_some() {
            names.insert(format!(
                "{}-{}",
                pod["metadata"]["name"].as_str().unwrap_or_default(),
                volume["name"].as_str().unwrap_or_default()
            ));
        }
    }
    names
}

/// Names of ResourceClaims, given or generated.
pub(crate) fn resource_claims(pod: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    items(&pod["spec"], "resourceClaims").for_each(|claim| insert(&mut names, &claim["resourceClaimName"]));
    items(&pod["status"], "resourceClaimStatuses")
        .for_each(|claim| insert(&mut names, &claim["resourceClaimName"]));
    insert(&mut names, &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    names
}

/// The first kind of API object the pod refers to, as NodeRestriction names it; mirror pods may have none.
pub(crate) fn any_object(pod: &Value) -> Option<&'static str> {
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    if !secrets(pod).is_empty() {
        return Some("secrets");
    }
    if !config_maps(pod).is_empty() {
        return Some("configmaps");
    }
    if items(&pod["spec"], "resourceClaims").next().is_some() {
        return Some("resourceclaims");
    }
    items(&pod["spec"], "volumes").find_map(of_volume)
}

fn of_volume(volume: &Value) -> Option<&'static str> {
    let kinds = [
        ("configMap", "configmaps (via configmap volumes)"),
        ("secret", "secrets (via secret volumes)"),
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    let projected = [
        ("configMap", "configmaps (via projected volumes)"),
        ("secret", "secrets (via projected volumes)"),
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let named = |object: &Value, kinds: &[(&str, &'static str)]| {
        kinds.iter().find(|(field, _)| object.get(*field).is_some()).map(|(_, what)| *what)
    };
    named(volume, &kinds)
        .or_else(|| items(&volume["projected"], "sources").find_map(|source| named(source, &projected)))
}
