//! Static pods in the API: their mirror pods.

use k8s_openapi::api::core::v1::Pod;

use crate::cluster::Cluster;
use crate::node::NAME;
use crate::pods::{self, container_id};
use crate::wait::{self, PATIENCE};

#[test]
fn api_a_static_pod_has_a_mirror_as_long_as_its_manifest_is_there() {
    let cluster = Cluster::start();
    cluster.node.apply(
        "web",
        "
terminationGracePeriodSeconds: 1
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.2; done']}]
",
    );
    let full = format!("web-{NAME}");
    let local = cluster.node.wait_ready("web");
    let mirror = cluster.wait_ready(&full);
    let annotations = mirror.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.hash"], pods::uid(&local));
    assert_eq!(annotations["kubernetes.io/config.mirror"], pods::uid(&local));
    let owner = &mirror.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), Some(&owner.uid)),
        ("Node", cluster.node_object().metadata.uid.as_ref())
    );
    assert_eq!(container_id(&mirror, "c"), container_id(&local, "c"));

    // Whoever deletes the mirror does not delete the pod.
    cluster.api.delete::<Pod>("default", &full);
    let again = wait::until("another mirror", PATIENCE, || {
        let pod = cluster.try_pod(&full)?;
        let is_other = pod.metadata.uid != mirror.metadata.uid;
        if is_other && pods::ready(&pod) { Ok(pod) } else { Err(pods::summary(&pod)) }
    });
    assert_eq!(container_id(&again, "c"), container_id(&local, "c"), "the container went on");

    cluster.node.remove("web");
    cluster.wait_gone(&again);
    cluster.wait_nothing_left(&local);
}
