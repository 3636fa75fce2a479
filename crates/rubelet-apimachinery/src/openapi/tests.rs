//! The documents that are made at build time.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Document, v2_json, v2_protobuf, v3, v3_index};
use crate::kinds::{self, Served};
use crate::schema::Type;

fn json(document: Document) -> Value {
    let bytes = document.unpack().unwrap();
    assert_eq!(bytes.len(), document.length);
    serde_json::from_slice(&bytes).unwrap()
}

/// The fields of a protobuf message that have bytes: number and content.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return value;
            }
        }
        panic!("a number without end")
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let number = varint(&mut bytes);
        if key & 7 == 2 {
            let (content, rest) = bytes.split_at(number as usize);
            found.push((key >> 3, content));
            bytes = rest;
        }
    }
    found
}

fn inner(message: &[u8], number: u64) -> Vec<&[u8]> {
    fields(message).into_iter().filter(|(n, _)| *n == number).map(|(_, content)| content).collect()
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| references(field, found));
        }
        _ => {}
    }
}

#[track_caller]
fn check_references(document: &Value, prefix: &str, definitions: &Value) {
    let mut found = BTreeSet::new();
    references(document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let name = reference.strip_prefix(prefix).unwrap();
        assert!(definitions[name].is_object(), "{name} is not defined");
    }
}

#[test]
fn version_2_describes_every_kind() {
    let document = json(v2_json());
    let definitions = &document["definitions"];
    check_references(&document, "#/definitions/", definitions);
    for (api_version, kind, of) in Type::kinds() {
        let kinds = definitions[of.name()]["x-kubernetes-group-version-kind"].as_array().unwrap();
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let row = serde_json::json!({"group": group, "version": version, "kind": kind});
        assert!(kinds.contains(&row), "{api_version} {kind}");
    }
    let containers = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], serde_json::json!(["name"]));
    assert_eq!(definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"], "string");
}

#[test]
fn version_3_lets_every_kind_be_patched() {
    let index = json(v3_index());
    for resource in kinds::all() {
        let place = if resource.group.is_empty() {
            "api/v1".to_owned()
        } else {
            format!("apis/{}", resource.api_version())
        };
        let entry = v3(&place).unwrap();
        assert_eq!(
            index["paths"][&place]["serverRelativeURL"],
            format!("/openapi/v3/{place}?hash={}", entry.hash)
        );
        let document = json(entry);
        if resource.served != Served::NeedsCluster {
            check_references(&document, "#/components/schemas/", &document["components"]["schemas"]);
            let of = Type::of(&resource.api_version(), resource.kind).unwrap();
            assert!(document["components"]["schemas"][of.name()].is_object(), "{}", of.name());
        }
        if matches!(resource.served, Served::Answered | Served::Measured) {
            continue;
        }
        let patches: Vec<&Value> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .map(|path| &path["patch"])
            .filter(|patch| patch["x-kubernetes-group-version-kind"]["kind"] == resource.kind)
            .collect();
        assert!(!patches.is_empty(), "{}", resource.qualified());
        for patch in patches {
            let names: Vec<&str> =
                patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
            assert!(names.contains(&"dryRun") && names.contains(&"fieldValidation"), "{names:?}");
        }
    }
    assert_eq!(v3("api/v9"), None);
}

#[test]
fn operations_have_names_of_their_own() {
    let document = json(v2_json());
    let mut seen = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            let id = operation["operationId"].as_str().unwrap();
            assert!(seen.insert(id.to_owned()), "{method} {path}: {id}");
        }
    }
    for id in [
        "listCoreV1PodForAllNamespaces",
        "deleteCoreV1CollectionNamespacedPod",
        "deleteCoreV1CollectionNode",
        "patchCoreV1NamespacedPodStatus",
        "connectCoreV1GetNamespacedPodExec",
        "connectCoreV1PatchNodeProxy",
        "connectCoreV1OptionsNamespacedPodProxyWithPath",
        "listMetricsV1beta1PodMetricsForAllNamespaces",
        "createAuthenticationV1TokenReview",
        "createCoreV1NamespacedServiceAccountToken",
        "readCoordinationV1NamespacedLease",
    ] {
        assert!(seen.contains(id), "{id}");
    }
}

#[test]
fn the_protobuf_document_says_the_same() {
    let document = json(v2_json());
    let bytes = v2_protobuf().unpack().unwrap();
    assert_eq!(inner(&bytes, 1), [b"2.0"]);
    for (number, inside, key) in [(8, 2, "paths"), (9, 1, "definitions")] {
        let names: Vec<String> = inner(inner(&bytes, number)[0], inside)
            .into_iter()
            .map(|entry| String::from_utf8(inner(entry, 1)[0].to_vec()).unwrap())
            .collect();
        let expected: Vec<String> = document[key].as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, expected);
    }
    let definitions = inner(&bytes, 9)[0];
    let port = inner(definitions, 1)
        .into_iter()
        .find(|entry| inner(entry, 1)[0] == b"io.k8s.api.core.v1.ContainerPort")
        .map(|entry| inner(entry, 2)[0])
        .unwrap();
    assert_eq!(inner(port, 19), [b"containerPort"]);
    assert_eq!(inner(inner(port, 22)[0], 1), [b"object"]);
}
