//! `kubectl logs` in all its selections.

use crate::kubectl::{FOREVER, Kubectl, pod};
use crate::local::LocalNode;
use crate::wait;

#[test]
fn kubectl_shows_logs() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        one_container(kubectl);
        several_containers(kubectl);
        instances(kubectl);
        refusals(kubectl);
    });
}

fn one_container(kubectl: &Kubectl) {
    kubectl.start_pod("web", &format!("for i in 1 2 3 4 5; do echo line $i; done; echo oops; {FOREVER}"));
    kubectl.comes_to_show("logs web", "line 1\nline 2\nline 3\nline 4\nline 5\noops");
    kubectl.shows("logs pod/web --tail=2", "line 5\noops");
    kubectl.shows("logs web --tail=0", "");
    kubectl.shows("logs web --limit-bytes=10", "line 1\nlin");
    kubectl.shows("logs web -c main --since=1h --tail=1", "oops");
    kubectl.shows("logs web --since-time=2099-01-01T00:00:00Z", "");
    kubectl.shows("logs web --timestamps --tail=1", "20*T*Z oops");
    kubectl.shows("logs -l app=web --tail=1", "oops");
    kubectl.shows("logs -l app=web --tail=1 --prefix", "[pod/web/main] oops");
    kubectl.shows("logs web --all-containers --tail=1", "oops");

    // What comes later is followed, until the container ends.
    let script = "n=0; trap 'echo bye; exit 0' TERM; while :; do echo tick $n; n=$((n + 1)); sleep 0.2 & wait $!; done";
    kubectl.start_pod("clock", script);
    let mut follows = kubectl.start("logs -f clock --tail=1");
    follows.wait_line("tick 8");
    kubectl.ok("delete pod clock --wait=false");
    assert_eq!(follows.wait_end(), Some(0), "{}", follows.said());
    assert!(follows.said().ends_with("bye\n"), "{}", follows.said());
    kubectl.ok_with("create -f -", &pod("later", &format!("sleep 1; echo at last; {FOREVER}")));
    // A container that does not run yet is no error for those who wait for the pod first.
    kubectl.wait_ready("later");
    let later = kubectl.start("logs -f later");
    later.wait_line("at last");
}

fn several_containers(kubectl: &Kubectl) {
    let spec = "apiVersion: v1\nkind: Pod\nmetadata: {name: many, labels: {app: many}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  initContainers:\n  - {name: init, image: \"rubelet.local/busybox:1\", \
         command: [echo, from init]}\n  containers:\n  - {name: one, image: \"rubelet.local/busybox:1\", command: [sh, -c, \
         \"echo from one; sleep 1000\"]}\n  - {name: two, image: \"rubelet.local/busybox:1\", command: [sh, -c, \"echo from \
         two; sleep 1000\"]}\n";
    kubectl.ok_with("create -f -", spec);
    kubectl.wait_ready("many");
    kubectl.comes_to_show("logs many -c two", "from two");
    kubectl.comes_to_show("logs many -c one", "from one");
    kubectl.shows("logs many -c init", "from init");
    // In no certain order.
    let sorted = |line: &str| {
        let shown = kubectl.ok(line);
        let mut lines: Vec<String> = shown.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted("logs many --all-containers"), ["from init", "from one", "from two"]);
    assert_eq!(
        sorted("logs many --all-containers --prefix"),
        ["[pod/many/init] from init", "[pod/many/one] from one", "[pod/many/two] from two"]
    );
    let ended = kubectl.run("logs many");
    if kubectl.is_new() {
        // The first container, and who the others are.
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "from one\n"), "{ended:?}");
        assert_eq!(ended.stderr, "Defaulted container \"one\" out of: one, two, init (init)\n");
    } else {
        assert_eq!(
            ended.stderr,
            "error: a container name must be specified for pod many, choose one of: [one two] or one of the init \
             containers: [init]\n"
        );
    }
    kubectl.refuses("logs many -c three", "error: container three is not valid for pod many");
}

fn instances(kubectl: &Kubectl) {
    // The first instance fails, the second one stays.
    let script =
        format!("if [ -e /v/was ]; then echo second; {FOREVER}; else touch /v/was; echo first; exit 1; fi");
    let manifest = pod("again", &script)
        + "    volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, emptyDir: {}}]\n";
    kubectl.ok_with("create -f -", &manifest);
    kubectl.comes_to_show("logs again", "second");
    kubectl.shows("logs again --previous", "first");
    kubectl.shows("logs again -p --timestamps", "20*Z first");
    kubectl.comes_to_show("get pod again --no-headers", "again 1/1 Running 1 ...");
    let done = pod("done", "echo done").replace("spec:\n", "spec:\n  restartPolicy: Never\n");
    kubectl.ok_with("create -f -", &done);
    kubectl.comes_to_show("get pod done -o jsonpath={.status.phase}", "Succeeded");
    kubectl.shows("logs done", "done");
    kubectl.shows("logs -f done", "done");
}

fn refusals(kubectl: &Kubectl) {
    let said = kubectl.fails("logs none");
    assert!(said.to_lowercase().starts_with("error") && said.contains("pods \"none\" not found"), "{said}");
    kubectl.refuses(
        "logs web --previous",
        "Error from server (BadRequest): previous terminated container \"main\" in pod \"web\" not found",
    );
    let broken = pod("broken", FOREVER).replace("rubelet.local/busybox:1", "localhost:1/none:1");
    kubectl.ok_with("create -f -", &broken);
    wait::until("the pod to wait for its image", wait::PATIENCE, || {
        let said = kubectl.fails("logs broken");
        let wanted = "Error from server (BadRequest): container \"main\" in pod \"broken\" is waiting to start: trying and \
                      failing to pull image\n";
        if said == wanted { Ok(()) } else { Err(said) }
    });
    let mut picky = pod("picky", FOREVER);
    picky = picky.replace("spec:\n", "spec:\n  nodeSelector: {disk: ssd}\n");
    kubectl.ok_with("create -f -", &picky);
    // A pod without a node has no log: nothing, and no error.
    let ended = kubectl.run("logs picky");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{ended:?}");
    kubectl.ok("delete pod broken picky --force --grace-period=0");
}
