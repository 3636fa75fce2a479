//! The volumes of this version: emptyDir and hostPath; other kinds say that they are not there yet.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use crate::node::Node;
use crate::pods;

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
    node.apply("nfs", &pod("nfs: {server: 127.0.0.1, path: /x}"));
    node.apply("secret", &pod("secret: {secretName: s}"));
    node.apply("good", &pod("emptyDir: {}"));
    node.wait_ready("good");
    // A secret is an API object, which static pods must not refer to.
    node.wait_agent_log(&["secret.yaml", "secret"]);
    assert!(node.try_pod("secret").is_err());
    node.wait_agent_log(&["nfs-node-1", "nfs", "FailedMount"]);
    assert!(pods::container_id(&node.pod("nfs"), "c").is_empty());
}
