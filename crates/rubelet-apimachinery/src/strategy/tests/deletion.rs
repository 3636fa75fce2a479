//! Deletions.

use super::*;

fn pod(metadata: Value) -> Value {
    let spec = json!({"nodeName": "n", "terminationGracePeriodSeconds": 30});
    object("v1", "Pod", json!({"metadata": metadata, "spec": spec}))
}

fn marked(deletion: Result<Deletion, ApiError>) -> Value {
    match deletion {
        Ok(Deletion::Mark(object)) => object,
        other => panic!("not marked: {other:?}"),
    }
}

fn grace(seconds: i64) -> DeleteOptions {
    DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
}

#[test]
fn pods_get_time_to_end() {
    let world = World::new();
    let none = DeleteOptions::default();
    let first = marked(world.delete(&pod(json!({"generation": 2})), &none));
    let expected = json!({
        "deletionTimestamp": "2026-02-03T04:05:36Z", "deletionGracePeriodSeconds": 30, "generation": 3,
    });
    expect_part(&first["metadata"], &expected);
    assert_eq!(world.delete(&first, &none), Ok(Deletion::Unchanged(first.clone())));
    assert_eq!(world.delete(&first, &grace(60)), Ok(Deletion::Unchanged(first.clone())));
    let sooner = marked(world.delete(&first, &grace(5)));
    let expected = json!({
        "deletionTimestamp": "2026-02-03T04:05:11Z", "deletionGracePeriodSeconds": 5, "generation": 3,
    });
    expect_part(&sooner["metadata"], &expected);
    let Ok(Deletion::Remove(Some(last))) = world.delete(&sooner, &grace(0)) else { panic!("not removed") };
    assert_eq!(last["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(
        marked(world.delete(&pod(json!({})), &grace(-3)))["metadata"]["deletionGracePeriodSeconds"],
        1
    );
    let finalized = pod(json!({"finalizers": ["a.b/c"]}));
    assert_eq!(marked(world.delete(&finalized, &grace(0)))["metadata"]["deletionGracePeriodSeconds"], 0);
}

#[test]
fn grace_that_is_over_is_cut_to_the_shortest() {
    let world = World::new();
    let old = pod(json!({"deletionTimestamp": "2026-02-03T04:05:00Z", "deletionGracePeriodSeconds": 600}));
    let expected = json!({"deletionTimestamp": "2026-02-03T04:05:06Z", "deletionGracePeriodSeconds": 1});
    expect_part(&marked(world.delete(&old, &grace(20)))["metadata"], &expected);
}

#[test]
fn finalizers_keep_an_object() {
    let world = World::new();
    let map = |metadata: Value| object("v1", "ConfigMap", json!({"metadata": metadata}));
    let options = |propagation| DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
    assert_eq!(world.delete(&map(json!({})), &DeleteOptions::default()), Ok(Deletion::Remove(None)));
    let check = |metadata: Value, options: DeleteOptions, expected: Value| {
        let object = marked(world.delete(&map(metadata), &options));
        assert_eq!(object["metadata"]["finalizers"], expected);
        expect_part(
            &object["metadata"],
            &json!({"deletionTimestamp": "2026-02-03T04:05:06Z", "deletionGracePeriodSeconds": 0}),
        );
    };
    check(json!({"finalizers": ["a.b/c"]}), DeleteOptions::default(), json!(["a.b/c"]));
    check(json!({}), options(Propagation::Foreground), json!(["foregroundDeletion"]));
    check(json!({"finalizers": ["foregroundDeletion"]}), options(Propagation::Orphan), json!(["orphan"]));
    let orphans = DeleteOptions { orphan_dependents: Some(true), ..DeleteOptions::default() };
    check(json!({}), orphans, json!(["orphan"]));
    let waiting = map(json!({"finalizers": ["orphan"]}));
    assert_eq!(world.delete(&waiting, &options(Propagation::Background)), Ok(Deletion::Remove(None)));
    let event = object("v1", "Event", json!({}));
    assert_eq!(world.delete(&event, &options(Propagation::Foreground)), Ok(Deletion::Remove(None)));
    let going = marked(world.delete(&map(json!({"finalizers": ["a.b/c"]})), &DeleteOptions::default()));
    assert_eq!(world.delete(&going, &DeleteOptions::default()), Ok(Deletion::Unchanged(going.clone())));
    assert!(removed_by_update(resource_of(&going), &map(json!({})), &going));
    assert!(!removed_by_update(resource_of(&going), &going, &going));
}

#[test]
fn only_the_object_that_is_meant_goes() {
    let world = World::new();
    let object = pod(json!({"uid": "u", "resourceVersion": "7"}));
    let check = |uid: Option<&str>, version: Option<&str>, expected: &str| {
        let options = DeleteOptions {
            uid: uid.map(str::to_owned),
            resource_version: version.map(str::to_owned),
            ..DeleteOptions::default()
        };
        let error = world.delete(&object, &options).expect_err("a conflict");
        assert_eq!((error.code, error.message.as_str()), (409, expected));
    };
    check(
        Some("v"),
        None,
        "Operation cannot be fulfilled on Pod \"x\": the UID in the precondition (v) does not match the UID in record \
         (u). The object might have been deleted and then recreated",
    );
    check(
        Some("u"),
        Some("8"),
        "Operation cannot be fulfilled on Pod \"x\": the ResourceVersion in the precondition (8) does not match the \
         ResourceVersion in record (7). The object might have been modified",
    );
}

#[test]
fn namespaces_wait_until_they_are_empty() {
    let mut world = World::new();
    let old = world.made(object("v1", "Namespace", json!({})));
    expect_part(
        &old,
        &json!({
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            "metadata": {"labels": {"kubernetes.io/metadata.name": "x"}},
        }),
    );
    let none = DeleteOptions::default();
    let going = marked(world.delete(&old, &none));
    expect_part(
        &going,
        &json!({"metadata": {"deletionTimestamp": "2026-02-03T04:05:06Z"}, "status": {"phase": "Terminating"}}),
    );
    assert_eq!(world.delete(&going, &none), Ok(Deletion::Unchanged(going.clone())));
    let kept = world.update("", &going, |new| new["spec"] = json!({})).expect("an update");
    assert_eq!(kept["spec"], going["spec"]);
    let emptied = world.update("finalize", &going, |new| new["spec"] = json!({})).expect("the end");
    assert_eq!(emptied["spec"], json!({}));
    assert!(removed_by_update(resource_of(&going), &emptied, &going));
    assert!(!removed_by_update(resource_of(&going), &kept, &going));
    let immortal = object("v1", "Namespace", json!({"metadata": {"name": "kube-system"}}));
    let error = world.delete(&immortal, &none).expect_err("refused");
    assert_eq!(error.message, "namespaces \"kube-system\" is forbidden: this namespace may not be deleted");
    expect_broken(
        &world.update("status", &old, |new| new["status"]["phase"] = json!("Terminating")),
        &[
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty",
        ],
    );
}
