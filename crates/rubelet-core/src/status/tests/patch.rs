//! Tables and properties of the patch: what is sent, and that applying it as the API server does yields our
//! status and keeps what is others'.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::static_pod::CONFIG_MIRROR_ANNOTATION;
use crate::status::patch::{is_urgent, status_patch};

const KINDS: [&str; 5] = ["Ready", "ContainersReady", "PodScheduled", "example.com/lb", "example.com/gate"];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"];

fn api_pod(spec: Value, status: Value) -> Pod {
    let mut pod = pod(spec);
    pod.status = serde_json::from_value(status).unwrap();
    pod
}

fn of(status: Value) -> PodStatus {
    serde_json::from_value(status).unwrap()
}

fn patch(held: Value, wanted: Value) -> Option<Value> {
    let api = api_pod(Value::Null, held);
    let patch = status_patch(&pod(one()), &api, &of(wanted), at(2000)).unwrap()?;
    assert_eq!(patch["metadata"], json!({"uid": "u1"}));
    Some(patch["status"].clone())
}

/// Strategic merge as the API server does it to a pod's status.
fn apply(held: &Value, patch: &Value) -> Value {
    let mut result = held.as_object().cloned().unwrap_or_default();
    for (key, change) in patch.as_object().unwrap() {
        let merged = match key.as_str() {
            _ if change.is_null() => None,
            "conditions" => Some(merge_list(result.get(key), change, "type")),
            "podIPs" | "hostIPs" => Some(merge_list(result.get(key), change, "ip")),
            _ => Some(merge_value(result.get(key), change)),
        };
        match merged {
            Some(merged) => result.insert(key.clone(), merged),
            None => result.remove(key),
        };
    }
    Value::Object(result)
}

fn merge_value(old: Option<&Value>, change: &Value) -> Value {
    let Value::Object(change) = change else { return change.clone() };
    let mut result = old.and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, change) in change {
        if change.is_null() {
            result.remove(key);
        } else {
            let merged = merge_value(result.get(key), change);
            result.insert(key.clone(), merged);
        }
    }
    Value::Object(result)
}

fn merge_list(old: Option<&Value>, change: &Value, key: &str) -> Value {
    let mut list = old.and_then(Value::as_array).cloned().unwrap_or_default();
    let (deleted, merged): (Vec<_>, Vec<_>) =
        change.as_array().unwrap().iter().partition(|entry| entry["$patch"] == "delete");
    list.retain(|entry| !deleted.iter().any(|gone| gone[key] == entry[key]));
    for entry in merged {
        match list.iter_mut().find(|known| known[key] == entry[key]) {
            Some(known) => *known = merge_value(Some(known), entry),
            None => list.push(entry.clone()),
        }
    }
    Value::Array(list)
}

#[test]
fn only_what_differs_is_sent() {
    let ready = |status: &str, at: &str| json!({"type": "Ready", "status": status, "lastTransitionTime": at, "observedGeneration": 1});
    let then = "2026-01-01T00:00:00Z";
    let later = "2026-01-01T00:00:09Z";
    // Nothing, and what only looks different.
    assert_eq!(patch(json!({"phase": "Running"}), json!({"phase": "Running", "message": ""})), None);
    assert_eq!(
        patch(
            json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 1,
                "lastState": {}, "state": {"running": {"startedAt": then}}, "allocatedResources": {"cpu": "1"}}]}),
            json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00.25Z"}},
                "allocatedResources": {"cpu": "1000m"}}]}),
        ),
        None
    );
    // Stamps alone are no reason; with one they go along.
    assert_eq!(
        patch(json!({"conditions": [ready("True", then)]}), json!({"conditions": [ready("True", later)]})),
        None
    );
    assert_eq!(
        patch(
            json!({"phase": "Pending", "conditions": [ready("True", then)]}),
            json!({"phase": "Running", "conditions": [ready("True", later)]})
        ),
        Some(json!({"phase": "Running", "conditions": [{"type": "Ready", "lastTransitionTime": later}]}))
    );
    // Conditions: changed fields, cleared reasons, ours that are gone; never others'.
    assert_eq!(
        patch(
            json!({"conditions": [
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "x"},
                {"type": "PodResizePending", "status": "True"},
                {"type": "example.com/lb", "status": "True"},
            ]}),
            json!({"conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "example.com/lb", "status": "False"},
                {"type": "example.com/old", "status": "True"},
            ]}),
        ),
        Some(json!({"conditions": [
            {"type": "Ready", "status": "True", "reason": null, "message": null},
            {"type": "PodResizePending", "$patch": "delete"},
        ]}))
    );
    // Their order is nobody's business.
    let (a, b) =
        (json!({"type": "Ready", "status": "True"}), json!({"type": "example.com/lb", "status": "True"}));
    assert_eq!(
        patch(
            json!({"conditions": [a, b], "qosClass": "Burstable"}),
            json!({"conditions": [a], "phase": "Running"})
        ),
        Some(json!({"phase": "Running"}))
    );
    // Addresses keep their order: the first one is the main one.
    assert_eq!(
        patch(
            json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
            json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::1"}]}),
        ),
        Some(json!({"podIP": "10.0.0.2", "podIPs": [
            {"$patch": "delete", "ip": "10.0.0.1"}, {"$patch": "delete", "ip": "fd00::1"},
            {"ip": "10.0.0.2"}, {"ip": "fd00::1"},
        ]}))
    );
    // One more is sent with those there are: the server puts what it is not sent behind what it is sent.
    assert_eq!(
        patch(
            json!({"hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}]}),
            json!({"hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}, {"ip": "fd00::1"}]}),
        ),
        Some(json!({"hostIPs": [
            {"$patch": "delete", "ip": "192.0.2.1"}, {"ip": "192.0.2.1"}, {"ip": "fd00::1"},
        ]}))
    );
    assert_eq!(
        patch(json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}), json!({})),
        Some(json!({"podIP": null, "podIPs": null}))
    );
    // Maps are merged, so what is gone is named.
    assert_eq!(
        patch(
            json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}),
            json!({"resources": {"limits": {"cpu": "2000m"}}})
        ),
        Some(json!({"resources": {"limits": {"cpu": "2", "memory": null}}}))
    );
    // The generation is followed even when nothing else is said.
    assert_eq!(
        patch(json!({"observedGeneration": 1}), json!({"observedGeneration": 2})),
        Some(json!({"observedGeneration": 2}))
    );
    // What others own is never touched.
    assert_eq!(patch(json!({"resourceClaimStatuses": [{"name": "gpu"}]}), json!({})), None);
    assert_eq!(patch(json!({"nominatedNodeName": "n"}), json!({})), None);
}

#[test]
fn nothing_goes_back_over_the_api() {
    // A terminal phase that someone else set stays, and nobody is Ready in it.
    assert_eq!(
        patch(
            json!({"phase": "Failed", "reason": "Evicted"}),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
        ),
        Some(json!({"conditions": [
            {"type": "Ready", "status": "False", "reason": "PodFailed", "lastTransitionTime": "1970-01-01T00:33:20Z"},
        ]}))
    );
    assert_eq!(patch(json!({"observedGeneration": 5}), json!({"observedGeneration": 2})), None);
    let never = json!({"restartPolicy": "Never", "containers": [{"name": "app", "image": "busybox"}]});
    let state = |state: Value| {
        json!({"containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": state}]})
    };
    let ended = state(json!({"terminated": {"exitCode": 0}}));
    let running = state(json!({"running": {}}));
    let api = api_pod(Value::Null, ended.clone());
    let never = pod(never);
    assert!(status_patch(&never, &api, &of(running.clone()), at(1)).is_err());
    // A mirror shows what its static pod does.
    let mut mirror = api_pod(Value::Null, ended);
    mirror.metadata.annotations = Some([(CONFIG_MIRROR_ANNOTATION.to_owned(), "h".to_owned())].into());
    assert!(status_patch(&never, &mirror, &of(running), at(1)).unwrap().is_some());
    mirror.status = Some(of(json!({"phase": "Failed", "reason": "Rejected"})));
    let patch = status_patch(&never, &mirror, &of(json!({"phase": "Running"})), at(1)).unwrap().unwrap();
    assert_eq!(patch["status"], json!({"phase": "Running", "reason": null}));
}

#[test]
fn readiness_and_phases_are_urgent() {
    let ready = |status: &str| json!({"type": "Ready", "status": status});
    let check =
        |held: Value, wanted: Value, expected| assert_eq!(is_urgent(&of(held), &of(wanted)), expected);
    check(json!({}), json!({"podIP": "10.0.0.1"}), false);
    check(json!({"phase": "Pending"}), json!({"phase": "Failed"}), true);
    check(json!({"conditions": [ready("True")]}), json!({"conditions": [ready("False")]}), true);
    check(json!({"conditions": [ready("True")]}), json!({"conditions": [ready("True")]}), false);
    check(json!({}), json!({"conditions": [{"type": "ContainersReady", "status": "True"}]}), true);
}

fn statuses() -> impl Strategy<Value = Value> {
    let condition =
        (0..2usize, 0..3i64, proptest::option::of("[a-c]")).prop_map(|(verdict, second, reason)| {
            json!({"status": (["True", "False"][verdict]), "reason": reason,
            "lastTransitionTime": format!("2026-01-01T00:00:0{second}Z")})
        });
    let conditions = prop::collection::btree_map(0..KINDS.len(), condition, 0..=KINDS.len());
    let addresses = prop::collection::vec(0..ADDRESSES.len(), 0..3);
    let container = (0..3i32, 0..3usize, any::<bool>()).prop_map(|(restarts, state, ready)| {
        let state = [json!({"waiting": {"reason": "x"}}), json!({"running": {}}), json!({"terminated": {"exitCode": 1}})]
            [state]
            .clone();
        json!({"name": "app", "image": "i", "imageID": "", "ready": ready, "restartCount": restarts, "state": state})
    });
    let phase = prop::sample::select(vec!["Pending", "Running", "Running", "Succeeded", "Failed"]);
    (phase, conditions, addresses.clone(), addresses, proptest::option::of(container), 0..3i64).prop_map(
        |(phase, conditions, pod_ips, host_ips, container, generation)| {
            let listed = |ips: &[usize]| {
                let mut known = std::collections::BTreeSet::new();
                let ips = ips.iter().filter(|ip| known.insert(**ip));
                let ips: Vec<_> = ips.map(|ip| json!({"ip": ADDRESSES[*ip]})).collect();
                (!ips.is_empty()).then_some(ips)
            };
            let conditions: Vec<Value> = conditions
                .into_iter()
                .map(|(kind, mut condition)| {
                    condition["type"] = KINDS[kind].into();
                    condition
                })
                .collect();
            json!({
                "phase": phase, "conditions": conditions, "podIPs": listed(&pod_ips),
                "podIP": listed(&pod_ips).map(|ips| ips[0]["ip"].clone()), "hostIPs": listed(&host_ips),
                "containerStatuses": container.map(|container| [container]), "observedGeneration": generation,
            })
        },
    )
}

proptest! {
    #[test]
    fn applying_the_patch_says_what_was_wanted(held in statuses(), wanted in statuses()) {
        let mut pod = api_pod(one(), held.clone());
        let old = pod.status.clone().unwrap();
        let wanted = of(wanted);
        let told = merge_for_update(&pod, &old, &wanted, false, at(2000)).unwrap();
        let patch = status_patch(&pod, &pod, &wanted, at(2000)).unwrap();
        let result = match &patch {
            Some(patch) => of(apply(&serde_json::to_value(&old).unwrap(), &patch["status"])),
            None => old.clone(),
        };
        prop_assert!(semantically_equal(&result, &told), "{patch:?} gave {result:?}");
        let foreign = |status: &PodStatus| -> Vec<_> {
            let all = status.conditions.iter().flatten();
            all.filter(|condition| condition.type_.starts_with("example.com/")).cloned().collect()
        };
        prop_assert_eq!(foreign(&result), foreign(&old));
        let first = result.pod_ips.iter().flatten().next().map(|entry| entry.ip.clone());
        prop_assert_eq!(first, result.pod_ip.clone());
        // Once applied there is nothing left to say.
        pod.status = Some(result);
        prop_assert_eq!(status_patch(&pod, &pod, &wanted, at(3000)).unwrap(), None);
    }
}
