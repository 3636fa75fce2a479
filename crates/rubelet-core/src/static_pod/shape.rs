//! Whether a manifest has the shape of a pod: every value of the right type, under a name that exists.
//!
//! Owns the messages about it and the small repairs that Go's lenient decoder makes (null counts as absent,
//! numbers are quantities too). Unknown names are warnings, as upstream ignores them. Walks the type table
//! of [`crate::go_dump`]; never judges values (validation does).

use std::fmt::Write;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Number, Value};

use crate::go_dump::types::{Field, POD, Source, Type};
use crate::quantity::Amount;

/// A value of the wrong type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: expected {expected}, found {found}")]
pub struct ShapeError {
    /// Field path, such as `spec.containers[0].ports[0].containerPort`.
    pub path: String,
    /// What stands there normally.
    pub expected: &'static str,
    /// What stands there, shortened.
    pub found: String,
}

impl ShapeError {
    pub(super) fn new(path: &str, expected: &'static str, found: &Value) -> Self {
        Self { path: path.to_owned(), expected, found: describe(found) }
    }
}

/// What a walk over a manifest found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<ShapeError>,
    pub(super) warnings: Vec<String>,
}

/// Checks a pod manifest and repairs what Go's decoder would let pass.
pub(super) fn check(pod: &mut Value) -> Findings {
    let mut checker = Checker { path: String::new(), findings: Findings::default() };
    checker.value(pod, &POD);
    checker.findings
}

/// What kind of JSON value it is, for messages.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Bool(value) => format!("the boolean {value} (quote it to make it a text)"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(text) if text.chars().count() > 60 => {
            format!("the text {:?}…", text.chars().take(60).collect::<String>())
        }
        Value::String(text) => format!("the text {text:?}"),
        other => kind_of(other).to_owned(),
    }
}

struct Checker {
    path: String,
    findings: Findings,
}

impl Checker {
    fn error(&mut self, expected: &'static str, found: &Value) {
        let path = if self.path.is_empty() { "." } else { &self.path };
        self.findings.errors.push(ShapeError::new(path, expected, found));
    }

    fn value(&mut self, value: &mut Value, of: &Type) {
        match (of, &mut *value) {
            (Type::Pointer(of), _) => self.value(value, of),
            (Type::Text(_), Value::String(_)) | (Type::Bool, Value::Bool(_)) => {}
            (Type::Text(_), _) => self.error("a text", value),
            (Type::Bool, _) => self.error("true or false", value),
            (Type::Int32, _) => self.integer(value, i64::from(i32::MIN)..=i64::from(i32::MAX)),
            (Type::Int64, _) => self.integer(value, i64::MIN..=i64::MAX),
            (Type::IntOrString, Value::String(_)) => {}
            (Type::IntOrString, _) => self.integer(value, i64::from(i32::MIN)..=i64::from(i32::MAX)),
            (Type::Quantity, _) => self.quantity(value),
            (Type::Time, Value::String(text)) if text.parse::<jiff::Timestamp>().is_ok() => {}
            (Type::Time, _) => self.error("a time such as 2026-01-31T12:00:00Z", value),
            (Type::FieldsV1, Value::Object(_)) => {}
            (Type::FieldsV1, _) => self.error("an object", value),
            (Type::List(of), Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if item.is_null() {
                        *item = zero(of);
                    }
                    self.below(&format!("[{index}]"), |checker| checker.value(item, of));
                }
            }
            (Type::List(_), _) => self.error("a list", value),
            (Type::Map(_, of), Value::Object(entries)) => {
                for (key, entry) in entries.iter_mut() {
                    if entry.is_null() {
                        *entry = zero(of);
                    }
                    self.below(&format!("[{key}]"), |checker| checker.value(entry, of));
                }
            }
            (Type::Map(..), _) => self.error("an object with names and values", value),
            (Type::Struct(..), Value::Object(object)) => self.object(object, of),
            (Type::Struct(..), _) => self.error("an object", value),
        }
    }

    fn object(&mut self, object: &mut Map<String, Value>, of: &Type) {
        object.retain(|_, value| !value.is_null());
        let mut keys: Vec<String> = object.keys().cloned().collect();
        keys.sort();
        for key in keys {
            let segment = if self.path.is_empty() { key.clone() } else { format!(".{key}") };
            match (field_type(of, &key), object.get_mut(&key)) {
                (Some(of), Some(value)) => self.below(&segment, |checker| checker.value(value, of)),
                _ => {
                    let mut warning = format!("unknown field \"{}{segment}\" is ignored", self.path);
                    if let Some(meant) = similar(of, &key) {
                        // Writing to a string cannot fail.
                        let _ = write!(warning, "; did you mean {meant:?}?");
                    }
                    self.findings.warnings.push(warning);
                }
            }
        }
    }

    fn below(&mut self, segment: &str, walk: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(segment);
        walk(self);
        self.path.truncate(length);
    }

    fn integer(&mut self, value: &mut Value, range: std::ops::RangeInclusive<i64>) {
        let whole = match value {
            Value::Number(number) => number.as_i64().or_else(|| whole_float(number.as_f64()?)),
            _ => None,
        };
        match whole {
            Some(whole) if range.contains(&whole) => *value = Value::from(whole),
            _ if *range.end() == i64::MAX => self.error("a whole number", value),
            _ => self.error("a whole number of at most 2147483647", value),
        }
    }

    fn quantity(&mut self, value: &mut Value) {
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => go_number(number),
            _ => return self.error("a quantity such as 100m, 1.5 or 2Gi", value),
        };
        if Amount::parse(&text).is_ok() {
            *value = Value::String(text);
        } else {
            self.error("a quantity such as 100m, 1.5 or 2Gi", value);
        }
    }
}

fn whole_float(number: f64) -> Option<i64> {
    // Beyond 2^53 a float does not say which whole number was meant.
    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
}

/// A number as Go's JSON encoder writes it.
fn go_number(number: &Number) -> String {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (None, None, Some(float)) if float != 0.0 && (float.abs() < 1e-6 || float.abs() >= 1e21) => {
            let text = format!("{float:e}");
            if float.abs() < 1.0 { text } else { text.replace('e', "e+") }
        }
        (None, None, Some(float)) => float.to_string(),
        _ => number.to_string(),
    }
}

fn zero(of: &Type) -> Value {
    match of {
        Type::Text(_) => Value::String(String::new()),
        Type::Quantity => Value::String("0".into()),
        Type::Struct(..) | Type::Map(..) => Value::Object(Map::new()),
        Type::List(_) => Value::Array(Vec::new()),
        Type::Int32 | Type::Int64 | Type::IntOrString => Value::from(0),
        Type::Bool => Value::Bool(false),
        Type::Pointer(of) => zero(of),
        Type::Time | Type::FieldsV1 => Value::Null,
    }
}

/// The keys of a struct in JSON, those of embedded structs included.
fn for_each_key<'t>(of: &'t Type, visit: &mut dyn FnMut(&'static str, &'t Type)) {
    let Type::Struct(_, fields, extra) = of else { return };
    for Field(_, source, of) in fields.iter().chain(*extra) {
        match source {
            Source::Key(key) => visit(key, of),
            Source::Inline => for_each_key(of, visit),
            Source::Internal(_) => {}
        }
    }
}

fn field_type<'t>(of: &'t Type, wanted: &str) -> Option<&'t Type> {
    let mut found = None;
    for_each_key(of, &mut |key, of| {
        if key == wanted {
            found = Some(of);
        }
    });
    found
}

/// The known key that differs from an unknown one by case, one letter, or two swapped ones.
fn similar(of: &Type, unknown: &str) -> Option<&'static str> {
    let mut found = None;
    for_each_key(of, &mut |key, _| {
        if found.is_none() && is_near(&key.to_ascii_lowercase(), &unknown.to_ascii_lowercase()) {
            found = Some(key);
        }
    });
    found
}

fn is_near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let start = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[start..], &b[start..]);
    let end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - end], &b[..b.len() - end]);
    match (a, b) {
        ([p, q], [r, s]) => p == s && q == r,
        (a, b) => a.len() <= 1 && b.len() <= 1,
    }
}

/// The pod as Go would write it: fields that are not pointers vanish when they hold their zero value.
pub(super) fn without_zero_values(pod: &Pod) -> Result<Pod, serde_json::Error> {
    let mut value = crate::json::to_value(pod)?;
    drop_zero_values(&mut value, &POD);
    crate::json::from_value(&value)
}

fn drop_zero_values(value: &mut Value, of: &Type) {
    match (of, value) {
        (Type::Pointer(of), value) => drop_zero_values(value, of),
        (Type::List(of), Value::Array(items)) => items.iter_mut().for_each(|item| drop_zero_values(item, of)),
        (Type::Map(_, of), Value::Object(entries)) => {
            entries.iter_mut().for_each(|(_, entry)| drop_zero_values(entry, of));
        }
        (Type::Struct(..), Value::Object(object)) => {
            object.retain(|key, value| {
                let Some(of) = field_type(of, key) else { return true };
                drop_zero_values(value, of);
                let is_zero = match (of, &*value) {
                    (Type::Text(_), Value::String(text)) => text.is_empty(),
                    (Type::Bool, Value::Bool(value)) => !value,
                    (Type::Int32 | Type::Int64, Value::Number(number)) => number.as_i64() == Some(0),
                    (Type::List(_), Value::Array(items)) => items.is_empty(),
                    (Type::Map(..), Value::Object(entries)) => entries.is_empty(),
                    _ => false,
                };
                !is_zero
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec})
    }

    #[track_caller]
    fn check_error(spec: Value, expected: &[&str]) {
        let errors: Vec<String> = check(&mut pod(spec)).errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn wrong_types_are_all_named_with_their_paths() {
        check_error(json!({"containers": []}), &[]);
        check_error(json!({"containers": {}}), &["spec.containers: expected a list, found an object"]);
        check_error(json!([]), &["spec: expected an object, found a list"]);
        check_error(
            json!({"hostNetwork": "yes", "containers": [
                {"name": true, "ports": [{"containerPort": "80"}, {"containerPort": 1.5}, {"containerPort": 3_000_000_000_u64}]},
                {"name": "b", "resources": {"limits": {"cpu": "lots", "memory": true}}, "args": [1]},
                {"name": "c", "livenessProbe": {"httpGet": {"port": []}}, "env": [{"name": "A", "value": 5}]},
            ]}),
            &[
                "spec.containers[0].name: expected a text, found the boolean true (quote it to make it a text)",
                "spec.containers[0].ports[0].containerPort: expected a whole number of at most 2147483647, found the text \"80\"",
                "spec.containers[0].ports[1].containerPort: expected a whole number of at most 2147483647, found the number 1.5",
                "spec.containers[0].ports[2].containerPort: expected a whole number of at most 2147483647, found the number 3000000000",
                "spec.containers[1].args[0]: expected a text, found the number 1",
                "spec.containers[1].resources.limits[cpu]: expected a quantity such as 100m, 1.5 or 2Gi, found the text \"lots\"",
                "spec.containers[1].resources.limits[memory]: expected a quantity such as 100m, 1.5 or 2Gi, found the boolean true (quote it to make it a text)",
                "spec.containers[2].env[0].value: expected a text, found the number 5",
                "spec.containers[2].livenessProbe.httpGet.port: expected a whole number of at most 2147483647, found a list",
                "spec.hostNetwork: expected true or false, found the text \"yes\"",
            ],
        );
        let mut time = json!({"metadata": {"creationTimestamp": "yesterday"}});
        assert!(
            check(&mut time).errors[0].to_string().starts_with("metadata.creationTimestamp: expected a time")
        );
    }

    #[test]
    fn unknown_names_are_warnings_with_a_suggestion() {
        let mut manifest = pod(json!({
            "hostNetwrok": true, "containers": [{"name": "a", "imagepullpolicy": "Always", "zzz": 1}],
            "securityContext": {"hostNetwork": true},
        }));
        assert_eq!(
            check(&mut manifest).warnings,
            [
                "unknown field \"spec.containers[0].imagepullpolicy\" is ignored; did you mean \"imagePullPolicy\"?",
                "unknown field \"spec.containers[0].zzz\" is ignored",
                "unknown field \"spec.hostNetwrok\" is ignored; did you mean \"hostNetwork\"?",
                "unknown field \"spec.securityContext.hostNetwork\" is ignored",
            ]
        );
    }

    #[test]
    fn what_go_lets_pass_is_repaired() {
        let mut manifest = pod(json!({
            "nodeSelector": {"a": null}, "hostAliases": null, "priority": 5.0,
            "containers": [null, {"name": null, "resources": {"limits": {"cpu": 0.5, "memory": 1_073_741_824}}}],
        }));
        assert_eq!(check(&mut manifest).errors, []);
        assert_eq!(
            manifest["spec"],
            json!({
                "nodeSelector": {"a": ""}, "priority": 5,
                "containers": [{}, {"resources": {"limits": {"cpu": "0.5", "memory": "1073741824"}}}],
            })
        );
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (number, text) in
            [(0.1, "0.1"), (1e-7, "1e-7"), (1.5e21, "1.5e+21"), (1e20, "100000000000000000000")]
        {
            assert_eq!(go_number(&Number::from_f64(number).unwrap()), text);
        }
        assert_eq!(go_number(&Number::from(5)), "5");
    }
}
