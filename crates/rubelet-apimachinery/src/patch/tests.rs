//! Patches of three kinds, and what they may not do.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decode::tests::any_json;

fn type_of(kind: &str) -> Type {
    Type::of("v1", kind).unwrap()
}

fn strategic(kind: &str, current: Value, patch: Value) -> Result<Value, ApiError> {
    apply(PatchKind::Strategic, type_of(kind), &current, &patch)
}

#[track_caller]
fn check(kind: &str, current: Value, patch: Value, expected: Value) {
    assert_eq!(strategic(kind, current, patch.clone()).unwrap(), expected, "{patch}");
}

#[track_caller]
fn check_spec(current: Value, patch: Value, expected: Value) {
    check("Pod", json!({"spec": current}), json!({"spec": patch}), json!({"spec": expected}));
}

#[track_caller]
fn check_error(patch: Value, expected: &str) {
    let current = json!({"metadata": {"finalizers": ["a"]}, "spec": {"containers": [{"name": "a"}]}});
    let error = strategic("Pod", current, patch).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, expected));
}

#[test]
fn maps_merge_and_null_deletes() {
    check(
        "ConfigMap",
        json!({"data": {"a": "1", "b": "2"}}),
        json!({"data": {"b": null, "c": "3", "d": null}, "binaryData": {"x": null, "y": "eQ=="}}),
        json!({"data": {"a": "1", "c": "3"}, "binaryData": {"y": "eQ=="}}),
    );
    check(
        "ConfigMap",
        json!({"data": {"a": "1"}}),
        json!({"data": {"$patch": "replace", "b": "2"}}),
        json!({"data": {"b": "2"}}),
    );
    check(
        "ConfigMap",
        json!({"data": {"a": "1"}}),
        json!({"data": {"$patch": "delete"}}),
        json!({"data": {}}),
    );
    check("ConfigMap", json!({}), json!({"data": {"$patch": "delete"}}), json!({}));
    check_spec(
        json!({"hostNetwork": true}),
        json!({"hostNetwork": {"a": 1}}),
        json!({"hostNetwork": {"a": 1}}),
    );
}

#[test]
fn lists_of_objects_merge_by_key() {
    let containers = || json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]);
    check_spec(
        json!({"containers": containers()}),
        json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "1", "tty": null}]}),
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "1"}]}),
    );
    check_spec(
        json!({"containers": containers()}),
        json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "d", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b", "image": "1"}]}),
    );
    check_spec(
        json!({"containers": containers()}),
        json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    check_spec(
        json!({}),
        json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b"}]}),
        json!({"containers": [{"name": "b"}]}),
    );
    check_spec(
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}], "command": ["x", "y"]}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 81, "name": "p"}], "command": ["z"]}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 81, "name": "p"}, {"containerPort": 80}],
            "command": ["z"]}]}),
    );
    // Lists without a strategy are replaced.
    check_spec(
        json!({"tolerations": [{"key": "a"}]}),
        json!({"tolerations": [{"key": "b"}]}),
        json!({"tolerations": [{"key": "b"}]}),
    );
    check(
        "Pod",
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r"}]}}),
        json!({"status": {"$setElementOrder/conditions": [{"type": "X"}, {"type": "Ready"}],
            "conditions": [{"type": "X", "status": "True"}, {"type": "Ready", "status": "False", "reason": null}]}}),
        json!({"status": {"conditions": [{"type": "X", "status": "True"}, {"type": "Ready", "status": "False"}]}}),
    );
}

#[test]
fn lists_of_plain_values_merge_as_sets() {
    let metadata = |value: Value| json!({"metadata": value});
    let check = |current: Value, patch: Value, expected: Value| {
        check("Pod", metadata(current), metadata(patch), metadata(expected));
    };
    check(
        json!({"finalizers": ["a", "b"]}),
        json!({"finalizers": ["c", "a"]}),
        json!({"finalizers": ["c", "a", "b"]}),
    );
    check(
        json!({"finalizers": ["a", "b", "c"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["b", "x"]}),
        json!({"finalizers": ["a", "c"]}),
    );
    check(json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["b"]}), json!({}));
    check(
        json!({"finalizers": ["a", "b", "c"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["d", "c", "a"],
            "finalizers": ["d"]}),
        json!({"finalizers": ["d", "c", "a"]}),
    );
}

#[test]
fn order_is_that_of_the_patch_and_then_that_of_the_object() {
    let named =
        |names: &str| -> Value { names.chars().map(|name| json!({"name": name.to_string()})).collect() };
    let check = |live: &str, patch: &str, order: &str, expected: &str| {
        check_spec(
            json!({"containers": named(live)}),
            json!({"containers": named(patch), "$setElementOrder/containers": named(order)}),
            json!({"containers": named(expected)}),
        );
    };
    check("abc", "", "cba", "cba");
    check("abc", "d", "abcd", "abcd");
    check("abc", "d", "dab", "dabc");
    check("axbyc", "", "cab", "xycab");
    check("xab", "c", "bca", "xbca");
    check("abc", "", "", "abc");
    // Without one, the order of the patch's items counts; new ones go before what only the object has.
    check_spec(
        json!({"containers": named("abc")}),
        json!({"containers": named("cd")}),
        json!({"containers": named("abcd")}),
    );
    check_spec(
        json!({"containers": named("abc")}),
        json!({"containers": named("ca")}),
        json!({"containers": named("bca")}),
    );
}

#[test]
fn retain_keys_clears_the_rest() {
    check_spec(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
    );
}

#[test]
fn malformed_patches_are_refused() {
    check_error(
        json!({"spec": {"containers": [{"image": "x"}]}}),
        "map: map[image:x] does not contain declared merge key: name",
    );
    check_error(
        json!({"spec": {"containers": ["x"]}}),
        "list element types are not identical: [[map[name:a]] [x]]",
    );
    check_error(json!({"spec": {"$patch": "frob"}}), "unknown patch type: frob in map: map[]");
    check_error(
        json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
        "merging lists cannot yet be specified in the patch",
    );
    check_error(json!({"spec": {"$retainKeys": "x"}}), "invalid patch format of retainKeys");
    check_error(json!({"spec": {"$retainKeys": ["x"], "y": 1}}), "invalid patch format of retainKeys");
    check_error(
        json!({"spec": {"$setElementOrder/containers": 1}}),
        "expected a []interface {}, but received a int64",
    );
    check_error(
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
        "The order in patch list:\n[map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
    );
    let nested = strategic(
        "Pod",
        json!({"metadata": {"finalizers": ["a"]}}),
        json!({"metadata": {"finalizers": [[]]}}),
    );
    assert_eq!(nested.unwrap_err().code, 422);
}

#[test]
fn long_lists_take_no_long_time() {
    let list =
        |from: usize| -> Value { (from..from + 20_000).map(|n| json!({"name": format!("c{n}")})).collect() };
    let patched = strategic(
        "Pod",
        json!({"spec": {"containers": list(0)}}),
        json!({"spec": {"containers": list(10_000), "$setElementOrder/containers": list(10_000)}}),
    );
    assert_eq!(patched.unwrap()["spec"]["containers"].as_array().unwrap().len(), 30_000);
}

#[test]
fn bodies_are_read_and_results_are_checked() {
    let read_error = |kind, body: &str| read(kind, body.as_bytes()).unwrap_err().message;
    assert_eq!(read_error(PatchKind::Merge, "null"), "Invalid JSON Patch");
    assert_eq!(
        read_error(PatchKind::Merge, "[]"),
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
    assert_eq!(read_error(PatchKind::Strategic, "{"), "unexpected end of JSON input");
    assert!(read_error(PatchKind::Json, &"[".repeat(10_000)).contains("exceeded max depth"));
    let patch = read(PatchKind::Json, br#"[{"op":"add","path":"/a","value":1,"valeu":2}]"#).unwrap();
    assert_eq!(patch.problems, ["json patch unknown field \"[0].valeu\""]);

    let t = type_of("ConfigMap");
    let patch = read(PatchKind::Merge, br#"{"dta":{"a":"b"},"data":{"a":null}}"#).unwrap();
    let patched = apply(patch.kind, t, &json!({"data": {"a": "1"}}), &patch.value).unwrap();
    let (value, warnings) = finish(&patch, t, patched.clone(), FieldValidation::Warn).unwrap();
    assert_eq!((value, warnings), (json!({"metadata": {}}), vec!["unknown field \"dta\"".to_owned()]));
    let error = finish(&patch, t, patched, FieldValidation::Strict).unwrap_err();
    assert_eq!((error.code, error.reason), (422, "Invalid"));
    assert_eq!(
        error.message,
        " \"\" is invalid: patch: Invalid value: \"{\\\"data\\\":{},\\\"dta\\\":{\\\"a\\\":\\\"b\\\"}}\": strict decoding \
         error: unknown field \"dta\""
    );
    let patch = read(PatchKind::Strategic, br#"{"data":{"a":1}}"#).unwrap();
    let error = finish(&patch, t, patch.value.clone(), FieldValidation::Warn).unwrap_err();
    assert_eq!(
        error.message,
        " \"\" is invalid: patch: Invalid value: \"map[data:map[a:1]]\": json: cannot unmarshal number into Go struct \
         field ConfigMap.data of type string"
    );
}

proptest! {
    #[test]
    fn any_patch_applies_or_is_refused(current in any_json(), patch in any_json()) {
        for kind in [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic] {
            let _ = apply(kind, type_of("Pod"), &current, &patch);
        }
    }

    #[test]
    fn any_operation_applies_or_is_refused(
        current in any_json(),
        operations in proptest::collection::vec(
            ("(add|remove|replace|move|copy|test)", "(/(spec|metadata|0|-1|-|a)){0,4}", "(/(spec|name|0|a)){0,3}", any_json()),
            0..6,
        ),
    ) {
        let patch: Value = operations
            .into_iter()
            .map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}))
            .collect();
        let _ = apply(PatchKind::Json, type_of("Pod"), &current, &patch);
    }

    #[test]
    fn merge_patches_obey_their_laws(current in any_json(), patch in any_json()) {
        let merge = |object: &Value, patch: &Value| apply(PatchKind::Merge, type_of("Pod"), object, patch).unwrap();
        let once = merge(&current, &patch);
        prop_assert_eq!(&merge(&once, &patch), &once);
        if current.is_object() {
            prop_assert_eq!(merge(&current, &json!({})), current);
        }
        if !patch.is_object() {
            prop_assert_eq!(once, patch);
        }
    }

    #[test]
    fn strategic_patches_settle(patch in any_json()) {
        // A patch without directives that was applied changes nothing any more.
        let patch: Value = serde_json::from_str(&patch.to_string().replace('$', "")).unwrap();
        let t = type_of("Pod");
        let current = json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"finalizers": ["a"]}});
        if let Ok(once) = apply(PatchKind::Strategic, t, &current, &patch)
            && let Ok(twice) = apply(PatchKind::Strategic, t, &once, &patch)
        {
            prop_assert_eq!(twice, once);
        }
    }
}
