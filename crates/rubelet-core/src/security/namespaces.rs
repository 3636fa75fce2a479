//! Namespaces and kernel parameters of a pod.
//!
//! Owns which namespaces are shared with whom; never allocates an ID range (the shell keeps those on disk).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::SecurityError;
use crate::containers::spec_of;
use crate::ids::ContainerId;

/// With whom a namespace is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceMode {
    /// All containers of the pod.
    Pod,
    /// Nobody.
    Container,
    /// The node.
    Node,
    /// One other container.
    Target(ContainerId),
}

/// One range of user or group IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// First ID on the node.
    pub host_id: u32,
    /// First ID in the container.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// User namespace of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserNamespace {
    /// The node's.
    Node,
    /// One of its own, users and groups mapped alike.
    Pod(IdMapping),
}

/// What is known about user namespaces for one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserNamespaceFacts {
    /// Whether the runtime handler of the pod has them.
    pub supported: bool,
    /// Runtime handler of the pod; empty for the default.
    pub handler: String,
    /// The range that was set aside for the pod when it asked for one.
    pub range: Option<IdMapping>,
}

/// Namespaces of a sandbox or a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// Network.
    pub network: NamespaceMode,
    /// Processes.
    pub pid: NamespaceMode,
    /// IPC.
    pub ipc: NamespaceMode,
    /// Users.
    pub user: UserNamespace,
}

/// Namespaces of a pod's sandbox (upstream `NamespacesForPod`).
pub fn pod_namespaces(pod: &Pod, facts: &UserNamespaceFacts) -> Result<Namespaces, SecurityError> {
    let spec = spec_of(pod);
    let shared =
        |host: Option<bool>| if host == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if spec.host_pid == Some(true) {
        NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    let user = match (spec.host_users, facts.range) {
        (None | Some(true), _) => UserNamespace::Node,
        (Some(false), Some(range)) if facts.supported => UserNamespace::Pod(range),
        (Some(false), None) if facts.supported => return Err(SecurityError::NoUserNamespaceRange),
        (Some(false), _) => return Err(SecurityError::NoUserNamespaces(facts.handler.clone())),
    };
    Ok(Namespaces { network: shared(spec.host_network), pid, ipc: shared(spec.host_ipc), user })
}

/// Namespaces of a container; an ephemeral one with a target looks into that container's processes, unless they
/// are shared already.
pub fn container_namespaces(
    pod: &Pod,
    target: Option<&ContainerId>,
    facts: &UserNamespaceFacts,
) -> Result<Namespaces, SecurityError> {
    let mut namespaces = pod_namespaces(pod, facts)?;
    if let Some(target) = target
        && namespaces.pid == NamespaceMode::Container
    {
        namespaces.pid = NamespaceMode::Target(target.clone());
    }
    Ok(namespaces)
}

/// Kernel parameters of a pod by name, with `/` as separator turned into `.` the way sysctl(8) reads it.
pub fn normal_sysctls(pod: &Pod) -> BTreeMap<String, String> {
    let listed = spec_of(pod).security_context.as_ref().and_then(|context| context.sysctls.as_deref());
    listed
        .unwrap_or_default()
        .iter()
        .map(|sysctl| (normal_sysctl_name(&sysctl.name), sysctl.value.clone()))
        .collect()
}

/// When `/` comes before `.` in a name, the two swap their meaning (upstream `sysctl.NormalizeName`).
pub(crate) fn normal_sysctl_name(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name.as_bytes()[first] == b'/' => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}
