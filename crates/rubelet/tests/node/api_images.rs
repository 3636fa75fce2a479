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
