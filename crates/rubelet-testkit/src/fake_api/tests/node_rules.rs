//! What a node may ask for and write: the Node authorizer and NodeRestriction, as tables of requests.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{api_with_node, node, object, pod};
use crate::fake_api::{FakeApi, User};

/// A cluster with a pod of node `n` that refers to things, and a pod of node `m`.
fn cluster() -> FakeApi {
    let api = api_with_node("n");
    api.create(&node("m"));
    let mine: Pod =
        object(json!({"metadata": {"name": "mine"}, "spec": {"nodeName": "n", "serviceAccountName": "sa",
        "imagePullSecrets": [{"name": "pull"}],
        "containers": [{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": "cm"}}],
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}]}],
        "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "pvc"}},
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
                {"secret": {"name": "projected"}}]}}]}}));
    for object in [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "pvc"},
               "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                        "volumeName": "pv"}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
               "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                        "hostPath": {"path": "/tmp"}}}),
    ] {
        api.create_json(&object);
    }
    api.create(&mine);
    api.create(&pod("theirs", "m"));
    api
}

async fn ask(api: &FakeApi, user: &str, method: Method, path: &str, body: Value) -> (u16, String) {
    let kind =
        if method == Method::PATCH { "application/strategic-merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request =
        Request::builder().method(method).uri(path).header("content-type", kind).body(body).unwrap();
    let response = api.handle(&User::named(user), request).await.unwrap();
    let code = response.status().as_u16();
    if path.contains("watch=true") {
        return (code, String::new());
    }
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    (code, body["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(start_paused = true)]
async fn reading() {
    let api = cluster();
    let table = [
        (200, "/api/v1/nodes/n"),
        (403, "/api/v1/nodes/m"),
        (403, "/api/v1/nodes"),
        (200, "/api/v1/nodes?fieldSelector=metadata.name%3Dn"),
        (200, "/api/v1/nodes?watch=true&fieldSelector=metadata.name%3Dn"),
        (403, "/api/v1/pods"),
        (200, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn"),
        (403, "/api/v1/pods?fieldSelector=spec.nodeName%3Dm"),
        (403, "/api/v1/pods?fieldSelector=spec.nodeName%21%3Dn"),
        (200, "/api/v1/namespaces/default/pods/mine"),
        (403, "/api/v1/namespaces/default/pods/theirs"),
        (403, "/api/v1/namespaces/default/pods/none"),
        // What a pod refers to may be asked for, there or not.
        (404, "/api/v1/namespaces/default/secrets/pull"),
        (404, "/api/v1/namespaces/default/secrets/env"),
        (404, "/api/v1/namespaces/default/secrets/projected"),
        (403, "/api/v1/namespaces/default/secrets/other"),
        (403, "/api/v1/namespaces/kube-system/secrets/env"),
        (403, "/api/v1/namespaces/default/secrets"),
        (200, "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Denv"),
        (200, "/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name%3Dcm"),
        (403, "/api/v1/namespaces/default/configmaps?watch=true"),
        (403, "/api/v1/configmaps?fieldSelector=metadata.name%3Dcm"),
        (200, "/api/v1/namespaces/default/persistentvolumeclaims/pvc"),
        (403, "/api/v1/namespaces/default/persistentvolumeclaims?fieldSelector=metadata.name%3Dpvc"),
        (200, "/api/v1/persistentvolumes/pv"),
        (403, "/api/v1/persistentvolumes/other"),
        (200, "/api/v1/namespaces/default/serviceaccounts/sa"),
        (403, "/api/v1/namespaces/default/serviceaccounts/default"),
        (200, "/api/v1/services"),
        (200, "/apis/node.k8s.io/v1/runtimeclasses?watch=true"),
        (200, "/apis/storage.k8s.io/v1/csidrivers"),
        (403, "/apis/storage.k8s.io/v1/csinodes"),
        (403, "/api/v1/namespaces"),
        (403, "/api/v1/namespaces/default/events"),
        (404, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n"),
        (403, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/m"),
        (403, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"),
        (403, "/apis/coordination.k8s.io/v1/namespaces/default/leases/n"),
        (200, "/apis/certificates.k8s.io/v1/certificatesigningrequests"),
        (403, "/apis/example.com/v1/things"),
    ];
    for (expected, path) in table {
        assert_eq!(ask(&api, "system:node:n", Method::GET, path, Value::Null).await.0, expected, "{path}");
    }
    let refused = table.iter().filter(|(code, _)| *code == 403).count();
    assert_eq!(api.violations().len(), refused);
    assert_eq!(ask(&api, "system:anonymous", Method::GET, "/api/v1/nodes/n", Value::Null).await.0, 403);
    let (_, why) =
        ask(&api, "system:node:n", Method::GET, "/api/v1/namespaces/default/secrets/x", Value::Null).await;
    assert_eq!(
        why,
        "secrets \"x\" is forbidden: User \"system:node:n\" cannot get resource \"secrets\" in API group \"\" in the \
         namespace \"default\": no relationship found between node 'n' and this object"
    );
}

#[tokio::test(start_paused = true)]
async fn writing() {
    let api = cluster();
    let uid = |name: &str| api.get::<Pod>("default", name).unwrap().metadata.uid.unwrap();
    let token = |account: &str, pod: &str, uid: &str, audience: Value| {
        (
            format!("/api/v1/namespaces/default/serviceaccounts/{account}/token"),
            json!({"spec": {"audiences": audience, "expirationSeconds": 3607,
                   "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}}),
        )
    };
    let status = json!({"status": {"phase": "Running"}});
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let event = json!({"metadata": {"generateName": "e"}, "involvedObject": {"namespace": "default"}});
    let mut table: Vec<(u16, Method, String, Value)> = vec![
        (200, Method::PATCH, "/api/v1/namespaces/default/pods/mine/status".into(), status.clone()),
        (403, Method::PATCH, "/api/v1/namespaces/default/pods/theirs/status".into(), status.clone()),
        (
            403,
            Method::PATCH,
            "/api/v1/namespaces/default/pods/mine".into(),
            json!({"metadata": {"labels": {"a": "b"}}}),
        ),
        (
            403,
            Method::PATCH,
            "/api/v1/namespaces/default/pods/mine/status".into(),
            json!({"metadata": {"labels": {"a": "b"}}}),
        ),
        (403, Method::DELETE, "/api/v1/namespaces/default/pods/theirs".into(), Value::Null),
        (403, Method::DELETE, "/api/v1/namespaces/default/pods".into(), Value::Null),
        (201, Method::POST, leases.into(), lease("n")),
        (403, Method::POST, leases.into(), lease("m")),
        (200, Method::PATCH, format!("{leases}/n"), json!({"spec": {"leaseDurationSeconds": 40}})),
        (201, Method::POST, "/api/v1/namespaces/default/events".into(), event),
        (403, Method::POST, "/api/v1/nodes".into(), json!({"metadata": {"name": "x"}})),
        (409, Method::POST, "/api/v1/nodes".into(), json!({"metadata": {"name": "n"}})),
        (403, Method::PATCH, "/api/v1/nodes/m/status".into(), status.clone()),
        (200, Method::PATCH, "/api/v1/nodes/n/status".into(), json!({"status": {"capacity": {"cpu": "1"}}})),
        (403, Method::DELETE, "/api/v1/nodes/n".into(), Value::Null),
        (
            403,
            Method::PATCH,
            "/api/v1/nodes/n".into(),
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
        ),
        (200, Method::PATCH, "/api/v1/nodes/n".into(), json!({"metadata": {"annotations": {"a": "b"}}})),
        (403, Method::POST, "/api/v1/namespaces/default/pods/theirs/eviction".into(), json!({})),
    ];
    let (mine, theirs) = (uid("mine"), uid("theirs"));
    for (code, account, pod, uid, audience) in [
        (201, "sa", "mine", mine.as_str(), json!([])),
        (403, "sa", "mine", &mine, json!(["vault"])),
        (403, "sa", "mine", "other", json!([])),
        (403, "sa", "mine", "", json!([])),
        (403, "sa", "theirs", &theirs, json!([])),
        (403, "default", "theirs", &theirs, json!([])),
    ] {
        let (path, body) = token(account, pod, uid, audience);
        table.push((code, Method::POST, path, body));
    }
    table.push((200, Method::DELETE, "/api/v1/namespaces/default/pods/mine".into(), Value::Null));
    let mut refused = 0;
    for (expected, method, path, body) in table {
        let (code, why) = ask(&api, "system:node:n", method.clone(), &path, body.clone()).await;
        assert_eq!(code, expected, "{method} {path} {body}: {why}");
        refused += usize::from(code == 403);
    }
    assert_eq!(api.violations().len(), refused);
}

#[tokio::test(start_paused = true)]
async fn labels_of_a_node() {
    let table = [
        ("example.com/a", true),
        ("plain", true),
        ("kubernetes.io/hostname", true),
        ("topology.kubernetes.io/zone", true),
        ("node.kubernetes.io/x", true),
        ("sub.kubelet.kubernetes.io/x", true),
        ("kubernetes.io/x", false),
        ("foo.k8s.io/x", false),
        ("node-role.kubernetes.io/worker", false),
        ("node-restriction.kubernetes.io/x", false),
        ("a.node-restriction.kubernetes.io/x", false),
    ];
    for (label, allowed) in table {
        let api = FakeApi::new();
        let body = json!({"metadata": {"name": "n", "labels": {label: ""}}});
        let code = ask(&api, "system:node:n", Method::POST, "/api/v1/nodes", body).await.0;
        assert_eq!(code, if allowed { 201 } else { 403 }, "create with {label}");
        let api = api_with_node("n");
        let body = json!({"metadata": {"labels": {label: ""}}});
        let code = ask(&api, "system:node:n", Method::PATCH, "/api/v1/nodes/n", body).await.0;
        assert_eq!(code, if allowed { 200 } else { 403 }, "patch with {label}");
    }
}

#[tokio::test(start_paused = true)]
async fn mirror_pods() {
    let uid = api_with_node("n").get::<Node>("", "n").unwrap().metadata.uid.unwrap();
    let good = json!({"metadata": {"name": "static-n", "annotations": {"kubernetes.io/config.mirror": "h"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": uid, "controller": true}]},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let with = |path: &str, value: Value| {
        let mut pod = good.clone();
        let (parent, last) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[last] = value;
        pod
    };
    let volume = |source: Value| {
        let mut volume = json!({"name": "v"});
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        with("/spec/volumes", json!([volume]))
    };
    let table = [
        (201, "a mirror pod", good.clone()),
        (201, "host path", volume(json!({"hostPath": {"path": "/"}}))),
        (403, "no annotation", with("/metadata/annotations", json!({}))),
        (403, "another node", with("/spec/nodeName", json!("m"))),
        (403, "no owner", with("/metadata/ownerReferences", json!([]))),
        (403, "wrong uid", {
            let mut pod = good.clone();
            pod["metadata"]["ownerReferences"][0]["uid"] = json!("x");
            pod
        }),
        (403, "no controller", {
            let mut pod = good.clone();
            pod["metadata"]["ownerReferences"][0]["controller"] = json!(false);
            pod
        }),
        (403, "a service account", with("/spec/serviceAccountName", json!("default"))),
        (403, "a secret", volume(json!({"secret": {"secretName": "s"}}))),
        (403, "a config map", volume(json!({"configMap": {"name": "s"}}))),
        (403, "a claim", volume(json!({"persistentVolumeClaim": {"claimName": "s"}}))),
        (403, "a token", volume(json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}))),
        (403, "a pull secret", with("/spec/imagePullSecrets", json!([{"name": "s"}]))),
    ];
    for (expected, what, body) in table {
        let api = api_with_node("n");
        let (code, why) =
            ask(&api, "system:node:n", Method::POST, "/api/v1/namespaces/default/pods", body).await;
        assert_eq!(code, expected, "{what}: {why}");
        assert_eq!(api.violations().len(), usize::from(expected == 403), "{what}");
    }
}
