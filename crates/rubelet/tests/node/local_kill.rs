//! kill -9 of a node with an API of its own, API and agent at once: its containers notice nothing, and a full disk ends
//! nothing either.
//!
//! `RUBELET_KILL_ROUNDS` says how often. What becomes of writes is tested where no containers are needed.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::kubectl::{FOREVER, Kubectl, Version, pod};
use crate::local::LocalNode;
use crate::runtime::output;
use crate::wait::{self, PATIENCE};

const PODS: usize = 6;

/// UID, container IDs, starts and restarts of every pod.
fn identities(kubectl: &Kubectl) -> BTreeMap<String, String> {
    let list: Value = serde_json::from_str(&kubectl.ok("get pods -o json")).unwrap();
    let pods = list["items"].as_array().unwrap().iter().map(|pod| {
        let container = &pod["status"]["containerStatuses"][0];
        let facts = [
            &pod["metadata"]["uid"],
            &container["containerID"],
            &container["state"]["running"]["startedAt"],
            &container["restartCount"],
            &pod["status"]["podIP"],
        ];
        (pod["metadata"]["name"].to_string(), format!("{facts:?}"))
    });
    pods.collect()
}

#[test]
fn kills_of_api_and_agent_leave_pods_as_they_are() {
    let rounds = std::env::var("RUBELET_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let mut node = LocalNode::start();
    let kubectl = node.kubectl(Version::V1_35);
    for number in 0..PODS {
        kubectl.ok_with("create -f -", &pod(&format!("p{number}"), FOREVER));
    }
    for number in 0..PODS {
        kubectl.wait_ready(&format!("p{number}"));
    }
    let before = identities(&kubectl);
    assert!(
        before.values().all(|facts| facts.contains("containerd://") && facts.contains("Number(0)")),
        "{before:?}"
    );
    for round in 0..rounds {
        // A pod on its way up, and one on its way down.
        kubectl.ok_with("create -f -", &pod("new", FOREVER));
        if round % 2 == 1 {
            kubectl.wait_ready("new");
        }
        kubectl.ok("delete pod new --wait=false --grace-period=1");
        wait::pause(Duration::from_millis(round * 83 % 400));
        node.node_mut().kill_agent();
        node.node_mut().start_agent();
        std::fs::copy(&node.kubeconfig, kubectl.home.join("kubeconfig")).unwrap();
        kubectl.ok(&format!("config set-context --current --namespace={}", kubectl.namespace));
        wait::until("the pod that was deleted to be gone", PATIENCE, || {
            let now = identities(&kubectl);
            if now.len() == PODS { Ok(()) } else { Err(format!("{now:?}")) }
        });
        assert_eq!(identities(&kubectl), before, "round {round}");
    }
    kubectl.ok("wait --for=condition=Ready pod --all --timeout=60s");
    assert_eq!(kubectl.ok("exec p0 -- echo alive"), "alive\n");
    assert_eq!(identities(&kubectl), before);
    println!("{rounds} kills of API and agent: {PODS} pods kept their UIDs, containers and counts");
}

#[test]
fn a_full_disk_refuses_writes_and_ends_nothing() {
    let mut node = LocalNode::prepared(&[]);
    let data = node.node().data_dir();
    std::fs::create_dir_all(&data).unwrap();
    output(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&data));
    // What somebody else keeps on that disk.
    std::fs::write(data.join("ballast"), vec![1; 4 << 20]).unwrap();
    node.node_mut().start_agent();
    let kubectl = node.kubectl(Version::V1_35);
    kubectl.start_pod("web", FOREVER);
    let before = identities(&kubectl);
    let map = |number: usize| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m{number}}}\ndata: {{a: {}}}\n",
            "x".repeat(500_000)
        )
    };
    let mut made = 0;
    let refusal = loop {
        let ended = kubectl.run_with("create -f -", &map(made));
        match ended.code {
            Some(0) => made += 1,
            _ => break ended.stderr,
        }
        assert!(made < 100, "16 MiB hold everything");
    };
    assert!(refusal.contains("no space left"), "{refusal}");
    let names = |prefix: &str| {
        let list = kubectl.ok("get configmaps -o name");
        list.lines().filter(|name| name.contains(prefix)).count()
    };
    assert_eq!(names("/m"), made, "what was acknowledged is there, and nothing else");
    assert_eq!(identities(&kubectl), before);
    assert_eq!(kubectl.ok("exec web -- echo alive"), "alive\n");
    std::fs::remove_file(data.join("ballast")).unwrap();
    wait::until("room for a write", PATIENCE, || {
        let ended = kubectl.run_with("create -f -", &map(200));
        if ended.code == Some(0) { Ok(()) } else { Err(ended.stderr) }
    });
    node.node_mut().kill_agent();
    node.node_mut().start_agent();
    std::fs::copy(&node.kubeconfig, kubectl.home.join("kubeconfig")).unwrap();
    kubectl.ok(&format!("config set-context --current --namespace={}", kubectl.namespace));
    assert_eq!(names("/m"), made + 1);
    wait::until("the pod to be as it was", PATIENCE, || {
        let now = identities(&kubectl);
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    });
}
