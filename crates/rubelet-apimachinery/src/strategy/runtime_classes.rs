//! RuntimeClasses: the handler is a name and stays what it is.

use k8s_openapi::api::core::v1::Toleration;
use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::{names, validate_tolerations};
use serde_json::Value;

use super::rules::Rules;
use super::value::{at, entries, has, text};
use super::{Change, checks};

/// The rules of RuntimeClasses.
pub(crate) struct RuntimeClasses;

impl Rules for RuntimeClasses {
    fn overwrites(&self) -> bool {
        false
    }

    fn created_by_update(&self) -> bool {
        true
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let path = Path::new("handler");
        match text(new, &["handler"]) {
            "" => errors.required(&path, ""),
            handler => errors.invalid_each(&path, handler, names::dns_label(handler)),
        }
        for (name, quantity) in entries(new, &["overhead", "podFixed"]) {
            let path = Path::new("overhead").child("podFixed").key(name);
            checks::qualified(errors, &path, name);
            checks::quantity(errors, &path, quantity);
        }
        let scheduling = Path::new("scheduling");
        checks::labels(errors, &scheduling.child("nodeSelector"), at(new, &["scheduling", "nodeSelector"]));
        if has(new, &["scheduling", "tolerations"]) {
            let tolerations = at(new, &["scheduling", "tolerations"]);
            if let Ok(tolerations) = rubelet_core::json::from_value::<Vec<Toleration>>(tolerations) {
                validate_tolerations(errors, &tolerations, &scheduling.child("tolerations"));
            }
        }
        if let Some(old) = old {
            checks::immutable(errors, &path, &new["handler"], &old["handler"]);
        }
    }
}
