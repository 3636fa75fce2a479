//! What a pod that names its operating system may not set.
//!
//! Owns upstream's `validateLinux` and `validateWindows`. No Windows pod runs here; the API says what is wrong with one
//! all the same.

use k8s_openapi::api::core::v1::PodSpec;

use super::annotations::containers_with_paths;
use super::field::{Errors, Path};

/// The fields of the other system.
pub(super) fn validate(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    match spec.os.as_ref().map(|os| os.name.as_str()) {
        Some("linux") => linux(errors, spec, path),
        Some("windows") => windows(errors, spec, path),
        _ => {}
    }
}

fn linux(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    let rule = "windows options cannot be set for a linux pod";
    if spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
        errors.forbidden(&path.child("securityContext").child("windowsOptions"), rule);
    }
    for (container, path) in containers_with_paths(spec, path) {
        if container.security_context.is_some_and(|context| context.windows_options.is_some()) {
            errors.forbidden(&path.child("securityContext").child("windowsOptions"), rule);
        }
    }
}

fn windows(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    let mut refuse = |path: &Path, fields: &[(&str, bool)]| {
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            errors.forbidden(&path.child(field), "cannot be set for a windows pod");
        }
    };
    let fields = [
        ("hostUsers", spec.host_users.is_some()),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        ("shareProcessNamespace", spec.share_process_namespace.is_some()),
    ];
    refuse(path, &fields);
    if let Some(context) = &spec.security_context {
        let fields = [
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("fsGroup", context.fs_group.is_some()),
            ("fsGroupChangePolicy", context.fs_group_change_policy.is_some()),
            ("sysctls", context.sysctls.as_ref().is_some_and(|list| !list.is_empty())),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
            ("supplementalGroups", context.supplemental_groups.is_some()),
            ("supplementalGroupsPolicy", context.supplemental_groups_policy.is_some()),
            ("seLinuxChangePolicy", context.se_linux_change_policy.is_some()),
        ];
        refuse(&path.child("securityContext"), &fields);
    }
    for (container, path) in containers_with_paths(spec, path) {
        let Some(context) = container.security_context else { continue };
        let fields = [
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("capabilities", context.capabilities.is_some()),
            ("readOnlyRootFilesystem", context.read_only_root_filesystem.is_some()),
            ("privileged", context.privileged.is_some()),
            ("allowPrivilegeEscalation", context.allow_privilege_escalation.is_some()),
            ("procMount", context.proc_mount.is_some()),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
        ];
        refuse(&path.child("securityContext"), &fields);
    }
}
