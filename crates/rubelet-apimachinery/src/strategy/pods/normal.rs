//! The form in which pods are stored: defaults, what upstream's conversion to its inner types and back does, and without
//! the fields of features that are off.
//!
//! Owns what of it only the API does; the defaults themselves are core's, because static pods have them too.

use k8s_openapi::api::core::v1::{EnvVar, Lifecycle, Pod, ResourceFieldSelector, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Fills in and tidies a pod as it was sent. Doing it again changes nothing.
pub(super) fn apply(pod: &mut Pod) {
    pod.spec.get_or_insert_default();
    rubelet_core::defaults::apply(pod);
    rubelet_core::static_pod::convert(pod);
    let Some(spec) = &mut pod.spec else { return };
    // Off by default in 1.36: GenericWorkload.
    spec.scheduling_group = None;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        container.resources.get_or_insert_default();
        env(container.env.as_deref_mut().unwrap_or_default());
        drop_stop_signal(&mut container.lifecycle);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        container.resources.get_or_insert_default();
        env(container.env.as_deref_mut().unwrap_or_default());
        drop_stop_signal(&mut container.lifecycle);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        volume_sources(volume);
    }
}

fn env(variables: &mut [EnvVar]) {
    for source in variables.iter_mut().filter_map(|variable| variable.value_from.as_mut()) {
        if let Some(selector) = &mut source.resource_field_ref {
            divisor(selector);
        }
    }
}

/// Go writes it always.
fn divisor(selector: &mut ResourceFieldSelector) {
    selector.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
}

/// Off by default in 1.36: ContainerStopSignals.
fn drop_stop_signal(lifecycle: &mut Option<Lifecycle>) {
    if let Some(hooks) = lifecycle
        && hooks.stop_signal.take().is_some()
        && *hooks == Lifecycle::default()
    {
        *lifecycle = None;
    }
}

fn volume_sources(volume: &mut Volume) {
    let downward = volume.downward_api.iter_mut().flat_map(|downward| downward.items.iter_mut().flatten());
    for selector in downward.filter_map(|file| file.resource_field_ref.as_mut()) {
        divisor(selector);
    }
    for source in volume.projected.iter_mut().flat_map(|projected| projected.sources.iter_mut().flatten()) {
        // Off by default in 1.36: ClusterTrustBundleProjection, PodCertificateRequest.
        source.cluster_trust_bundle = None;
        source.pod_certificate = None;
        let downward =
            source.downward_api.iter_mut().flat_map(|downward| downward.items.iter_mut().flatten());
        for selector in downward.filter_map(|file| file.resource_field_ref.as_mut()) {
            divisor(selector);
        }
    }
}
