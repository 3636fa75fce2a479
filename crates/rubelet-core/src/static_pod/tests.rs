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

fn file() -> Origin {
    Origin::File("/etc/kubernetes/manifests/a.yaml".into())
}

fn web(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": "busybox:1" }] },
    })
}

#[track_caller]
fn check_refused(manifest: Value, expected: &str) {
    let message = decode(manifest, &file(), &node()).unwrap_err().to_string();
    assert!(message.contains(expected), "{message:?} lacks {expected:?}");
}

#[test]
fn what_is_no_usable_pod_is_refused_with_its_reason() {
    use serde_json::json;
    check_refused(json!(null), "found nothing");
    check_refused(json!("text"), "found a text");
    check_refused(json!([web("a")]), "found a list");
    check_refused(json!({}), "apiVersion \"\", kind \"\" is not a pod");
    check_refused(
        json!({"apiVersion": "apps/v1", "kind": "Deployment"}),
        "\"apps/v1\", kind \"Deployment\" is not a pod",
    );
    check_refused(
        json!({"apiVersion": "v1", "kind": "PodList", "items": []}),
        "each pod into a file of its own",
    );
    check_refused(json!({"apiVersion": "v1", "kind": "Pod"}), "metadata.name: Required value");
    check_refused(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}),
        "spec.containers: Required value",
    );
    let mut wrong_type = web("a");
    wrong_type["spec"]["containers"][0]["image"] = json!(1);
    check_refused(wrong_type, "spec.containers[0].image: expected a text, found the number 1");
    let mut several = web("a");
    several["spec"]["containers"][0]["name"] = json!("B");
    several["spec"]["serviceAccountName"] = json!("robot");
    check_refused(several.clone(), "spec.containers[0].name: Invalid value: \"B\"");
    check_refused(several, "static pods may not reference serviceaccounts");
}

#[test]
fn lists_give_what_is_good_and_report_the_rest() {
    let mut bad = web("bad");
    bad["spec"]["containers"][0]["image"] = serde_json::json!({});
    let mut bare = web("bare");
    bare.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
    let list = serde_json::json!({"apiVersion": "v1", "kind": "PodList", "items": [web("a"), bad, bare, null, web("b")]});
    let decoded = decode_list(list, &Origin::Url("http://127.0.0.1/".into()), &node()).unwrap();
    let names: Vec<_> =
        decoded.pods.iter().filter_map(|decoded| decoded.pod.metadata.name.as_deref()).collect();
    assert_eq!(names, ["a-node-1", "bare-node-1", "b-node-1"]);
    let problems: Vec<String> = decoded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["item 1 (bad) cannot be used", "item 3 (without a name) cannot be used"]);
    assert!(
        decoded.pods[0].pod.spec.as_ref().unwrap().tolerations.is_none(),
        "only files tolerate NoExecute"
    );

    let single = decode_list(web("one"), &file(), &node()).unwrap();
    assert_eq!((single.pods.len(), single.problems.len()), (1, 0));
    let generic = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [web("a"), {"apiVersion": "v1", "kind": "Secret"}]});
    let decoded = decode_list(generic, &file(), &node()).unwrap();
    assert_eq!((decoded.pods.len(), decoded.problems.len()), (1, 1));
    assert!(
        decode_list(serde_json::json!({"apiVersion": "v1", "kind": "List", "items": 5}), &file(), &node())
            .is_err()
    );
}

#[test]
fn marks_keep_the_first_time_a_pod_was_seen() {
    let mut pod = decode(web("a"), &file(), &node()).unwrap().pod;
    mark(&mut pod, "file", jiff::Timestamp::UNIX_EPOCH);
    mark(&mut pod, "file", jiff::Timestamp::from_second(60).unwrap());
    let annotations = pod.metadata.annotations.unwrap();
    assert_eq!(annotations[CONFIG_SEEN_ANNOTATION], "1970-01-01T00:00:00Z");
    assert_eq!(annotations[CONFIG_SOURCE_ANNOTATION], "file");
    assert_eq!(Some(&annotations[CONFIG_HASH_ANNOTATION]), pod.metadata.uid.as_ref());
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// JSON that often has the keys of pods, so that the walk gets deep.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z0-9.:/-]{0,8}|\\PC{0,4}".prop_map(Value::from),
        ];
        let key = prop_oneof![
            Just("containers"),
            Just("initContainers"),
            Just("resources"),
            Just("limits"),
            Just("requests"),
            Just("cpu"),
            Just("ports"),
            Just("env"),
            Just("valueFrom"),
            Just("livenessProbe"),
            Just("httpGet"),
            Just("volumes"),
            Just("name"),
            Just("image"),
            Just("port"),
            Just("securityContext"),
            Just("tolerations"),
            Just("metadata"),
            Just("labels"),
            Just("emptyDir"),
            Just("sizeLimit"),
            Just("affinity"),
            Just("other"),
        ];
        leaf.prop_recursive(6, 60, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_spec_is_decoded_or_refused_without_panic(metadata in json(), spec in json()) {
            let manifest = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
            let _ = decode(manifest, &file(), &node());
            let named = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec});
            let _ = decode(named, &file(), &node());
        }

        #[test]
        fn what_is_accepted_is_accepted_again_with_the_same_content(image in "[a-z]{1,8}(:[a-z0-9]{1,5})?", cpu in 1..9000_i64) {
            let mut manifest = web("a");
            manifest["spec"]["containers"][0]["image"] = image.into();
            manifest["spec"]["containers"][0]["resources"] = serde_json::json!({"limits": {"cpu": format!("{cpu}m")}});
            let first = decode(manifest.clone(), &file(), &node()).unwrap().pod;
            prop_assert_eq!(&first, &decode(manifest, &file(), &node()).unwrap().pod);
            let mut defaulted_twice = first.clone();
            defaults::apply(&mut defaulted_twice);
            prop_assert_eq!(first, shape::without_zero_values(&defaulted_twice).unwrap());
        }
    }
}
