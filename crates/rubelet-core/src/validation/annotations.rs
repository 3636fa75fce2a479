//! Annotations of pods that mean something to the API: mirror pods, deletion cost, and the profiles that had no field
//! once.
//!
//! Owns upstream's `ValidatePodSpecificAnnotations` and the rules that an annotation and the field in its place agree.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, PodSpec, SeccompProfile};

use super::field::{Errors, Path};
use super::{text, volumes};
use crate::containers::ephemeral_as_container;
use crate::static_pod::CONFIG_MIRROR_ANNOTATION;

/// Which pod of a set is deleted first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The seccomp profile of a whole pod, before it had a field.
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
/// Before the name of a container: its seccomp profile, before it had a field.
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Before the name of a container: its AppArmor profile, before it had a field.
pub const APPARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The annotations by themselves.
pub(super) fn validate(errors: &mut Errors, pod: &Pod, spec: &PodSpec, path: &Path) {
    let Some(annotations) = &pod.metadata.annotations else { return };
    if let Some(hash) = annotations.get(CONFIG_MIRROR_ANNOTATION)
        && text(&spec.node_name).is_empty()
    {
        let rule = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(CONFIG_MIRROR_ANNOTATION), hash, rule);
    }
    if let Some(cost) = annotations.get(DELETION_COST)
        && !is_deletion_cost(cost)
    {
        errors.invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer");
    }
    for (key, profile) in annotations {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp_profile(errors, profile, &path.child(key));
        } else if let Some(container) = key.strip_prefix(APPARMOR_CONTAINER) {
            let path = path.key(key);
            if !all_containers(spec).any(|(_, _, name)| name == container) {
                errors.invalid(&path, container, "container not found");
            }
            let known = matches!(profile.as_str(), "" | "runtime/default" | "unconfined");
            if !known && !profile.starts_with("localhost/") {
                errors.invalid(&path, profile, format!("invalid AppArmor profile name: {profile:?}"));
            }
        }
    }
}

/// A number as Go prints it: no plus sign, no zeros in front.
fn is_deletion_cost(text: &str) -> bool {
    let padded = text.len() > 1 && (text.starts_with('0') || text.starts_with("-0"));
    !text.starts_with('+') && !padded && text.parse::<i32>().is_ok()
}

fn seccomp_profile(errors: &mut Errors, profile: &str, path: &Path) {
    match profile.strip_prefix("localhost/") {
        Some(file) => volumes::profile_path(errors, file, path),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => errors.invalid(path, profile, "must be a valid seccomp profile"),
    }
}

/// On create, an annotation and the field that replaced it have to say the same.
pub(super) fn agree_with_fields(errors: &mut Errors, pod: &Pod, spec: &PodSpec, path: &Path) {
    let Some(annotations) = &pod.metadata.annotations else { return };
    let of_pod = spec.security_context.as_ref();
    if let (Some(annotation), Some(profile)) =
        (annotations.get(SECCOMP_POD), of_pod.and_then(|context| context.seccomp_profile.as_ref()))
    {
        seccomp_agrees(errors, annotation, profile, &path.child("securityContext").child("seccompProfile"));
    }
    for (container, path) in containers_with_paths(spec, path) {
        let own = container.security_context.as_ref();
        let path = path.child("securityContext");
        if let (Some(annotation), Some(profile)) = (
            annotations.get(&format!("{SECCOMP_CONTAINER}{}", container.name)),
            own.and_then(|context| context.seccomp_profile.as_ref()),
        ) {
            seccomp_agrees(errors, annotation, profile, &path.child("seccompProfile"));
        }
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return;
    }
    let of_pod = of_pod.and_then(|context| context.app_armor_profile.as_ref());
    for (container, path) in containers_with_paths(spec, path) {
        let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
        if let (Some(annotation), Some(profile)) =
            (annotations.get(&format!("{APPARMOR_CONTAINER}{}", container.name)), own.or(of_pod))
        {
            let path = path.child("securityContext").child("appArmorProfile");
            apparmor_agrees(errors, annotation, profile, &path);
        }
    }
}

fn seccomp_agrees(errors: &mut Errors, annotation: &str, profile: &SeccompProfile, path: &Path) {
    let kind = "seccomp type in annotation and field must match";
    let same_kind = match profile.type_.as_str() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => matches!(annotation, "runtime/default" | "docker/default"),
        "Localhost" => match annotation.strip_prefix("localhost/") {
            Some(file) if profile.localhost_profile.as_deref() != Some(file) => {
                let rule = "seccomp profile in annotation and field must match";
                return errors.forbidden(&path.child("localhostProfile"), rule);
            }
            file => file.is_some(),
        },
        _ => true,
    };
    if !same_kind {
        errors.forbidden(&path.child("type"), kind);
    }
}

fn apparmor_agrees(errors: &mut Errors, annotation: &str, profile: &AppArmorProfile, path: &Path) {
    let same_kind = match profile.type_.as_str() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => annotation == "runtime/default",
        "Localhost" => match annotation.strip_prefix("localhost/") {
            Some(name) if profile.localhost_profile.as_deref() != Some(name) => {
                let rule = "apparmor profile in annotation and field must match";
                return errors.forbidden(&path.child("localhostProfile"), rule);
            }
            name => name.is_some(),
        },
        _ => true,
    };
    if !same_kind {
        errors.forbidden(&path.child("type"), "apparmor type in annotation and field must match");
    }
}

/// List, index and name of every container.
fn all_containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, usize, &str)> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let ephemeral = spec.ephemeral_containers.iter().flatten().enumerate();
    init.map(|(index, c)| ("initContainers", index, c.name.as_str()))
        .chain(spec.containers.iter().enumerate().map(|(index, c)| ("containers", index, c.name.as_str())))
        .chain(ephemeral.map(|(index, c)| ("ephemeralContainers", index, c.name.as_str())))
}

/// Every container with its path: init containers, containers, ephemeral containers.
pub(super) fn containers_with_paths(spec: &PodSpec, path: &Path) -> Vec<(Container, Path)> {
    let by_name: BTreeMap<&str, &[Container]> = BTreeMap::from([
        ("containers", spec.containers.as_slice()),
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
    ]);
    all_containers(spec)
        .filter_map(|(list, index, _)| {
            let path = path.child(list).index(index);
            let container = match by_name.get(list) {
                Some(containers) => containers.get(index)?.clone(),
                None => ephemeral_as_container(spec.ephemeral_containers.as_ref()?.get(index)?),
            };
            Some((container, path))
        })
        .collect()
}
