//! From the agent's vocabulary to what the runtime is asked for: `PodSandboxConfig` and `ContainerConfig`.
//! Pure assembly of what `rubelet-core` decided (upstream `generatePodSandboxConfig` and
//! `generateContainerConfig`); never decides, never talks to the runtime. Called by the shell's executor.

mod convert;

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};
use rubelet_core::dns::DnsSettings;
use rubelet_core::env::{EnvVar, expand_command};
use rubelet_core::hostname::{HostnameError, kernel_nodename, pod_hostname};
use rubelet_core::ids::ContainerId;
use rubelet_core::labels;
use rubelet_core::mounts::{PlannedMount, absolute};
use rubelet_core::paths::{UnsafeName, relative_log_path};
use rubelet_core::resources::{
    LinuxResources, ResourceFacts, container_resources, sandbox_overhead, sandbox_resources,
};
use rubelet_core::security::{
    ImageUser, Profile, SecurityError, SecurityFacts, apparmor_legacy_name, effective_security,
    has_privileged_container, normal_sysctls, pod_namespaces, supplemental_groups,
    supplemental_groups_policy, verify_non_root,
};

use crate::v1;

/// What a sandbox is made from besides its pod.
#[derive(Clone, Copy, Debug)]
pub struct SandboxFacts<'a> {
    /// Attempt number.
    pub attempt: u32,
    /// DNS settings of the pod, from `rubelet_core::dns::pod_dns`.
    pub dns: &'a DnsSettings,
    /// `clusterDomain`.
    pub cluster_domain: &'a str,
    /// Log directory of the pod.
    pub log_directory: &'a Path,
    /// Cgroup parent, from `rubelet_core::resources::cgroup_path`; empty for none.
    pub cgroup_parent: &'a str,
    /// CPUs are pinned to the pod.
    pub exclusive_cpus: bool,
    /// What security contexts are made from.
    pub security: &'a SecurityFacts,
    /// What resources are computed from.
    pub resources: &'a ResourceFacts,
}

/// What a container is made from besides its pod.
#[derive(Clone, Copy, Debug)]
pub struct ContainerInputs<'a> {
    /// Restart count of this instance, which is its attempt number too.
    pub restart_count: u32,
    /// The image as the runtime knows it: an ID or a digest.
    pub image_ref: &'a str,
    /// The user the image runs as.
    pub image_user: &'a ImageUser,
    /// The environment, from `rubelet_core::env::make_env`.
    pub env: &'a [EnvVar],
    /// All mounts: volumes, hosts file, termination message, what device plugins ask for. See [`volume_mount`],
    /// [`hosts_mount`] and [`termination_mount`].
    pub mounts: &'a [v1::Mount],
    /// Devices and what plugins say about them.
    pub devices: &'a DeviceInputs,
    /// Instance whose processes an ephemeral container looks at.
    pub target: Option<&'a ContainerId>,
    /// CPUs are pinned to the container.
    pub exclusive_cpus: bool,
    /// What security contexts are made from.
    pub security: &'a SecurityFacts,
    /// What resources are computed from.
    pub resources: &'a ResourceFacts,
}

/// Devices of a container.
#[derive(Clone, Debug, Default)]
pub struct DeviceInputs {
    /// Device nodes.
    pub devices: Vec<v1::Device>,
    /// Names of CDI devices.
    pub cdi_names: Vec<String>,
    /// Annotations that device plugins ask for.
    pub annotations: BTreeMap<String, String>,
}

/// Why there is no configuration. A container then waits with the reason [`TranslateError::REASON`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// No valid host name.
    #[error(transparent)]
    Hostname(#[from] HostnameError),
    /// No valid security context, or one that forbids the image's user.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// A name that cannot be part of a path.
    #[error(transparent)]
    Name(#[from] UnsafeName),
}

impl TranslateError {
    /// The waiting reason of a container, upstream's word for everything that `generateContainerConfig` refuses.
    pub const REASON: &'static str = "CreateContainerConfigError";
}

/// The configuration of a pod's sandbox.
///
/// # Errors
/// The host name or the security context of the pod is invalid.
pub fn sandbox_config(pod: &Pod, facts: &SandboxFacts<'_>) -> Result<v1::PodSandboxConfig, TranslateError> {
    let metadata = &pod.metadata;
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let hostname = if host_network {
        String::new()
    } else {
        kernel_nodename(pod, &pod_hostname(pod, facts.cluster_domain)?)?
    };
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            attempt: facts.attempt,
        }),
        hostname,
        log_directory: facts.log_directory.to_string_lossy().into_owned(),
        dns_config: Some(v1::DnsConfig {
            servers: facts.dns.servers.clone(),
            searches: facts.dns.searches.clone(),
            options: facts.dns.options.clone(),
        }),
        port_mappings: port_mappings(pod),
        labels: labels::sandbox_labels(pod),
        annotations: labels::sandbox_annotations(pod),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: facts.cgroup_parent.to_owned(),
            security_context: Some(sandbox_security(pod, facts.security)?),
            sysctls: normal_sysctls(pod),
            overhead: Some(convert::resources(sandbox_overhead(pod, facts.resources))),
            resources: Some(convert::resources(sandbox_resources(
                pod,
                facts.exclusive_cpus,
                facts.resources,
            ))),
        }),
        ..v1::PodSandboxConfig::default()
    })
}

fn sandbox_security(
    pod: &Pod,
    facts: &SecurityFacts,
) -> Result<v1::LinuxSandboxSecurityContext, SecurityError> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    Ok(v1::LinuxSandboxSecurityContext {
        namespace_options: Some(convert::namespaces(pod_namespaces(pod, &facts.user_namespace)?)),
        selinux_options: context.and_then(|c| c.se_linux_options.clone()).map(convert::se_linux),
        run_as_user: context.and_then(|c| c.run_as_user).map(convert::int64),
        run_as_group: context.and_then(|c| c.run_as_group).map(convert::int64),
        supplemental_groups: sandbox_groups(pod, facts),
        supplemental_groups_policy: convert::groups_policy(supplemental_groups_policy(pod)?),
        privileged: has_privileged_container(pod),
        // The pause process needs nothing, whatever its pod may do.
        seccomp: Some(convert::profile(&Profile::RuntimeDefault)),
        ..v1::LinuxSandboxSecurityContext::default()
    })
}

/// In a sandbox the groups of volumes stand between fsGroup and the pod's own; containers have them last. The
/// order means nothing to the kernel and is kept as upstream has it.
fn sandbox_groups(pod: &Pod, facts: &SecurityFacts) -> Vec<i64> {
    let mut groups = supplemental_groups(pod, &[]);
    let has_fs_group =
        pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).is_some_and(|c| c.fs_group.is_some());
    let after_fs_group = usize::from(has_fs_group);
    groups.splice(after_fs_group..after_fs_group, facts.volume_groups.iter().copied());
    groups
}

/// Ports of app containers, also those without a node port. A name that comes twice in one container counts once.
fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let mut mappings = Vec::new();
    for container in containers {
        let mut seen = std::collections::BTreeSet::new();
        for port in container.ports.iter().flatten() {
            if seen.insert(port_identity(port)) {
                mappings.push(v1::PortMapping {
                    protocol: convert::protocol(port.protocol.as_deref()).into(),
                    container_port: port.container_port,
                    host_port: port.host_port.unwrap_or_default(),
                    host_ip: port.host_ip.clone().unwrap_or_default(),
                });
            }
        }
    }
    mappings
}

fn port_identity(port: &ContainerPort) -> String {
    match port.name.as_deref() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => format!(
            "{}-{}:{}:{}",
            port.protocol.as_deref().unwrap_or_default(),
            port.host_ip.as_deref().unwrap_or_default(),
            port.container_port,
            port.host_port.unwrap_or_default()
        ),
    }
}

/// The configuration of one container. An ephemeral one comes as the ordinary container it is run as.
///
/// # Errors
/// The security context is invalid or forbids the image's user.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    inputs: &ContainerInputs<'_>,
) -> Result<v1::ContainerConfig, TranslateError> {
    verify_non_root(pod, container, inputs.image_user)?;
    let security = effective_security(pod, container, inputs.image_user, inputs.target, inputs.security)?;
    let resources = container_resources(pod, container, inputs.exclusive_cpus, inputs.resources);
    let (command, args) = expand_command(container, inputs.env);
    let mut mounts = inputs.mounts.to_vec();
    if let Some(mapping) = convert::id_mapping(&security.namespaces.user) {
        for mount in &mut mounts {
            mount.uid_mappings = vec![mapping];
            mount.gid_mappings = vec![mapping];
        }
    }
    let signal = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    let annotations =
        labels::container_annotations(pod, container, inputs.restart_count, &inputs.devices.annotations);
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: inputs.restart_count }),
        image: Some(v1::ImageSpec {
            image: inputs.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..v1::ImageSpec::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: inputs
            .env
            .iter()
            .map(|variable| v1::KeyValue {
                key: variable.name.clone(),
                value: variable.value.clone().into_bytes(),
            })
            .collect(),
        mounts,
        devices: inputs.devices.devices.clone(),
        labels: labels::container_labels(pod, container),
        annotations,
        log_path: relative_log_path(&container.name, inputs.restart_count)?,
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(convert::resources(resources)),
            security_context: Some(container_security(security)),
        }),
        cdi_devices: inputs
            .devices
            .cdi_names
            .iter()
            .map(|name| v1::CdiDevice { name: name.clone() })
            .collect(),
        stop_signal: signal.map_or(v1::Signal::RuntimeDefault, convert::signal).into(),
        ..v1::ContainerConfig::default()
    })
}

#[expect(deprecated, reason = "older runtimes read AppArmor's textual form only")]
fn container_security(
    security: rubelet_core::security::EffectiveSecurity,
) -> v1::LinuxContainerSecurityContext {
    v1::LinuxContainerSecurityContext {
        capabilities: security.capabilities.map(|(add, drop)| v1::Capability {
            add_capabilities: add,
            drop_capabilities: drop,
            ..v1::Capability::default()
        }),
        privileged: security.privileged,
        namespace_options: Some(convert::namespaces(security.namespaces)),
        selinux_options: security.se_linux.map(convert::se_linux),
        run_as_user: security.run_as_user.map(convert::int64),
        run_as_username: security.run_as_username,
        run_as_group: security.run_as_group.map(convert::int64),
        readonly_rootfs: security.read_only_root,
        supplemental_groups: security.supplemental_groups,
        supplemental_groups_policy: convert::groups_policy(security.supplemental_groups_policy),
        apparmor_profile: security.apparmor.as_ref().map(apparmor_legacy_name).unwrap_or_default(),
        apparmor: security.apparmor.as_ref().map(convert::profile),
        seccomp: Some(convert::profile(&security.seccomp)),
        no_new_privs: security.no_new_privileges,
        masked_paths: security.masked_paths,
        readonly_paths: security.readonly_paths,
        ..v1::LinuxContainerSecurityContext::default()
    }
}

/// The mount of a volume. `host_path` is the volume's path, or the bound sub-path when the plan has one;
/// `selinux` says whether SELinux is enabled on the node.
pub fn volume_mount(planned: &PlannedMount, host_path: &Path, selinux: bool) -> v1::Mount {
    v1::Mount {
        container_path: planned.container_path.clone(),
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: planned.read_only,
        recursive_read_only: planned.recursive_read_only,
        selinux_relabel: planned.relabel && selinux,
        propagation: convert::propagation(planned.propagation).into(),
        ..v1::Mount::default()
    }
}

/// The mount of the pod's hosts file.
pub fn hosts_mount(host_path: &Path, selinux: bool) -> v1::Mount {
    file_mount(rubelet_core::hosts::HOSTS_PATH, host_path, selinux)
}

/// The mount of the file that takes the termination message; `None` when the container has no path for it.
pub fn termination_mount(container: &Container, host_path: &Path, selinux: bool) -> Option<v1::Mount> {
    let path = container.termination_message_path.as_deref().filter(|path| !path.is_empty())?;
    Some(file_mount(&absolute(path), host_path, selinux))
}

fn file_mount(container_path: &str, host_path: &Path, selinux: bool) -> v1::Mount {
    v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        selinux_relabel: selinux,
        ..v1::Mount::default()
    }
}

/// Resources as CRI has them, for changing those of what runs.
pub fn linux_resources(found: LinuxResources) -> v1::LinuxContainerResources {
    convert::resources(found)
}

#[cfg(test)]
mod tests;
