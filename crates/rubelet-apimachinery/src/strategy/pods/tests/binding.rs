//! Binding, eviction and the grace of deletions.

use super::*;
use crate::strategy::pods::{Eviction, bind, deletion, evict};

fn binding(change: Value) -> Value {
    let mut binding = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}});
    merge(&mut binding, &change);
    binding
}

fn bound(old: &Value, change: Value) -> Result<Value, ApiError> {
    with_change("binding", &objects(), |the| bind(the, old, &binding(change)))
}

#[test]
fn a_binding_gives_a_node_and_labels() {
    let mut old = stored(json!({}));
    old["status"]["nominatedNodeName"] = json!("n2");
    let pod = bound(&old, json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}})).unwrap();
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["metadata"]["generation"], json!(1));
    assert_eq!(pod["metadata"]["labels"], json!({"a": "b", "topology.kubernetes.io/zone": "z1"}));
    assert_eq!(pod["metadata"]["annotations"], json!({"c": "d"}));
    assert_eq!(pod["status"]["nominatedNodeName"], Value::Null);
    assert_eq!(
        pod["status"]["conditions"],
        json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    );
}

#[test]
fn not_every_pod_can_be_bound() {
    let old = stored(json!({}));
    let check =
        |old: &Value, change: Value, code: u16, message: &str| refused(bound(old, change), code, &[message]);
    check(&old, json!({"metadata": {"name": "x"}}), 400, "name in URL does not match name in Binding object");
    check(&old, json!({"target": {"name": ""}}), 500, "target.name: Required value");
    let conflict = "Operation cannot be fulfilled on pods/binding \"web\": pod web";
    let on_node = stored(json!({"nodeName": "n2"}));
    check(&on_node, json!({}), 409, &format!("{conflict} is already assigned to node \"n2\""));
    let gated = stored(json!({"schedulingGates": [{"name": "a"}]}));
    check(&gated, json!({}), 409, &format!("{conflict} has non-empty .spec.schedulingGates"));
    let mut going = old.clone();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    check(&going, json!({}), 409, &format!("{conflict} is being deleted, cannot be assigned to a host"));
    check(
        &old,
        json!({"metadata": {"uid": "u2"}}),
        409,
        "Operation cannot be fulfilled on pods \"web\": StorageError: invalid object, Code: 4, Key: \
         /registry/pods/shop/web, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: u2, \
         UID in object meta: u1",
    );
}

#[test]
fn deletions_have_their_grace() {
    let check = |node: &str, phase: &str, asked: Option<i64>, expected: i64| {
        let pod = json!({
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase},
        });
        assert_eq!(deletion(&pod, asked), expected, "{node} {phase} {asked:?}");
    };
    check("n1", "Running", None, 30);
    check("n1", "Running", Some(5), 5);
    check("n1", "Running", Some(0), 0);
    check("n1", "Running", Some(-5), 1);
    check("n1", "Pending", None, 30);
    check("", "Pending", Some(5), 0);
    check("n1", "Succeeded", None, 0);
    check("n1", "Failed", Some(9), 0);
    assert_eq!(deletion(&json!({"spec": {"nodeName": "n1"}}), None), 0);
}

/// An eviction of a running pod with this budget status; nothing for a pod without a budget.
fn eviction(ready: &str, budget: Value, options: Value) -> Result<Eviction, ApiError> {
    let mut old = stored(json!({"nodeName": "n1"}));
    old["metadata"]["labels"] = json!({"app": "web"});
    merge(
        &mut old,
        &json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}),
    );
    let mut objects = objects();
    if !budget.is_null() {
        let mut whole = json!({
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "b", "namespace": "shop", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1},
        });
        merge(&mut whole, &budget);
        objects.0.push(whole);
    }
    let eviction = json!({"metadata": {"name": "web"}, "deleteOptions": options});
    with_change("eviction", &objects, |change| evict(change, &old, &eviction))
}

#[test]
fn budgets_allow_evictions() {
    let free = eviction("True", Value::Null, json!({"gracePeriodSeconds": 3})).unwrap();
    assert_eq!(free.budget, None);
    assert_eq!(free.options, json!({"gracePeriodSeconds": 3}));
    assert_eq!(
        free.pod["status"]["conditions"][1],
        json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    );
    let spent = eviction("True", json!({"status": {"disruptionsAllowed": 1}}), Value::Null).unwrap();
    let budget = spent.budget.unwrap();
    assert_eq!(budget["status"]["disruptionsAllowed"], json!(0));
    assert_eq!(budget["status"]["disruptedPods"], json!({"web": "2026-01-01T00:00:00Z"}));
    assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
    // A pod that serves nobody costs nothing, while enough others serve.
    assert_eq!(eviction("False", json!({}), Value::Null).unwrap().budget, None);
}

#[test]
fn budgets_refuse_evictions() {
    let check = |ready: &str, budget: Value, why: &str| {
        let error = eviction(ready, budget, Value::Null).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (429, "Cannot evict pod as it would violate the pod's disruption budget.")
        );
        assert_eq!(error.details["causes"], json!([{"reason": "DisruptionBudget", "message": why}]));
    };
    let needs = "The disruption budget b needs 1 healthy pods and has";
    check("True", json!({}), &format!("{needs} 1 currently"));
    check("False", json!({"status": {"currentHealthy": 0}}), &format!("{needs} 0 currently"));
    check(
        "True",
        json!({"metadata": {"generation": 2}}),
        "The disruption budget b is still being processed by the server.",
    );
    refused(
        eviction("True", Value::Null, json!({"preconditions": {"uid": "u2"}})),
        409,
        &[
            "Operation cannot be fulfilled on Pod \"web\": the UID in the precondition (u2) does not match the UID in \
           record (u1). The object might have been deleted and then recreated",
        ],
    );
}
