//! How volumes are mounted into containers: read-only, recursively read-only, with propagation, a part of one by
//! subPath and subPathExpr, and in huge pages. Links in a volume lead nobody out of it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::json;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::pods;
use crate::runtime::output;
use crate::volumes::Before;
use crate::wait::{self, PATIENCE};

/// A tmpfs of the test's own; it goes with this value.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(path: std::path::PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        output(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&path));
        Self(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _told_by_the_mount_table = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Whether the runtime mounts recursively read-only: containerd does since 2.0.
fn recursive(node: &Node) -> bool {
    let versions = node.runtime.ctr(&["version"]);
    let server = versions.split("Server:").nth(1).unwrap_or_default();
    let version = server.split_whitespace().nth(1).unwrap_or_default();
    !version.trim_start_matches('v').starts_with("1.")
}

#[test]
fn volumes_are_mounted_read_only_and_propagated_as_asked() {
    let node = Node::start();
    let before = Before::of(&node);
    let base = Tmpfs::mount(node.share("base"));
    output(Command::new("mount").arg("--make-shared").arg(&base.0));
    let inner = Tmpfs::mount(base.0.join("inner"));
    fs::create_dir_all(base.0.join("late")).unwrap();
    fs::create_dir_all(base.0.join("made")).unwrap();
    let look = "while sleep 0.1; do ls -d /base/late/* /base/made/* > /share/$NAME.new 2> /dev/null; mv /share/$NAME.new /share/$NAME; done";
    let container = |name: &str, first: &str, mount: &str, more: &str| {
        format!(
            "- name: {name}\n  image: $IMAGE\n  env: [{{name: NAME, value: {name}}}]\n  command: [sh, -c, 'trap \"exit 0\" TERM; \
             {first}{look}']\n  volumeMounts: [{{name: base, mountPath: /base{mount}}}, {{name: share, mountPath: \
             /share}}]\n{more}"
        )
    };
    let write = "for at in . inner; do touch /base/$at/by-$NAME 2> /dev/null && echo $at; done > /share/$NAME.writes; ";
    let mut spec = "terminationGracePeriodSeconds: 1\ncontainers:\n".to_owned();
    spec += &container("none", write, "", "");
    spec += &container("read-only", write, ", readOnly: true", "");
    spec += &container("recursive", write, ", readOnly: true, recursiveReadOnly: IfPossible", "");
    spec += &container("slave", "", ", mountPropagation: HostToContainer", "");
    spec += &container(
        "both",
        "mount -t tmpfs tmpfs /base/made; touch /base/made/by-both; ",
        ", mountPropagation: Bidirectional",
        "  securityContext: {privileged: true}\n",
    );
    spec += "volumes:\n- {name: base, hostPath: {path: $SHARE/base}}\n- {name: share, hostPath: {path: $SHARE}}\n";
    node.apply("mounts", &spec);
    let pod = node.wait_ready("mounts");

    node.wait_lines("none.writes", &[".", "inner"]);
    // Without recursion what is mounted below keeps its own ways, as ever.
    node.wait_lines("read-only.writes", &["inner"]);
    node.wait_lines("recursive.writes", if recursive(&node) { &[] } else { &["inner"] });
    assert!(!base.0.join("by-read-only").exists());

    let late = Tmpfs::mount(base.0.join("late"));
    fs::write(late.0.join("by-host"), "").unwrap();
    for (name, wanted) in [
        ("slave", ["/base/late/by-host", "/base/made/by-both"].as_slice()),
        ("both", &["/base/late/by-host", "/base/made/by-both"]),
        ("none", &[]),
    ] {
        node.wait_lines(name, wanted);
    }
    assert!(base.0.join("made/by-both").exists(), "the host does not see what the container mounted");

    node.remove("mounts");
    node.wait_gone("mounts");
    wait::until("the pod's directory to go", PATIENCE, || {
        let dir = node.root().join("pods").join(pods::uid(&pod));
        if dir.exists() { Err(dir.display().to_string()) } else { Ok(()) }
    });
    assert!(late.0.join("by-host").exists(), "teardown reached into the host's mounts");
    drop(late);
    drop(Tmpfs(base.0.join("made")));
    drop(inner);
    drop(base);
    before.wait_again(&node);
}

#[test]
fn volumes_are_mounted_in_part() {
    let cluster = Cluster::start();
    let before = Before::of(&cluster.node);
    cluster
        .api
        .create_json(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"color": "blue", "size": "9"}}));
    let data = cluster.node.share("data");
    fs::create_dir_all(data.join("there")).unwrap();
    fs::write(data.join("there/file"), "text").unwrap();
    cluster.run(
        "parts",
        "
terminationGracePeriodSeconds: 1
securityContext: {fsGroup: 4444}
containers:
- name: c
  image: $IMAGE
  env:
  - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: DEEP, value: a/b}
  command:
  - sh
  - -c
  - |
    trap 'exit 0' TERM
    echo $(cat /etc/color) $(cat /there/file) $(cat /one/file) > /share/text
    for at in /made /expr /ro /mem /etc/color; do touch $at/new 2> /dev/null && echo $at; done > /share/writes
    stat -c '%a %g' /disk-part > /share/modes
    echo DONE > /share/done
    while :; do sleep 1 & wait $!; done
  volumeMounts:
  - {name: share, mountPath: /share}
  - {name: map, mountPath: /etc/color, subPath: color}
  - {name: data, mountPath: /there, subPath: there}
  - {name: data, mountPath: /one/file, subPath: there/file}
  - {name: data, mountPath: /made, subPath: made/by/mount}
  - {name: data, mountPath: /expr, subPathExpr: $(POD)/$(DEEP)}
  - {name: data, mountPath: /ro, subPath: there, readOnly: true}
  - {name: disk, mountPath: /disk-part, subPath: part}
  - {name: memory, mountPath: /mem, subPath: part}
volumes:
- {name: share, hostPath: {path: $SHARE}}
- {name: data, hostPath: {path: $SHARE/data}}
- {name: map, configMap: {name: settings}}
- {name: disk, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory}}
",
    );
    cluster.node.wait_line("done", "DONE");
    let pod = cluster.wait_ready("parts");
    cluster.node.wait_lines("text", &["blue text text"]);
    cluster.node.wait_lines("writes", &["/made", "/expr", "/mem"]);
    // Made for the pod in its volume: with that one's mode and group.
    cluster.node.wait_lines("modes", &["2777 4444"]);
    assert!(data.join("made/by/mount/new").exists() && data.join("parts/a/b/new").exists());
    assert!(!data.join("there/new").exists());
    assert_eq!(fs::metadata(data.join("made")).unwrap().mode() & 0o777, 0o755);

    // A part of a ConfigMap is what it was when the container started, as upstream; the volume itself is new.
    cluster.api.modify::<ConfigMap>("default", "settings", |map| {
        map.data.as_mut().unwrap().insert("color".to_owned(), "green".to_owned());
    });
    let file = cluster.pod_dir(&pod).join("volumes/kubernetes.io~configmap/map/color");
    wait::until("the volume to be new", PATIENCE, || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if text == "green" { Ok(()) } else { Err(text) }
    });
    cluster.api.delete::<Pod>("default", "parts");
    cluster.wait_gone(&pod);
    cluster.wait_nothing_left(&pod);
    assert_eq!(fs::read_to_string(data.join("there/file")).unwrap(), "text", "teardown took data away");
    assert!(data.join("made/by/mount/new").exists());
    before.wait_again(&cluster.node);
}

#[test]
fn volumes_lead_nobody_out_of_them() {
    let node = Node::start();
    let before = Before::of(&node);
    let (data, outside) = (node.share("data"), node.share("outside"));
    for dir in [&data, &outside, &data.join("real")] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::write(data.join("real/file"), "inside").unwrap();
    let links = [
        ("absolute", outside.display().to_string()),
        ("up", "../outside".to_owned()),
        ("proc", "/proc/self/root/etc".to_owned()),
        ("device", "/dev".to_owned()),
        ("loop", "loop".to_owned()),
    ];
    for (name, target) in &links {
        symlink(target, data.join(name)).unwrap();
    }
    symlink("real", data.join("inner")).unwrap();
    let spec = |path: &str| {
        format!(
            "
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'ls /part > /share/part.new; mv /share/part.new /share/part; exec sleep 1000']
  volumeMounts: [{{name: data, mountPath: /part, subPath: {path}}}, {{name: share, mountPath: /share}}]
volumes: [{{name: data, hostPath: {{path: $SHARE/data}}}}, {{name: share, hostPath: {{path: $SHARE/seen}}}}]
"
        )
    };
    fs::create_dir_all(node.share("seen")).unwrap();
    for (name, _) in &links {
        node.apply(&format!("by-{name}"), &spec(name));
        node.apply(&format!("below-{name}"), &spec(&format!("{name}/below")));
    }
    node.apply("good", &spec("inner"));
    node.wait_ready("good");
    node.wait_lines("seen/part", &["file"]);
    for (name, _) in &links {
        for pod in [format!("by-{name}"), format!("below-{name}")] {
            let waits = node.wait_pod(&pod, "to be refused", |pod| {
                pods::state(pod, "c") == "waiting CreateContainerConfigError"
            });
            assert!(pods::container_id(&waits, "c").is_empty(), "{pod}");
            let message = pods::waiting_message(&waits, "c");
            assert!(
                message.contains("failed to prepare subPath for volumeMount \"data\" of container \"c\""),
                "{message}"
            );
        }
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "something was made outside of the volume");
    assert!(!std::path::Path::new("/etc/below").exists() && !std::path::Path::new("/dev/below").exists());
    // One that is put right goes on.
    fs::remove_file(data.join("absolute")).unwrap();
    fs::create_dir(data.join("absolute")).unwrap();
    node.wait_ready("by-absolute");
    // `..` is refused before anything is made of it.
    node.apply("dots", &spec("real/../../outside"));
    node.wait_agent_log(&["dots.yaml", "subPath"]);
    for (name, _) in &links {
        node.remove(&format!("by-{name}"));
        node.remove(&format!("below-{name}"));
    }
    node.remove("good");
    node.remove("dots");
    before.wait_again(&node);
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_eq!(fs::read_to_string(data.join("real/file")).unwrap(), "inside");
}

/// Huge pages kept aside for the test; given back in the end.
struct HugePages(String);

impl HugePages {
    const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    /// `None` where the machine has none to give.
    fn keep(count: usize) -> Option<Self> {
        let present = fs::read_to_string(Self::FILE).ok()?.trim().to_owned();
        let kept = Self(present);
        fs::write(Self::FILE, count.to_string()).ok()?;
        let got = fs::read_to_string(Self::FILE).ok()?;
        (got.trim() == count.to_string()).then_some(kept)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _no_more_can_be_done = fs::write(Self::FILE, &self.0);
    }
}

#[test]
fn volumes_in_huge_pages() {
    let Some(_pages) = HugePages::keep(8) else {
        println!("this machine has no huge pages to give");
        return;
    };
    let node = Node::start();
    let before = Before::of(&node);
    node.apply(
        "huge",
        "
terminationGracePeriodSeconds: 1
securityContext: {fsGroup: 4444}
containers:
- name: c
  image: $IMAGE
  resources: {requests: {memory: 16Mi, cpu: 10m}, limits: {memory: 16Mi, cpu: 10m, hugepages-2Mi: 4Mi}}
  command: [sh, -c, 'trap \"exit 0\" TERM; grep \" /huge\" /proc/mounts > /share/mounts; stat -c \"%a %g\" /huge > /share/modes; echo DONE > /share/done; while :; do sleep 1 & wait $!; done']
  volumeMounts: [{name: huge, mountPath: /huge}, {name: sized, mountPath: /huge-2Mi}, {name: share, mountPath: /share}]
volumes:
- {name: huge, emptyDir: {medium: HugePages}}
- {name: sized, emptyDir: {medium: HugePages-2Mi}}
- {name: share, hostPath: {path: $SHARE}}
",
    );
    node.wait_line("done", "DONE");
    let mounts = node.lines("mounts");
    assert_eq!(mounts.len(), 2, "{mounts:?}");
    assert!(
        mounts.iter().all(|line| line.contains(" hugetlbfs ") && line.contains("pagesize=2M")),
        "{mounts:?}"
    );
    // The kernel makes the root 755; the group may do what the owner may.
    node.wait_lines("modes", &["2775 4444"]);
    node.remove("huge");
    node.wait_gone("huge");
    before.wait_again(&node);
}
