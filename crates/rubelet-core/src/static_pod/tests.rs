//! Golden tests against upstream: `tests/data/static-uid` holds our manifests and, beside each, what upstream's
//! own code made of it (UID, manifest as JSON, final pod). `tests/data/README.md` says how they were made.

use std::path::PathBuf;

use serde_json::Value;

use super::*;

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/static-uid")
}

fn node() -> NodeIdentity {
    NodeIdentity { name: "node-1".into() }
}

/// Name, origin and expectation of every golden manifest.
fn golden() -> Vec<(String, Origin, Value)> {
    let mut names: Vec<String> = std::fs::read_dir(data())
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().to_str()?.strip_suffix(".expected.json").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() >= 30, "the golden manifests are missing");
    let load = |name: String| {
        let text = std::fs::read_to_string(data().join(format!("{name}.expected.json"))).unwrap();
        let origin = Origin::File(format!("/etc/kubernetes/manifests/{name}.yaml"));
        (name, origin, serde_json::from_str(&text).unwrap())
    };
    names.into_iter().map(load).collect()
}

/// The pod as upstream has it before binding, its computed quantities, and the warnings.
fn defaulted(manifest: &Value) -> (Pod, go_dump::DerivedQuantities) {
    let mut manifest = manifest.clone();
    let findings = shape::check(&mut manifest);
    assert_eq!(findings.errors, []);
    let mut pod: Pod = serde_json::from_value(manifest).unwrap();
    let derived = defaults::apply_keeping_quantities(&mut pod);
    identity::convert(&mut pod);
    (pod, derived)
}

/// A manifest as it is when it is validated: defaulted and bound to the node.
pub(crate) fn bound(manifest: Value) -> Pod {
    let (mut pod, _) = defaulted(&manifest);
    defaults::canonical_quantities(&mut pod);
    identity::bind(&mut pod, &Origin::File("/x.yaml".into()), &node());
    pod
}

#[test]
fn uids_are_upstreams() {
    for (name, origin, expected) in golden() {
        let (pod, derived) = defaulted(&expected["manifest"]);
        let uid = match pod.metadata.uid.clone() {
            Some(uid) => uid,
            None => uid(&pod, &derived, &origin, &node()).unwrap(),
        };
        assert_eq!(expected["uid"], uid, "{name}");
    }
}

/// Go writes empty structs and zero quantities that Rust's types leave out.
fn pruned(pod: &Pod) -> Value {
    fn prune(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.values_mut().for_each(prune);
                object.retain(|key, value| {
                    !(key == "resources" && value.as_object().is_some_and(|v| v.is_empty())
                        || key == "divisor" && value == "0"
                        || matches!(key.as_str(), "state" | "lastState")
                            && value.as_object().is_some_and(|v| v.is_empty()))
                });
            }
            Value::Array(items) => items.iter_mut().for_each(prune),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(shape::without_zero_values(pod).unwrap()).unwrap();
    prune(&mut value);
    value
}

#[test]
fn pods_are_upstreams() {
    for (name, origin, expected) in golden() {
        let upstream_pod: Pod = serde_json::from_value(expected["pod"].clone()).unwrap();
        let upstream_refuses = expected["errors"] != serde_json::json!([]) || name == "gates";
        match decode(expected["manifest"].clone(), &origin, &node()) {
            Ok(decoded) => {
                assert!(!upstream_refuses, "{name} is accepted");
                assert_eq!(pruned(&decoded.pod), pruned(&upstream_pod), "{name}");
            }
            Err(error) => assert!(upstream_refuses, "{name}: {error}"),
        }
    }
}

#[test]
fn only_the_origin_and_the_node_distinguish_equal_manifests() {
    let manifest = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
        "spec": { "containers": [{ "name": "web", "image": "nginx" }] },
    });
    let uid = |origin: &Origin, node: &str| {
        let node = NodeIdentity { name: node.into() };
        decode(manifest.clone(), origin, &node).unwrap().pod.metadata.uid.unwrap()
    };
    let file = Origin::File("/etc/kubernetes/manifests/minimal.yaml".into());
    assert_eq!(uid(&file, "node-1"), "9643b9f35936df2dbe81ee5c53ad8999");
    assert_ne!(uid(&file, "node-2"), uid(&file, "node-1"));
    assert_ne!(uid(&Origin::File("/other.yaml".into()), "node-1"), uid(&file, "node-1"));
    let url = Origin::Url("http://127.0.0.1/pod".into());
    assert_ne!(uid(&url, "node-1"), uid(&file, "node-1"));
    assert_eq!(uid(&url, "node-1"), uid(&url, "node-2"), "upstream hashes the URL alone");
}
