//! Kinds that it takes a cluster's controllers to make true: CertificateSigningRequests and PodDisruptionBudgets, which only
//! tests of node agents ask for, and ResourceClaims and ResourceSlices, whose allocation is somebody else's.
//!
//! Who writes what is exact; what is in a certificate request or a device is not looked into.

use k8s_openapi::ByteString;
use rubelet_core::validation::field::{Errors, Json, Path};
use rubelet_core::validation::names;
use serde_json::{Value, json};

use super::rules::Rules;
use super::value::{at, copy, has, items, items_mut, remove, set, set_default, text, texts};
use super::{Change, checks, meta};

/// What a certificate may be used for.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// Conditions that only the approval path sets.
const VERDICTS: [&str; 2] = ["Approved", "Denied"];

/// The rules of CertificateSigningRequests.
pub(crate) struct SigningRequests;

impl Rules for SigningRequests {
    fn name(&self, name: &str) -> Vec<String> {
        checks::path_segment(name)
    }

    fn prepare(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        let Some(old) = old else {
            let user = change.user;
            for (field, value) in [
                ("username", json!(user.name)),
                ("uid", json!(user.uid)),
                ("groups", json!(user.groups)),
                ("extra", json!(user.extra)),
            ] {
                let empty = matches!(&value, Value::String(s) if s.is_empty())
                    || value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(serde_json::Map::is_empty);
                remove(new, &["spec", field]);
                if !empty {
                    set(new, &["spec", field], value);
                }
            }
            return set(new, &["status"], json!({}));
        };
        copy(new, old, &["spec"]);
        match change.subresource {
            "status" => {
                keep_verdicts(new, old);
                stamp_conditions(change, new, old);
            }
            "approval" => {
                stamp_conditions(change, new, old);
                let conditions = new["status"]["conditions"].clone();
                copy(new, old, &["status"]);
                if conditions.is_array() {
                    set(new, &["status", "conditions"], conditions);
                }
            }
            _ => copy(new, old, &["status"]),
        }
    }

    fn validate(&self, change: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        validate_request(new, errors);
        validate_conditions(new, errors);
        let Some(old) = old else { return };
        let path = Path::new("status").child("conditions");
        for kind in ["Approved", "Denied", "Failed"] {
            let (before, after) = (conditions(old, kind), conditions(new, kind));
            let settable = kind == "Failed" || change.subresource == "approval";
            let done = match after.len().cmp(&before.len()) {
                std::cmp::Ordering::Less => "remove",
                std::cmp::Ordering::Greater if !settable => "add",
                std::cmp::Ordering::Equal if !settable && before != after => "modify",
                _ => continue,
            };
            errors.forbidden(&path, &format!("updates may not {done} a condition of type {kind:?}"));
        }
        let certificate = &["status", "certificate"];
        if at(new, certificate) != at(old, certificate) {
            let path = Path::new("status").child("certificate");
            if change.subresource != "status" {
                errors.forbidden(&path, "updates may not set certificate content");
            } else if !text(old, certificate).is_empty() {
                errors.forbidden(&path, "updates may not modify existing certificate content");
            }
        }
    }
}

fn conditions<'a>(request: &'a Value, kind: &str) -> Vec<&'a Value> {
    items(request, &["status", "conditions"]).iter().filter(|condition| condition["type"] == kind).collect()
}

/// A status write leaves verdicts as they are, as long as it does not add or take any.
fn keep_verdicts(new: &mut Value, old: &Value) {
    for kind in VERDICTS {
        let before = conditions(old, kind);
        if before.len() != conditions(new, kind).len() {
            continue;
        }
        let after = items_mut(new, &["status", "conditions"]).iter_mut().filter(|c| c["type"] == kind);
        for (condition, before) in after.zip(before) {
            *condition = before.clone();
        }
    }
}

fn stamp_conditions(change: &Change<'_>, new: &mut Value, old: &Value) {
    let now = meta::time(change.now);
    for condition in items_mut(new, &["status", "conditions"]) {
        set_default(condition, &["lastUpdateTime"], now.clone());
        let since = conditions(old, text(condition, &["type"]))
            .into_iter()
            .find(|before| before["status"] == condition["status"])
            .map(|before| text(before, &["lastTransitionTime"]))
            .filter(|since| !since.is_empty());
        let since = since.unwrap_or(&now).to_owned();
        set_default(condition, &["lastTransitionTime"], since);
    }
}

fn validate_request(new: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = &new["spec"];
    let pem = rubelet_core::json::from_value::<ByteString>(&spec["request"]).unwrap_or_default();
    let begins = |label: &str| pem.0.windows(label.len()).any(|part| part == label.as_bytes());
    if !begins("-----BEGIN CERTIFICATE REQUEST-----") {
        let rule = "PEM block type must be CERTIFICATE REQUEST";
        errors.invalid(&path.child("request"), &Json(&spec["request"]), rule);
    }
    let usages: Vec<&str> = texts(spec, &["usages"]).collect();
    if usages.is_empty() {
        errors.required(&path.child("usages"), "");
    }
    for (index, usage) in usages.iter().enumerate() {
        let path = path.child("usages").index(index);
        errors.optional_one_of(&path, Some(usage), USAGES);
        if usages.iter().take(index).any(|earlier| earlier == usage) {
            errors.duplicate(&path, usage);
        }
    }
    let (path_of_signer, signer) = (path.child("signerName"), text(spec, &["signerName"]));
    match signer.split_once('/') {
        _ if signer.is_empty() => errors.required(&path_of_signer, ""),
        _ if signer == "kubernetes.io/legacy-unknown" => {
            let rule = "the legacy signerName is not allowed via this API version";
            errors.invalid(&path_of_signer, signer, rule);
        }
        Some((domain, name)) if !name.is_empty() && domain.contains('.') => {
            errors.invalid_each(&path_of_signer, signer, names::dns_subdomain(domain));
        }
        _ => {
            let rule = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.invalid(&path_of_signer, signer, rule);
        }
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|seconds| *seconds < 600) {
        let rule = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), &seconds, rule);
    }
}

fn validate_conditions(new: &Value, errors: &mut Errors) {
    let path = Path::new("status").child("conditions");
    let conditions = items(new, &["status", "conditions"]);
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        let kind = text(condition, &["type"]);
        if kind.is_empty() {
            errors.required(&at.child("type"), "");
        }
        let only_true = VERDICTS.contains(&kind) || kind == "Failed";
        let known: &[&str] = if only_true { &["True"] } else { &["False", "True", "Unknown"] };
        errors.one_of(&at.child("status"), condition["status"].as_str(), known);
        let earlier = |kind: &str| conditions.iter().take(index).any(|c| c["type"] == kind);
        if VERDICTS.contains(&kind) && VERDICTS.iter().any(|other| *other != kind && earlier(other)) {
            errors.invalid(&path, kind, "Approved and Denied conditions are mutually exclusive");
        }
        if earlier(kind) {
            errors.duplicate(&at.child("type"), kind);
        }
    }
}

/// The rules of PodDisruptionBudgets.
pub(crate) struct DisruptionBudgets;

impl Rules for DisruptionBudgets {
    fn overwrites(&self) -> bool {
        false
    }

    fn prepare(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        match old {
            None => {
                let none = json!({
                    "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
                });
                set(new, &["status"], none);
            }
            Some(old) if change.subresource == "status" => return copy(new, old, &["spec"]),
            Some(old) => copy(new, old, &["status"]),
        }
        let changed = old.is_some_and(|old| new["spec"] != old["spec"]);
        meta::count_generation(new, old, changed);
    }

    fn validate(&self, change: &Change<'_>, new: &Value, _: Option<&Value>, errors: &mut Errors) {
        if change.subresource == "status" {
            for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
                if let Some(number) = new["status"][field].as_i64().filter(|number| *number < 0) {
                    let path = Path::new("status").child(field);
                    errors.invalid(&path, &number, "must be greater than or equal to 0");
                }
            }
            return;
        }
        let path = Path::new("spec");
        let spec = &new["spec"];
        if has(spec, &["minAvailable"]) && has(spec, &["maxUnavailable"]) {
            errors.invalid(&path, &Json(spec), "minAvailable and maxUnavailable cannot be both set");
        }
        for field in ["minAvailable", "maxUnavailable"] {
            validate_share(&path.child(field), &spec[field], errors);
        }
        checks::label_selector(errors, &path.child("selector"), &spec["selector"]);
        let policy = spec["unhealthyPodEvictionPolicy"].as_str();
        let known = ["AlwaysAllow", "IfHealthyBudget"];
        errors.optional_one_of(&path.child("unhealthyPodEvictionPolicy"), policy, &known);
    }
}

/// A number of pods, or a share of them in percent.
fn validate_share(path: &Path, share: &Value, errors: &mut Errors) {
    if let Some(number) = share.as_i64().filter(|number| *number < 0) {
        errors.invalid(path, &number, "must be greater than or equal to 0");
    }
    let Some(share) = share.as_str() else { return };
    let number = share.strip_suffix('%').filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match number {
        None => errors.invalid(
            path,
            share,
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex \
             used for validation is '[0-9]+%')",
        ),
        Some(number) if number.parse::<u32>().is_ok_and(|percent| percent <= 100) => {}
        Some(_) => errors.invalid(path, share, "must not be greater than 100%"),
    }
}

/// The rules of ResourceClaims.
pub(crate) struct ResourceClaims;

impl Rules for ResourceClaims {
    fn defaults(&self, claim: &mut Value) {
        for request in items_mut(claim, &["spec", "devices", "requests"]) {
            if let Some(exact) = request.get_mut("exactly") {
                default_count(exact);
            }
            items_mut(request, &["firstAvailable"]).iter_mut().for_each(default_count);
        }
    }

    fn prepare(&self, change: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        match old {
            None => set(new, &["status"], json!({})),
            Some(old) if change.subresource == "status" => {
                copy(new, old, &["spec"]);
                meta::keep_for_status(new, old);
            }
            Some(old) => copy(new, old, &["status"]),
        }
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let path = Path::new("spec").child("devices").child("requests");
        let requests = items(new, &["spec", "devices", "requests"]);
        for (index, request) in requests.iter().enumerate() {
            let name = text(request, &["name"]);
            let at = path.index(index).child("name");
            errors.invalid_each(&at, name, names::dns_label(name));
            if requests.iter().take(index).any(|earlier| text(earlier, &["name"]) == name) {
                errors.duplicate(&at, name);
            }
        }
        if let Some(old) = old {
            checks::immutable(errors, &Path::new("spec"), &new["spec"], &old["spec"]);
        }
    }
}

fn default_count(request: &mut Value) {
    set_default(request, &["allocationMode"], "ExactCount");
    if request["allocationMode"] == "ExactCount" && request["count"].as_i64().unwrap_or(0) == 0 {
        set(request, &["count"], 1);
    }
}

/// The rules of ResourceSlices.
pub(crate) struct ResourceSlices;

impl Rules for ResourceSlices {
    fn prepare(&self, _: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        let changed = old.is_some_and(|old| new["spec"] != old["spec"]);
        meta::count_generation(new, old, changed);
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = &new["spec"];
        checks::csi_driver_name(errors, &path.child("driver"), text(spec, &["driver"]));
        if text(spec, &["pool", "name"]).is_empty() {
            errors.required(&path.child("pool").child("name"), "");
        }
        let Some(old) = old else { return };
        for way in [&["nodeName"][..], &["driver"], &["pool", "name"]] {
            let path = way.iter().fold(path.clone(), |path, field| path.child(field));
            checks::immutable(errors, &path, at(spec, way), at(&old["spec"], way));
        }
    }
}
