//! Images that need credentials: pull secrets of pods and of service accounts, with a small registry of its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};
use serde_json::json;

use crate::cluster::Cluster;
use crate::pods::{self, waiting_message};
use crate::registry::{Manners, Registry};

/// Who may pull.
const USER: &str = "robot:pass:word";

#[test]
fn api_images_are_pulled_with_the_secrets_of_pods_and_service_accounts() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let manners = Manners { user: Some(USER), ..Manners::default() };
    let registry = Registry::serve(&cluster.node.runtime, dir.path(), manners);
    for (name, user) in [("right", USER), ("wrong", "robot:nope")] {
        let auths = json!({"auths": {registry.address.clone(): {"auth": STANDARD.encode(user)}}});
        cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": STANDARD.encode(auths.to_string())}}));
    }
    let pod = |name: &str, secrets: &str| {
        let image = registry.image(name);
        format!(
            "imagePullSecrets: [{secrets}]\ncontainers: [{{name: c, image: '{image}', command: [sleep, '1000']}}]"
        )
    };
    cluster.run("none", &pod("none", ""));
    cluster.run("wrong", &pod("wrong", "{name: wrong}"));
    cluster.run("absent", &pod("absent", "{name: absent}, {name: right}"));
    cluster.run("both", &pod("both", "{name: wrong}, {name: right}"));
    for name in ["none", "wrong"] {
        let waiting = cluster.wait_state(name, "c", "waiting ImagePullBackOff");
        let message = waiting_message(&waiting, "c");
        assert!(message.contains(&registry.image(name)) && !message.contains("nope"), "{message}");
        assert_eq!(pods::phase(&waiting), "Pending");
    }
    for name in ["absent", "both"] {
        cluster.wait_ready(name);
    }
    let event = cluster.wait_event("absent", "FailedToRetrieveImagePullSecret");
    assert!(event.message.as_ref().is_some_and(|text| text.contains("absent")), "{:?}", event.message);

    cluster.api.modify::<ServiceAccount>("default", "default", |account| {
        account.image_pull_secrets = Some(vec![LocalObjectReference { name: "right".to_owned() }]);
    });
    cluster.run("account", &pod("account", ""));
    cluster.wait_ready("account");
    // Passwords are nobody's business.
    let log = cluster.node.agent_log();
    assert!(!log.contains("pass:word") && !log.contains(&STANDARD.encode(USER)));
}

#[test]
fn api_images_that_are_there_are_used_only_by_pods_that_may() {
    let mut cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let manners = Manners { user: Some(USER), ..Manners::default() };
    let registry = Registry::serve(&cluster.node.runtime, dir.path(), manners);
    for (name, user) in [("right", USER), ("copy", USER), ("wrong", "robot:nope")] {
        let auths = json!({"auths": {registry.address.clone(): {"auth": STANDARD.encode(user)}}});
        cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": STANDARD.encode(auths.to_string())}}));
    }
    let image = registry.image("shared");
    let pod = |policy: &str, secrets: &str| {
        format!(
            "imagePullSecrets: [{secrets}]\ncontainers: [{{name: c, image: '{image}', imagePullPolicy: {policy}, \
             command: [sleep, '1000']}}]"
        )
    };
    cluster.run("owner", &pod("IfNotPresent", "{name: right}"));
    cluster.wait_ready("owner");
    for round in ["first", "second"] {
        let named = |name: &str| format!("{name}-{round}");
        cluster.run(&named("none"), &pod("IfNotPresent", ""));
        cluster.run(&named("wrong"), &pod("IfNotPresent", "{name: wrong}"));
        cluster.run(&named("never"), &pod("Never", ""));
        cluster.run(&named("copy"), &pod("Never", "{name: copy}"));
        cluster.wait_ready(&named("copy"));
        for name in ["none", "wrong"] {
            cluster.wait_state(&named(name), "c", "waiting ImagePullBackOff");
        }
        let waiting = cluster.wait_state(&named("never"), "c", "waiting ErrImageNeverPull");
        let message = waiting_message(&waiting, "c");
        // As if it were not there.
        assert!(message.contains("is not present with pull policy of Never"), "{message}");
        // The next agent knows it too.
        cluster.node.kill_agent();
        cluster.start_agent();
    }
    let records = cluster.node.root().join("image_manager/pulled");
    let records: Vec<String> = std::fs::read_dir(records)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .filter(|text| text.contains(image.rsplit_once(':').unwrap().0))
        .collect();
    assert_eq!(records.len(), 1, "{records:?}");
    assert!(records[0].contains(r#""kind":"ImagePulledRecord""#) && records[0].contains(r#""name":"right""#));
    assert!(!records[0].contains("pass:word") && !records[0].contains(&STANDARD.encode(USER)));
}
