//! What the server makes of pods and nodes: defaults, status rules, generation, times.

use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{api_with_node, message, object, pod, refusal};
use crate::fake_api::{FakeApi, Options};

fn value<T: serde::Serialize>(object: &T) -> Value {
    serde_json::to_value(object).unwrap()
}

#[tokio::test(start_paused = true)]
async fn defaults_are_filled_in() {
    let api = FakeApi::new();
    let stored = value(&api.create(&pod("p", "")));
    let spec = &stored["spec"];
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec["dnsPolicy"], "ClusterFirst");
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["tolerations"][1]["key"], "node.kubernetes.io/unreachable");
    assert_eq!(spec["tolerations"][1]["tolerationSeconds"], 300);
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(stored["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert!(stored["metadata"]["managedFields"].is_array());
    assert_eq!(spec.get("volumes"), None);
}

#[tokio::test(start_paused = true)]
async fn quality_of_service() {
    let api = FakeApi::new();
    let mut check = {
        let mut number = 0;
        move |resources: Value, expected: &str| {
            number += 1;
            let pod: Pod =
                object(json!({"metadata": {"name": format!("p{number}")}, "spec": {"containers": [
                {"name": "c", "image": "i:1", "resources": resources}]}}));
            assert_eq!(api.create(&pod).status.unwrap().qos_class.as_deref(), Some(expected));
        }
    };
    check(json!({}), "BestEffort");
    check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
    check(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable");
    check(json!({"requests": {"cpu": "1"}}), "Burstable");
}

#[tokio::test(start_paused = true)]
async fn the_service_account_volume_is_added() {
    let api = FakeApi::with(Options { service_accounts: true, ..Options::default() });
    let account: ServiceAccount =
        object(json!({"metadata": {"name": "puller"}, "imagePullSecrets": [{"name": "s"}]}));
    api.create(&account);
    let mut asks = pod("p", "n");
    asks.spec.as_mut().unwrap().service_account_name = Some("puller".into());
    let spec = value(&api.create(&asks))["spec"].clone();
    let name = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], name);
    assert_eq!(
        spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
        3607
    );
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "s"}]));
    let mut unknown = pod("q", "n");
    unknown.spec.as_mut().unwrap().service_account_name = Some("nobody".into());
    let pods: Api<Pod> = Api::default_namespaced(api.client("admin"));
    assert!(message(pods.create(&PostParams::default(), &unknown).await).contains("nobody"));
}

/// The outcome of a status patch: nothing, or the code it is refused with.
async fn patch_status(pods: &Api<Pod>, status: Value) -> Result<Value, (u16, String)> {
    let patch = Patch::Strategic(json!({"status": status}));
    match pods.patch_status("p", &PatchParams::default(), &patch).await {
        Ok(pod) => Ok(value(&pod)["status"].clone()),
        refused => Err(refusal(refused)),
    }
}

#[tokio::test(start_paused = true)]
async fn statuses_are_checked() {
    let api = FakeApi::new();
    let mut never = pod("p", "n");
    never.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    api.create(&never);
    let pods: Api<Pod> = Api::default_namespaced(api.client("system:node:n"));
    let ended = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"terminated": {"exitCode": 1}}}]});
    let waiting = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"waiting": {"reason": "X"}}}]});
    patch_status(&pods, waiting.clone()).await.unwrap();
    patch_status(&pods, ended).await.unwrap();
    let invalid = (422, "Invalid".to_owned());
    assert_eq!(patch_status(&pods, waiting).await, Err(invalid.clone()));
    assert_eq!(patch_status(&pods, json!({"qosClass": "Guaranteed"})).await, Err(invalid.clone()));
    assert_eq!(patch_status(&pods, json!({"podIPs": [{"ip": "x"}]})).await, Err(invalid.clone()));
    assert_eq!(patch_status(&pods, json!({"phase": 7})).await, Err(invalid.clone()));
    let status = patch_status(
        &pods,
        json!({"podIP": "10.0.0.1", "observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1,
                        "lastTransitionTime": "2026-01-01T00:00:00.987Z"}]}),
    )
    .await
    .unwrap();
    assert_eq!(status["podIPs"], json!([{"ip": "10.0.0.1"}]));
    assert_eq!(status["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    // An old client that knows no observedGeneration does not take it back.
    let status = patch_status(
        &pods,
        json!({"observedGeneration": null,
        "conditions": [{"type": "Ready", "status": "False", "observedGeneration": null}]}),
    )
    .await
    .unwrap();
    assert_eq!(
        (&status["observedGeneration"], &status["conditions"][0]["observedGeneration"]),
        (&json!(1), &json!(1))
    );
    // podIPs merge by address and what the patch says comes first; then podIP decides.
    let status = patch_status(&pods, json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}]})).await;
    assert_eq!(status.unwrap()["podIPs"], json!([{"ip": "10.0.0.1"}]));
    let twice = json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]});
    assert_eq!(patch_status(&pods, twice).await, Err(invalid));
}

#[tokio::test(start_paused = true)]
async fn only_a_changed_spec_counts_as_a_generation_and_nothing_changed_is_no_change() {
    let api = FakeApi::new();
    api.create(&pod("p", "n"));
    let pods: Api<Pod> = Api::default_namespaced(api.client("system:node:n"));
    patch_status(&pods, json!({"phase": "Running"})).await.unwrap();
    let before = api.get::<Pod>("default", "p").unwrap().metadata;
    patch_status(&pods, json!({"phase": "Running"})).await.unwrap();
    assert_eq!(api.get::<Pod>("default", "p").unwrap().metadata, before);
    assert_eq!(before.generation, Some(1));
    let changed = api.modify::<Pod>("default", "p", |p| {
        p.spec.as_mut().unwrap().active_deadline_seconds = Some(5);
        p.status = None;
    });
    assert_eq!(changed.metadata.generation, Some(2));
    assert_eq!(changed.status.unwrap().phase.as_deref(), Some("Running"));
}

#[tokio::test(start_paused = true)]
async fn an_update_of_an_old_version_conflicts() {
    let api = api_with_node("n");
    let nodes: Api<Node> = Api::all(api.client("system:node:n"));
    let old = nodes.get("n").await.unwrap();
    api.modify::<Node>("", "n", |node| node.spec.get_or_insert_default().unschedulable = Some(true));
    assert_eq!(refusal(nodes.replace("n", &PostParams::default(), &old).await), (409, "Conflict".into()));
    let status = Patch::Strategic(json!({"status": {"phase": "x"}, "spec": {"unschedulable": false}}));
    let node = nodes.patch_status("n", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(node.spec.unwrap().unschedulable, Some(true));
}

#[tokio::test(start_paused = true)]
async fn events_belong_into_the_namespace_of_their_object() {
    let api = FakeApi::new();
    let events: Api<Event> = Api::namespaced(api.client("system:node:n"), "kube-system");
    let event: Event =
        object(json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Node", "name": "n"}}));
    assert_eq!(refusal(events.create(&PostParams::default(), &event).await), (422, "Invalid".into()));
}
