//! What an update of a pod itself may change (upstream `ValidatePodUpdate`): images, the deadline, more tolerations, and
//! where a gated pod may go.
//!
//! The other paths below a pod have files of their own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeAffinity, NodeSelectorTerm, Pod, PodSchedulingGate, PodSpec, Toleration,
};
use rubelet_core::validation::field::{Errors, Json, Path};
use rubelet_core::validation::{APPARMOR_CONTAINER, validate_metadata_and_spec};
use serde_json::Value;

use super::super::{Change, Warnings};
use super::{
    compare, count_generation, keep, name_of, normal, priority, read, refuse, text, tolerations, write,
    written,
};
use crate::status::ApiError;

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                          `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
                          additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set \
                          to 1 if it was previously negative)";

/// An update through the pod's own path.
pub(super) fn update(change: &Change<'_>, new: &mut Value, old: &Value) -> Result<Warnings, ApiError> {
    keep(new, old, "status");
    let old: Pod = read(old)?;
    let mut pod: Pod = read(new)?;
    normal::apply(&mut pod);
    priority::admit_update(&mut pod, &old);
    tolerations::admit(&mut pod);
    count_generation(&mut pod, &old);
    let mut errors = Errors(validate_metadata_and_spec(&pod));
    annotations(&mut errors, &pod, &old);
    validate(&mut errors, super::spec(&pod), super::spec(&old))?;
    refuse(change, name_of(&pod), errors.0)?;
    write(new, &pod)?;
    Ok(Warnings::new())
}

/// Annotations that stand for what cannot change (upstream `ValidatePodSpecificAnnotationUpdates`).
pub(super) fn annotations(errors: &mut Errors, new: &Pod, old: &Pod) {
    let path = Path::new("metadata").child("annotations");
    let none = BTreeMap::new();
    let new = new.metadata.annotations.as_ref().unwrap_or(&none);
    let old = old.metadata.annotations.as_ref().unwrap_or(&none);
    let mirror = rubelet_core::static_pod::CONFIG_MIRROR_ANNOTATION;
    let what = |key: &str| {
        if key.starts_with(APPARMOR_CONTAINER) {
            Some("AppArmor annotations")
        } else if key == mirror {
            Some("mirror pod annotation")
        } else {
            None
        }
    };
    for (key, _) in old.iter().filter(|(key, value)| new.get(*key) != Some(value)) {
        if let Some(what) = what(key) {
            errors.forbidden(&path.key(key), &format!("may not remove or update {what}"));
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        if let Some(what) = what(key) {
            errors.forbidden(&path.key(key), &format!("may not add {what}"));
        }
    }
}

/// What may change, and whether anything else has. Stops where the rest cannot be compared.
fn validate(errors: &mut Errors, new: &PodSpec, old: &PodSpec) -> Result<(), ApiError> {
    let path = Path::new("spec");
    let (new_init, old_init) = (init_containers(new), init_containers(old));
    if !images(errors, &new.containers, &old.containers, &path.child("containers"))
        || !images(errors, new_init, old_init, &path.child("initContainers"))
        || !deadline(errors, new, old, &path.child("activeDeadlineSeconds"))
    {
        return Ok(());
    }
    only_more_tolerations(errors, new, old, &path.child("tolerations"));
    only_fewer_gates(errors, gates(new), gates(old), &path.child("schedulingGates"));
    if compare::same_specs(new, old) {
        return Ok(());
    }
    let mut rest = new.clone();
    for (container, old) in rest.containers.iter_mut().zip(&old.containers) {
        container.image.clone_from(&old.image);
    }
    for (container, old) in rest.init_containers.iter_mut().flatten().zip(old_init) {
        container.image.clone_from(&old.image);
    }
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.scheduling_gates.clone_from(&old.scheduling_gates);
    rest.tolerations.clone_from(&old.tolerations);
    if !gates(old).is_empty() {
        narrow_gated(errors, &mut rest, old, &path);
    }
    if !compare::same_specs(&rest, old) {
        let difference = compare::difference("spec", &written(old)?, &written(&rest)?);
        errors.forbidden(&path, &format!("{MAY_CHANGE}\n{difference}"));
    }
    Ok(())
}

fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

fn gates(spec: &PodSpec) -> &[PodSchedulingGate] {
    spec.scheduling_gates.as_deref().unwrap_or_default()
}

/// Whether the lists are of the same length, and the rest can be looked at.
fn images(errors: &mut Errors, new: &[Container], old: &[Container], path: &Path) -> bool {
    if new.len() != old.len() {
        errors.forbidden(path, "pod updates may not add or remove containers");
        return false;
    }
    for (index, container) in new.iter().enumerate() {
        let image = text(&container.image);
        let path = path.index(index).child("image");
        errors.required_text(&path, image);
        if image.trim() != image {
            errors.invalid(&path, image, "must not have leading or trailing whitespace");
        }
    }
    true
}

/// A deadline may be set once and brought forward afterwards. Whether the rest can be looked at.
fn deadline(errors: &mut Errors, new: &PodSpec, old: &PodSpec, path: &Path) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(path, &new, format!("must be between 0 and {}, inclusive", i32::MAX));
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, &new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(path, &Json(&()), "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn only_more_tolerations(errors: &mut Errors, new: &PodSpec, old: &PodSpec, path: &Path) {
    let but_for_seconds =
        |toleration: &Toleration| Toleration { toleration_seconds: None, ..toleration.clone() };
    let new: Vec<Toleration> = new.tolerations.iter().flatten().map(but_for_seconds).collect();
    if !old.tolerations.iter().flatten().all(|toleration| new.contains(&but_for_seconds(toleration))) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn only_fewer_gates(errors: &mut Errors, new: &[PodSchedulingGate], old: &[PodSchedulingGate], path: &Path) {
    for (index, gate) in new.iter().enumerate().filter(|(_, gate)| !old.contains(gate)) {
        let rule = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&path.index(index).child("name"), &rule);
    }
}

/// A pod that waits at a gate may be given less choice of nodes, never more. What may change is put back in `rest`.
fn narrow_gated(errors: &mut Errors, rest: &mut PodSpec, old: &PodSpec, path: &Path) {
    let none = BTreeMap::new();
    let selector = rest.node_selector.as_ref().unwrap_or(&none);
    if old.node_selector.iter().flatten().any(|(key, value)| selector.get(key) != Some(value)) {
        let rule = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid(&path.child("nodeSelector"), &Json(selector), rule);
    }
    rest.node_selector.clone_from(&old.node_selector);

    let node_affinity =
        |spec: &PodSpec| spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let (new_affinity, old_affinity) = (node_affinity(rest), node_affinity(old));
    if new_affinity == old_affinity {
        return;
    }
    narrow_affinity(
        errors,
        new_affinity.as_ref(),
        old_affinity.as_ref(),
        &path.child("affinity").child("nodeAffinity"),
    );
    let mut affinity = rest.affinity.take().unwrap_or_default();
    affinity.node_affinity = old_affinity;
    rest.affinity =
        Some(affinity).filter(|affinity| old.affinity.is_some() || *affinity != Affinity::default());
}

fn narrow_affinity(errors: &mut Errors, new: Option<&NodeAffinity>, old: Option<&NodeAffinity>, path: &Path) {
    let terms = |affinity: Option<&NodeAffinity>| {
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        required.map(|required| required.node_selector_terms.clone())
    };
    let (given, old) = (terms(new), terms(old).unwrap_or_default());
    let new = given.as_deref().unwrap_or_default();
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    if !old.is_empty() && old.len() != new.len() {
        let rule = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(&path, &Json(&given), rule);
    }
    for (index, (new, old)) in new.iter().zip(&old).enumerate() {
        if !adds_only(new, old) {
            let rule = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&path.index(index), &Json(new), rule);
        }
    }
}

/// Whether a term has all requirements of the old one at its beginning. An old term without any matches nothing, which
/// requirements would widen.
fn adds_only(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let lists = [
        (new.match_expressions.as_deref(), old.match_expressions.as_deref()),
        (new.match_fields.as_deref(), old.match_fields.as_deref()),
    ]
    .map(|(new, old)| (new.unwrap_or_default(), old.unwrap_or_default()));
    let empty_before = lists.iter().all(|(_, old)| old.is_empty());
    let empty_now = lists.iter().all(|(new, _)| new.is_empty());
    (!empty_before || empty_now) && lists.iter().all(|(new, old)| new.starts_with(old))
}
