//! Tables of client-go's known cases, and what holds for every series of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixtures::{at, pod};

fn occurrence(object: &ObjectReference, reason: &str, message: &str, second: i64) -> Occurrence {
    Occurrence {
        object: object.clone(),
        kind: "Warning",
        reason: reason.to_owned(),
        message: message.to_owned(),
        annotations: BTreeMap::new(),
        at: at(second),
    }
}

fn web() -> ObjectReference {
    pod_reference(&pod(json!({"containers": [{"name": "main"}]})), None)
}

fn correlator() -> Correlator {
    Correlator::new("kubelet", "node-1")
}

fn brief(posting: Option<Posting>) -> String {
    match posting {
        None => "skip".to_owned(),
        Some(posting) => {
            let verb = if posting.update { "patch" } else { "create" };
            let event = posting.event;
            format!("{verb} {} {}", event.count.unwrap(), event.message.unwrap())
        }
    }
}

#[test]
fn an_event_is_complete() {
    let object = pod_reference(&pod(json!({"containers": [{"name": "main"}]})), Some("main"));
    let posting = correlator().observe(occurrence(&object, "Failed", "no luck", 5)).unwrap();
    assert!(!posting.update);
    assert_eq!(
        serde_json::to_value(&posting.event).unwrap(),
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "web.12a05f200", "namespace": "shop"},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web", "uid": "u1",
                "fieldPath": "spec.containers{main}",
            },
            "type": "Warning",
            "reason": "Failed",
            "message": "no luck",
            "firstTimestamp": "1970-01-01T00:00:05Z",
            "lastTimestamp": "1970-01-01T00:00:05Z",
            "count": 1,
            "source": {"component": "kubelet", "host": "node-1"},
            "reportingComponent": "kubelet",
            "reportingInstance": "node-1",
        })
    );
}

#[test]
fn annotations_are_of_the_event() {
    let annotations = BTreeMap::from([("starved_resource".to_owned(), "memory".to_owned())]);
    let occurrence = Occurrence { annotations: annotations.clone(), ..occurrence(&web(), "Evicted", "m", 0) };
    let posting = correlator().observe(occurrence).unwrap();
    assert_eq!(posting.event.metadata.annotations, Some(annotations));
}

#[test]
fn a_nodes_events_are_in_default_and_carry_its_name_as_uid() {
    let posting = correlator().observe(occurrence(&node_reference("node-1"), "Rebooted", "x", 5)).unwrap();
    assert_eq!(posting.event.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(posting.event.metadata.name.as_deref(), Some("node-1.12a05f200"));
    assert_eq!(
        serde_json::to_value(&posting.event.involved_object).unwrap(),
        json!({"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"})
    );
}

#[test]
fn a_container_is_named_by_its_place() {
    let pod = pod(json!({
        "containers": [{"name": "main"}],
        "initContainers": [{"name": "first"}],
        "ephemeralContainers": [{"name": "debug"}],
    }));
    let check =
        |name: &str, path: &str| assert_eq!(pod_reference(&pod, Some(name)).field_path.unwrap(), path);
    check("main", "spec.containers{main}");
    check("first", "spec.initContainers{first}");
    check("debug", "spec.ephemeralContainers{debug}");
    check("POD", "implicitly required container POD");
    assert_eq!(pod_reference(&pod, None).field_path, None);
}

#[test]
fn the_same_event_again_is_a_patch_of_the_first() {
    let mut correlator = correlator();
    let first = correlator.observe(occurrence(&web(), "BackOff", "again", 5)).unwrap();
    let again = correlator.observe(occurrence(&web(), "BackOff", "again", 9)).unwrap();
    assert!(again.update);
    assert_eq!(again.event.metadata.name, first.event.metadata.name);
    assert_eq!(again.event.first_timestamp, first.event.first_timestamp);
    assert_eq!(
        again.patch(),
        json!({"count": 2, "lastTimestamp": "1970-01-01T00:00:09Z", "message": "again"})
    );
    // A pod of the same name is another object.
    let other = ObjectReference { uid: Some("u2".to_owned()), ..web() };
    assert_eq!(brief(correlator.observe(occurrence(&other, "BackOff", "again", 9))), "create 1 again");
}

#[test]
fn from_the_tenth_message_on_similar_events_are_one() {
    let mut correlator = correlator();
    for n in 1..=9 {
        let said = brief(correlator.observe(occurrence(&web(), "Unhealthy", &format!("m{n}"), n)));
        assert_eq!(said, format!("create 1 m{n}"));
    }
    let mut say =
        |message: &str, second| brief(correlator.observe(occurrence(&web(), "Unhealthy", message, second)));
    assert_eq!(say("m10", 10), "create 1 (combined from similar events): m10");
    assert_eq!(say("m11", 11), "patch 2 (combined from similar events): m11");
    assert_eq!(say("m11", 12), "patch 3 (combined from similar events): m11");
    assert_eq!(say("m3", 13), "patch 2 m3", "a message known before keeps its own Event");
    assert_eq!(say("m12", 613), "patch 4 (combined from similar events): m12");
    assert_eq!(say("m13", 1214), "create 1 m13", "after a pause the series starts over");
}

#[test]
fn other_reasons_are_not_similar() {
    let mut correlator = correlator();
    for n in 0..20 {
        let said = brief(correlator.observe(occurrence(&web(), &format!("Reason{n}"), "m", 0)));
        assert_eq!(said, "create 1 m");
    }
}

#[test]
fn an_object_gets_25_events_and_then_one_in_five_minutes() {
    let mut correlator = correlator();
    let mut count = |second| correlator.observe(occurrence(&web(), "BackOff", "m", second));
    assert_eq!((0..40).filter_map(|_| count(0)).count(), 25);
    assert_eq!(brief(count(299)), "skip");
    assert_eq!(brief(count(300)), "patch 42 m", "what was left out has been counted");
    assert_eq!(brief(count(301)), "skip");
    // The other type and other objects have budgets of their own.
    let normal = Occurrence { kind: "Normal", ..occurrence(&web(), "Pulled", "m", 301) };
    assert_eq!(brief(correlator.observe(normal)), "create 1 m");
    let other = occurrence(&node_reference("n"), "BackOff", "m", 301);
    assert_eq!(brief(correlator.observe(other)), "create 1 m");
}

#[test]
fn names_are_unique_and_allowed() {
    let mut correlator = correlator();
    let mut name = |object: &str, message: &str| {
        let object = ObjectReference { name: Some(object.to_owned()), ..web() };
        correlator.observe(occurrence(&object, "R", message, 1)).unwrap().event.metadata.name.unwrap()
    };
    assert_eq!(name("web", "a"), "web.3b9aca00");
    assert_eq!(name("web", "b"), "web.3b9aca01", "at the same moment");
    assert_eq!(name("a.b-c", "c"), "a.b-c.3b9aca02");
    for bad in ["Upper", "", "a_b", "-a", "a..b", &"x".repeat(250)] {
        let name = name(bad, "m");
        assert_eq!(name.len(), 32, "{bad:?} became {name}");
    }
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let mut correlator = correlator();
    let mut length = |message: String| {
        let posting = correlator.observe(occurrence(&web(), "R", &message, 1)).unwrap();
        posting.event.message.unwrap().len()
    };
    assert_eq!(length("x".repeat(1024)), 1024);
    assert_eq!(length("x".repeat(1025)), 1024);
    assert_eq!(length("ü".repeat(1000)), 1023);
    for n in 0..10 {
        length(format!("{n}"));
    }
    assert_eq!(length("y".repeat(1020)), 1024, "the combined message keeps the limit too");
}

#[test]
fn memory_is_bounded() {
    let mut correlator = correlator();
    for n in 0..3 * CACHED_KEYS {
        let object = ObjectReference { uid: Some(n.to_string()), ..web() };
        correlator.observe(occurrence(&object, "R", "m", 1));
    }
    assert_eq!(correlator.known.len(), CACHED_KEYS);
    assert_eq!(correlator.similar.len(), CACHED_KEYS);
    assert_eq!(correlator.spam.len(), CACHED_KEYS);
}

proptest! {
    /// Whatever happens: no two created Events share a name, the counts of an Event only grow, all counts together
    /// are what happened, sent or not, and an object sends no more than its budget.
    #[test]
    fn counts_add_up(series in prop::collection::vec((0u8..3, 0u8..2, 0u8..14, 0i64..4), 1..120)) {
        let mut correlator = correlator();
        let mut counts: BTreeMap<String, i32> = BTreeMap::new();
        let mut created = BTreeSet::new();
        let mut sent: BTreeMap<u8, u32> = BTreeMap::new();
        let mut second = 0;
        for (object, reason, message, wait) in &series {
            second += wait;
            let reference = ObjectReference { uid: Some(object.to_string()), ..web() };
            let it = occurrence(&reference, &reason.to_string(), &message.to_string(), second);
            let Some(posting) = correlator.observe(it) else { continue };
            *sent.entry(*object).or_default() += 1;
            let name = posting.event.metadata.name.clone().unwrap();
            if !posting.update {
                prop_assert!(created.insert(name.clone()), "{} twice", name);
            }
            let count = posting.event.count.unwrap();
            prop_assert!(count > counts.insert(name, count).unwrap_or(0));
        }
        prop_assert!(sent.values().all(|sent| *sent <= SPAM_BURST + 2));
        let total: i32 = correlator.known.values().map(|known| known.count).sum();
        prop_assert_eq!(usize::try_from(total).unwrap(), series.len());
        for (name, count) in &counts {
            let known = correlator.known.values().find(|known| known.name == *name).unwrap();
            prop_assert!(known.count >= *count);
        }
    }
}
