//! What all kinds share.

use super::*;

fn config_map(metadata: Value) -> Value {
    object("v1", "ConfigMap", json!({"metadata": metadata}))
}

#[test]
fn a_new_object_gets_what_the_server_says() {
    let world = World::new();
    let made = world
        .create(config_map(json!({
            "name": null, "generateName": "job-", "uid": "mine", "creationTimestamp": "2020-01-01T00:00:00Z",
            "deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3, "selfLink": "/x",
        })))
        .expect("created");
    assert_eq!(
        made["metadata"],
        json!({
            "name": "job-zzzzz", "generateName": "job-", "namespace": "default", "uid": "uid-1",
            "creationTimestamp": "2026-02-03T04:05:06Z",
        })
    );
    let long = "a".repeat(80);
    let made = world.create(config_map(json!({"name": null, "generateName": long}))).expect("created");
    assert_eq!(made["metadata"]["name"], format!("{}zzzzz", "a".repeat(58)));
}

#[test]
fn bad_metadata_is_refused_field_by_field() {
    let world = World::new();
    let check =
        |metadata: Value, expected: &[&str]| expect_broken(&world.create(config_map(metadata)), expected);
    check(json!({}), &[]);
    check(
        json!({"name": "Up"}),
        &["metadata.name: Invalid value: \"Up\": a lowercase RFC 1123 subdomain must consist of"],
    );
    check(json!({"name": null}), &["metadata.name: Required value: name or generateName is required"]);
    check(json!({"name": null, "generateName": "x-"}), &[]);
    check(
        json!({"name": null, "generateName": "XY-"}),
        &["metadata.generateName: Inv", "metadata.name: Inv"],
    );
    check(
        json!({"namespace": "other"}),
        &["400 the namespace of the provided object does not match the namespace sent on the request"],
    );
    check(
        json!({"labels": {"a b": "v", "ok": "not ok"}}),
        &[
            "metadata.labels: Invalid value: \"a b\": name part",
            "metadata.labels: Invalid value: \"not ok\": a valid",
        ],
    );
    check(json!({"annotations": {"a b": "any thing"}}), &["metadata.annotations: Invalid value: \"a b\""]);
    check(
        json!({"annotations": {"a": "x".repeat(256 * 1024)}}),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    check(
        json!({"finalizers": ["x", "example.com/f"]}),
        &["metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor"],
    );
    check(
        json!({"finalizers": ["orphan", "foregroundDeletion"]}),
        &["metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and"],
    );
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
    let mut other = owner.clone();
    other["uid"] = json!("");
    check(
        json!({"ownerReferences": [owner, other]}),
        &[
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
            "metadata.ownerReferences: Invalid value: [",
        ],
    );
    check(
        json!({"resourceVersion": "3"}),
        &["500 resourceVersion should not be set on objects to be created"],
    );
}

#[test]
fn namespaces_decide_about_what_is_in_them() {
    let world = World::new();
    expect_broken(
        &world.create_in("nowhere", config_map(json!({}))),
        &["404 namespaces \"nowhere\" not found"],
    );
    let refused = world.create_in("going", config_map(json!({})));
    expect_broken(
        &refused,
        &[
            "403 configmaps \"x\" is forbidden: unable to create new content in namespace going because it is being \
           terminated",
        ],
    );
    assert_eq!(refused.expect_err("refused").details["causes"][0]["reason"], "NamespaceTerminating");
}

#[test]
fn an_update_keeps_what_the_server_says() {
    let mut world = World::new();
    let old = world.made(config_map(json!({"finalizers": ["a.b/c"]})));
    let new = world
        .update("", &old, |new| new["metadata"] = json!({"name": "x", "labels": {"a": "b"}}))
        .expect("updated");
    assert_eq!(
        new["metadata"],
        json!({
            "name": "x", "namespace": "default", "labels": {"a": "b"}, "uid": old["metadata"]["uid"],
            "creationTimestamp": old["metadata"]["creationTimestamp"], "resourceVersion": "7",
        })
    );
}

#[test]
fn an_update_means_the_stored_object() {
    let mut world = World::new();
    let old = world.made(config_map(json!({})));
    let lease = world.made(object("coordination.k8s.io/v1", "Lease", json!({})));
    let check = |old: &Value, field: &str, value: Value, expected: &str| {
        expect_broken(&world.update("", old, |new| new["metadata"][field] = value), &[expected]);
    };
    check(&old, "name", json!("y"), "400 the name of the object (y) does not match the name on the URL (x)");
    check(&old, "name", json!(null), "400 the name of the object (x based on URL) was undeterminable");
    check(
        &old,
        "uid",
        json!("other"),
        "409 Operation cannot be fulfilled on configmaps \"x\": StorageError: invalid object, Code: 4, Key: \
         /registry/configmaps/default/x, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in \
         precondition: other, UID in object meta: uid-1",
    );
    check(
        &old,
        "resourceVersion",
        json!("6"),
        "409 Operation cannot be fulfilled on configmaps \"x\": the object has been modified; please apply your",
    );
    check(
        &lease,
        "resourceVersion",
        json!(null),
        "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
    );
    check(
        &old,
        "deletionTimestamp",
        json!("2020-01-01T00:00:00Z"),
        "metadata.deletionTimestamp: Invalid value: ",
    );
    let mut going = old.clone();
    going["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    check(
        &going,
        "finalizers",
        json!(["a.b/c"]),
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
         finalizers []string{\"a.b/c\"}",
    );
}

#[test]
fn doubled_owners_are_said() {
    let world = World::new();
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
    let mut twice = config_map(json!({"ownerReferences": [owner, owner]}));
    let warnings =
        world.change(resource_of(&twice), "", "", |change| create(change, &mut twice)).expect("created");
    assert!(warnings.iter().any(|warning| warning.ends_with("duplicate UID(s) observed: u")), "{warnings:?}");
    assert_eq!(twice["metadata"]["ownerReferences"], json!([owner]));
}

mod any_shape {
    use proptest::prelude::*;

    use super::*;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let key = prop_oneof![
                "metadata|spec|status|name|ports|clusterIPs|clusterIP|type|generateName|finalizers",
                "ownerReferences|data|stringData|requests|conditions|drivers|resources|labels|nodePort",
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn is_survived(at in 0usize..64, first in json_value(), second in json_value()) {
            let all = kinds::all();
            let resource = &all[at % all.len()];
            let mut world = World::new();
            world.objects.push((resource, second.clone()));
            let (mut made, mut changed) = (first.clone(), first);
            let _ = world.change(resource, "", "", |change| create(change, &mut made));
            for subresource in ["", "status", "finalize", "approval"] {
                let _ = world.change(resource, subresource, "x", |change| update(change, &mut changed, &second));
            }
            for options in [DeleteOptions::default(), DeleteOptions { orphan_dependents: Some(true), ..Default::default() }] {
                let _ = world.change(resource, "", "x", |change| delete(change, &second, &options));
            }
        }
    }
}
