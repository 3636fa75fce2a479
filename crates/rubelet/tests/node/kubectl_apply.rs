//! `kubectl apply`, `diff`, `replace`, `edit`, `patch`, `label`, `annotate` and `set`: objects that users change.

use crate::kubectl::{FOREVER, Kubectl, pod};
use crate::local::LocalNode;

/// A ConfigMap with one of two colours.
fn colour(name: &str, colour: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
         data: {{color: {colour}, size: \"1\"}}\n"
    )
}

#[test]
fn kubectl_applies() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        applied_by_the_client(kubectl);
        applied_by_the_server(kubectl);
        pruned(kubectl);
        pods_that_are_applied(kubectl);
    });
}

fn applied_by_the_client(kubectl: &Kubectl) {
    kubectl.write("blue.yaml", &colour("conf", "blue"));
    kubectl.write("red.yaml", &colour("conf", "red"));
    kubectl.shows("apply -f blue.yaml --dry-run=client", "configmap/conf created (dry run)");
    kubectl.shows("apply -f blue.yaml --dry-run=server", "configmap/conf created (server dry run)");
    kubectl.refuses("get cm conf", "Error from server (NotFound): configmaps \"conf\" not found");
    let diff = kubectl.run("diff -f blue.yaml");
    assert_eq!(diff.code, Some(1), "{diff:?}");
    assert!(diff.stdout.contains("\n+  color: blue\n"), "{diff:?}");

    kubectl.shows("apply -f blue.yaml", "configmap/conf created");
    kubectl.shows("apply -f blue.yaml", "configmap/conf unchanged");
    kubectl.shows("diff -f blue.yaml", "");
    let diff = kubectl.run("diff -f red.yaml");
    assert_eq!(diff.code, Some(1), "{diff:?}");
    assert!(diff.stdout.contains("\n-  color: blue\n+  color: red\n   size: \"1\"\n"), "{diff:?}");
    kubectl.shows("apply -f red.yaml --dry-run=server", "configmap/conf configured (server dry run)");
    kubectl.shows("get cm conf -o jsonpath={.data.color}", "blue");
    kubectl.shows("apply -f red.yaml", "configmap/conf configured");
    kubectl.shows("get cm conf -o jsonpath={.data.color}", "red");
    // What a manifest does not name any more goes away, what others have set stays.
    kubectl.ok("patch cm conf -p '{\"data\":{\"others\":\"x\"}}'");
    let without_size = colour("conf", "red").replace(", size: \"1\"", "");
    assert_eq!(kubectl.ok_with("apply -f -", &without_size), "configmap/conf configured\n");
    assert_eq!(kubectl.object("cm conf")["data"], serde_json::json!({"color": "red", "others": "x"}));
    kubectl.shows(
        "apply view-last-applied cm conf -o json",
        "{\n  \"apiVersion\": \"v1\",\n  \"data\": {\n    \"color\": \"red\"\n  },\n...",
    );
    assert!(kubectl.fails_with("apply -f -", "kind: ConfigMap\n").starts_with("error: "));
    let wrong = kubectl.fails_with("apply -f -", "apiVersion: v1\nkind: Konfig\nmetadata: {name: x}\n");
    assert!(wrong.contains("no matches for kind \"Konfig\" in version \"v1\""), "{wrong}");
    let wrong = kubectl.fails_with("apply -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: X_}\n");
    let told = "The ConfigMap \"X_\" is invalid: metadata.name: Invalid value: \"X_\": a lowercase RFC 1123 subdomain";
    assert!(wrong.starts_with(told), "{wrong}");
    unknown_fields(kubectl);
}

/// A field that the kind does not have is refused: the old client looks into the API's description, the new one leaves
/// it to the server.
fn unknown_fields(kubectl: &Kubectl) {
    let typo = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: typo}\ndatta: {a: b}\n";
    let said = kubectl.fails_with("apply -f -", typo);
    let wanted = if kubectl.is_new() {
        "Error from server (BadRequest): error when creating \"STDIN\": ConfigMap in version \"v1\" cannot be handled \
         as a ConfigMap: strict decoding error: unknown field \"datta\"\n"
    } else {
        "error: error validating \"STDIN\": error validating data: ValidationError(ConfigMap): unknown field \"datta\" \
         in io.k8s.api.core.v1.ConfigMap; if you choose to ignore these errors, turn validation off with \
         --validate=false\n"
    };
    assert_eq!(said, wanted);
    assert_eq!(kubectl.ok_with("apply --validate=false -f -", typo), "configmap/typo created\n");
    if kubectl.is_new() {
        let warned = kubectl.run_with("apply --validate=warn -f -", &typo.replace("typo", "typo2"));
        assert_eq!(
            (warned.stdout.as_str(), warned.stderr.as_str()),
            ("configmap/typo2 created\n", "Warning: unknown field \"datta\"\n")
        );
    }
}

fn applied_by_the_server(kubectl: &Kubectl) {
    kubectl.write("blue.yaml", &colour("shared", "blue"));
    kubectl.write("red.yaml", &colour("shared", "red"));
    kubectl.shows("apply --server-side -f blue.yaml", "configmap/shared serverside-applied");
    kubectl.shows(
        "apply --server-side -f red.yaml --field-manager=other --dry-run=server --force-conflicts",
        "configmap/shared serverside-applied (server dry run)",
    );
    kubectl.refuses(
        "apply --server-side -f red.yaml --field-manager=other",
        "error: Apply failed with 1 conflict: conflict with \"kubectl\": .data.color\n...",
    );
    kubectl.shows(
        "apply --server-side -f blue.yaml --field-manager=other",
        "configmap/shared serverside-applied",
    );
    kubectl.refuses(
        "apply --server-side -f red.yaml --field-manager=third",
        "error: Apply failed with 2 conflicts: conflicts with \"kubectl\":\n- .data.color\n\
         conflicts with \"other\":\n- .data.color\n...",
    );
    kubectl.shows(
        "apply --server-side -f red.yaml --field-manager=third --force-conflicts",
        "configmap/shared serverside-applied",
    );
    kubectl.shows("get cm shared -o jsonpath={.data.color}", "red");
    let managers = if kubectl.is_new() { " --show-managed-fields" } else { "" };
    let fields = format!("get cm shared{managers} -o jsonpath='{{.metadata.managedFields[*].manager}}'");
    let seen = kubectl.ok(&fields);
    let mut managers: Vec<&str> = seen.split_whitespace().collect();
    managers.sort_unstable();
    assert_eq!(managers, ["kubectl", "other", "third"]);
    let gone = colour("shared", "red").replace("color: red, ", "");
    kubectl.ok_with("apply --server-side --field-manager=third -f -", &gone);
    kubectl.shows("get cm shared -o jsonpath={.data}", "{\"size\":\"1\"}");
}

fn pruned(kubectl: &Kubectl) {
    let both = format!("{}---\n{}", colour("stays", "blue"), colour("goes", "blue"))
        .replace("app: goes", "app: stays");
    kubectl.ok_with("apply -f -", &both);
    let list = if kubectl.is_new() { "--prune-allowlist" } else { "--prune-whitelist" };
    let shown = kubectl.ok_with(
        &format!("apply --prune -l app=stays {list}=core/v1/ConfigMap -f -"),
        &colour("stays", "red"),
    );
    assert_eq!(shown, "configmap/stays configured\nconfigmap/goes pruned\n");
    kubectl.refuses("get cm goes", "Error from server (NotFound): configmaps \"goes\" not found");
}

fn pods_that_are_applied(kubectl: &Kubectl) {
    kubectl.write("pod.yaml", &pod("web", FOREVER));
    kubectl.shows("apply -f pod.yaml", "pod/web created");
    kubectl.wait_ready("web");
    kubectl.shows("apply -f pod.yaml", "pod/web unchanged");
    kubectl.write("pod.yaml", &pod("web", FOREVER).replace("{app: web}", "{app: web, tier: front}"));
    kubectl.shows("apply -f pod.yaml", "pod/web configured");
    kubectl.shows("get pod -l tier=front -o name", "pod/web");
    kubectl.write("pod.yaml", &pod("web", "exit 0"));
    let refused = kubectl.fails("apply -f pod.yaml");
    let told = "The Pod \"web\" is invalid: spec: Forbidden: pod updates may not change fields other than \
                `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                `spec.tolerations` (only additions to existing tolerations),\
                `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    assert!(refused.starts_with(told), "{refused}");
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: \
                      {app: web}}\n  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: \
                      b}]}}\n";
    needs_a_cluster(&kubectl.fails_with("apply -f -", deployment), "deployments.apps");
}

/// What users are told who ask for a kind that takes controllers.
pub fn needs_a_cluster(said: &str, what: &str) {
    if std::env::var_os("RUBELET_TEST_REFERENCE").is_some() {
        return;
    }
    let told =
        format!("{what} are not served by this node's local API: they need the controllers of a cluster");
    assert!(said.contains(&told) && said.contains("--kubeconfig"), "{said}");
}

#[test]
fn kubectl_changes_objects() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        replaced(kubectl);
        patched(kubectl);
        labelled(kubectl);
        edited(kubectl);
        pods_that_are_changed(kubectl);
    });
}

fn replaced(kubectl: &Kubectl) {
    kubectl.write("blue.yaml", &colour("conf", "blue"));
    kubectl.write("red.yaml", &colour("conf", "red"));
    let missing =
        "Error from server (NotFound): error when replacing \"red.yaml\": configmaps \"conf\" not found";
    kubectl.refuses("replace -f red.yaml", missing);
    kubectl.ok("create -f blue.yaml");
    let first = kubectl.object("cm conf");
    kubectl.shows("replace -f red.yaml", "configmap/conf replaced");
    kubectl.shows("get cm conf -o jsonpath={.data.color}", "red");
    let stale = serde_json::to_string(&first).unwrap();
    let said = kubectl.fails_with("replace -f -", &stale);
    assert_eq!(
        said,
        "Error from server (Conflict): error when replacing \"STDIN\": Operation cannot be fulfilled on configmaps \
         \"conf\": the object has been modified; please apply your changes to the latest version and try again\n"
    );
    let from = if kubectl.is_new() { " from $NS namespace" } else { "" };
    kubectl.shows(
        "replace --force -f blue.yaml",
        &format!("configmap \"conf\" deleted{from}\nconfigmap/conf replaced"),
    );
    assert_ne!(kubectl.object("cm conf")["metadata"]["uid"], first["metadata"]["uid"]);
}

fn patched(kubectl: &Kubectl) {
    kubectl.shows(
        "patch cm conf --type=json -p '[{\"op\":\"replace\",\"path\":\"/data/color\",\"value\":\"x\"}]'",
        "configmap/conf patched",
    );
    let refused = kubectl.fails(
        "patch cm conf --type=json -p '[{\"op\":\"replace\",\"path\":\"/data/nope/x\",\"value\":\"x\"}]'",
    );
    assert!(refused.starts_with("The request is invalid"), "{refused}");
    let refused = kubectl
        .fails("patch cm conf --type=json -p '[{\"op\":\"test\",\"path\":\"/data/color\",\"value\":\"y\"}]'");
    assert!(refused.contains("The request is invalid"), "{refused}");
    kubectl.shows("patch cm conf --type=merge -p '{\"data\":{\"color\":null}}'", "configmap/conf patched");
    kubectl.shows("get cm conf -o jsonpath={.data}", "{\"size\":\"1\"}");
    kubectl.shows("patch cm conf -p '{\"data\":{\"color\":\"y\"}}'", "configmap/conf patched");
    kubectl.shows("patch cm conf -p '{\"data\":{\"color\":\"y\"}}'", "configmap/conf patched (no change)");
    kubectl.shows(
        "patch cm conf -p '{\"data\":{\"color\":\"z\"}}' --dry-run=server -o jsonpath={.data.color}",
        "z",
    );
    kubectl.refuses("patch cm nope -p '{}'", "Error from server (NotFound): configmaps \"nope\" not found");
}

fn labelled(kubectl: &Kubectl) {
    kubectl.shows("label cm conf a=b", "configmap/conf labeled");
    kubectl.refuses("label cm conf a=c", "error: 'a' already has a value (b), and --overwrite is false");
    kubectl.shows("label cm conf a=c --overwrite", "configmap/conf labeled");
    kubectl.shows("get cm -l a=c -o name", "configmap/conf");
    kubectl.shows("get cm -l 'a in (b,c),a!=b' -o name", "configmap/conf");
    let removed = if kubectl.is_new() { "unlabeled" } else { "labeled" };
    kubectl.shows("label cm conf a-", &format!("configmap/conf {removed}"));
    kubectl.shows("get cm -l a -o name", "");
    kubectl.shows("label cm --all all=here", "configmap/conf labeled\nconfigmap/kube-root-ca.crt labeled");
    kubectl.refuses(
        "label cm conf bad/la/bel=x",
        "The ConfigMap \"conf\" is invalid: metadata.labels: Invalid value: \"bad/la/bel\": a valid label key ...",
    );
    kubectl.shows("annotate cm conf note='hello world'", "configmap/conf annotated");
    kubectl.shows("get cm conf -o jsonpath={.metadata.annotations.note}", "hello world");
    let removed = if kubectl.is_new() { "annotate" } else { "annotated" };
    let shown = kubectl.ok("annotate cm conf note-");
    assert!(shown.starts_with(&format!("configmap/conf {removed}")), "{shown}");
}

fn edited(kubectl: &Kubectl) {
    kubectl.write("editor", "#!/bin/sh\nsed -i s/color:.*/color:\\ green/ \"$1\"\n");
    let editor = kubectl.home.join("editor");
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let edit = |line: &str, script: &str| {
        kubectl.write("editor", &format!("#!/bin/sh\n{script} \"$1\"\n"));
        let mut command = kubectl.command(line);
        command.env("EDITOR", &editor);
        crate::kubectl::finish(command, "")
    };
    let ended = edit("edit cm conf", "sed -i 's/color:.*/color: green/'");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "configmap/conf edited\n"), "{ended:?}");
    kubectl.shows("get cm conf -o jsonpath={.data.color}", "green");
    let ended = edit("edit cm conf", "true");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        format!("{}{}", ended.stdout, ended.stderr).contains("Edit cancelled, no changes made."),
        "{ended:?}"
    );
}

fn pods_that_are_changed(kubectl: &Kubectl) {
    kubectl.start_pod("web", FOREVER);
    kubectl.refuses("set image pod/web nope=x", "error: unable to find container named \"nope\"");
    let refused = kubectl.fails("set env pod/web A=b");
    assert!(
        refused.contains("Pod \"web\" is invalid: spec: Forbidden: pod updates may not change"),
        "{refused}"
    );
    kubectl.shows("set env pod/web --list", "# Pod web, container main");
    let refused = kubectl.fails("patch pod web -p '{\"spec\":{\"restartPolicy\":\"Never\"}}'");
    let diff: Vec<&str> =
        refused.lines().filter(|line| line.to_lowercase().contains("restartpolicy")).collect();
    assert!(matches!(diff[..], [old, new] if old.contains("Always") && new.contains("Never")), "{refused}");
    // The same image under another name: the container is started again, as on any node.
    kubectl.shows(
        "set image pod/web main=rubelet.local/busybox:1@nope --dry-run=client",
        "pod/web image updated (dry run)",
    );
    kubectl.shows("patch pod web -p '{\"spec\":{\"activeDeadlineSeconds\":3600}}'", "pod/web patched");
    if kubectl.is_new() {
        kubectl.shows(
            "patch pod web --subresource=status --type=merge -p '{\"status\":{\"message\":\"hello\"}}'",
            "pod/web patched",
        );
        kubectl.shows("get pod web --subresource=status -o jsonpath={.metadata.name}", "web");
        kubectl.shows(
            "patch pod web --subresource=resize -p \
             '{\"spec\":{\"containers\":[{\"name\":\"main\",\"resources\":{}}]}}'",
            "pod/web patched (no change)",
        );
    }
}
