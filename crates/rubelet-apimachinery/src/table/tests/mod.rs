//! Objects and the rows kubectl prints of them. What is expected here was compared with kube-apiserver's own tables.

mod kinds;
mod pods;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kinds::all;

const NOW: &str = "2026-01-02T00:00:00Z";

fn resource(name: &str) -> &'static Resource {
    let (group, plural) = name.rsplit_once('/').unwrap_or(("", name));
    all().iter().find(|r| r.group == group && r.plural == plural).unwrap()
}

fn print(kind: &str, objects: &[Value], include_object: IncludeObject, no_headers: bool) -> Value {
    table(resource(kind), objects, &TableOptions { include_object, no_headers }, NOW.parse().unwrap())
}

/// The row of an object named `x`, five minutes old, without its name and age if these are in their places.
fn check(kind: &str, mut object: Value, expected: &str) {
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T23:55:00Z");
    let table = print(kind, &[object], IncludeObject::None, false);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), table["columnDefinitions"].as_array().unwrap().len(), "{kind}");
    let row: Vec<String> =
        cells.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
    assert_eq!(row.join(" | "), expected, "{kind}");
}

/// The heads of a kind's columns; those of `-o wide` with a plus, those that are not text with their type.
fn check_columns(kind: &str, expected: &str) {
    let table = print(kind, &[], IncludeObject::None, false);
    let heads = table["columnDefinitions"].as_array().unwrap().iter().map(|column| {
        let (name, kind) = (column["name"].as_str().unwrap(), column["type"].as_str().unwrap());
        let wide = if column["priority"] == 1 { "+" } else { "" };
        let format = if column["format"] == "name" && name != "Name" { ":name" } else { "" };
        let kind = if kind == "string" { String::new() } else { format!(":{kind}") };
        format!("{wide}{name}{kind}{format}")
    });
    assert_eq!(heads.collect::<Vec<_>>().join(" | "), expected, "{kind}");
}

#[test]
fn a_row_carries_what_was_asked_for() {
    let pod = json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"nodeName": "n"},
        "status": {"phase": "Failed"},
    });
    let row = |include, object: &Value| {
        print("pods", std::slice::from_ref(object), include, true)["rows"][0].clone()
    };
    assert_eq!(row(IncludeObject::None, &pod)["object"], Value::Null);
    assert_eq!(row(IncludeObject::Object, &pod)["object"], pod);
    assert_eq!(
        row(IncludeObject::Metadata, &pod)["object"],
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": pod["metadata"]}),
    );
    assert_eq!(
        row(IncludeObject::None, &pod)["conditions"],
        json!([{"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."}]),
    );
    let mark = json!({"metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}});
    assert_eq!(row(IncludeObject::None, &mark)["object"]["metadata"], mark["metadata"]);
    assert_eq!(row(IncludeObject::None, &mark).get("conditions"), None);
}

#[test]
fn columns_are_left_out_on_request() {
    let table = print("secrets", &[], IncludeObject::Metadata, true);
    assert_eq!(
        table,
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": null, "rows": []}),
    );
    assert_eq!(
        print("secrets", &[], IncludeObject::Metadata, false)["columnDefinitions"][0],
        json!({"name": "Name", "type": "string", "format": "name", "description": "What it is called.", "priority": 0}),
    );
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z:/<>é-]{0,8}".prop_map(Value::from),
        Just(json!("9999-12-31T23:59:59Z")),
        Just(json!("-009999-01-02T01:59:59Z")),
    ];
    let field = prop::sample::select(vec![
        "metadata",
        "name",
        "creationTimestamp",
        "spec",
        "status",
        "containers",
        "initContainers",
        "restartPolicy",
        "containerStatuses",
        "initContainerStatuses",
        "restartCount",
        "lastState",
        "state",
        "terminated",
        "waiting",
        "finishedAt",
        "reason",
        "exitCode",
        "conditions",
        "type",
        "ports",
        "port",
        "addresses",
        "ip",
        "subsets",
        "endpoints",
        "clusterIPs",
        "podIPs",
        "expirationSeconds",
        "series",
        "count",
        "drivers",
        "labels",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(field.clone(), inner, 0..6)
                .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn any_object_makes_a_full_row(object in any_value()) {
        for resource in all() {
            let options = TableOptions { include_object: IncludeObject::Metadata, no_headers: false };
            let table = table(resource, std::slice::from_ref(&object), &options, NOW.parse().unwrap());
            let cells = table["rows"][0]["cells"].as_array().map(Vec::len);
            prop_assert_eq!(cells, table["columnDefinitions"].as_array().map(Vec::len));
        }
    }
}
