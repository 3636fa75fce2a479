//! What kubectl does to nodes: labels and taints, cordon, drain; and what it is told of kinds that need a cluster.

use crate::kubectl::{FOREVER, Kubectl, Version, pod};
use crate::kubectl_apply::needs_a_cluster;
use crate::local::LocalNode;

#[test]
fn kubectl_rules_the_node() {
    let local = LocalNode::start();
    // One after the other: there is one node.
    for version in [Version::V1_20, Version::V1_35] {
        let kubectl = local.kubectl(version);
        let node = kubectl.ok("get nodes -o jsonpath={.items[0].metadata.name}");
        tainted(&kubectl, &node);
        cordoned(&kubectl, &node);
        drained(&kubectl, &node);
    }
}

fn tainted(kubectl: &Kubectl, node: &str) {
    kubectl.shows(&format!("label node {node} disk=ssd"), &format!("node/{node} labeled"));
    let picky = pod("picky", FOREVER).replace("spec:\n", "spec:\n  nodeSelector: {disk: ssd}\n");
    kubectl.ok_with("create -f -", &picky);
    kubectl.wait_ready("picky");
    kubectl.ok("delete pod picky --now --wait=false");
    let removed = if kubectl.is_new() { "unlabeled" } else { "labeled" };
    kubectl.shows(&format!("label node {node} disk-"), &format!("node/{node} {removed}"));
    kubectl.shows(&format!("taint node {node} key=value:NoSchedule"), &format!("node/{node} tainted"));
    kubectl.shows(&format!("get node {node} -o jsonpath={{.spec.taints[*].key}}"), "key");
    kubectl.ok_with("create -f -", &pod("waits", FOREVER));
    kubectl.comes_to_show(
        "get events --field-selector=involvedObject.name=waits,reason=FailedScheduling --no-headers",
        "* Warning FailedScheduling pod/waits 0/1 nodes are available: 1 node(s) had untolerated taint* ...",
    );
    kubectl.shows("get pod waits --no-headers", "waits 0/1 Pending 0 *s");
    kubectl.shows(&format!("taint node {node} key:NoSchedule-"), &format!("node/{node} untainted"));
    kubectl.wait_ready("waits");
    kubectl.ok("delete pod waits --now --wait=false");
}

fn cordoned(kubectl: &Kubectl, node: &str) {
    kubectl.shows(&format!("cordon {node}"), &format!("node/{node} cordoned"));
    kubectl.shows(&format!("cordon {node}"), &format!("node/{node} already cordoned"));
    kubectl.comes_to_show("get nodes --no-headers", "* Ready,SchedulingDisabled <none> ...");
    kubectl.ok_with("create -f -", &pod("late", FOREVER));
    kubectl.comes_to_show("get pod late -o jsonpath='{.status.conditions[0].reason}'", "Unschedulable");
    kubectl.shows(&format!("uncordon {node}"), &format!("node/{node} uncordoned"));
    kubectl.wait_ready("late");
    kubectl.ok("delete pod late --now");
}

fn drained(kubectl: &Kubectl, node: &str) {
    kubectl.start_pod("web", FOREVER);
    let refused = kubectl.fails(&format!("drain {node} --ignore-daemonsets"));
    assert!(refused.contains("cannot delete Pods") && refused.contains("--force"), "{refused}");
    assert!(refused.contains(&format!("{}/web", kubectl.namespace)), "{refused}");
    let ended =
        kubectl.run(&format!("drain {node} --ignore-daemonsets --force --grace-period=1 --timeout=50s"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains(&format!("evicting pod {}/web\n", kubectl.namespace)), "{ended:?}");
    assert!(ended.stdout.contains("pod/web evicted\n"), "{ended:?}");
    assert!(ended.stdout.ends_with(if kubectl.is_new() { "drained\n" } else { "evicted\n" }), "{ended:?}");
    kubectl.refuses("get pod web", "Error from server (NotFound): pods \"web\" not found");
    kubectl.ok(&format!("uncordon {node}"));
}

#[test]
fn kubectl_is_told_what_needs_a_cluster() {
    let local = LocalNode::start();
    local.each(|kubectl| {
        for line in [
            "get deployments",
            "get deployment web",
            "scale deployment web --replicas=2",
            "rollout status deployment/web",
            "rollout restart deployment/web",
            "delete deployment web",
        ] {
            let said = kubectl.fails(line);
            needs_a_cluster(&said, "deployments.apps");
        }
        needs_a_cluster(&kubectl.fails("get jobs -A"), "jobs.batch");
        kubectl.refuses(
            "scale configmap kube-root-ca.crt --replicas=2",
            "Error from server (NotFound): the server could not find the requested resource",
        );
    });
}
