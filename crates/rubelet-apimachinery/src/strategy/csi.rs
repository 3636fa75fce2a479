//! What CSI drivers and their nodes say of themselves: CSIDrivers, CSINodes, VolumeAttachments.

use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::names;
use serde_json::{Value, json};

use super::rules::Rules;
use super::value::{at, copy, entries, has, items, set, set_default, text, texts};
use super::{Change, checks, meta};

/// The rules of CSIDrivers.
pub(crate) struct Drivers;

impl Rules for Drivers {
    fn overwrites(&self) -> bool {
        false
    }

    fn defaults(&self, driver: &mut Value) {
        for (field, value) in [
            ("attachRequired", true),
            ("podInfoOnMount", false),
            ("storageCapacity", false),
            ("requiresRepublish", false),
            ("seLinuxMount", false),
        ] {
            set_default(driver, &["spec", field], value);
        }
        set_default(driver, &["spec", "fsGroupPolicy"], "ReadWriteOnceWithFSType");
        if items(driver, &["spec", "volumeLifecycleModes"]).is_empty() {
            set(driver, &["spec", "volumeLifecycleModes"], json!(["Persistent"]));
        }
    }

    fn prepare(&self, _: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        if let Some(old) = old {
            let changed = new["spec"] != old["spec"];
            meta::count_generation(new, Some(old), changed);
        }
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &new["spec"];
        let known = ["File", "None", "ReadWriteOnceWithFSType"];
        errors.optional_one_of(&path.child("fsGroupPolicy"), spec["fsGroupPolicy"].as_str(), &known);
        for mode in texts(spec, &["volumeLifecycleModes"]) {
            let path = path.child("volumeLifecycleModes");
            errors.optional_one_of(&path, Some(mode), &["Ephemeral", "Persistent"]);
        }
        let mut audiences: Vec<&str> = Vec::new();
        for (index, request) in items(spec, &["tokenRequests"]).iter().enumerate() {
            let path = path.child("tokenRequests").index(index);
            let audience = text(request, &["audience"]);
            if audiences.contains(&audience) {
                errors.duplicate(&path.child("audience"), audience);
            }
            audiences.push(audience);
            let Some(seconds) = request["expirationSeconds"].as_i64() else { continue };
            let path = path.child("expirationSeconds");
            if seconds < 600 {
                errors.invalid(&path, &seconds, "may not specify a duration less than 10 minutes");
            } else if seconds > 1 << 32 {
                errors.invalid(&path, &seconds, "may not specify a duration larger than 2^32 seconds");
            }
        }
        if let Some(seconds) =
            spec["nodeAllocatableUpdatePeriodSeconds"].as_i64().filter(|seconds| *seconds < 10)
        {
            let path = path.child("nodeAllocatableUpdatePeriodSeconds");
            errors.invalid(&path, &seconds, "must be greater than or equal to 10 seconds");
        }
        let Some(old) = old else { return };
        for (field, said) in
            [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
        {
            checks::immutable(errors, &path.child(said), &spec[field], at(old, &["spec", field]));
        }
    }
}

/// The rules of CSINodes.
pub(crate) struct Nodes;

impl Rules for Nodes {
    fn overwrites(&self) -> bool {
        false
    }

    fn prepare(&self, _: &Change<'_>, new: &mut Value, _: Option<&Value>) {
        if at(new, &["spec", "drivers"]).as_array().is_none() {
            // A required list: it is shown even when empty.
            set(new, &["spec", "drivers"], json!([]));
        }
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let mut seen: Vec<&str> = Vec::new();
        for (index, driver) in items(new, &["spec", "drivers"]).iter().enumerate() {
            let path = Path::new("spec").child("drivers").index(index);
            let name = text(driver, &["name"]);
            checks::csi_driver_name(errors, &path.child("name"), name);
            if seen.contains(&name) {
                errors.duplicate(&path.child("name"), name);
            }
            seen.push(name);
            match text(driver, &["nodeID"]) {
                "" => errors.required(&path.child("nodeID"), ""),
                id if id.len() > 256 => {
                    errors.invalid(&path.child("nodeID"), id, "must be 256 characters or less");
                }
                _ => {}
            }
            let count = at(driver, &["allocatable", "count"]).as_i64().unwrap_or(0);
            if count < 0 {
                let path = path.child("allocatable").child("count");
                errors.invalid(&path, &count, "must be greater than or equal to 0");
            }
            let keys: Vec<&str> = texts(driver, &["topologyKeys"]).collect();
            for (index, key) in keys.iter().enumerate() {
                if key.is_empty() {
                    errors.required(&path, "");
                }
                if keys.iter().take(index).any(|earlier| earlier == key) {
                    errors.duplicate(&path, key);
                }
                checks::qualified(errors, &path, key);
            }
        }
        let Some(old) = old else { return };
        for driver in items(new, &["spec", "drivers"]) {
            let before =
                items(old, &["spec", "drivers"]).iter().find(|other| other["name"] == driver["name"]);
            if let Some(before) = before {
                // How many volumes fit may change while a driver runs.
                checks::immutable_but(errors, &Path::new("CSINodeDriver"), driver, before, "allocatable");
            }
        }
    }
}

/// The rules of VolumeAttachments.
pub(crate) struct Attachments;

impl Rules for Attachments {
    fn overwrites(&self) -> bool {
        false
    }

    fn prepare(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        match old {
            None => set(new, &["status"], json!({"attached": false})),
            Some(old) if change.subresource == "status" => {
                copy(new, old, &["spec"]);
                meta::keep_for_status(new, old);
                set_default(new, &["status", "attached"], false);
            }
            Some(old) => copy(new, old, &["status"]),
        }
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &new["spec"];
        checks::csi_driver_name(errors, &path.child("attacher"), text(spec, &["attacher"]));
        let at_source = path.child("source");
        let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (has(spec, &["source", "inlineVolumeSpec"]), has(spec, &["source", "persistentVolumeName"])) {
            (false, false) => errors.required(&at_source, one),
            (true, true) => errors.forbidden(&at_source, one),
            (false, true) => {
                let path = at_source.child("persistentVolumeName");
                match text(spec, &["source", "persistentVolumeName"]) {
                    "" => errors.required(&path, "must specify non empty persistentVolumeName"),
                    name => errors.invalid_each(&path, name, names::dns_subdomain(name)),
                }
            }
            (true, false) => {}
        }
        let node = text(spec, &["nodeName"]);
        errors.invalid_each(&path.child("nodeName"), node, names::dns_subdomain(node));
        let status = Path::new("status");
        let size: usize = entries(new, &["status", "attachmentMetadata"])
            .map(|(key, value)| key.len() + value.as_str().unwrap_or_default().len())
            .sum();
        if size > 256 * 1024 {
            errors.too_long(&status.child("attachmentMetadata"), 256 * 1024);
        }
        for field in ["attachError", "detachError"] {
            if text(new, &["status", field, "message"]).len() > 1024 {
                errors.too_long(&status.child(field).child("message"), 256 * 1024);
            }
        }
        if let Some(old) = old {
            checks::immutable(errors, &path, spec, &old["spec"]);
        }
    }
}
