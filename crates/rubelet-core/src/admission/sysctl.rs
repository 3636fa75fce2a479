//! Which kernel parameters a pod may set.
//!
//! Owns the safe list by kernel version and the namespaces of parameters (upstream `kubelet/sysctl`).

use k8s_openapi::api::core::v1::Pod;

use super::{NodeFacts, Rejection};
use crate::containers::spec_of;
use crate::security::normal_sysctl_name;

/// Parameters that are namespaced and isolated, and the kernel since which they are.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

#[derive(Clone, Copy, PartialEq)]
enum Namespace {
    Ipc,
    Net,
}

/// A pattern of `allowedUnsafeSysctls` that allows nothing sensible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlPatternError {
    /// Not the name of a parameter, with or without `*` at its end.
    #[error(
        "sysctl {0:?} must have at most 253 characters and be a name of lower-case parts, with an optional * at the end"
    )]
    Syntax(String),
    /// The kernel does not keep it apart for each pod.
    #[error("the sysctls {0:?} are not known to be namespaced")]
    NotNamespaced(String),
}

/// Checks one entry of `allowedUnsafeSysctls`. Configuration validation calls it.
pub fn check_sysctl_pattern(pattern: &str) -> Result<(), SysctlPatternError> {
    let name = pattern.strip_suffix('*').unwrap_or(pattern);
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if pattern.len() > 253 || !starts || !name.bytes().all(allowed) {
        return Err(SysctlPatternError::Syntax(pattern.to_owned()));
    }
    let name = normal_sysctl_name(name);
    match namespace_of(&name) {
        Some(_) => Ok(()),
        None => Err(SysctlPatternError::NotNamespaced(name)),
    }
}

pub(super) fn check(pod: &Pod, node: &NodeFacts) -> Result<(), Rejection> {
    let spec = spec_of(pod);
    let listed = spec.security_context.as_ref().and_then(|context| context.sysctls.as_deref());
    for sysctl in listed.unwrap_or_default() {
        let name = normal_sysctl_name(&sysctl.name);
        let forbidden =
            |problem: String| Err(Rejection::new("SysctlForbidden", format!("forbidden sysctl: {problem}")));
        let Some(namespace) = allowed(&name, node) else {
            return forbidden(format!("{name:?} not allowlisted"));
        };
        if namespace == Namespace::Ipc && spec.host_ipc == Some(true) {
            return forbidden(format!("{name:?} not allowed with host IPC enabled"));
        }
        if namespace == Namespace::Net && spec.host_network == Some(true) {
            return forbidden(format!("{name:?} not allowed with host Net enabled"));
        }
    }
    Ok(())
}

/// The namespace of a parameter when a pod may set it.
fn allowed(name: &str, node: &NodeFacts) -> Option<Namespace> {
    let safe = SAFE.iter().any(|(known, since)| *known == name && node.kernel >= *since);
    let permitted = node.allowed_unsafe_sysctls.iter().any(|pattern| {
        let pattern = normal_sysctl_name(pattern);
        match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        }
    });
    if safe || permitted { namespace_of(name) } else { None }
}

fn namespace_of(name: &str) -> Option<Namespace> {
    const IPC: [&str; 10] = [
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.msg",
    ];
    if name.starts_with("net.") {
        Some(Namespace::Net)
    } else if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else {
        None
    }
}
