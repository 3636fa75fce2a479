//! Single values of `rubelet-core` as wire types. Nothing is decided here.

use k8s_openapi::api::core::v1::SELinuxOptions;
use rubelet_core::mounts::Propagation;
use rubelet_core::resources::LinuxResources;
use rubelet_core::security::{NamespaceMode, Namespaces, Profile, SupplementalGroupsPolicy, UserNamespace};

use crate::v1;

pub(super) fn int64(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

pub(super) fn se_linux(options: SELinuxOptions) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: options.user.unwrap_or_default(),
        role: options.role.unwrap_or_default(),
        r#type: options.type_.unwrap_or_default(),
        level: options.level.unwrap_or_default(),
    }
}

pub(super) fn profile(profile: &Profile) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, reference) = match profile {
        Profile::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Profile::Unconfined => (ProfileType::Unconfined, String::new()),
        Profile::Localhost(reference) => (ProfileType::Localhost, reference.clone()),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: reference }
}

pub(super) fn groups_policy(policy: SupplementalGroupsPolicy) -> i32 {
    match policy {
        SupplementalGroupsPolicy::Merge => v1::SupplementalGroupsPolicy::Merge,
        SupplementalGroupsPolicy::Strict => v1::SupplementalGroupsPolicy::Strict,
    }
    .into()
}

pub(super) fn namespaces(namespaces: Namespaces) -> v1::NamespaceOption {
    let target_id = match &namespaces.pid {
        NamespaceMode::Target(id) => id.as_str().to_owned(),
        _ => String::new(),
    };
    let mapping: Vec<v1::IdMapping> = id_mapping(&namespaces.user).into_iter().collect();
    let user_mode = match namespaces.user {
        UserNamespace::Node => v1::NamespaceMode::Node,
        UserNamespace::Pod(_) => v1::NamespaceMode::Pod,
    };
    v1::NamespaceOption {
        network: mode(&namespaces.network).into(),
        pid: mode(&namespaces.pid).into(),
        ipc: mode(&namespaces.ipc).into(),
        target_id,
        userns_options: Some(v1::UserNamespace {
            mode: user_mode.into(),
            uids: mapping.clone(),
            gids: mapping,
        }),
    }
}

fn mode(mode: &NamespaceMode) -> v1::NamespaceMode {
    match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod,
        NamespaceMode::Container => v1::NamespaceMode::Container,
        NamespaceMode::Node => v1::NamespaceMode::Node,
        NamespaceMode::Target(_) => v1::NamespaceMode::Target,
    }
}

pub(super) fn id_mapping(user: &UserNamespace) -> Option<v1::IdMapping> {
    match user {
        UserNamespace::Node => None,
        UserNamespace::Pod(range) => Some(v1::IdMapping {
            host_id: range.host_id,
            container_id: range.container_id,
            length: range.length,
        }),
    }
}

pub(super) fn resources(found: LinuxResources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: found.cpu_period,
        cpu_quota: found.cpu_quota,
        cpu_shares: found.cpu_shares,
        memory_limit_in_bytes: found.memory_limit,
        oom_score_adj: found.oom_score_adj,
        hugepage_limits: found
            .huge_page_limits
            .into_iter()
            .map(|(page_size, limit)| v1::HugepageLimit { page_size, limit })
            .collect(),
        unified: found.unified,
        memory_swap_limit_in_bytes: found.memory_swap_limit,
        ..v1::LinuxContainerResources::default()
    }
}

/// An unknown protocol counts as TCP.
pub(super) fn protocol(protocol: Option<&str>) -> v1::Protocol {
    match protocol {
        Some("UDP") => v1::Protocol::Udp,
        Some("SCTP") => v1::Protocol::Sctp,
        _ => v1::Protocol::Tcp,
    }
}

pub(super) fn propagation(propagation: Propagation) -> v1::MountPropagation {
    match propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    }
}

/// The signal of that name (`SIGTERM`, `SIGRTMIN+3`); an unknown one leaves it to the runtime.
pub(super) fn signal(name: &str) -> v1::Signal {
    let wire_name = name.replace('+', "PLUS").replace('-', "MINUS");
    v1::Signal::from_str_name(&wire_name).unwrap_or(v1::Signal::RuntimeDefault)
}
