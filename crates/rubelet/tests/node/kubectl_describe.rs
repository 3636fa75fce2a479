//! `kubectl describe` and `kubectl events`: what people read when something is wrong.

use crate::kubectl::{FOREVER, Kubectl, pod};
use crate::local::LocalNode;

#[test]
fn kubectl_describes() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        a_pod(kubectl);
        a_pod_that_cannot_start(kubectl);
        the_node(kubectl);
        plain_objects(kubectl);
    });
}

fn a_pod(kubectl: &Kubectl) {
    kubectl.start_pod("web", FOREVER);
    let account = if kubectl.is_new() { "Service Account: default\n" } else { "" };
    let optional = if kubectl.is_new() { "Optional: false" } else { "ConfigMapOptional: <nil>" };
    kubectl.shows(
        "describe pod web",
        &format!(
            "Name: web\n\
             Namespace: $NS\n\
             Priority: 0\n\
             {account}\
             Node: */*\n\
             Start Time: ...\n\
             Labels: app=web\n\
             Annotations: <none>\n\
             Status: Running\n\
             IP: 10.*\n\
             IPs:\n  IP: 10.*\n\
             Containers:\n  main:\n    Container ID: containerd://*\n    Image: rubelet.local/busybox:1\n    \
             Image ID: *sha256:*\n    Port: <none>\n    Host Port: <none>\n    Command:\n      sh\n      -c\n      trap ...\n    \
             State: Running\n      Started: ...\n    Ready: True\n    Restart Count: 0\n    Environment: <none>\n    \
             Mounts:\n      /var/run/secrets/kubernetes.io/serviceaccount from kube-api-access-* (ro)\n\
             Conditions:\n  Type Status\n  PodReadyToStartContainers True\n  Initialized True\n  Ready True\n  \
             ContainersReady True\n  PodScheduled True\n\
             Volumes:\n  kube-api-access-*:\n    \
             Type: Projected (a volume that contains injected data from multiple sources)\n    \
             TokenExpirationSeconds: 3607\n    ConfigMapName: kube-root-ca.crt\n    {optional}\n    DownwardAPI: true\n\
             QoS Class: BestEffort\n\
             Node-Selectors: <none>\n\
             Tolerations: node.kubernetes.io/not-ready:NoExecute op=Exists for 300s\n  \
             node.kubernetes.io/unreachable:NoExecute op=Exists for 300s\n\
             Events:\n  Type Reason Age From Message\n  ---- ------ ---- ---- -------\n  \
             Normal Scheduled *s default-scheduler Successfully assigned $NS/web to *\n  ...\n  \
             Normal Pulled ...\n  Normal Created ...\n  Normal Started ..."
        ),
    );
    kubectl.comes_to_show(
        "get events --field-selector=involvedObject.name=web",
        "LAST SEEN TYPE REASON OBJECT MESSAGE\n\
         ...\n\
         * Normal Scheduled pod/web Successfully assigned $NS/web to *\n\
         ...\n\
         * Normal Started pod/web ...",
    );
    kubectl.shows(
        "get events.events.k8s.io --field-selector=regarding.name=web,reason=Scheduled --no-headers",
        "* Normal Scheduled pod/web Successfully assigned $NS/web to *",
    );
    if kubectl.is_new() {
        kubectl.shows(
            "events --for=pod/web --types=Normal --no-headers",
            "...\n* Normal Scheduled Pod/web Successfully assigned $NS/web to *\n...",
        );
    }
}

fn a_pod_that_cannot_start(kubectl: &Kubectl) {
    let broken = pod("broken", FOREVER).replace("rubelet.local/busybox:1", "localhost:1/none:1");
    kubectl.ok_with("create -f -", &broken);
    kubectl.comes_to_show("get pod broken --no-headers", "broken 0/1 *Image* 0 *s");
    kubectl.comes_to_show(
        "describe pod broken",
        "...\n    State: Waiting\n      Reason: *Image*\n...\n  Warning Failed ...\n...",
    );
    let picky = pod("picky", FOREVER).replace("spec:\n", "spec:\n  nodeSelector: {disk: ssd}\n");
    kubectl.ok_with("create -f -", &picky);
    kubectl.comes_to_show(
        "describe pod picky",
        "...\nStatus: Pending\n...\n  PodScheduled False\n...\n  Warning FailedScheduling *s default-scheduler 0/1 nodes are \
         available: 1 node(s) didn't match Pod's node affinity/selector. ...\n...",
    );
    kubectl.ok("delete pod broken picky --force --grace-period=0");
}

fn the_node(kubectl: &Kubectl) {
    kubectl.shows(
        "describe nodes",
        "Name: *\nRoles: <none>\nLabels: beta.kubernetes.io/arch=*\n...\nCreationTimestamp: ...\nTaints: <none>\n\
         Unschedulable: false\nLease:\n  HolderIdentity: *\n...\nConditions:\n  \
         Type Status LastHeartbeatTime LastTransitionTime Reason Message\n  ...\n  Ready True ...\nAddresses:\n  \
         InternalIP: *\n  Hostname: *\nCapacity:\n...\nAllocatable:\n...\nSystem Info:\n...\n  Kubelet Version: v1.36.2*\n...\n\
         Non-terminated Pods: (* in total)\n  Namespace Name CPU Requests CPU Limits Memory Requests Memory Limits A*\n...\n  \
         $NS web 0 (0%) 0 (0%) 0 (0%) 0 (0%) *s\n...\nAllocated resources:\n...\nEvents:\n...",
    );
}

fn plain_objects(kubectl: &Kubectl) {
    kubectl.shows(
        &format!("describe namespace {}", kubectl.namespace),
        "Name: $NS\nLabels: kubernetes.io/metadata.name=$NS\nAnnotations: <none>\nStatus: Active\n...",
    );
    kubectl.ok("create secret generic key --from-literal=user=me");
    kubectl.shows(
        "describe secret key",
        "Name: key\nNamespace: $NS\nLabels: <none>\nAnnotations: <none>\n\nType: Opaque\n\nData\n====\nuser: 2 bytes",
    );
    kubectl.ok("create configmap conf --from-literal=a=b");
    kubectl.shows("describe cm conf", "Name: conf\nNamespace: $NS\n...\nData\n====\na:\n----\nb\n...");
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n\
                 spec: {accessModes: [ReadWriteOnce], storageClassName: none-such, resources: {requests: {storage: 1Gi}}}\n";
    kubectl.ok_with("create -f -", claim);
    kubectl.shows(
        "describe pvc data",
        "Name: data\nNamespace: $NS\nStorageClass: none-such\nStatus: Pending\nVolume:\nLabels: <none>\nAnnotations: <none>\n\
         Finalizers: [kubernetes.io/pvc-protection]\nCapacity:\nAccess Modes:\nVolumeMode: Filesystem\nUsed By: <none>\n\
         Events: ...\n...",
    );
    kubectl.ok("create service clusterip web --tcp=80:8080");
    kubectl.shows(
        "describe svc web",
        "Name: web\nNamespace: $NS\n...\nType: ClusterIP\n...\nIP: 10.96.*\n...\nPort: 80-8080 80/TCP\n...",
    );
    kubectl.shows("describe sa default", "Name: default\nNamespace: $NS\n...");
    kubectl.refuses("describe pod none", "Error from server (NotFound): pods \"none\" not found");
}
