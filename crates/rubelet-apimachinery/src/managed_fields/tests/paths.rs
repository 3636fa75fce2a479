//! Sets of paths and their text.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::compare::Comparison;
use super::super::element::{Element, Malformed, Plain, print};
use super::super::merge::merge;
use super::super::set::Set;
use super::super::typed::{Of, check, paths_of, zero};
use crate::schema::Type;

fn of(kind: &str) -> Of {
    Of::new(Type::of("v1", kind).unwrap())
}

fn printed(set: &Set) -> Vec<String> {
    set.paths().iter().map(|path| print(path)).collect()
}

#[track_caller]
fn check_element(text: &str, shown: &str) {
    let element = Element::parse(text).unwrap().unwrap();
    assert_eq!(element.to_string(), shown);
    assert_eq!(element.serialize(), text);
}

#[test]
fn elements_are_read_shown_and_written() {
    check_element("f:data", ".data");
    check_element("f:", ".");
    check_element("f:a:b", ".a:b");
    check_element(r#"k:{"name":"web"}"#, r#"[name="web"]"#);
    check_element(r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"[containerPort=80,protocol="TCP"]"#);
    check_element(r#"v:"a.b/c""#, r#"[="a.b/c"]"#);
    check_element(r#"v:"\u003ctag\u003e""#, r#"[="<tag>"]"#);
    check_element("v:true", "[=true]");
    check_element("i:-3", "[-3]");
    assert_eq!(Element::parse("x:new"), Ok(None));
    for wrong in ["", "f", "fx", "k:", "k:[]", "v:", "v:{", "i:x", "é:x"] {
        assert_eq!(Element::parse(wrong), Err(Malformed::Element(wrong.to_owned())));
    }
}

#[test]
fn elements_and_values_have_an_order() {
    let values = [json!(-1.5), json!(0), json!(1), json!(1.5), json!(2), json!(u64::MAX), json!(1e300)];
    let others =
        [json!("a"), json!("b"), json!(false), json!(true), json!([]), json!([1]), json!({}), json!(null)];
    let all: Vec<Plain> = values.into_iter().chain(others).map(Plain).collect();
    assert!(all.is_sorted());
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    assert_eq!(Plain(json!(1)), Plain(json!(1.0)));
    let texts = ["f:z", r#"k:{"a":1}"#, r#"k:{"a":1,"b":0}"#, r#"k:{"a":2}"#, r#"v:"a""#, "i:0"];
    let elements: Vec<Element> = texts.iter().map(|text| Element::parse(text).unwrap().unwrap()).collect();
    assert!(elements.is_sorted());
}

#[test]
fn fields_are_read_and_written() {
    let fields = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}},
    });
    let set = Set::parse(&fields).unwrap();
    assert_eq!(set.fields(), fields);
    assert_eq!(
        printed(&set),
        [
            ".metadata.labels",
            ".metadata.labels.a",
            ".spec.containers[name=\"web\"]",
            ".spec.containers[name=\"web\"].image"
        ]
    );
    assert!(set.has(&[Element::field("metadata"), Element::field("labels")]));
    assert!(!set.has(&[Element::field("metadata")]));
    assert!(!set.has(&[]));
    // What nobody knows is left out, and what is left without anything below is a path itself.
    assert_eq!(printed(&Set::parse(&json!({"f:a": {"x:": {}}, "y:": {}})).unwrap()), [".a"]);
    assert_eq!(Set::parse(&json!({"f:a": 1})), Err(Malformed::NotAnObject));
    let deep = (0..1000).fold(json!({}), |below, _| json!({"f:a": below}));
    assert_eq!(Set::parse(&deep), Err(Malformed::TooDeep));
}

#[test]
fn a_set_takes_away_paths_or_all_below_them() {
    let set = Set::of_fields(&[&["a"], &["a", "b"], &["c", "d"], &["e"]]);
    let other = Set::of_fields(&[&["a"], &["c"]]);
    assert_eq!(printed(&set.difference(&other)), [".e", ".a.b", ".c.d"]);
    assert_eq!(printed(&set.recursive_difference(&other)), [".e"]);
    assert_eq!(printed(&set.intersection(&other)), [".a"]);
    assert_eq!(printed(&set.union(&other)), [".a", ".c", ".e", ".a.b", ".c.d"]);
}

#[test]
fn objects_mention_what_is_owned_by_parts_and_as_a_whole() {
    let pod = json!({
        "metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"], "ownerReferences": [{"uid": "u", "name": "n"}]},
        "spec": {
            "containers": [{"name": "web", "args": ["x"], "ports": [{"containerPort": 80}], "env": []}],
            "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}], "imagePullSecrets": [{"name": "s"}, {}],
            "volumes": [{"name": "v", "emptyDir": {}}], "priority": null,
        },
    });
    assert_eq!(
        printed(&paths_of(of("Pod"), &pod)),
        [
            r#".metadata.finalizers[="x/y"]"#,
            ".metadata.labels.a",
            r#".metadata.ownerReferences[uid="u"]"#,
            ".spec.nodeSelector",
            ".spec.priority",
            ".spec.tolerations",
            r#".spec.containers[name="web"]"#,
            r#".spec.containers[name="web"].args"#,
            r#".spec.containers[name="web"].name"#,
            r#".spec.containers[name="web"].ports[containerPort=80,protocol="TCP"]"#,
            r#".spec.containers[name="web"].ports[containerPort=80,protocol="TCP"].containerPort"#,
            r#".spec.imagePullSecrets[name=""]"#,
            r#".spec.imagePullSecrets[name="s"]"#,
            r#".spec.volumes[name="v"]"#,
            r#".spec.volumes[name="v"].emptyDir"#,
            r#".spec.volumes[name="v"].name"#,
        ]
    );
}

#[test]
fn what_go_makes_of_nothing() {
    let made = |api: &str, kind: &str| zero(Type::of(api, kind).unwrap());
    assert_eq!(made("v1", "ConfigMap"), json!({"metadata": {}}));
    assert_eq!(made("v1", "Pod"), json!({"metadata": {}, "spec": {"containers": null}, "status": {}}));
    assert_eq!(made("scheduling.k8s.io/v1", "PriorityClass"), json!({"metadata": {}, "value": 0}));
}

#[test]
fn differences_are_found_by_part() {
    let old = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}], "tolerations": [{"key": "x"}]}});
    let new =
        json!({"spec": {"containers": [{"name": "c"}, {"name": "a", "image": "2"}], "tolerations": []}});
    let found = Comparison::of(of("Pod"), &old, &new);
    assert_eq!(printed(&found.modified), [".spec.tolerations", r#".spec.containers[name="a"].image"#]);
    assert_eq!(
        printed(&found.added),
        [r#".spec.containers[name="c"]"#, r#".spec.containers[name="c"].name"#]
    );
    assert_eq!(
        printed(&found.removed),
        [r#".spec.containers[name="b"]"#, r#".spec.containers[name="b"].name"#]
    );
    assert_eq!(Comparison::of(of("Pod"), &old, &old), Comparison::default());
    // Twice the same address type, as nodes with two families have them: one thing.
    let address = |at: &str| json!({"type": "InternalIP", "address": at});
    let one = json!({"status": {"addresses": [address("1.1.1.1")]}});
    let two = json!({"status": {"addresses": [address("1.1.1.1"), address("::1")]}});
    let other = json!({"status": {"addresses": [address("1.1.1.1"), address("::2")]}});
    let item = r#".status.addresses[type="InternalIP"]"#;
    assert!(printed(&Comparison::of(of("Node"), &one, &two).added).contains(&item.to_owned()));
    assert_eq!(printed(&Comparison::of(of("Node"), &two, &other).modified), [item]);
    assert!(printed(&Comparison::of(of("Node"), &two, &one).removed).contains(&item.to_owned()));
}

#[track_caller]
fn check_order(live: &[&str], applied: &[&str], merged: &[&str]) {
    let object = |items: &[&str]| json!({"metadata": {"finalizers": items}});
    let found = merge(of("ConfigMap"), Some(&object(live)), Some(&object(applied)));
    assert_eq!(found, Some(object(merged)));
}

#[test]
fn lists_take_the_applied_order_and_others_keep_their_place() {
    check_order(&["a", "b", "c"], &[], &["a", "b", "c"]);
    check_order(&[], &["b", "a"], &["b", "a"]);
    check_order(&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]);
    check_order(&["a", "b", "c", "d", "e"], &["f", "b", "g", "d"], &["a", "f", "b", "c", "g", "d", "e"]);
    check_order(&["a", "b", "c", "d", "e"], &["e", "d", "c", "b", "a"], &["e", "d", "c", "b", "a"]);
    check_order(&["a", "x", "b"], &["b", "a"], &["x", "b", "a"]);
    check_order(&["a", "b"], &["z"], &["a", "b", "z"]);
}

#[track_caller]
fn check_problems(parts: Value, problems: &[&str]) {
    assert_eq!(check(of("Pod"), &parts), problems);
}

#[test]
fn what_does_not_fit_is_said_as_upstream_says_it() {
    check_problems(
        json!({"metadata": {"labels": {"a": 1}}}),
        &[".metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}"],
    );
    check_problems(
        json!({"metadata": {"labels": ["a", {"b": null}]}}),
        &[".metadata.labels: expected map, got &{[a map[b:<nil>]]}"],
    );
    check_problems(
        json!({"foo": 1, "spec": {"hostPID": "yes", "priority": "1", "containers": {}}}),
        &[".foo: field not declared in schema"],
    );
    check_problems(
        json!({"spec": {"hostPID": "yes", "priority": "1", "containers": {}}}),
        &[
            ".spec.containers: expected list, got &{map[]}",
            ".spec.hostPID: expected boolean, got &{yes}",
            ".spec.priority: expected numeric (int or float), got string",
        ],
    );
    check_problems(
        json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}, {"name": "b", "ports": [1]}]}}),
        &[
            r#".spec.containers: duplicate entries for key [name="a"]"#,
            r#".spec.containers[name="b"].ports: element 0: associative list with keys may not have non-map elements"#,
        ],
    );
    check_problems(
        json!({"metadata": {"finalizers": [null]}, "spec": {"tolerations": [{"key": 1}]}}),
        &[
            ".metadata.finalizers: element 0: associative list without keys has an element that's an explicit null",
            ".spec.tolerations[0].key: expected string, got &value.valueUnstructured{Value:1}",
        ],
    );
    check_problems(
        json!({"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 1, "x": []}}}]}}),
        &[r#".spec.containers[name="a"].resources.limits.x: expected any scalar, got &{[]}"#],
    );
    check_problems(json!({"spec": null, "metadata": {"labels": null}}), &[]);
    assert_eq!(
        check(of("ServiceAccount"), &json!({"secrets": [{}]})),
        [
            ".secrets: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and \
          doesn't have default values for any key fields)"
        ]
    );
}
