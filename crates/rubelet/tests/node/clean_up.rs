//! Images that nothing needs go when their disk is too full; what pods need stays.

use std::time::Duration;

use crate::node::Node;
use crate::registry::{Manners, Registry};
use crate::wait;

/// Any disk is too full, however much is removed; images may go a second after they were seen first.
const ALWAYS_FULL: &str =
    "imageGCHighThresholdPercent: 1\nimageGCLowThresholdPercent: 0\nimageMinimumGCAge: 1s\n";

#[test]
fn clean_up_removes_images_that_nothing_needs() {
    let mut node = Node::without_agent(ALWAYS_FULL);
    let dir = tempfile::tempdir().unwrap();
    // A layer more makes it another image than the one that pods here are made of.
    let manners = Manners { layer_takes: Duration::from_millis(10), ..Manners::default() };
    let registry = Registry::serve(&node.runtime, dir.path(), manners);
    let unused = registry.image("unused");
    node.runtime.ctr(&["images", "pull", "--plain-http", &unused]);
    // It has no image but that of the node, and begins before anything is removed or after.
    node.apply(
        "web",
        "containers: [{name: c, image: $IMAGE, imagePullPolicy: Never, command: [sleep, '1000']}]",
    );
    node.start_agent();
    node.wait_ready("web");
    let listed = || node.runtime.ctr(&["images", "list", "-q"]);
    wait::until("the image is gone", Duration::from_secs(60), || {
        let listed = listed();
        if listed.contains(&unused) { Err(listed) } else { Ok(()) }
    });
    // The image of sandboxes is needed too, pinned or not.
    for needed in ["rubelet.local/busybox:1", "rubelet.local/pause:1"] {
        assert!(listed().contains(needed), "{needed}: {}", listed());
    }
    node.wait_agent_log(&[
        "Insufficient free disk space on the node's image filesystem",
        "are needed or pinned",
    ]);
    node.apply(
        "later",
        "containers: [{name: c, image: $IMAGE, imagePullPolicy: Never, command: [sleep, '1000']}]",
    );
    node.wait_ready("later");
}
