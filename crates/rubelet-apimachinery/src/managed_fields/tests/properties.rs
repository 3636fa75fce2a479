//! Laws of sets and of apply, on arbitrary objects.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::element::Element;
use super::super::set::Set;
use super::super::typed::{Of, paths_of};
use super::super::{ApplyCall, keep_times};
use super::{Object, apply_to, note};
use crate::schema::Type;

fn set() -> impl Strategy<Value = Set> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4);
    prop::collection::vec(path, 0..8).prop_map(|paths| {
        let mut set = Set::default();
        for path in paths {
            set.insert(&path.into_iter().map(Element::field).collect::<Vec<_>>());
        }
        set
    })
}

/// Any JSON, with a liking for the names that matter here.
fn json() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "metadata",
        "managedFields",
        "labels",
        "annotations",
        "finalizers",
        "spec",
        "containers",
        "name",
        "ports",
        "containerPort",
        "data",
        "manager",
        "operation",
        "apiVersion",
        "fieldsType",
        "fieldsV1",
        "f:data",
        "f:a",
        "k:{\"name\":\"a\"}",
        "v:1",
        ".",
        "i:x",
        "uid",
        "kubectl.kubernetes.io/last-applied-configuration",
        "status",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..3).prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "a",
            "Apply",
            "Update",
            "v1",
            "FieldsV1",
            "{}",
            "2024-01-01T00:00:00Z"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

/// Parts of a pod that fit its type.
fn pod() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec!["a", "b", "c"]);
    let words = prop::collection::btree_map(word.clone(), word.clone(), 0..3);
    let container =
        (prop::option::of(word.clone()), prop::collection::btree_set(80..83, 0..3), words.clone());
    let containers = prop::collection::btree_map(word.clone(), container, 0..3);
    let finalizers = prop::sample::subsequence(vec!["x/1", "x/2", "x/3"], 0..4).prop_shuffle();
    (words, containers, finalizers, prop::option::of(word)).prop_map(
        |(labels, containers, finalizers, node)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (image, ports, env))| {
                    let mut container = Map::new();
                    container.insert("name".into(), json!(name));
                    if let Some(image) = image {
                        container.insert("image".into(), json!(image));
                    }
                    container
                        .insert("ports".into(), ports.iter().map(|p| json!({"containerPort": p})).collect());
                    container.insert(
                        "env".into(),
                        env.iter().map(|(k, v)| json!({"name": k, "value": v})).collect(),
                    );
                    Value::Object(container)
                })
                .collect();
            let mut spec = json!({"containers": containers});
            if let Some(node) = node {
                spec["nodeSelector"] = json!({"n": node});
            }
            json!({"metadata": {"labels": labels, "finalizers": finalizers}, "spec": spec})
        },
    )
}

fn owned(object: &Object) -> Set {
    paths_of(Of::new(Type::of("v1", "Pod").unwrap()), object.value.as_ref().unwrap())
}

/// Paths to things; those to empty lists and maps are nothing to keep.
fn things(parts: &Value) -> Set {
    let mut parts = parts.clone();
    prune(&mut parts);
    paths_of(Of::new(Type::of("v1", "Pod").unwrap()), &parts)
}

fn prune(value: &mut Value) {
    let empty =
        |v: &Value| v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty);
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, v| !empty(v));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

proptest! {
    #[test]
    fn sets_follow_the_laws(a in set(), b in set(), c in set()) {
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(a.union(&b).union(&c), a.union(&b.union(&c)));
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
        prop_assert_eq!(a.recursive_difference(&b).difference(&a.difference(&b)), Set::default());
        prop_assert_eq!(a.difference(&b.union(&c)), a.difference(&b).difference(&c));
        prop_assert_eq!(Set::parse(&a.fields()).unwrap_or_default() , a.clone());
        for path in a.paths() {
            prop_assert!(a.has(&path) && a.union(&b).has(&path));
        }
    }

    #[test]
    fn applying_twice_is_applying_once(first in pod(), second in pod(), third in pod()) {
        let mut it = Object::new("v1", "Pod");
        it.force("one", first);
        it.force("two", second.clone());
        it.write("three", "", |o| {
            o["metadata"]["labels"] = third["metadata"]["labels"].clone();
        });
        it.force("two", second.clone());
        let once = it.value.clone();
        it.force("two", second.clone());
        prop_assert_eq!(&it.value, &once);
        // Everything applied is there, and nothing is anyone's that is not there.
        let there = owned(&it);
        prop_assert!(things(&second).difference(&there).is_empty());
    }

    #[test]
    fn who_applies_nothing_owns_nothing_and_takes_nothing_of_others(parts in pod(), other in pod()) {
        let mut it = Object::new("v1", "Pod");
        it.force("one", parts);
        it.force("other", other.clone());
        it.apply("one", json!({}));
        prop_assert!(!it.owners().iter().any(|line| line.starts_with("one ")));
        prop_assert!(things(&other).difference(&owned(&it)).is_empty());
    }

    #[test]
    fn any_json_is_survived(live in json(), new in json(), entries in json(), kind in 0usize..4, sub in prop::sample::select(vec!["", "status", "resize"])) {
        let (api_version, kind) = [("v1", "Pod"), ("v1", "ConfigMap"), ("v1", "Node"), ("v1", "Service")][kind];
        let mut it = Object::new(api_version, kind);
        let by = it.by("kubectl", sub);
        let mut tracked = new.clone();
        note(&by, Some(&live), &mut tracked);
        keep_times(&live, &mut tracked);
        note(&by, None, &mut new.clone());
        let mut applied = new;
        if let Some(object) = applied.as_object_mut() {
            object.insert("apiVersion".into(), json!(api_version));
            object.insert("kind".into(), json!(kind));
        }
        let mut live = live;
        if let Some(object) = live.as_object_mut() {
            object.insert("metadata".into(), json!({"uid": "u", "managedFields": entries, "annotations":
                {"kubectl.kubernetes.io/last-applied-configuration": applied.to_string()}}));
        }
        for force in [false, true] {
            let call = ApplyCall { by, force };
            let _ = apply_to(&call, Some(&live), applied.clone());
            let _ = apply_to(&call, None, applied.clone());
        }
    }
}
