//! Pods for tests: core's builders, with what the API server would have filled in.
//! Never used outside tests.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
pub use rubelet_core::pod_builder::{ContainerBuilder, PodBuilder};

/// A pod `default/<name>` with UID `<name>-uid` on the node `node`, restart policy Always, a grace period of 30 s and no
/// container.
pub fn pod(name: &str) -> PodBuilder {
    PodBuilder::new(name)
        .uid(&format!("{name}-uid"))
        .edit(|pod| pod.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH)))
        .spec(|spec| {
            spec.restart_policy = Some("Always".to_owned());
            spec.termination_grace_period_seconds = Some(30);
            spec.dns_policy = Some("ClusterFirst".to_owned());
            spec.enable_service_links = Some(true);
            spec.scheduler_name = Some("default-scheduler".to_owned());
            spec.node_name = Some("node".to_owned());
            spec.security_context = Some(Default::default());
        })
}

/// A container with the image `busybox:1`.
pub fn container(name: &str) -> ContainerBuilder {
    ContainerBuilder::new(name, "busybox:1").edit(|c| {
        c.image_pull_policy = Some("IfNotPresent".to_owned());
        c.termination_message_path = Some("/dev/termination-log".to_owned());
        c.termination_message_policy = Some("File".to_owned());
        c.resources = Some(Default::default());
    })
}
