//! Claims on a node of its own: folders of this machine that outlive pods, and what a pod says that waits for one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::kubectl::{FOREVER, Kubectl, Version, pod};
use crate::local::LocalNode;
use crate::wait::{self, PATIENCE};

fn claim(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
         resources: {{requests: {{storage: 1Mi}}}}\n"
    )
}

/// A pod that runs `script` with one volume at `/data`.
fn with_volume(name: &str, script: &str, source: &str) -> String {
    let script = format!("{script}; {FOREVER}");
    pod(name, &script)
        + &format!(
            "    volumeMounts: [{{name: data, mountPath: /data}}]\n  volumes: [{{name: data, {source}}}]\n"
        )
}

fn claiming(name: &str, script: &str, claim: &str) -> String {
    with_volume(name, script, &format!("persistentVolumeClaim: {{claimName: {claim}}}"))
}

/// The folder of a bound claim.
fn folder(kubectl: &Kubectl, claim: &str) -> PathBuf {
    let volume = kubectl.ok(&format!("get pvc {claim} -o jsonpath={{.spec.volumeName}}"));
    PathBuf::from(kubectl.ok(&format!("get pv {volume} -o jsonpath={{.spec.hostPath.path}}")))
}

fn wait_no_folder(folder: &Path) {
    wait::until("the volume's folder to go", PATIENCE, || {
        if folder.exists() { Err(format!("{} is there", folder.display())) } else { Ok(()) }
    });
}

#[test]
fn local_claims_are_folders_that_outlive_pods() {
    let node = LocalNode::start();
    let kubectl = &node.kubectl(Version::V1_35);
    kubectl.ok_with("create -f -", &claim("disk"));
    kubectl.comes_to_show("get pvc disk --no-headers", "disk Bound pvc-* 1Mi RWO local-path ...");
    let folder = folder(kubectl, "disk");
    kubectl.ok_with("create -f -", &claiming("writer", "id -u; echo once > /data/file", "disk"));
    kubectl.wait_ready("writer");
    wait::until("the file to be written", PATIENCE, || match fs::read_to_string(folder.join("file")) {
        Ok(text) if text == "once\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    kubectl.ok("delete pod writer --now");
    let reader = claiming("reader", "cat /data/file; touch /data/no 2>&1 || echo refused", "disk");
    let reader = reader.replace("claimName: disk", "claimName: disk, readOnly: true");
    kubectl.ok_with("create -f -", &reader);
    kubectl.wait_ready("reader");
    kubectl.comes_to_show("logs reader", "once\ntouch: /data/no: Read-only file system\nrefused");

    // A claim in use is kept, and with it the folder.
    kubectl.ok("delete pvc disk --wait=false");
    kubectl.comes_to_show("get pvc disk --no-headers", "disk Terminating pvc-* ...");
    assert!(folder.join("file").exists() && !folder.join("no").exists());
    kubectl.ok("delete pod reader --now");
    wait_no_folder(&folder);
    kubectl
        .refuses("get pvc disk", "Error from server (NotFound): persistentvolumeclaims \"disk\" not found");
}

#[test]
fn local_pods_say_what_their_claims_wait_for() {
    let node = LocalNode::start();
    let kubectl = &node.kubectl(Version::V1_35);
    kubectl.ok_with("create -f -", &claiming("queued", "true", "late"));
    let events =
        "get events --field-selector involvedObject.name=$POD,reason=$REASON -o jsonpath={.items[*].message}";
    let told = |pod: &str, reason: &str, wanted: &str| {
        let line = events.replace("$POD", pod).replace("$REASON", reason);
        kubectl.comes_to_show(&line, wanted)
    };
    let said = told("queued", "FailedScheduling", "0/1 nodes ...");
    assert!(said.contains("persistentvolumeclaim \"late\" not found"), "{said}");
    // Whoever names the node passes the scheduler by: then the node itself says it.
    let name = kubectl.ok("get nodes -o jsonpath={.items[0].metadata.name}");
    let named =
        claiming("placed", "true", "late").replace("spec:\n", &format!("spec:\n  nodeName: {name}\n"));
    kubectl.ok_with("create -f -", &named);
    let namespace = &kubectl.namespace;
    told(
        "placed",
        "FailedMount",
        &format!(
            "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process \
             volumes=[data]: error processing PVC {namespace}/late: failed to fetch PVC from API server: \
             persistentvolumeclaims \"late\" not found"
        ),
    );
    kubectl.shows("get pod placed --no-headers", "placed 0/1 ContainerCreating 0 *");
    // The owner's own volume: a pod that waits cannot have it before it is bound.
    let unmet = claim("late").replace("spec:\n", "spec:\n  storageClassName: none\n");
    kubectl.ok_with("create -f -", &unmet);
    let said = kubectl.comes_to_show(
        "get pod queued -o jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}",
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. ...",
    );
    assert!(!said.is_empty());
    let line = events.replace("$POD", "placed").replace("$REASON", "FailedMount");
    wait::until("the pod to say that its claim is not bound", PATIENCE, || {
        let said = kubectl.ok(&line);
        if said.contains(&format!("error processing PVC {namespace}/late: PVC is not bound")) {
            Ok(())
        } else {
            Err(said)
        }
    });
    let share = node.node().share("own");
    fs::create_dir_all(&share).unwrap();
    let own = format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: own}}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
         capacity: {{storage: 1Gi}}\n  storageClassName: none\n  hostPath: {{path: {}, type: Directory}}\n",
        share.display()
    );
    kubectl.ok_with("create -f -", &own);
    kubectl.wait_ready("queued");
    kubectl.wait_ready("placed");
    kubectl.ok("delete pod queued placed --now");
    kubectl.ok("delete pvc late");
    kubectl.comes_to_show("get pv own --no-headers", "own 1Gi RWO Retain Released ...");
    assert!(share.is_dir());
}

#[test]
fn local_ephemeral_volumes_come_and_go_with_their_pod() {
    let node = LocalNode::start();
    let kubectl = &node.kubectl(Version::V1_35);
    let source = "ephemeral: {volumeClaimTemplate: {metadata: {labels: {of: scratch}}, spec: {accessModes: \
                  [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}";
    kubectl.ok_with("create -f -", &with_volume("scratch", "echo here > /data/file", source));
    kubectl.wait_ready("scratch");
    kubectl.shows("get pvc -l of=scratch --no-headers", "scratch-data Bound pvc-* 1Mi RWO local-path ...");
    let folder = folder(kubectl, "scratch-data");
    wait::until("the file to be written", PATIENCE, || match fs::read_to_string(folder.join("file")) {
        Ok(text) if text == "here\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    kubectl.ok("delete pod scratch --now");
    wait_no_folder(&folder);
    kubectl.comes_to_show("get pvc --no-headers", "");
}
