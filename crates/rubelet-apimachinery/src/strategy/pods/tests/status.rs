//! Reports of statuses.

use super::*;

fn ended(name: &str, code: i32) -> Value {
    json!({"name": name, "state": {"terminated": {"exitCode": code}}})
}

#[test]
fn only_the_status_and_some_metadata_is_written() {
    let old = stored(json!({}));
    let change = json!({
        "metadata": {
            "labels": {"a": "b"}, "finalizers": ["x/y"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}],
        },
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "qosClass": null, "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
    });
    let new = update("status", &old, &change).unwrap();
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(new["metadata"]["generation"], json!(1));
    assert_eq!(new["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(new["metadata"]["finalizers"], json!(["x/y"]));
    assert_eq!(new["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(
        new["status"],
        json!({
            "phase": "Running", "qosClass": "BestEffort", "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        })
    );
    // Old agents know one address only.
    let newer = update("status", &new, &json!({"status": {"podIP": "10.0.0.2"}})).unwrap();
    assert_eq!(newer["status"]["podIPs"], json!([{"ip": "10.0.0.2"}]));
}

#[test]
fn what_was_observed_is_remembered() {
    let mut old = stored(json!({}));
    let ready = json!({"type": "Ready", "status": "False", "observedGeneration": 1});
    merge(&mut old, &json!({"status": {"observedGeneration": 1, "conditions": [ready]}}));
    let change =
        json!({"status": {"observedGeneration": null, "conditions": [{"type": "Ready", "status": "True"}]}});
    let new = update("status", &old, &change).unwrap();
    assert_eq!(new["status"]["observedGeneration"], json!(1));
    assert_eq!(
        new["status"]["conditions"],
        json!([{"type": "Ready", "status": "True", "observedGeneration": 1}])
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let old = stored(json!({}));
    let check = |status: Value, causes: &[&str]| {
        refused(update("status", &old, &json!({"status": status})), 422, causes);
    };
    check(
        json!({"qosClass": "Guaranteed"}),
        &["status.qosClass: Invalid value: \"Guaranteed\": field is immutable"],
    );
    check(
        json!({"observedGeneration": -1}),
        &["status.observedGeneration: Invalid value: -1: must be a non-negative integer"],
    );
    check(
        json!({"podIPs": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.5"}]}),
        &[
            "status.podIPs: Invalid value: [{\"IP\":\"1.2.3.4\"},{\"IP\":\"1.2.3.5\"}]: may specify no more than one IP \
           for each IP family",
        ],
    );
    check(
        json!({"podIPs": [{"ip": "x"}]}),
        &[
            "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    check(
        json!({"hostIPs": [{"ip": "1.2.3.4"}]}),
        &["status.hostIPs[0].ip: Invalid value: \"1.2.3.4\": must be equal to `hostIP`"],
    );
    check(
        json!({"resourceClaimStatuses": [{"name": "x"}]}),
        &["status.resourceClaimStatuses[0].name: Invalid value: \"x\": must match the name of an entry in \
           `spec.resourceClaims`"],
    );
    let bound = stored(json!({"nodeName": "n1"}));
    refused(
        update("status", &bound, &json!({"status": {"nominatedNodeName": "n2"}})),
        422,
        &["status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"],
    );
}

#[test]
fn what_has_ended_for_good_stays_ended() {
    /// Which of the lists complain when everything that ended with this code runs again.
    fn check(policy: &str, code: i32, expected: &[&str]) {
        let mut old = stored(json!({
            "restartPolicy": policy,
            "initContainers": [
                {"name": "init", "image": "x"}, {"name": "side", "image": "x", "restartPolicy": "Always"},
            ],
        }));
        merge(
            &mut old,
            &json!({"status": {
                "containerStatuses": [ended("app", code), ended("stranger", code)],
                "initContainerStatuses": [ended("init", code), ended("side", code)],
                "ephemeralContainerStatuses": [ended("debug", code)],
            }}),
        );
        let runs = |name: &str| json!({"name": name, "state": {"running": {}}});
        let change = json!({"status": {
            "containerStatuses": [runs("app"), runs("stranger")],
            "initContainerStatuses": [runs("init"), runs("side")],
            "ephemeralContainerStatuses": [runs("debug")],
        }});
        let why = "Forbidden: may not be transitioned to non-terminated state";
        let expected: Vec<String> =
            expected.iter().map(|place| format!("status.{place}.state: {why}")).collect();
        refused(
            update("status", &old, &change),
            422,
            &expected.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    let (app, stranger) = ("containerStatuses[0]", "containerStatuses[1]");
    let (init, debug) = ("initContainerStatuses[0]", "ephemeralContainerStatuses[0]");
    check("Always", 0, &[stranger, debug]);
    check("OnFailure", 1, &[stranger, debug]);
    check("OnFailure", 0, &[app, stranger, init, debug]);
    check("Never", 1, &[app, stranger, init, debug]);
}
