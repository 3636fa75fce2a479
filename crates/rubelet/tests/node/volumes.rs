//! emptyDir and hostPath on a node alone; kinds that are not served are named; and what a node had before a test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use std::path::Path;

use crate::node::Node;
use crate::pods;
use crate::runtime::mounts_below;
use crate::wait::{self, PATIENCE};

/// The mount table and the directories of a node before a test's pods.
pub struct Before {
    mounts: Vec<String>,
    files: Vec<String>,
}

impl Before {
    /// As they are now.
    pub fn of(node: &Node) -> Self {
        Self { mounts: mounts_below(&node.path("")), files: below(&node.root()) }
    }

    /// Waits until they are the same again.
    pub fn wait_again(&self, node: &Node) {
        wait::until("mounts and directories to be as before", PATIENCE, || {
            let Self { mounts, files } = Self::of(node);
            let more = |now: Vec<String>, before: &[String]| -> Vec<String> {
                now.into_iter().filter(|one| !before.contains(one)).collect()
            };
            let lost: Vec<&String> = self.mounts.iter().filter(|mount| !mounts.contains(mount)).collect();
            assert!(lost.is_empty(), "mounts that are none of the pods' are gone: {lost:?}");
            let left = (more(mounts, &self.mounts), more(files, &self.files));
            if left.0.is_empty() && left.1.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}

/// Everything of pods and plugins in the agent's directory.
fn below(root: &Path) -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            found.push(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = vec![];
    for dir in ["pods", "plugins", "rubelet/mounts"] {
        walk(&root.join(dir), &mut found);
    }
    // Plugins keep the directories that all of their volumes share.
    let shared = ["kubernetes.io", "local-volume", "mounts", "kubernetes.io~local-volume", "volumeDevices"];
    found.retain(|path| !shared.iter().any(|name| path.ends_with(&format!("/{name}"))));
    found.sort();
    found
}

#[test]
fn an_empty_dir_is_shared_and_survives_restarts() {
    let node = Node::start();
    node.apply(
        "shared",
        "
securityContext: {fsGroup: 4444}
initContainers:
- {name: writer, image: $IMAGE, command: [sh, -c, 'echo from init > /work/file'], volumeMounts: [{name: work, mountPath: /work}]}
containers:
- name: reader
  image: $IMAGE
  command: [sh, -c, 'cat /work/file; echo run >> /work/file; stat -c \"%a %g\" /work; ls -d /mem; grep \" /mem \" /proc/mounts; echo END; exit 1']
  volumeMounts: [{name: work, mountPath: /work}, {name: mem, mountPath: /mem}]
- {name: looker, image: $IMAGE, command: [sh, -c, 'touch /work/x 2>&1; echo END; exec sleep 1000'], volumeMounts: [{name: work, mountPath: /work, readOnly: true}]}
volumes: [{name: work, emptyDir: {}}, {name: mem, emptyDir: {medium: Memory, sizeLimit: 8Mi}}]
",
    );
    let pod = node.wait_state("shared", "reader", "waiting CrashLoopBackOff");
    let first = node.container_log(&pod, "reader", 0);
    assert!(first.starts_with("from init\n2777 4444\n"), "{first}");
    let tmpfs = first.lines().find(|line| line.contains(" /mem ")).unwrap_or_default();
    assert!(tmpfs.starts_with("tmpfs ") && tmpfs.contains("size=8192k"), "{first}");
    let second = node.container_log(&pod, "reader", 1);
    assert!(second.starts_with("from init\nrun\n"), "{second}");
    assert!(node.wait_log(&pod, "looker", "END").contains("Read-only file system"));
    let dir = node.root().join("pods").join(pods::uid(&pod)).join("volumes/kubernetes.io~empty-dir/work");
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "from init\nrun\nrun\n");
}

#[test]
fn host_paths_are_checked_and_made_as_their_type_says() {
    let node = Node::start();
    fs::create_dir(node.share("dir")).unwrap();
    fs::write(node.share("file"), "text").unwrap();
    let _socket = UnixListener::bind(node.share("socket")).unwrap();
    let pod = |path: &str, kind: &str| {
        format!(
            "
containers: [{{name: c, image: $IMAGE, command: [sleep, '1000'], volumeMounts: [{{name: v, mountPath: /v}}]}}]
volumes: [{{name: v, hostPath: {{path: {path}, type: '{kind}'}}}}]"
        )
    };
    let good = [
        ("any", "$SHARE/dir", ""),
        ("directory", "$SHARE/dir", "Directory"),
        ("new-directory", "$SHARE/new/dir", "DirectoryOrCreate"),
        ("file", "$SHARE/file", "File"),
        ("new-file", "$SHARE/new-file", "FileOrCreate"),
        ("socket", "$SHARE/socket", "Socket"),
        ("char-device", "/dev/null", "CharDevice"),
    ];
    let bad = [
        ("no-directory", "$SHARE/none", "Directory"),
        ("no-file", "$SHARE/dir", "File"),
        ("no-socket", "$SHARE/file", "Socket"),
        ("no-device", "$SHARE/file", "BlockDevice"),
    ];
    for (name, path, kind) in good.iter().chain(&bad) {
        node.apply(name, &pod(path, kind));
    }
    for (name, _, _) in good {
        node.wait_ready(name);
    }
    for (name, path, kind) in bad {
        let path = path.replace("$SHARE", &node.share("").display().to_string());
        node.wait_agent_log(&["FailedMount", &format!("{name}-node-1"), &path]);
        let pod = node.pod(name);
        assert_eq!(pods::phase(&pod), "Pending", "{name}");
        assert!(pods::container_id(&pod, "c").is_empty(), "{name} wants a {kind}");
    }
    let mode = |file: &str| fs::metadata(node.share(file)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("new/dir"), mode("new-file")), (0o755, 0o644));
    // What was missing appears: the pod goes on by itself.
    fs::create_dir(node.share("none")).unwrap();
    node.wait_ready("no-directory");
}

#[test]
fn other_kinds_of_volumes_are_named() {
    let node = Node::start();
    let pod = |volume: &str| {
        format!(
            "
containers: [{{name: c, image: $IMAGE, command: [sleep, '1000'], volumeMounts: [{{name: v, mountPath: /v}}]}}]
volumes: [{{name: v, {volume}}}]"
        )
    };
    node.apply("flex", &pod("flexVolume: {driver: example.com/x}"));
    node.apply("secret", &pod("secret: {secretName: s}"));
    node.apply("good", &pod("emptyDir: {}"));
    node.wait_ready("good");
    // A secret is an API object, which static pods must not refer to.
    node.wait_agent_log(&["secret.yaml", "secret"]);
    assert!(node.try_pod("secret").is_err());
    node.wait_agent_log(&["flex-node-1", "flexVolume", "FailedMount"]);
    assert!(pods::container_id(&node.pod("flex"), "c").is_empty());
}

#[test]
fn volumes_that_are_invalid_are_refused_by_their_field() {
    let node = Node::start();
    let pod = |volumes: &str, mount: &str| {
        format!(
            "containers: [{{name: c, image: $IMAGE, command: [sleep, '1000'], volumeMounts: [{{name: v, mountPath: /v{mount}}}]}}]
volumes: [{volumes}]"
        )
    };
    let bad = [
        ("mode", "{name: v, downwardAPI: {defaultMode: 512}}", "", "downwardAPI.defaultMode"),
        (
            "item-mode",
            "{name: v, downwardAPI: {items: [{path: a, mode: -1, fieldRef: {fieldPath: metadata.name}}]}}",
            "",
            "mode",
        ),
        (
            "item-path",
            "{name: v, downwardAPI: {items: [{path: ../a, fieldRef: {fieldPath: metadata.name}}]}}",
            "",
            "path",
        ),
        (
            "item-field",
            "{name: v, downwardAPI: {items: [{path: a, fieldRef: {fieldPath: spec.none}}]}}",
            "",
            "fieldPath",
        ),
        ("size", "{name: v, emptyDir: {sizeLimit: lots}}", "", "sizeLimit"),
        ("negative", "{name: v, emptyDir: {sizeLimit: -1Mi}}", "", "sizeLimit"),
        ("two", "{name: v, emptyDir: {}, hostPath: {path: /tmp}}", "", "hostPath"),
        ("none", "{name: w, emptyDir: {}}", "", "volumeMounts[0].name"),
        ("twice", "{name: v, emptyDir: {}}, {name: v, emptyDir: {}}", "", "volumes[1].name"),
        ("name", "{name: a/b, emptyDir: {}}", "", "volumes[0].name"),
        ("up", "{name: v, hostPath: {path: /tmp/../etc}}", "", "hostPath.path"),
        ("type", "{name: v, hostPath: {path: /tmp, type: Folder}}", "", "hostPath.type"),
        ("sub", "{name: v, emptyDir: {}}", ", subPath: /etc", "subPath"),
        ("sub-up", "{name: v, emptyDir: {}}", ", subPathExpr: a/../../b", "subPathExpr"),
        ("both", "{name: v, emptyDir: {}}", ", subPath: a, subPathExpr: b", "subPathExpr"),
        ("spread", "{name: v, emptyDir: {}}", ", mountPropagation: Bidirectional", "mountPropagation"),
        ("odd", "{name: v, emptyDir: {}}", ", mountPropagation: Sideways", "mountPropagation"),
        ("recursion", "{name: v, emptyDir: {}}", ", recursiveReadOnly: Enabled", "recursiveReadOnly"),
    ];
    for (name, volumes, mount, _) in bad {
        node.apply(name, &pod(volumes, mount));
    }
    node.apply("good", &pod("{name: v, emptyDir: {sizeLimit: 1Mi}}", ", subPath: a..b"));
    node.wait_ready("good");
    for (name, _, _, field) in bad {
        node.wait_agent_log(&[&format!("/{name}.yaml"), field]);
        assert!(node.try_pod(name).is_err(), "{name}");
    }
}
