//! Images that cannot be had: what the pod says, and that nobody else is held up.

use crate::node::{Node, free_port};
use crate::pods::{self, waiting_message};

#[test]
fn images_that_cannot_be_had_are_explained() {
    let node = Node::start();
    // A port on which nobody listens: the registry is unreachable at once.
    let port = free_port();
    let image = format!("127.0.0.1:{port}/team/app:1");
    node.apply("never", "containers: [{name: c, image: 'rubelet.local/none:1', imagePullPolicy: Never}]");
    node.apply("bad-name", "containers: [{name: c, image: 'Not A Name', imagePullPolicy: IfNotPresent}]");
    node.apply(
        "pull",
        &format!("terminationGracePeriodSeconds: 1\ncontainers: [{{name: c, image: '{image}'}}, {{name: d, image: $IMAGE, command: [sleep, '1000']}}]"),
    );
    node.apply(
        "local",
        "containers: [{name: c, image: $IMAGE, imagePullPolicy: Never, command: [sleep, '1000']}]",
    );

    let pod = node.wait_state("pull", "c", "waiting ErrImagePull");
    assert!(pods::condition(&pod, "PodReadyToStartContainers"), "the sandbox does not wait for images");
    assert!(waiting_message(&pod, "c").contains("connection refused"), "{}", waiting_message(&pod, "c"));
    let pod = node.wait_state("pull", "c", "waiting ImagePullBackOff");
    let message = waiting_message(&pod, "c");
    assert!(message.starts_with(&format!("Back-off pulling image \"{image}\"")), "{message}");
    assert!(message.contains("connection refused"), "the first error is kept: {message}");
    assert_eq!(pods::phase(&pod), "Pending");
    node.wait_state("pull", "d", "running");

    let pod = node.wait_state("never", "c", "waiting ErrImageNeverPull");
    let message = waiting_message(&pod, "c");
    assert!(
        message.contains("rubelet.local/none:1") && message.contains("pull policy of Never"),
        "{message}"
    );
    let pod = node.wait_state("bad-name", "c", "waiting InvalidImageName");
    assert!(waiting_message(&pod, "c").contains("Not A Name"), "{}", waiting_message(&pod, "c"));
    node.wait_ready("local");

    node.remove("pull");
    node.wait_gone("pull");
}
