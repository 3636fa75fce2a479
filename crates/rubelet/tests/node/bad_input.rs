//! Input that is wrong: it is told with the file's name, and no other pod notices.

use crate::node::Node;
use crate::pods::{self, container_id, manifest};

const GOOD: &str = "containers: [{name: c, image: $IMAGE, command: [sleep, '1000']}]";

#[test]
fn bad_manifests_are_told_and_others_run() {
    let node = Node::start();
    node.apply("before", GOOD);
    let before = node.wait_ready("before");
    let files: [(&str, Vec<u8>, &str); 9] = [
        ("no-yaml.yaml", b"a: [1, 2".to_vec(), ""),
        ("no-utf8.yaml", b"apiVersion: v1\nkind: Pod\nmetadata: {name: \xff\xfe}\n".to_vec(), "UTF-8"),
        ("empty.yaml", b"".to_vec(), ""),
        ("list.yaml", b"- 1\n- 2\n".to_vec(), ""),
        (
            "service.yaml",
            b"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {}\n".to_vec(),
            "Service",
        ),
        ("old-version.yaml", b"apiVersion: v2\nkind: Pod\nmetadata: {name: s}\n".to_vec(), "v2"),
        ("no-containers.yaml", manifest("none", "containers: []").into_bytes(), "containers"),
        ("bad-name.yaml", manifest("Bad_Name", GOOD).into_bytes(), "Bad_Name"),
        ("wrong-type.yaml", manifest("typed", "containers: 7").into_bytes(), ""),
    ];
    for (file, content, _) in &files {
        node.write_manifest(file, content);
    }
    node.write_manifest("huge.yaml", &vec![b'#'; 11 * 1024 * 1024]);
    std::fs::create_dir(node.manifest_file("folder")).unwrap();
    std::fs::write(node.manifest_file(".hidden.yaml"), manifest("hidden", GOOD)).unwrap();
    node.apply("after", GOOD);

    for (file, _, word) in &files {
        node.wait_agent_log(&[file, word]);
    }
    node.wait_agent_log(&["huge.yaml", "10485760"]);
    node.wait_ready("after");
    let mut names: Vec<String> = node.pods().into_iter().filter_map(|pod| pod.metadata.name).collect();
    names.sort();
    assert_eq!(names, ["after-node-1", "before-node-1"]);
    assert_eq!(container_id(&node.pod("before"), "c"), container_id(&before, "c"));
}

#[test]
fn a_manifest_that_turns_bad_keeps_its_pod_until_it_is_gone() {
    let node = Node::start();
    node.apply("edited", &format!("terminationGracePeriodSeconds: 1\n{GOOD}"));
    let good = node.wait_ready("edited");
    node.write_manifest("edited.yaml", b"kind: Pod\nmetadata: {name: edi");
    node.wait_agent_log(&["edited.yaml", "kept"]);
    node.apply("other", GOOD);
    node.wait_ready("other");
    assert_eq!(container_id(&node.pod("edited"), "c"), container_id(&good, "c"));
    assert!(pods::ready(&node.pod("edited")));
    node.remove("edited");
    node.wait_gone("edited");
}

#[test]
fn unknown_fields_are_warned_of_and_json_is_read() {
    let node = Node::start();
    node.apply("typo", &format!("restartPolcy: Never\n{GOOD}"));
    node.write_manifest(
        "json.json",
        br#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "json", "namespace": "team"},
            "spec": {"containers": [{"name": "c", "image": "$IMAGE", "command": ["sleep", "1000"]}]}}"#,
    );
    node.wait_ready("typo");
    node.wait_agent_log(&["typo.yaml", "restartPolcy"]);
    let pod = node.wait_ready("json");
    assert_eq!(pod.metadata.namespace.as_deref(), Some("team"));
}

#[test]
fn a_pod_that_can_never_run_here_is_rejected_with_a_reason() {
    let node = Node::start();
    node.apply("windows", &format!("os: {{name: windows}}\n{GOOD}"));
    node.apply("elsewhere", &format!("nodeSelector: {{disk: golden}}\n{GOOD}"));
    node.apply(
        "giant",
        "containers: [{name: c, image: $IMAGE, command: [sleep, '1000'], resources: {requests: {memory: 4Pi}}}]",
    );
    node.apply("good", GOOD);
    for (name, reason) in [
        ("windows", "PodOSNotSupported"),
        ("elsewhere", "NodeAffinity"),
        // Static pods are critical: room is looked for among the others, and there is none to be had.
        ("giant", "UnexpectedAdmissionError"),
    ] {
        let pod = node.wait_phase(name, "Failed");
        let status = pods::status(&pod);
        assert_eq!(status.reason.as_deref(), Some(reason), "{name}");
        assert!(status.message.unwrap().starts_with("Pod was rejected: "));
    }
    node.wait_ready("good");
    assert_eq!(node.runtime.containers().len(), 2);
}
