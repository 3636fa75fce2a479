//! What pods take from other objects when they start: ConfigMaps and Secrets in the environment, and Services.

use serde_json::json;

use crate::cluster::Cluster;
use crate::pods::{self, waiting_message};

/// Creates a ConfigMap or a Secret with texts.
fn create(cluster: &Cluster, kind: &str, name: &str, data: &[(&str, &str)]) {
    let data: serde_json::Map<String, serde_json::Value> =
        data.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let encoded = |data: &serde_json::Map<String, serde_json::Value>| {
        use base64::Engine as _;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        data.iter()
            .map(|(key, value)| {
                (key.clone(), json!(base64::engine::general_purpose::STANDARD.encode(text(value))))
            })
            .collect::<serde_json::Map<_, _>>()
    };
    let data = if kind == "Secret" { encoded(&data) } else { data };
    cluster
        .api
        .create_json(&json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": data}));
}

#[test]
fn api_the_environment_comes_from_objects_and_waits_for_missing_ones() {
    let cluster = Cluster::start();
    create(&cluster, "ConfigMap", "settings", &[("COLOR", "blue"), ("SIZE", "9")]);
    create(&cluster, "Secret", "keys", &[("TOKEN", "s3cret")]);
    let pod = |late: &str| {
        format!(
            "
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'env; echo END; exec sleep 1000']
  envFrom: [{{configMapRef: {{name: settings}}, prefix: S_}}, {{secretRef: {{name: keys}}}},
            {{configMapRef: {{name: absent, optional: true}}}}]
  env:
  - {{name: ONE, valueFrom: {{configMapKeyRef: {{name: settings, key: COLOR}}}}}}
  - {{name: TWO, valueFrom: {{secretKeyRef: {{name: keys, key: TOKEN}}}}}}
  - {{name: THREE, valueFrom: {{secretKeyRef: {{name: absent, key: x, optional: true}}}}}}
  - {{name: LATE, valueFrom: {{{late}}}}}
"
        )
    };
    cluster.run("map", &pod("configMapKeyRef: {name: late, key: when}"));
    cluster.run("secret", &pod("secretKeyRef: {name: late, key: when}"));
    cluster.run("key", &pod("configMapKeyRef: {name: settings, key: NOPE, optional: true}"));
    let log = {
        let ready = cluster.wait_ready("key");
        cluster.node.wait_log(&ready, "c", "END")
    };
    for line in ["S_COLOR=blue", "S_SIZE=9", "TOKEN=s3cret", "ONE=blue", "TWO=s3cret"] {
        assert!(log.lines().any(|said| said == line), "no line {line:?} in:\n{log}");
    }
    assert!(!log.contains("THREE=") && !log.contains("LATE="), "{log}");

    for (name, message) in [("map", "configmap \"late\" not found"), ("secret", "secret \"late\" not found")]
    {
        let waiting = cluster.wait_state(name, "c", "waiting CreateContainerConfigError");
        assert!(waiting_message(&waiting, "c").contains(message), "{}", waiting_message(&waiting, "c"));
        assert_eq!(pods::phase(&waiting), "Pending");
        let event = cluster.wait_event(name, "Failed");
        assert!(event.message.as_ref().is_some_and(|text| text.contains(message)), "{:?}", event.message);
    }
    create(&cluster, "ConfigMap", "late", &[("when", "now")]);
    create(&cluster, "Secret", "late", &[("when", "then")]);
    for (name, line) in [("map", "LATE=now"), ("secret", "LATE=then")] {
        let ready = cluster.wait_ready(name);
        assert!(cluster.node.wait_log(&ready, "c", "END").contains(line));
    }
}

#[test]
fn api_services_are_in_the_environment() {
    // Services and pods come on two watches, in no order: a pod made beside its services may not have them.
    let mut cluster = Cluster::without_agent("");
    for (name, ip) in [("kubernetes", "10.96.0.1"), ("web-app", "10.96.0.7"), ("headless", "None")] {
        cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}));
    }
    cluster.start_agent();
    let pod = |links: bool| {
        format!(
            "enableServiceLinks: {links}\ncontainers: [{{name: c, image: $IMAGE, command: [sh, -c, 'env; cat /etc/resolv.conf; echo END; exec sleep 1000']}}]"
        )
    };
    let env = |name: &str| {
        let ready = cluster.wait_ready(name);
        cluster.node.wait_log(&ready, "c", "END")
    };
    cluster.run("linked", &pod(true));
    cluster.run("apart", &pod(false));
    let (linked, apart) = (env("linked"), env("apart"));
    for line in
        ["WEB_APP_SERVICE_HOST=10.96.0.7", "WEB_APP_SERVICE_PORT_HTTP=80", "WEB_APP_PORT=tcp://10.96.0.7:80"]
    {
        assert!(linked.lines().any(|said| said == line), "no line {line:?} in:\n{linked}");
        assert!(!apart.contains(line), "{apart}");
    }
    for text in [&linked, &apart] {
        assert!(text.contains("KUBERNETES_SERVICE_HOST=10.96.0.1"), "{text}");
        assert!(!text.contains("HEADLESS"), "{text}");
        assert!(
            text.contains("nameserver 10.96.0.10") && text.contains("default.svc.cluster.local"),
            "{text}"
        );
    }
}
