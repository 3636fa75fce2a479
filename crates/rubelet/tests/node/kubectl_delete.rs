//! `kubectl delete` and `kubectl wait`: what goes away, when, and what is said of it.

use crate::kubectl::{FOREVER, Kubectl, pod};
use crate::local::LocalNode;
use crate::wait;

#[test]
fn kubectl_deletes() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        pods(kubectl);
        collections(kubectl);
        finalizers(kubectl);
        owners(kubectl);
        namespaces(kubectl);
    });
}

/// What the current version adds to what it has deleted.
fn from(kubectl: &Kubectl) -> String {
    if kubectl.is_new() { format!(" from {} namespace", kubectl.namespace) } else { String::new() }
}

fn pods(kubectl: &Kubectl) {
    let from = from(kubectl);
    kubectl.write("web.yaml", &pod("web", FOREVER));
    kubectl.ok("create -f web.yaml");
    kubectl.wait_ready("web");
    kubectl.shows("delete pod web --dry-run=client", &format!("pod \"web\" deleted{from} (dry run)"));
    kubectl.shows("delete pod web --dry-run=server", &format!("pod \"web\" deleted{from} (server dry run)"));
    kubectl.shows("delete -f web.yaml", &format!("pod \"web\" deleted{from}"));
    kubectl.refuses("get pod web", "Error from server (NotFound): pods \"web\" not found");
    kubectl.refuses("delete pod web", "Error from server (NotFound): pods \"web\" not found");
    kubectl.shows("delete pod web --ignore-not-found", "");

    // A pod that takes its time is Terminating until it has ended, and gone at once when it is forced.
    let slow = pod("slow", "trap '' TERM; while :; do sleep 1; done")
        .replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 100");
    kubectl.ok_with("create -f -", &slow);
    kubectl.wait_ready("slow");
    kubectl.shows("delete pod slow --wait=false", &format!("pod \"slow\" deleted{from}"));
    kubectl.comes_to_show("get pod slow --no-headers", "slow 1/1 Terminating 0 *s");
    assert_eq!(kubectl.object("pod slow")["metadata"]["deletionGracePeriodSeconds"], 100);
    let ended = kubectl.run("delete pod slow --force --grace-period=0");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with("pod \"slow\" force deleted"), "{ended:?}");
    let warned = "Immediate deletion does not wait for confirmation that the running resource has been terminated. The \
                  resource may continue to run on the cluster indefinitely.\n";
    assert!(
        ended.stderr.to_lowercase().starts_with("warning: ") && ended.stderr.ends_with(warned),
        "{ended:?}"
    );
    kubectl.refuses("get pod slow", "Error from server (NotFound): pods \"slow\" not found");

    kubectl.ok("create -f web.yaml");
    kubectl.wait_ready("web");
    kubectl.shows("delete pod web --grace-period=1 --timeout=30s", &format!("pod \"web\" deleted{from}"));
    kubectl.refuses("get pod web", "Error from server (NotFound): pods \"web\" not found");
}

fn collections(kubectl: &Kubectl) {
    let from = from(kubectl);
    for name in ["a", "b", "c"] {
        kubectl.ok(&format!("create configmap {name}"));
    }
    kubectl.ok("label cm a b set=one");
    let wanted = format!("configmap \"a\" deleted{from}\nconfigmap \"b\" deleted{from}");
    kubectl.shows("delete cm -l set=one", &wanted);
    kubectl.shows("get cm -o name", "configmap/c\nconfigmap/kube-root-ca.crt");
    let wanted = format!("configmap \"c\" deleted{from}\nconfigmap \"kube-root-ca.crt\" deleted{from}");
    kubectl.shows("delete cm --all", &wanted);
    // What every namespace has comes back.
    kubectl.comes_to_show("get cm -o name", "configmap/kube-root-ca.crt");
    kubectl.ok_with("create -f -", &pod("one", FOREVER));
    kubectl.ok_with("create -f -", &pod("two", FOREVER));
    kubectl.wait_ready("one");
    let wanted = format!("pod \"one\" deleted{from}\npod \"two\" deleted{from}");
    kubectl.shows("delete pods --all --now", &wanted);
    kubectl.shows("get pods -o name", "");
    kubectl.shows("delete pods --all", "No resources found");
    kubectl.ok("delete sa default");
    kubectl.comes_to_show("get sa -o name", "serviceaccount/default");
}

fn finalizers(kubectl: &Kubectl) {
    kubectl.ok("create configmap kept");
    kubectl.ok("patch cm kept --type=merge -p '{\"metadata\":{\"finalizers\":[\"example.com/kept\"]}}'");
    kubectl.ok("delete cm kept --wait=false");
    let waits = kubectl.fails("wait --for=delete cm/kept --timeout=1s");
    assert!(waits.contains("timed out waiting for the condition on configmaps/kept"), "{waits}");
    kubectl.ok("patch cm kept --type=json -p '[{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]'");
    kubectl.refuses("get cm kept", "Error from server (NotFound): configmaps \"kept\" not found");
}

/// What belongs to something goes with it, and stays when the owner is deleted alone.
fn owners(kubectl: &Kubectl) {
    let family = |owner: &str| {
        kubectl.ok(&format!("create configmap {owner}"));
        let uid = kubectl.ok(&format!("get cm {owner} -o jsonpath={{.metadata.uid}}"));
        let child = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {owner}-child, ownerReferences: [{{apiVersion: v1, kind: \
             ConfigMap, name: {owner}, uid: {uid}}}]}}\n"
        );
        kubectl.ok_with("create -f -", &child);
    };
    family("first");
    kubectl.ok("delete cm first");
    kubectl.comes_to_show("get cm -o name", "configmap/kube-root-ca.crt");
    family("second");
    kubectl.ok(if kubectl.is_new() {
        "delete cm second --cascade=orphan"
    } else {
        "delete cm second --cascade=false"
    });
    kubectl.comes_to_show("get cm -o name", "configmap/kube-root-ca.crt\nconfigmap/second-child");
    kubectl.shows("get cm second-child -o jsonpath={.metadata.ownerReferences}", "");
    family("third");
    if kubectl.is_new() {
        kubectl.ok("delete cm third --cascade=foreground");
        kubectl.refuses(
            "get cm third-child",
            "Error from server (NotFound): configmaps \"third-child\" not found",
        );
    }
}

fn namespaces(kubectl: &Kubectl) {
    let more = format!("{}-more", kubectl.namespace);
    kubectl.ok(&format!("create namespace {more}"));
    kubectl.ok_with(&format!("create -n {more} -f -"), &pod("web", FOREVER));
    kubectl.ok(&format!("create -n {more} configmap conf"));
    kubectl.comes_to_show(&format!("get pod -n {more} --no-headers"), "web 1/1 Running 0 *s");
    kubectl.ok(&format!("delete namespace {more} --wait=false"));
    let refused = kubectl.fails(&format!("create -n {more} configmap late"));
    let told = format!(
        "configmaps \"late\" is forbidden: unable to create new content in namespace {more} because it is being terminated"
    );
    assert!(
        refused.contains(&told) || refused.contains(&format!("namespaces \"{more}\" not found")),
        "{refused}"
    );
    // The old client takes it for an error that what it waits for is gone already.
    let _ = kubectl.run(&format!("wait --for=delete namespace/{more} --timeout=50s"));
    kubectl.refuses(
        &format!("get ns {more}"),
        &format!("Error from server (NotFound): namespaces \"{more}\" not found"),
    );
    kubectl.refuses(
        "delete namespace kube-system",
        "Error from server (Forbidden): namespaces \"kube-system\" is forbidden: this namespace may not be deleted",
    );
}

#[test]
fn kubectl_waits() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        kubectl.ok_with("create -f -", &pod("web", &format!("sleep 1; {FOREVER}")));
        kubectl.shows("wait --for=condition=Ready pod/web --timeout=50s", "pod/web condition met");
        kubectl.shows("wait --for=condition=Ready pod -l app=web", "pod/web condition met");
        kubectl.shows("wait --for=condition=Ready pods --all", "pod/web condition met");
        let late = kubectl.fails("wait --for=condition=Ready=false pod/web --timeout=1s");
        assert!(late.contains("timed out waiting for the condition on pods/web"), "{late}");
        kubectl.refuses(
            "wait --for=condition=Ready pod/none",
            "Error from server (NotFound): pods \"none\" not found",
        );
        if kubectl.is_new() {
            kubectl.shows("wait --for=jsonpath={.status.phase}=Running pod/web", "pod/web condition met");
            kubectl.shows("wait --for=jsonpath={.status.podIP} pod/web", "pod/web condition met");
            let mut created = kubectl.start("wait --for=create cm/late --timeout=30s");
            kubectl.ok("create configmap late");
            assert_eq!(created.wait_end(), Some(0), "{}", created.said());
        }
        let mut gone = kubectl.start("wait --for=delete pod/web --timeout=50s");
        kubectl.ok("delete pod web --wait=false");
        assert_eq!(gone.wait_end(), Some(0), "{}", gone.said());
        // The agent has removed all of it.
        if std::env::var_os("RUBELET_TEST_REFERENCE").is_none() {
            let filter = format!("labels.\"io.kubernetes.pod.namespace\"=={}", kubectl.namespace);
            wait::until("nothing to be left of the pod", wait::PATIENCE, || {
                let left = node.node().runtime.ctr(&["containers", "ls", "-q", &filter]);
                if left.is_empty() { Ok(()) } else { Err(left) }
            });
        }
    });
}
