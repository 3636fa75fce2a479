//! The path `ephemeralcontainers`: containers for debugging are added to a pod, and never change or go.

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::validate_metadata_and_spec;
use serde_json::Value;

use super::super::{Change, Warnings};
use super::{
    compare, count_generation, is_mirror, keep, keep_metadata, name_of, normal, read, refuse, set, write,
    written,
};
use crate::status::ApiError;

/// An update through that path; everything else of the pod stays.
pub(super) fn update(change: &Change<'_>, new: &mut Value, old: &Value) -> Result<Warnings, ApiError> {
    let added = new["spec"].get("ephemeralContainers").cloned().unwrap_or_default();
    keep(new, old, "spec");
    keep(new, old, "status");
    keep_metadata(new, old);
    set(&mut new["spec"], "ephemeralContainers", added);
    let old: Pod = read(old)?;
    let mut pod: Pod = read(new)?;
    normal::apply(&mut pod);
    count_generation(&mut pod, &old);
    let mut errors = Errors(validate_metadata_and_spec(&pod));
    if is_mirror(&old) {
        errors.0.clear();
        errors.forbidden(&Path::new(super::WHOLE), "static pods do not support ephemeral containers");
    } else {
        only_additions(&mut errors, containers(&pod), containers(&old))?;
    }
    refuse(change, name_of(&pod), errors.0)?;
    write(new, &pod)?;
    Ok(Warnings::new())
}

fn containers(pod: &Pod) -> &[EphemeralContainer] {
    super::spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

fn only_additions(
    errors: &mut Errors,
    new: &[EphemeralContainer],
    old: &[EphemeralContainer],
) -> Result<(), ApiError> {
    let path = Path::new("spec").child("ephemeralContainers");
    for container in old {
        let name = &container.name;
        // Of two of one name the last counts, as upstream's map has it.
        match new.iter().rfind(|new| new.name == *name) {
            None => {
                let rule = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.forbidden(&path, &rule);
            }
            Some(new) if new != container => {
                let difference = compare::difference(name, &written(container)?, &written(new)?);
                let rule = format!("existing ephemeral containers {name:?} may not be changed\n{difference}");
                errors.forbidden(&path, &rule);
            }
            Some(_) => {}
        }
    }
    Ok(())
}
