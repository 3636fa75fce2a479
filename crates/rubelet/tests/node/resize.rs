//! Resizes in place for real: kubectl asks, the kernel's files and the API's status follow, up and down, with and without
//! a restart, and not below what is used.

use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::local::LocalNode;

/// A pod whose container restarts for memory when `restarts`, and holds on to `held` MiB of it.
fn manifest(name: &str, restarts: bool, held: u32) -> String {
    let policy = if restarts { "RestartContainer" } else { "NotRequired" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         volumes: [{{name: held, emptyDir: {{medium: Memory}}}}]\n  \
         containers:\n  - name: main\n    image: rubelet.local/busybox:1\n    \
         command: [sh, -c, \"dd if=/dev/zero of=/held/part bs=1M count={held} && mv /held/part /held/all; \
         trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done\"]\n    \
         volumeMounts: [{{name: held, mountPath: /held}}]\n    \
         readinessProbe: {{exec: {{command: [test, -f, /held/all]}}, periodSeconds: 1}}\n    \
         resizePolicy: [{{resourceName: memory, restartPolicy: {policy}}}]\n    \
         resources: {{requests: {{cpu: 100m, memory: 32Mi}}, limits: {{cpu: 200m, memory: 128Mi}}}}\n",
    )
}

fn resize(kubectl: &Kubectl, pod: &str, limits: (&str, &str)) {
    let patch = serde_json::json!({"spec": {"containers": [
        {"name": "main", "resources": {"limits": {"cpu": limits.0, "memory": limits.1}}}
    ]}});
    kubectl
        .shows(&format!("patch pod {pod} --subresource=resize -p '{patch}'"), &format!("pod/{pod} patched"));
}

fn comes_to_have(kubectl: &Kubectl, pod: &str, limits: (&str, &str)) {
    let line = format!("get pod {pod} -o jsonpath={{.status.containerStatuses[0].resources.limits}}");
    let wanted = serde_json::json!({"cpu": limits.0, "memory": limits.1}).to_string();
    kubectl.comes_to_show(&line, &wanted);
}

fn restarts(kubectl: &Kubectl, pod: &str) -> Value {
    kubectl.object(&format!("pod {pod}"))["status"]["containerStatuses"][0]["restartCount"].clone()
}

#[test]
fn kubectl_resizes_pods_in_place() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        // The old client knows no such path.
        if !kubectl.is_new() {
            return;
        }
        in_place(kubectl);
        by_a_restart(kubectl);
        not_below_what_is_used(kubectl);
        more_than_the_node_has(kubectl);
    });
}

fn in_place(kubectl: &Kubectl) {
    kubectl.ok_with("create -f -", &manifest("web", false, 1));
    kubectl.wait_ready("web");
    for limits in [("400m", "256Mi"), ("150m", "64Mi"), ("300m", "64Mi")] {
        resize(kubectl, "web", limits);
        comes_to_have(kubectl, "web", limits);
    }
    assert_eq!(restarts(kubectl, "web"), 0);
    kubectl.comes_to_show(
        "get events --field-selector involvedObject.name=web,reason=ResizeCompleted -o jsonpath={.items[0].type}",
        "Normal",
    );
}

fn by_a_restart(kubectl: &Kubectl) {
    kubectl.ok_with("create -f -", &manifest("again", true, 1));
    kubectl.wait_ready("again");
    resize(kubectl, "again", ("300m", "128Mi"));
    comes_to_have(kubectl, "again", ("300m", "128Mi"));
    assert_eq!(restarts(kubectl, "again"), 0);
    resize(kubectl, "again", ("300m", "192Mi"));
    kubectl.comes_to_show("get pod again -o jsonpath={.status.containerStatuses[0].restartCount}", "1");
    comes_to_have(kubectl, "again", ("300m", "192Mi"));
}

fn not_below_what_is_used(kubectl: &Kubectl) {
    kubectl.ok_with("create -f -", &manifest("full", false, 60));
    kubectl.wait_ready("full");
    resize(kubectl, "full", ("200m", "33Mi"));
    kubectl.comes_to_show(
        "get pod full -o jsonpath={.status.conditions[?(@.type==\"PodResizeInProgress\")].reason}",
        "Error",
    );
    assert_eq!(restarts(kubectl, "full"), 0);
    resize(kubectl, "full", ("200m", "256Mi"));
    comes_to_have(kubectl, "full", ("200m", "256Mi"));
}

fn more_than_the_node_has(kubectl: &Kubectl) {
    let patch = "{\"spec\":{\"containers\":[{\"name\":\"main\",\"resources\":{\"requests\":{\"cpu\":\"5000\"},\
                 \"limits\":{\"cpu\":\"5000\"}}}]}}";
    let refused = kubectl.fails(&format!("patch pod web --subresource=resize -p '{patch}'"));
    assert!(refused.contains("web"), "{refused}");
}
