//! The defaults that the API server gives a pod, for pods that never passed one.
//!
//! Owns the values of upstream's `SetObjectDefaults_Pod`; never validates and never touches identity (name,
//! namespace, UID). `static_pod` calls it before hashing, because the UID covers the defaults.

mod image_name;
mod resources;

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, HTTPGetAction, LifecycleHandler, ObjectFieldSelector, Pod,
    PodSpec, Probe, ProjectedVolumeSource, Volume,
};

pub(crate) use resources::{aggregate_limits, aggregate_requests, canonical_quantities};

use crate::go_dump::DerivedQuantities;

/// Sets every default of a v1 pod and writes its quantities in canonical form, rounded up to thousandths.
pub fn apply(pod: &mut Pod) {
    apply_keeping_quantities(pod);
    canonical_quantities(pod);
}

/// [`apply`] without touching how quantities are written; returns the inner form of those it computed.
pub(crate) fn apply_keeping_quantities(pod: &mut Pod) -> DerivedQuantities {
    let Some(spec) = &mut pod.spec else { return DerivedQuantities::default() };
    let derived = resources::default_requests_and_limits(spec);
    default_spec(spec);
    for volume in spec.volumes.iter_mut().flatten() {
        default_volume(volume);
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        default_container(container);
    }
    for ephemeral in spec.ephemeral_containers.iter_mut().flatten() {
        // Ephemeral containers have the fields of a container under another type.
        default_image_and_termination(
            ephemeral.image.as_deref(),
            &mut ephemeral.image_pull_policy,
            &mut ephemeral.termination_message_path,
            &mut ephemeral.termination_message_policy,
        );
        for port in ephemeral.ports.iter_mut().flatten() {
            set(&mut port.protocol, "TCP");
        }
        default_env(ephemeral.env.as_deref_mut().unwrap_or_default());
        for probe in
            [&mut ephemeral.liveness_probe, &mut ephemeral.readiness_probe, &mut ephemeral.startup_probe]
        {
            probe.iter_mut().for_each(default_probe);
        }
    }
    derived
}

/// Fills an absent or empty text.
fn set(text: &mut Option<String>, default: &str) {
    if text.as_deref().unwrap_or_default().is_empty() {
        *text = Some(default.to_owned());
    }
}

/// Fills an absent or zero number.
fn set_number(number: &mut Option<i32>, default: i32) {
    if number.unwrap_or_default() == 0 {
        *number = Some(default);
    }
}

fn default_spec(spec: &mut PodSpec) {
    set(&mut spec.dns_policy, "ClusterFirst");
    set(&mut spec.restart_policy, "Always");
    set(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    if spec.host_network == Some(true) {
        let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        for port in containers.flat_map(|container| container.ports.iter_mut().flatten()) {
            set_number(&mut port.host_port, port.container_port);
        }
    }
}

fn default_container(container: &mut Container) {
    default_image_and_termination(
        container.image.as_deref(),
        &mut container.image_pull_policy,
        &mut container.termination_message_path,
        &mut container.termination_message_policy,
    );
    for port in container.ports.iter_mut().flatten() {
        set(&mut port.protocol, "TCP");
    }
    default_env(container.env.as_deref_mut().unwrap_or_default());
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
    {
        probe.iter_mut().for_each(default_probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        let handlers: [&mut Option<LifecycleHandler>; 2] =
            [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
        for get in handlers.into_iter().flatten().filter_map(|handler| handler.http_get.as_mut()) {
            default_http_get(get);
        }
    }
}

fn default_image_and_termination(
    image: Option<&str>,
    pull_policy: &mut Option<String>,
    path: &mut Option<String>,
    policy: &mut Option<String>,
) {
    set(pull_policy, image_name::default_pull_policy(image.unwrap_or_default()));
    set(path, "/dev/termination-log");
    set(policy, "File");
}

fn default_env(env: &mut [EnvVar]) {
    for source in env.iter_mut().filter_map(|variable| variable.value_from.as_mut()) {
        default_field_ref(&mut source.field_ref);
        if let Some(file) = &mut source.file_key_ref {
            file.optional.get_or_insert(false);
        }
    }
}

fn default_field_ref(field_ref: &mut Option<ObjectFieldSelector>) {
    if let Some(field_ref) = field_ref {
        set(&mut field_ref.api_version, "v1");
    }
}

fn default_probe(probe: &mut Probe) {
    set_number(&mut probe.timeout_seconds, 1);
    set_number(&mut probe.period_seconds, 10);
    set_number(&mut probe.success_threshold, 1);
    set_number(&mut probe.failure_threshold, 3);
    if let Some(get) = &mut probe.http_get {
        default_http_get(get);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn default_http_get(get: &mut HTTPGetAction) {
    set(&mut get.path, "/");
    set(&mut get.scheme, "HTTP");
}

fn default_volume(volume: &mut Volume) {
    if !has_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(image) = &mut volume.image {
        let policy = image_name::default_pull_policy(image.reference.as_deref().unwrap_or_default());
        set(&mut image.pull_policy, policy);
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(0o644);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(0o644);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(0o644);
        for item in downward.items.iter_mut().flatten() {
            default_field_ref(&mut item.field_ref);
        }
    }
    if let Some(projected) = &mut volume.projected {
        default_projected(projected);
    }
    if let Some(iscsi) = &mut volume.iscsi {
        set(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut volume.rbd {
        set(&mut rbd.pool, "rbd");
        set(&mut rbd.user, "admin");
        set(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut volume.azure_disk {
        disk.caching_mode.get_or_insert_with(|| "ReadWrite".into());
        disk.fs_type.get_or_insert_with(|| "ext4".into());
        disk.read_only.get_or_insert(false);
        disk.kind.get_or_insert_with(|| "Shared".into());
    }
    if let Some(scale_io) = &mut volume.scale_io {
        set(&mut scale_io.storage_mode, "ThinProvisioned");
        set(&mut scale_io.fs_type, "xfs");
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        template.spec.volume_mode.get_or_insert_with(|| "Filesystem".into());
    }
}

fn default_projected(projected: &mut ProjectedVolumeSource) {
    projected.default_mode.get_or_insert(0o644);
    for source in projected.sources.iter_mut().flatten() {
        for item in source.downward_api.iter_mut().flat_map(|downward| downward.items.iter_mut().flatten()) {
            default_field_ref(&mut item.field_ref);
        }
        if let Some(token) = &mut source.service_account_token {
            token.expiration_seconds.get_or_insert(3600);
        }
    }
}

/// Whether the volume names any source at all.
fn has_source(volume: &Volume) -> bool {
    *volume != Volume { name: volume.name.clone(), ..Volume::default() }
}
