//! Images as volumes: mounted by a runtime that can, and refused in words by one that cannot.

use std::fs;

use crate::node::Node;
use crate::probes_cases::wait_event;

/// The runtime's version: containerd mounts images since 2.1, and parts of them since 2.2.
fn version(node: &Node) -> (u32, u32) {
    let versions = node.runtime.ctr(&["version"]);
    let server = versions.split("Server:").nth(1).unwrap_or_default();
    let version = server.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[test]
fn volumes_of_images_are_mounted_or_the_pod_says_why_not() {
    let node = Node::start();
    fs::create_dir_all(node.share("")).unwrap();
    let pod = |name: &str, mount: &str, look: &str| {
        let spec = format!(
            "terminationGracePeriodSeconds: 1\n\
             containers:\n\
             - name: {name}\n  image: $IMAGE\n  imagePullPolicy: Never\n  \
               command: [sh, -c, '{look}; touch /image/x 2> /dev/null || echo no > /share/{name}-writes; sleep 1000']\n  \
               volumeMounts:\n  - {{name: image, mountPath: /image{mount}}}\n  \
               - {{name: share, mountPath: /share}}\n\
             volumes:\n\
             - {{name: image, image: {{reference: $IMAGE, pullPolicy: Never}}}}\n\
             - {{name: share, hostPath: {{path: $SHARE}}}}\n"
        );
        node.apply(name, &spec);
    };
    let check = |name: &str, works: bool, what: &str, file: &str| {
        if works {
            node.wait_ready(name);
            node.wait_lines(&format!("{name}-writes"), &["no"]);
            let seen = fs::read_to_string(node.share(name)).unwrap();
            assert!(seen.lines().any(|name| name == file), "{seen}");
        } else {
            let told = wait_event(&node, name, "Failed", &format!("cannot mount {what}"));
            assert!(told.contains("(image): the container runtime (containerd "), "{told}");
        }
    };
    pod("whole", "", "ls /image > /share/whole");
    pod("part", ", subPath: bin", "ls /image > /share/part");
    let version = version(&node);
    check("whole", version >= (2, 1), "images as volumes", "bin");
    let what = if version >= (2, 1) { "a subPath of an image" } else { "images as volumes" };
    check("part", version >= (2, 2), what, "sh");
}
