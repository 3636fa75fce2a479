//! Security contexts of the pod and of its containers.
//!
//! Owns ranges and contradictions; whether the node can honour a profile is found out when the pod starts.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext, Sysctl};

use super::field::{Errors, Json, Path};
use super::{names, text, volumes};

/// The pod's security context, and the host namespaces beside it.
pub(super) fn pod(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    let Some(context) = &spec.security_context else { return };
    let path = path.child("securityContext");
    let ids = [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ];
    for (field, id) in ids {
        if let Some(id) = id {
            errors.invalid_each(&path.child(field), &id, names::user_or_group(id));
        }
    }
    for (index, id) in context.supplemental_groups.iter().flatten().enumerate() {
        let path = path.child("supplementalGroups").index(index);
        errors.invalid_each(&path, id, names::user_or_group(*id));
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let rule = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), &true, rule);
    }
    sysctls(errors, spec, context.sysctls.as_deref().unwrap_or_default(), &path.child("sysctls"));
    errors.optional_one_of(
        &path.child("fsGroupChangePolicy"),
        context.fs_group_change_policy.as_deref(),
        &["Always", "OnRootMismatch"],
    );
    seccomp(errors, context.seccomp_profile.as_ref(), &path.child("seccompProfile"));
    app_armor(errors, context.app_armor_profile.as_ref(), &path.child("appArmorProfile"));
    errors.optional_one_of(
        &path.child("supplementalGroupsPolicy"),
        context.supplemental_groups_policy.as_deref(),
        &["Merge", "Strict"],
    );
    errors.optional_one_of(
        &path.child("seLinuxChangePolicy"),
        context.se_linux_change_policy.as_deref(),
        &["Recursive"],
    );
}

fn sysctls(errors: &mut Errors, spec: &PodSpec, sysctls: &[Sysctl], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(index).child("name");
        let name = sysctl.name.as_str();
        let broken = names::sysctl_name(name);
        if name.is_empty() {
            errors.required(&path, "");
        } else if !broken.is_empty() {
            errors.invalid_each(&path, name, broken);
        } else if seen.contains(name) {
            errors.duplicate(&path, name);
        }
        match sysctl_namespace(name) {
            Some(Namespace::Net) if spec.host_network == Some(true) => {
                errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
            }
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => {
                errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
            }
            _ => {}
        }
        seen.insert(name);
    }
}

/// The sysctls of the IPC namespace, beside `fs.mqueue.*` (`man 7 ipc_namespaces`).
const IPC_SYSCTLS: &[&str] = &[
    "kernel.sem",
    "kernel.shm",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msg",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
];

enum Namespace {
    Ipc,
    Net,
}

/// The kernel namespace that a sysctl belongs to, in either spelling (dots or slashes between segments).
fn sysctl_namespace(name: &str) -> Option<Namespace> {
    let dotted: String = match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    };
    if IPC_SYSCTLS.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else if dotted.starts_with("net.") {
        Some(Namespace::Net)
    } else {
        None
    }
}

/// A container's security context.
pub(super) fn container(errors: &mut Errors, host_users: bool, context: &SecurityContext, path: &Path) {
    for (field, id) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        if let Some(id) = id {
            errors.invalid_each(&path.child(field), &id, names::user_or_group(id));
        }
    }
    if let Some(mount) = context.proc_mount.as_deref() {
        let path = path.child("procMount");
        errors.optional_one_of(&path, Some(mount), &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            errors.invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(errors, context.seccomp_profile.as_ref(), &path.child("seccompProfile"));
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let rule = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, &Json(context), rule);
        }
        let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        for _ in added.filter(|capability| *capability == "CAP_SYS_ADMIN") {
            let rule = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, &Json(context), rule);
        }
    }
    app_armor(errors, context.app_armor_profile.as_ref(), &path.child("appArmorProfile"));
}

fn seccomp(errors: &mut Errors, profile: Option<&SeccompProfile>, path: &Path) {
    let Some(profile) = profile else { return };
    let types = &["Localhost", "RuntimeDefault", "Unconfined"];
    match profile.type_.as_str() {
        "" => errors.required(&path.child("type"), "type is required when seccompProfile is set"),
        kind => errors.optional_one_of(&path.child("type"), Some(kind), types),
    }
    let path = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.required(&path, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(file)) => volumes::profile_path(errors, file, &path),
        (_, Some(_)) => {
            errors.invalid(&path, &Json(profile), "can only be set when seccomp type is Localhost");
        }
        (_, None) => {}
    }
}

fn app_armor(errors: &mut Errors, profile: Option<&AppArmorProfile>, path: &Path) {
    let Some(profile) = profile else { return };
    let types = &["Localhost", "RuntimeDefault", "Unconfined"];
    let local = path.child("localhostProfile");
    match profile.type_.as_str() {
        "" => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        "Localhost" => {
            let name = text(&profile.localhost_profile);
            if name.trim() != name {
                errors.invalid(&local, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&local, "must be set when AppArmor type is Localhost");
            }
            if name.len() > 4095 {
                errors.too_long(&local, 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = &profile.localhost_profile {
                errors.invalid(&local, name, "can only be set when AppArmor type is Localhost");
            }
        }
        kind => errors.unsupported(&path.child("type"), kind, types),
    }
}
