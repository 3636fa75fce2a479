//! How kubectl learns what there is: versions, resources, explanations, who one is and what one may do.

use crate::kubectl::Kubectl;
use crate::local::LocalNode;

#[test]
fn kubectl_explores() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        versions(kubectl);
        resources(kubectl);
        explanations(kubectl);
        configuration(kubectl);
        identity(kubectl);
    });
}

fn versions(kubectl: &Kubectl) {
    if kubectl.is_new() {
        kubectl.shows("version", "Client Version: v1.35.*\nKustomize Version: v*\nServer Version: v1.36.*");
    } else {
        kubectl.shows("version --short", "Client Version: v1.20.*\nServer Version: v1.36.*");
    }
    let info = kubectl.ok("cluster-info");
    assert!(info.contains("Kubernetes control plane") && info.contains("is running at"), "{info}");
    let versions = kubectl.ok("api-versions");
    for version in
        ["v1", "coordination.k8s.io/v1", "discovery.k8s.io/v1", "events.k8s.io/v1", "storage.k8s.io/v1"]
    {
        assert!(versions.lines().any(|line| line == version), "{version} is missing in {versions}");
    }
}

fn resources(kubectl: &Kubectl) {
    let table = kubectl.ok("api-resources");
    let row = |name: &str| {
        let row = table.lines().find(|line| line.split_whitespace().next() == Some(name));
        row.unwrap_or_else(|| panic!("no {name} in {table}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("pods"), "pods po v1 true Pod");
    assert_eq!(row("configmaps"), "configmaps cm v1 true ConfigMap");
    assert_eq!(row("nodes"), "nodes no v1 false Node");
    assert_eq!(row("leases"), "leases coordination.k8s.io/v1 true Lease");
    assert_eq!(row("priorityclasses"), "priorityclasses pc scheduling.k8s.io/v1 false PriorityClass");
    let wide = kubectl.ok("api-resources --namespaced=true --verbs=list --api-group= -o wide --no-headers");
    assert!(
        wide.lines()
            .any(|line| line.starts_with("pods ") && line.contains("create") && line.contains("watch")),
        "{wide}"
    );
    let names = kubectl.ok("api-resources --api-group=storage.k8s.io -o name");
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    let wanted = ["csidrivers", "csinodes", "storageclasses", "volumeattachments"];
    for name in wanted {
        assert!(names.contains(&format!("{name}.storage.k8s.io").as_str()), "{names:?}");
    }
}

fn explanations(kubectl: &Kubectl) {
    kubectl
        .shows("explain pods", "KIND: Pod\nVERSION: v1\n\nDESCRIPTION:\n...\nFIELDS:\n...\n  spec <*>\n...");
    let field = kubectl.ok("explain pod.spec.containers.image");
    assert!(field.contains("image <string>") || field.contains("FIELD:    image <string>"), "{field}");
    let all = kubectl.ok("explain pod.spec.containers --recursive");
    for field in ["livenessProbe", "httpGet", "volumeMounts", "mountPath"] {
        assert!(all.contains(field), "{field} is missing in {all}");
    }
    kubectl.shows("explain leases --api-version=coordination.k8s.io/v1", "...\nKIND: Lease\n...");
    kubectl.refuses("explain pod.spec.nothing", "error: field \"nothing\" does not exist");
    kubectl.refuses("explain nothings", "the server doesn't have a resource type \"nothings\"");
}

fn identity(kubectl: &Kubectl) {
    kubectl.shows("auth can-i create pods", "yes");
    kubectl.shows("auth can-i '*' '*'", "yes");
    kubectl.shows("auth can-i get pods --subresource=log", "yes");
    if std::env::var_os("RUBELET_TEST_REFERENCE").is_none() {
        let refused = kubectl.fails("get pods --as=somebody");
        assert!(refused.contains("does not impersonate users"), "{refused}");
    }
    kubectl.shows(
        "auth can-i --list",
        "Resources Non-Resource URLs Resource Names Verbs\n...\n*.* [] [] [*]\n...",
    );
    if kubectl.is_new() {
        kubectl.shows(
            "auth whoami",
            "ATTRIBUTE VALUE\nUsername *\nGroups [system:masters system:authenticated]\n...",
        );
        a_service_account(kubectl);
    }
}

/// What a pod is let do with its token: look, but neither at secrets nor elsewhere, and change nothing.
fn a_service_account(kubectl: &Kubectl) {
    let token = kubectl.ok("create token default");
    kubectl.ok(&format!("config set-credentials pod --token={}", token.trim()));
    let cluster = kubectl.ok("config view --minify -o jsonpath={.clusters[0].name}");
    kubectl.ok(&format!(
        "config set-context pod --user=pod --cluster={cluster} --namespace={}",
        kubectl.namespace
    ));
    let account = format!("system:serviceaccount:{}:default", kubectl.namespace);
    kubectl.shows("auth whoami --context=pod -o jsonpath={.status.userInfo.username}", &account);
    let may = |line: &str| {
        let said = kubectl.run(&format!("auth can-i {line} --context=pod"));
        said.code == Some(0) && said.stdout == "yes\n"
    };
    if std::env::var_os("RUBELET_TEST_REFERENCE").is_none() {
        assert!(may("list pods"));
        kubectl.shows("get cm --context=pod -o name", "configmap/kube-root-ca.crt");
    }
    for line in ["get secrets", "create pods", "list pods -n default", "'*' '*'"] {
        assert!(!may(line), "{line}");
    }
    let refused = kubectl.fails("create configmap x --context=pod");
    let told = format!(
        "configmaps is forbidden: User \"{account}\" cannot create resource \"configmaps\" in API group \"\" in the \
         namespace \"{}\"",
        kubectl.namespace
    );
    assert!(refused.contains(&told), "{refused}");
    // A token that nobody has given is refused before anything is looked at.
    kubectl.ok("config set-credentials pod --token=wrong");
    kubectl.refuses("get pods --context=pod", "error: You must be logged in to the server (*)");
    kubectl.ok("config unset users.pod.token");
    let refused = kubectl.run_with("get pods --context=pod", "");
    assert_eq!(refused.code, Some(1), "{refused:?}");
}

fn configuration(kubectl: &Kubectl) {
    let config = kubectl.ok("config view");
    assert!(config.contains("server: https://127.0.0.1:") && !config.contains("PRIVATE KEY"), "{config}");
    kubectl.shows("config get-contexts --no-headers", "* * * * $NS");
    let context = kubectl.ok("config current-context");
    assert!(!context.trim().is_empty());
    kubectl.shows("config view --minify -o jsonpath={..namespace}", "$NS");
}
