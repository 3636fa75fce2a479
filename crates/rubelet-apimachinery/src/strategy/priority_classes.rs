//! PriorityClasses: how large values may be, the two that belong to the system, and that there is one default.

use rubelet_core::validation::field::{Errors, Path};
use serde_json::{Value, json};

use super::rules::Rules;
use super::value::{set_default, text};
use super::{Change, checks, meta};
use crate::status::{self, ApiError};

/// Larger values are the system's.
const HIGHEST: i64 = 1_000_000_000;
/// The classes of the system and their values.
pub(crate) const SYSTEM: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// The rules of PriorityClasses.
pub(crate) struct PriorityClasses;

impl Rules for PriorityClasses {
    fn defaults(&self, class: &mut Value) {
        set_default(class, &["preemptionPolicy"], "PreemptLowerPriority");
        set_default(class, &["value"], 0);
    }

    fn prepare(&self, _: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        meta::count_generation(new, old, false);
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let name = text(new, &["metadata", "name"]);
        let value = new["value"].as_i64().unwrap_or(0);
        if name.starts_with("system-") {
            let broken = match SYSTEM.iter().find(|(system, _)| *system == name) {
                None => Some(format!("{name} is not a known system priority class")),
                Some((_, fixed)) if *fixed != value => {
                    Some(format!("value of {name} PriorityClass must be {fixed}"))
                }
                Some(_) if new["globalDefault"] == true => {
                    Some(format!("globalDefault of {name} PriorityClass must be false"))
                }
                Some(_) => None,
            };
            if let Some(broken) = broken {
                let rule = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {broken}"
                );
                errors.forbidden(&Path::new("metadata").child("name"), &rule);
            }
        } else if value > HIGHEST {
            let rule = format!("maximum allowed value of a user defined priority is {HIGHEST}");
            errors.forbidden(&Path::new("value"), &rule);
        }
        let policy = new["preemptionPolicy"].as_str();
        errors.optional_one_of(&Path::new("preemptionPolicy"), policy, &["Never", "PreemptLowerPriority"]);
        let Some(old) = old else { return };
        if json!(value) != json!(old["value"].as_i64().unwrap_or(0)) {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        let field = "preemptionPolicy";
        checks::immutable(errors, &Path::new(field), &new[field], &old[field]);
    }

    fn approve(&self, change: &Change<'_>, new: &Value, _: Option<&Value>) -> Result<(), ApiError> {
        if new["globalDefault"] != true {
            return Ok(());
        }
        let name = text(new, &["metadata", "name"]);
        let classes = change.lookup.list(change.resource, "");
        let other = classes
            .iter()
            .filter(|class| class["globalDefault"] == true)
            .map(|class| text(class, &["metadata", "name"]))
            .find(|other| *other != name);
        match other {
            None => Ok(()),
            Some(other) => {
                let why =
                    format!("PriorityClass {other} is already marked as default. Only one default can exist");
                Err(status::forbidden(change.resource, name, &why))
            }
        }
    }
}
