//! ConfigMaps and Secrets: their keys, their size, their types, and that immutable ones stay as they are.

use k8s_openapi::ByteString;
use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::names;
use serde_json::Value;

use super::Change;
use super::rules::Rules;
use super::value::{at, copy, entries, has, remove, set, set_default, text};

/// All values together, without their keys.
const SIZE_LIMIT: usize = 1024 * 1024;

/// The rules of ConfigMaps.
pub(crate) struct ConfigMaps;

impl Rules for ConfigMaps {
    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let mut size = 0;
        for (key, value) in entries(new, &["data"]) {
            let path = Path::new("data").key(key);
            errors.invalid_each(&path, key, names::config_key(key));
            if has(new, &["binaryData", key]) {
                errors.invalid(&path, key, "duplicate of key present in binaryData");
            }
            size += value.as_str().unwrap_or_default().len();
        }
        for (key, value) in entries(new, &["binaryData"]) {
            errors.invalid_each(&Path::new("binaryData").key(key), key, names::config_key(key));
            size += decoded_length(value);
        }
        if size > SIZE_LIMIT {
            // No field: it is the whole that is too large.
            errors.too_long(&Path::new("[]"), SIZE_LIMIT);
        }
        immutable_data(new, old, &["data", "binaryData"], errors);
    }
}

/// The rules of Secrets.
pub(crate) struct Secrets;

impl Rules for Secrets {
    fn defaults(&self, secret: &mut Value) {
        let Some(Value::Object(plain)) = remove(secret, &["stringData"]) else {
            return set_default(secret, &["type"], "Opaque");
        };
        for (key, value) in plain {
            let bytes = ByteString(value.as_str().unwrap_or_default().as_bytes().to_vec());
            if let Ok(encoded) = rubelet_core::json::to_value(&bytes) {
                set(secret, &["data", &key], encoded);
            }
        }
        set_default(secret, &["type"], "Opaque");
    }

    fn prepare(&self, _: &Change<'_>, new: &mut Value, old: Option<&Value>) {
        if let Some(old) = old
            && text(new, &["type"]).is_empty()
        {
            copy(new, old, &["type"]);
        }
    }

    fn validate(&self, _: &Change<'_>, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let path = Path::new("data");
        let mut size = 0;
        for (key, value) in entries(new, &["data"]) {
            errors.invalid_each(&path.key(key), key, names::config_key(key));
            size += decoded_length(value);
        }
        if size > SIZE_LIMIT {
            errors.too_long(&path, SIZE_LIMIT);
        }
        validate_type(new, &path, errors);
        if let Some(old) = old {
            super::checks::immutable(errors, &Path::new("type"), &new["type"], &old["type"]);
        }
        immutable_data(new, old, &["data"], errors);
    }
}

/// What secrets of the well-known types must hold.
fn validate_type(secret: &Value, path: &Path, errors: &mut Errors) {
    let has_key = |key: &str| entries(secret, &["data"]).any(|(there, _)| there == key);
    match text(secret, &["type"]) {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if text(secret, &["metadata", "annotations", key]).is_empty() {
                errors.required(&Path::new("metadata").child("annotations").key(key), "");
            }
        }
        "kubernetes.io/dockercfg" => validate_json(secret, path, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => validate_json(secret, path, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !has_key("username") && !has_key("password") => {
            errors.required(&path.key("username"), "");
            errors.required(&path.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if decoded_length(at(secret, &["data", "ssh-privatekey"])) == 0 => {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has_key(key) {
                    errors.required(&path.key(key), "");
                }
            }
        }
        _ => {}
    }
}

fn validate_json(secret: &Value, path: &Path, key: &str, errors: &mut Errors) {
    let path = path.key(key);
    let encoded = at(secret, &["data", key]);
    if encoded.is_null() {
        return errors.required(&path, "");
    }
    let Ok(bytes) = rubelet_core::json::from_value::<ByteString>(encoded) else { return };
    let broken = match serde_json::from_slice::<Value>(&bytes.0) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(_) => "json: cannot unmarshal into Go value of type map[string]interface {}".to_owned(),
        Err(_) if bytes.0.is_empty() => "unexpected end of JSON input".to_owned(),
        Err(error) => error.to_string(),
    };
    errors.invalid(&path, "<secret contents redacted>", broken);
}

fn immutable_data(new: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else { return };
    let rule = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        errors.forbidden(&Path::new("immutable"), rule);
    }
    for field in fields {
        if new[*field] != old[*field] {
            errors.forbidden(&Path::new(field), rule);
        }
    }
}

/// How many bytes a base64 text stands for.
fn decoded_length(encoded: &Value) -> usize {
    let text = encoded.as_str().unwrap_or_default();
    text.trim_end_matches('=').len() * 3 / 4
}
