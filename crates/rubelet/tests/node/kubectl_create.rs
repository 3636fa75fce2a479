//! `kubectl create` and `kubectl run`: objects from files and from flags, and kinds that need a cluster.

use serde_json::{Value, json};

use crate::kubectl::{FOREVER, Kubectl, pod};
use crate::kubectl_apply::needs_a_cluster;
use crate::local::LocalNode;

#[test]
fn kubectl_creates() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        from_files(kubectl);
        from_flags(kubectl);
        accounts(kubectl);
        what_needs_a_cluster(kubectl);
        pods_that_are_run(kubectl);
    });
}

fn from_files(kubectl: &Kubectl) {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {a: b}\n";
    kubectl.write("conf.yaml", map);
    kubectl.shows("create -f conf.yaml --dry-run=client", "configmap/conf created (dry run)");
    kubectl.shows("create -f conf.yaml --dry-run=server", "configmap/conf created (server dry run)");
    kubectl.shows("create -f conf.yaml", "configmap/conf created");
    kubectl.refuses(
        "create -f conf.yaml",
        "Error from server (AlreadyExists): error when creating \"conf.yaml\": configmaps \"conf\" already exists",
    );
    let generated = kubectl.ok_with("create -f -", &map.replace("name: conf", "generateName: conf-"));
    let name = generated.strip_prefix("configmap/").and_then(|rest| rest.strip_suffix(" created\n"));
    assert!(name.is_some_and(|name| name.starts_with("conf-") && name.len() == 10), "{generated}");
    let two = format!("{}---\n{}", map.replace("conf", "one"), map.replace("conf", "two"));
    assert_eq!(kubectl.ok_with("create -f -", &two), "configmap/one created\nconfigmap/two created\n");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "three"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "three"}},
    ]});
    assert_eq!(
        kubectl.ok_with("create -f -", &list.to_string()),
        "configmap/three created\nsecret/three created\n"
    );
    let refused = kubectl.fails_with(
        "create --validate=false -f -",
        &pod("web", FOREVER).replace("name: main", "name: Main_"),
    );
    let told = "The Pod \"web\" is invalid: spec.containers[0].name: Invalid value: \"Main_\": a lowercase RFC 1123 label \
                must consist of";
    assert!(refused.starts_with(told), "{refused}");
    let many = kubectl.fails_with(
        "create --validate=false -f -",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {restartPolicy: Sometimes, containers: [{name: a}]}\n",
    );
    let wanted = "The Pod \"p\" is invalid: \n\
                  * spec.containers[0].image: Required value\n\
                  * spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \
                  \"OnFailure\"\n";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    // The old client repeats every cause that the message names too.
    assert_eq!(sorted(&many.replace("\"OnFailure\", \"Never\"", "\"Never\", \"OnFailure\"")), sorted(wanted));
    kubectl.refuses(
        "create -f conf.yaml -n none",
        "Error from server (NotFound): error when creating \"conf.yaml\": namespaces \"none\" not found",
    );
}

fn from_flags(kubectl: &Kubectl) {
    kubectl.write("colour", "blue\n");
    kubectl.shows("create configmap flags --from-literal=a=b --from-file=colour", "configmap/flags created");
    assert_eq!(kubectl.object("cm flags")["data"], json!({"a": "b", "colour": "blue\n"}));
    kubectl.shows("create secret generic key --from-literal=user=me", "secret/key created");
    kubectl.shows("get secret key -o jsonpath={.data.user}", "bWU=");
    kubectl.shows("get secret key -o jsonpath={.type}", "Opaque");
    kubectl.shows(
        "create secret docker-registry pull --docker-server=r --docker-username=u --docker-password=p",
        "secret/pull created",
    );
    kubectl.shows("get secret pull -o jsonpath={.type}", "kubernetes.io/dockerconfigjson");
    kubectl.shows(
        "create namespace $NS-more".replace("$NS", &kubectl.namespace).as_str(),
        "namespace/$NS-more created",
    );
    let more = format!("get cm,sa -n {}-more -o name", kubectl.namespace);
    kubectl.comes_to_show(&more, "configmap/kube-root-ca.crt\nserviceaccount/default");
    kubectl.shows("create service clusterip web --tcp=80:8080", "service/web created");
    let service = kubectl.object("service web");
    assert!(service["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.")), "{service}");
    kubectl.shows(
        &format!("create priorityclass {}-high --value=1000 --description=x", kubectl.namespace),
        "priorityclass.scheduling.k8s.io/$NS-high created",
    );
    kubectl.ok(&format!("delete priorityclass {}-high", kubectl.namespace));
}

fn accounts(kubectl: &Kubectl) {
    kubectl.shows("create serviceaccount robot", "serviceaccount/robot created");
    if !kubectl.is_new() {
        return;
    }
    let token = kubectl.ok("create token robot --duration=1h --audience=https://example.com");
    let payload = token.trim().split('.').nth(1).map(str::to_owned).unwrap_or_default();
    use base64::Engine as _;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["sub"], format!("system:serviceaccount:{}:robot", kubectl.namespace));
    assert_eq!(payload["aud"], json!(["https://example.com"]));
    kubectl.refuses("create token none", "error: failed to create token: serviceaccounts \"none\" not found");
    let token = kubectl.ok("create token robot");
    let whoami = format!(
        "auth whoami --token={} --client-certificate= --client-key= -o jsonpath={{.status.userInfo.username}}",
        token.trim()
    );
    let _is_told_by_the_certificate = kubectl.run(&whoami);
}

fn what_needs_a_cluster(kubectl: &Kubectl) {
    if std::env::var_os("RUBELET_TEST_REFERENCE").is_some() {
        return;
    }
    for (line, what) in [
        ("create deployment web --image=x", "deployments.apps"),
        ("create job one --image=x", "jobs.batch"),
        ("create cronjob one --image=x --schedule='* * * * *'", "cronjobs.batch"),
        ("create role r --verb=get --resource=pods", "roles.rbac.authorization.k8s.io"),
        ("create quota q --hard=pods=1", "resourcequotas"),
    ] {
        // The old client asks for a version of CronJob that no current cluster has.
        if kubectl.is_new() || what != "cronjobs.batch" {
            needs_a_cluster(&kubectl.fails(line), what);
        }
    }
}

fn pods_that_are_run(kubectl: &Kubectl) {
    kubectl.shows(
        "run web --image=rubelet.local/busybox:1 --labels=app=web --env=A=b --port=8080 --command -- sleep 100",
        "pod/web created",
    );
    kubectl.wait_ready("web");
    let web = kubectl.object("pod web");
    let container = &web["spec"]["containers"][0];
    assert_eq!(container["command"], json!(["sleep", "100"]));
    assert_eq!(container["env"], json!([{"name": "A", "value": "b"}]));
    assert_eq!(container["ports"], json!([{"containerPort": 8080, "protocol": "TCP"}]));
    kubectl.ok("delete pod web --now --wait=false");
    let dry = kubectl.ok("run dry --image=x --dry-run=client -o yaml");
    assert!(dry.contains("image: x\n") && dry.contains("restartPolicy: Always\n"), "{dry}");
    kubectl.refuses("get pod dry", "Error from server (NotFound): pods \"dry\" not found");
}

#[test]
fn kubectl_runs_a_pod_and_stays_with_it() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        let line = "run once --image=rubelet.local/busybox:1 --restart=Never --rm -i --quiet --command -- sh -c 'cat; exit 3'";
        let ended = kubectl.run_with(line, "hello\n");
        assert!(ended.stdout.contains("hello\n"), "{ended:?}");
        if kubectl.is_new() {
            assert_eq!(ended.code, Some(3), "{ended:?}");
        }
        kubectl.refuses("get pod once", "Error from server (NotFound): pods \"once\" not found");
        let line = "run shell --image=rubelet.local/busybox:1 --restart=Never --rm -it -- sh";
        let ended = kubectl.in_terminal(line, "echo in-$((40 + 2)); exit\n");
        assert!(ended.stdout.contains("in-42"), "{ended:?}");
        assert!(ended.stdout.contains("pod \"shell\" deleted"), "{ended:?}");
    });
}
