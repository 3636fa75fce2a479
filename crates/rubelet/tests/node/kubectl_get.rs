//! `kubectl get` in all its outputs, selections and watches.

use serde_json::Value;

use crate::kubectl::{FOREVER, Kubectl, pod};
use crate::local::LocalNode;

/// An object of every other kind that is printed with columns of its own.
const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]
ports: [{port: 8080, name: http}]
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {user: me, password: secret}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: lock}
spec: {holderIdentity: me}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: none-such, resources: {requests: {storage: 1Gi}}}
";

#[test]
fn kubectl_gets_pods_in_every_output() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        kubectl.shows_empty("get pods", "No resources found in $NS namespace.");
        kubectl.ok_with("create -f -", &pod("web", FOREVER));
        kubectl.ok_with(
            "create -f -",
            &pod("task", "exit 0").replace("spec:\n", "spec:\n  restartPolicy: Never\n"),
        );
        kubectl.wait_ready("web");
        kubectl.comes_to_show("get pod task -o jsonpath={.status.phase}", "Succeeded");
        tables(kubectl);
        machine_readable(kubectl);
        selections(kubectl);
        refusals(kubectl);
    });
}

impl Kubectl {
    /// Runs a command line that finds nothing, which kubectl says on stderr.
    fn shows_empty(&self, line: &str, said: &str) {
        let ended = self.run(line);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let wanted = (String::new(), format!("{}\n", said.replace("$NS", &self.namespace)));
        assert_eq!((ended.stdout, ended.stderr), wanted, "{:?}: {line}", self.version);
    }
}

fn tables(kubectl: &Kubectl) {
    kubectl.shows(
        "get pods",
        "NAME READY STATUS RESTARTS AGE\n\
         task 0/1 Completed 0 *s\n\
         web 1/1 Running 0 *s",
    );
    kubectl.shows(
        "get pods -o wide",
        "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES\n\
         task 0/1 Completed 0 *s 10.* * <none> <none>\n\
         web 1/1 Running 0 *s 10.* * <none> <none>",
    );
    kubectl.shows("get pod web --no-headers", "web 1/1 Running 0 *s");
    kubectl.shows("get pods --show-labels", "...\nweb 1/1 Running 0 *s app=web");
    kubectl.shows("get pods -L app", "NAME READY STATUS RESTARTS AGE APP\n...\nweb 1/1 Running 0 *s web");
    kubectl.shows("get pods --show-kind", "...\npod/web 1/1 Running 0 *s");
    kubectl.shows("get pods --sort-by=.metadata.creationTimestamp -o name", "pod/*\npod/*");
    kubectl.shows("get pods --sort-by={.status.phase}", "NAME ...\nweb ...\ntask ...");
    kubectl.shows("get pods --chunk-size=1", "NAME READY STATUS RESTARTS AGE\ntask ...\nweb ...");
    kubectl.shows("get all", "NAME READY STATUS RESTARTS AGE\npod/task ...\npod/web ...");
    kubectl
        .shows("get pods -A", "NAMESPACE NAME READY STATUS RESTARTS AGE\n...\n$NS web 1/1 Running 0 *\n...");
    kubectl.shows(
        "get pod/web cm/kube-root-ca.crt",
        "NAME ...\npod/web ...\n\nNAME DATA AGE\nconfigmap/kube-root-ca.crt 1 *s",
    );
    kubectl.shows("get --raw /healthz", "ok");
    kubectl.shows("get --raw /readyz", "ok");
}

fn machine_readable(kubectl: &Kubectl) {
    kubectl.shows("get pods -o name", "pod/task\npod/web");
    kubectl.shows("get pods -o jsonpath='{range .items[*]}{.metadata.name} {end}'", "task web");
    kubectl.shows(
        "get pods -o custom-columns=NAME:.metadata.name,PHASE:.status.phase",
        "NAME PHASE\ntask Succeeded\nweb Running",
    );
    kubectl.shows("get pods -o go-template='{{range .items}}{{.metadata.name}} {{end}}'", "task web");
    let list: Value = serde_json::from_str(&kubectl.ok("get pods -o json")).unwrap();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&"List".into(), &"v1".into()));
    let web = kubectl.object("pod web");
    assert_eq!((&web["kind"], &web["apiVersion"]), (&"Pod".into(), &"v1".into()));
    let yaml = kubectl.ok("get pod web -o yaml");
    let same: Value = serde_saphyr::from_str(&yaml).unwrap();
    if kubectl.is_new() {
        // The old one shows managedFields, where `f:time` can be a number in YAML only.
        assert_eq!(same["spec"], web["spec"]);
    }
    assert_eq!(same["metadata"]["uid"], web["metadata"]["uid"]);
    // What every pod on a cluster has.
    let spec = &web["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["volumes"][0]["projected"]["sources"].as_array().map(Vec::len), Some(3));
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(web["status"]["qosClass"], "BestEffort");
}

fn selections(kubectl: &Kubectl) {
    kubectl.shows("get pods -l app=web -o name", "pod/web");
    kubectl.shows("get pods -l app!=web -o name", "pod/task");
    kubectl.shows("get pods -l 'app in (web,none)' -o name", "pod/web");
    kubectl.shows("get pods -l '!app' -o name", "");
    kubectl.shows("get pods --field-selector=status.phase=Running -o name", "pod/web");
    kubectl.shows("get pods --field-selector=status.phase!=Running,metadata.name=task -o name", "pod/task");
    kubectl.shows("get pods --field-selector=spec.restartPolicy=Never -o name", "pod/task");
    let node = kubectl.ok("get pod web -o jsonpath={.spec.nodeName}");
    kubectl.shows(&format!("get pods --field-selector=spec.nodeName={node} -o name"), "pod/task\npod/web");
    kubectl.shows("get pods web task -o name", "pod/web\npod/task");
    kubectl.shows("get po,cm -o name", "pod/task\npod/web\nconfigmap/kube-root-ca.crt");
    kubectl.shows_empty("get pods -l app=none", "No resources found in $NS namespace.");
    kubectl.shows("get pod none --ignore-not-found", "");
}

fn refusals(kubectl: &Kubectl) {
    kubectl.refuses("get pods none", "Error from server (NotFound): pods \"none\" not found");
    kubectl.refuses("get nones", "error: the server doesn't have a resource type \"nones\"");
    kubectl.refuses(
        "get pods -l 'a b'",
        "Error from server (BadRequest): Unable to find \"/v1, Resource=pods\" that match label selector \"a b\", field \
         selector \"\": unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
    );
    kubectl.refuses(
        "get pods --field-selector=spec.hostname=x",
        "Error from server (BadRequest): Unable to find \"/v1, Resource=pods\" that match label selector \"\", field \
         selector \"spec.hostname=x\": field label not supported: spec.hostname",
    );
    kubectl.refuses(
        "get --raw /api/v1/nonesuch",
        "Error from server (NotFound): the server could not find the requested resource",
    );
}

#[test]
fn kubectl_gets_every_kind() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        kubectl.ok_with("create -f -", OBJECTS);
        let check = |line: &str, table: &str| kubectl.shows(&format!("get {line}"), table);
        check(
            "svc",
            "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE\n\
             headless ClusterIP None <none> 53/UDP *s\n\
             web ClusterIP 10.96.* <none> 80/TCP *s",
        );
        check("svc web -o wide --no-headers", "web ClusterIP 10.96.* <none> 80/TCP *s app=web");
        check("svc kubernetes -n default --no-headers", "kubernetes ClusterIP * <none> */TCP *");
        check(
            "endpointslices web-1",
            "NAME ADDRESSTYPE PORTS ENDPOINTS AGE\nweb-1 IPv4 8080 10.0.0.1,10.0.0.2 *s",
        );
        check("secrets", "NAME TYPE DATA AGE\nkey Opaque 2 *s");
        check("cm", "NAME DATA AGE\nkube-root-ca.crt 1 *s");
        check("leases", "NAME HOLDER AGE\nlock me *s");
        check("lease -n kube-node-lease --no-headers", "...\n* * *");
        check("ns $NS".replace("$NS", &kubectl.namespace).as_str(), "NAME STATUS AGE\n$NS Active *s");
        check("nodes", "NAME STATUS ROLES AGE VERSION\n* Ready <none> * v1.36.2*");
        check(
            "nodes -o wide",
            "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME\n\
             * Ready <none> * v1.36.2* * ...",
        );
        check(
            "pvc",
            "NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS VOLUMEATTRIBUTESCLASS AGE\n\
             data Pending none-such <unset> *s",
        );
        check("sa", "NAME AGE\ndefault *s");
        let classes = "NAME VALUE GLOBAL-DEFAULT AGE PREEMPTIONPOLICY\n\
                       system-cluster-critical 2000000000 false * PreemptLowerPriority\n\
                       system-node-critical 2000001000 false * PreemptLowerPriority";
        check("priorityclasses", classes);
        let v = &kubectl.namespace;
        let class = format!(
            "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {v}}}\nhandler: runc\n---\n\
             apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {v}}}\nspec: {{capacity: {{storage: 1Gi}}, \
             accessModes: [ReadWriteOnce], storageClassName: slow, hostPath: {{path: /tmp}}}}\n---\n\
             apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: {v}}}\nprovisioner: example.com/x\n---\n\
             apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {{name: {v}.example.com}}\nspec: {{}}\n"
        );
        kubectl.ok_with("create -f -", &class);
        check("runtimeclass $NS".replace("$NS", v).as_str(), "NAME HANDLER AGE\n$NS runc *s");
        let volume = "NAME CAPACITY ACCESS MODES RECLAIM POLICY STATUS CLAIM STORAGECLASS VOLUMEATTRIBUTESCLASS REASON AGE\n\
                      $NS 1Gi RWO Retain Available slow <unset> *s";
        kubectl.comes_to_show(&format!("get pv {v}"), volume);
        let class = "NAME PROVISIONER RECLAIMPOLICY VOLUMEBINDINGMODE ALLOWVOLUMEEXPANSION AGE\n\
                     $NS example.com/x Delete Immediate false *s";
        check(&format!("sc {v}"), class);
        let driver = "NAME ATTACHREQUIRED PODINFOONMOUNT STORAGECAPACITY TOKENREQUESTS REQUIRESREPUBLISH MODES AGE\n\
                      $NS.example.com true false false <unset> false Persistent *s";
        check(&format!("csidriver {v}.example.com"), driver);
        check("svc/web endpointslice/web-1 -o name", "service/web\nendpointslice.discovery.k8s.io/web-1");
        kubectl.ok(&format!("delete pv/{v} sc/{v} runtimeclass/{v} csidriver/{v}.example.com"));
    });
}

#[test]
fn kubectl_watches() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        let watch = kubectl.start("get pods --watch");
        let events = kubectl.start("get pods --watch --output-watch-events");
        kubectl.start_pod("web", FOREVER);
        watch.wait_line("Pending");
        watch.wait_line("ContainerCreating");
        watch.wait_line("1/1     Running");
        kubectl.ok("delete pod web");
        watch.wait_line("Terminating");
        events.wait_line("DELETED");
        let said = watch.said();
        assert_eq!(said.matches("NAME").count(), 1, "{said}");
        let said = events.said();
        assert!(said.contains("\nADDED      web ") && said.contains("\nMODIFIED   web "), "{said}");
        let only =
            kubectl.start("get configmap --watch-only -o jsonpath='{.metadata.name}{\"\\n\"}' -l seen=yes");
        kubectl.ok("create configmap unseen");
        kubectl.ok("create configmap seen");
        // A label makes an object appear to a watch that selects by it.
        kubectl.comes_to_show("label cm seen seen=yes --overwrite", "configmap/seen *");
        only.wait_line("seen");
        assert!(!only.said().contains("unseen"));
    });
}
