//! What is allowed in a new pod but not advisable (upstream `GetWarningsForPod`), as Warning headers say it.
//!
//! Never refuses anything. Containers and the paths of volumes have a file each.

mod containers;
mod paths;

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, PodStatus, Volume, WeightedPodAffinityTerm,
};
use rubelet_core::validation::names;

use super::super::Warnings;

/// Labels of nodes that have other names now.
const OLD_NODE_LABELS: [(&str, &str); 8] = [
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
];

/// Annotations that do nothing any more.
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// All warnings about a new pod, in upstream's order.
pub(super) fn of_new(pod: &Pod) -> Warnings {
    let mut warnings = Warnings::new();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let broken = names::dns_label(name);
    if !broken.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
             recommended: [{}]",
            broken.join(" ")
        ));
    }
    let spec = super::spec(pod);
    nodes(spec, &mut warnings);
    annotations(pod, &mut warnings);
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        if let Some((field, why)) = old_volume(volume) {
            warnings.push(format!("spec.volumes[{index}].{field}: {why}"));
        }
    }
    paths::overlaps(spec, &mut warnings);
    names_and_addresses(spec, &mut warnings);
    for resource in ["memory", "ephemeral-storage"] {
        containers::fraction(spec.overhead.as_ref(), resource, "spec.overhead", &mut warnings);
    }
    containers::all(pod, spec, &mut warnings);
    affinities(spec, &mut warnings);
    let nameservers = spec.dns_config.iter().flat_map(|dns| dns.nameservers.iter().flatten());
    for (index, address) in nameservers.enumerate() {
        address_form(address, &format!("spec.dnsConfig.nameservers[{index}]"), &mut warnings);
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        address_form(&alias.ip, &format!("spec.hostAliases[{index}].ip"), &mut warnings);
    }
    warnings
}

/// Addresses of a status that are written in an unusual way.
pub(super) fn of_status(status: &PodStatus) -> Warnings {
    let mut warnings = Warnings::new();
    for (index, address) in status.pod_ips.iter().flatten().enumerate() {
        address_form(&address.ip, &format!("status.podIPs[{index}].ip"), &mut warnings);
    }
    for (index, address) in status.host_ips.iter().flatten().enumerate() {
        address_form(&address.ip, &format!("status.hostIPs[{index}].ip"), &mut warnings);
    }
    warnings
}

fn old_label(key: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(old, _)| *old == key).map(|(_, why)| *why)
}

fn nodes(spec: &PodSpec, warnings: &mut Warnings) {
    for key in spec.node_selector.iter().flatten().map(|(key, _)| key) {
        if let Some(why) = old_label(key) {
            warnings.push(format!("spec.nodeSelector[{key}]: {why}"));
        }
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let path = "spec.affinity.nodeAffinity";
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    for (index, term) in required.iter().flat_map(|required| &required.node_selector_terms).enumerate() {
        let path =
            format!("{path}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{index}]");
        node_term(term, false, &path, warnings);
    }
    let preferred = affinity
        .into_iter()
        .flat_map(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    for (index, term) in preferred.enumerate() {
        let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}].preference");
        node_term(&term.preference, true, &path, warnings);
    }
    for (index, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let path = format!("spec.topologySpreadConstraints[{index}]");
        let key = &constraint.topology_key;
        if let Some(why) = old_label(key) {
            warnings.push(format!("{path}.topologyKey: {key} is {why}"));
        }
        if constraint.label_selector.is_none() {
            warnings.push(format!("{path}.labelSelector: {NULL_SELECTOR}"));
        }
    }
}

fn node_term(term: &NodeSelectorTerm, values: bool, path: &str, warnings: &mut Warnings) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let key = &requirement.key;
        if let Some(why) = old_label(key) {
            warnings.push(format!("{path}.key: {key} is {why}"));
        }
        for (index, value) in requirement.values.iter().flatten().enumerate().filter(|_| values) {
            for rule in names::label_value(value) {
                warnings.push(format!("{path}.values[{index}]: {value} is invalid, {rule}"));
            }
        }
    }
}

fn annotations(pod: &Pod, warnings: &mut Warnings) {
    let Some(annotations) = &pod.metadata.annotations else { return };
    for (key, why) in OLD_ANNOTATIONS.iter().filter(|(key, _)| annotations.contains_key(*key)) {
        warnings.push(format!("metadata.annotations[{key}]: {why}"));
    }
}

fn old_volume(volume: &Volume) -> Option<(&'static str, &'static str)> {
    let old = [
        (
            volume.photon_persistent_disk.is_some(),
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        (volume.git_repo.is_some(), "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
        (volume.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        (volume.flocker.is_some(), "flocker", "deprecated in v1.22, non-functional in v1.25+"),
        (volume.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        (volume.quobyte.is_some(), "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        (volume.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        (volume.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        (volume.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    old.into_iter().find(|(used, ..)| *used).map(|(_, field, why)| (field, why))
}

/// Aliases and pull secrets that stand there twice, or without a name.
fn names_and_addresses(spec: &PodSpec, warnings: &mut Warnings) {
    let mut seen = BTreeSet::new();
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        if !seen.insert(&alias.ip) {
            warnings.push(format!("spec.hostAliases[{index}].ip: duplicate ip {:?}", alias.ip));
        }
    }
    let secrets = spec.image_pull_secrets.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (index, secret) in secrets.iter().enumerate() {
        if !seen.insert(&secret.name) {
            warnings.push(format!("spec.imagePullSecrets[{index}].name: duplicate name {:?}", secret.name));
        }
    }
    for (index, _) in secrets.iter().enumerate().filter(|(_, secret)| secret.name.is_empty()) {
        warnings.push(format!("spec.imagePullSecrets[{index}].name: invalid empty name \"\""));
    }
}

fn affinities(spec: &PodSpec, warnings: &mut Warnings) {
    let Some(affinity) = &spec.affinity else { return };
    if let Some(pods) = &affinity.pod_affinity {
        pod_terms(
            pods.required_during_scheduling_ignored_during_execution.as_deref(),
            pods.preferred_during_scheduling_ignored_during_execution.as_deref(),
            "spec.affinity.podAffinity",
            warnings,
        );
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        pod_terms(
            pods.required_during_scheduling_ignored_during_execution.as_deref(),
            pods.preferred_during_scheduling_ignored_during_execution.as_deref(),
            "spec.affinity.podAntiAffinity",
            warnings,
        );
    }
}

fn pod_terms(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    path: &str,
    warnings: &mut Warnings,
) {
    for (index, _) in
        required.unwrap_or_default().iter().enumerate().filter(|(_, t)| t.label_selector.is_none())
    {
        warnings.push(format!(
            "{path}.requiredDuringSchedulingIgnoredDuringExecution[{index}].labelSelector: {NULL_SELECTOR}"
        ));
    }
    for (index, term) in preferred.unwrap_or_default().iter().enumerate() {
        if term.pod_affinity_term.label_selector.is_none() {
            warnings.push(format!(
                "{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}].podAffinityTerm.labelSelector: \
                 {NULL_SELECTOR}"
            ));
        }
    }
}

/// IPv6 addresses have one form that all tools agree on (RFC 5952).
fn address_form(address: &str, path: &str, warnings: &mut Warnings) {
    if let Ok(IpAddr::V6(parsed)) = address.parse::<IpAddr>()
        && parsed.to_string() != address
    {
        warnings.push(format!(
            "{path}: IPv6 address {address:?} should be in RFC 5952 canonical format ({:?})",
            parsed.to_string()
        ));
    }
}
