//! Golden tests against upstream: `tests/data/validation.json` holds broken pods and every error that
//! upstream's `ValidatePodCreate` has for them.

use serde_json::Value;

use super::*;

#[derive(Debug)]
struct Case {
    name: String,
    manifest: Value,
    errors: Vec<String>,
}

fn cases() -> Vec<Case> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/validation.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(cases.len() > 90, "the golden cases are missing");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let case = |mut case: Value| Case {
        name: text(&case["name"]),
        errors: case["errors"].as_array().unwrap().iter().map(|error| without_object(&text(error))).collect(),
        manifest: case["manifest"].take(),
    };
    cases.into_iter().map(case).collect()
}

/// The errors of a manifest that is decoded, defaulted and bound to `node-1`, sorted.
fn errors_of(manifest: &Value) -> Vec<String> {
    let pod = crate::static_pod::tests::bound(manifest.clone());
    let mut errors: Vec<String> =
        validate_pod(&pod).iter().map(|error| without_object(&error.to_string())).collect();
    errors.sort();
    errors
}

/// Upstream shows objects with Go's field names, we show the API's.
fn without_object(error: &str) -> String {
    match (error.find(": {\""), error.find("}: ")) {
        (Some(start), Some(end)) => format!("{}: {{…{}", &error[..start], &error[end..]),
        _ => error.to_owned(),
    }
}

#[test]
fn errors_are_upstreams() {
    let mut different = Vec::new();
    for case in cases() {
        let errors = errors_of(&case.manifest);
        if errors != case.errors {
            let missing: Vec<_> = case.errors.iter().filter(|error| !errors.contains(error)).collect();
            let extra: Vec<_> = errors.iter().filter(|error| !case.errors.contains(error)).collect();
            different.push(format!("{}:\n  missing {missing:#?}\n  extra {extra:#?}", case.name));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn annotations_have_a_limit_together() {
    let manifest = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "t", "annotations": { "a": "x".repeat(200_000), "b": "x".repeat(62_144) } },
        "spec": { "containers": [{ "name": "a", "image": "a:1" }] },
    });
    assert_eq!(errors_of(&manifest), ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
}

#[test]
fn an_empty_pod_is_refused_without_panic() {
    assert!(!validate_pod(&Pod::default()).is_empty());
}
