//! What a container is allowed to do: the effective security context of container and pod together.
//!
//! Owns the merge (upstream `determineEffectiveSecurityContext`) and the non-root check; never talks to the
//! runtime. Profiles and namespaces have a file each. Called when a container's or sandbox's configuration is
//! put together.

mod namespaces;
mod profiles;

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SELinuxOptions, SecurityContext};

pub(crate) use self::namespaces::normal_sysctl_name;
pub use self::namespaces::{
    IdMapping, NamespaceMode, Namespaces, UserNamespace, UserNamespaceFacts, container_namespaces,
    normal_sysctls, pod_namespaces,
};
pub use self::profiles::{
    Profile, ProfileError, apparmor_legacy_name, apparmor_profile, requires_apparmor, seccomp_profile,
};
use crate::containers::{described, spec_of};
use crate::ids::ContainerId;

/// What the node adds to every security context.
#[derive(Clone, Debug, Default)]
pub struct SecurityFacts {
    /// Directory of localhost seccomp profiles: `<root-dir>/seccomp`.
    pub seccomp_root: String,
    /// `seccompDefault`: no profile means the runtime's own instead of none.
    pub seccomp_default: bool,
    /// Node paths that are masked besides the fixed list: `thermal_throttle` of each CPU that has it.
    pub thermal_throttle_paths: Vec<String>,
    /// Groups that the pod's volumes add.
    pub volume_groups: Vec<i64>,
    /// User namespaces of this pod.
    pub user_namespace: UserNamespaceFacts,
}

/// The user an image says it runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ImageUser {
    /// Nothing said: root.
    #[default]
    Unset,
    /// Numeric.
    Uid(i64),
    /// By name, which only the image can resolve.
    Name(String),
}

/// How supplemental groups of the image are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupplementalGroupsPolicy {
    /// The image's groups are added.
    Merge,
    /// Only the groups of the pod spec.
    Strict,
}

/// The security context a container is created with.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveSecurity {
    /// Numeric user, from the spec or else the image.
    pub run_as_user: Option<i64>,
    /// User name from the image, when there is no number.
    pub run_as_username: String,
    /// Primary group.
    pub run_as_group: Option<i64>,
    /// fsGroup, the pod's groups, then those of its volumes.
    pub supplemental_groups: Vec<i64>,
    /// Policy for the image's groups.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Capabilities to add and to drop; `None` when nothing is said.
    pub capabilities: Option<(Vec<String>, Vec<String>)>,
    /// All privileges.
    pub privileged: bool,
    /// Root file system is read-only.
    pub read_only_root: bool,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Paths under `/proc` and `/sys` that are hidden.
    pub masked_paths: Vec<String>,
    /// Paths that are read-only.
    pub readonly_paths: Vec<String>,
    /// SELinux labels.
    pub se_linux: Option<SELinuxOptions>,
    /// Seccomp profile.
    pub seccomp: Profile,
    /// AppArmor profile; `None` leaves it to the runtime.
    pub apparmor: Option<Profile>,
    /// Namespaces.
    pub namespaces: Namespaces,
}

/// Why there is no valid security context. The container waits with CreateContainerConfigError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// The spec asks for root and for non-root.
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RunAsUserIsRoot {
        /// Pod.
        pod: String,
        /// Container.
        container: String,
    },
    /// The image runs as root.
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageIsRoot {
        /// Pod.
        pod: String,
        /// Container.
        container: String,
    },
    /// The image's user is a name.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root \
         (pod: {pod:?}, container: {container})"
    )]
    ImageUserIsName {
        /// Name.
        user: String,
        /// Pod.
        pod: String,
        /// Container.
        container: String,
    },
    /// The image's user is out of range.
    #[error(
        "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({max})): must be between \
         0 and {max}, inclusive (pod: {pod:?}, container: {container})", max = i32::MAX
    )]
    ImageUserInvalid {
        /// Number.
        uid: i64,
        /// Pod.
        pod: String,
        /// Container.
        container: String,
    },
    /// Unknown value.
    #[error("unsupported supplementalGroupsPolicy: {0}")]
    SupplementalGroupsPolicy(String),
    /// Seccomp or AppArmor.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// User namespaces are not available.
    #[error("can't set `spec.hostUsers: false`, {} does not support user namespaces", handler_name(.0))]
    NoUserNamespaces(
        /// Runtime handler; empty for the default.
        String,
    ),
    /// The shell did not set an ID range aside.
    #[error("create user namespace: no range of user IDs is set aside for the pod")]
    NoUserNamespaceRange,
}

fn handler_name(handler: &str) -> String {
    if handler.is_empty() { "runtime".to_owned() } else { format!("RuntimeClass handler {handler:?}") }
}

/// Paths that are hidden in a container, as container engines agree on them.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that are read-only in a container.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The security context of one container: the container's own words first, then the pod's, then the image's and
/// the node's. `target` is the instance whose processes an ephemeral container looks at.
pub fn effective_security(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    target: Option<&ContainerId>,
    facts: &SecurityFacts,
) -> Result<EffectiveSecurity, SecurityError> {
    let (of_pod, of_container) = contexts(pod, container);
    let own = Merged { of_pod, of_container };
    let (image_uid, image_name) = match image_user {
        ImageUser::Unset => (Some(0), String::new()),
        ImageUser::Uid(uid) => (Some(*uid), String::new()),
        ImageUser::Name(name) => (None, name.clone()),
    };
    let run_as_user = own.run_as_user();
    let unmasked = of_container.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked");
    let masked =
        MASKED_PATHS.map(str::to_owned).into_iter().chain(facts.thermal_throttle_paths.iter().cloned());
    let flag = |read: fn(&SecurityContext) -> Option<bool>| of_container.and_then(read) == Some(true);
    Ok(EffectiveSecurity {
        run_as_user: run_as_user.or(image_uid),
        run_as_username: if run_as_user.is_some() { String::new() } else { image_name },
        run_as_group: own.run_as_group(),
        supplemental_groups: supplemental_groups(pod, &facts.volume_groups),
        supplemental_groups_policy: supplemental_groups_policy(pod)?,
        capabilities: of_container.and_then(|c| c.capabilities.as_ref()).map(|capabilities| {
            (capabilities.add.clone().unwrap_or_default(), capabilities.drop.clone().unwrap_or_default())
        }),
        privileged: flag(|c| c.privileged),
        read_only_root: flag(|c| c.read_only_root_filesystem),
        no_new_privileges: of_container.and_then(|c| c.allow_privilege_escalation) == Some(false),
        masked_paths: if unmasked { Vec::new() } else { masked.collect() },
        readonly_paths: if unmasked { Vec::new() } else { READONLY_PATHS.map(str::to_owned).to_vec() },
        se_linux: of_container
            .and_then(|c| c.se_linux_options.clone())
            .or_else(|| of_pod.and_then(|p| p.se_linux_options.clone())),
        seccomp: seccomp_profile(pod, container, facts)?,
        apparmor: apparmor_profile(pod, container)?,
        namespaces: container_namespaces(pod, target, &facts.user_namespace)?,
    })
}

/// Whether `runAsNonRoot` holds for a container, as far as numbers can tell (upstream `verifyRunAsNonRoot`).
pub fn verify_non_root(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
) -> Result<(), SecurityError> {
    let (of_pod, of_container) = contexts(pod, container);
    let own = Merged { of_pod, of_container };
    if own.run_as_non_root() != Some(true) {
        return Ok(());
    }
    let (pod, container) = (described(pod), container.name.clone());
    match (own.run_as_user(), image_user) {
        (Some(0), _) => Err(SecurityError::RunAsUserIsRoot { pod, container }),
        (Some(_), _) => Ok(()),
        (None, ImageUser::Name(user)) => {
            Err(SecurityError::ImageUserIsName { user: user.clone(), pod, container })
        }
        (None, ImageUser::Unset | ImageUser::Uid(0)) => Err(SecurityError::ImageIsRoot { pod, container }),
        (None, ImageUser::Uid(uid)) if !(0..=i64::from(i32::MAX)).contains(uid) => {
            Err(SecurityError::ImageUserInvalid { uid: *uid, pod, container })
        }
        (None, ImageUser::Uid(_)) => Ok(()),
    }
}

/// Whether any container of the pod, of whatever kind, is privileged: the sandbox is then, too.
pub fn has_privileged_container(pod: &Pod) -> bool {
    let spec = spec_of(pod);
    let privileged = |context: &Option<SecurityContext>| {
        context.as_ref().and_then(|context| context.privileged) == Some(true)
    };
    crate::containers::regular_containers(spec).any(|c| privileged(&c.security_context))
        || spec.ephemeral_containers.iter().flatten().any(|c| privileged(&c.security_context))
}

/// fsGroup, then the pod's supplemental groups, then those of its volumes.
pub fn supplemental_groups(pod: &Pod, volume_groups: &[i64]) -> Vec<i64> {
    let of_pod = spec_of(pod).security_context.as_ref();
    let fs_group = of_pod.and_then(|context| context.fs_group);
    let listed = of_pod.and_then(|context| context.supplemental_groups.as_deref()).unwrap_or_default();
    fs_group.into_iter().chain(listed.iter().copied()).chain(volume_groups.iter().copied()).collect()
}

/// The pod's policy for groups of the image.
pub fn supplemental_groups_policy(pod: &Pod) -> Result<SupplementalGroupsPolicy, SecurityError> {
    let of_pod = spec_of(pod).security_context.as_ref();
    match of_pod.and_then(|context| context.supplemental_groups_policy.as_deref()) {
        None | Some("Merge") => Ok(SupplementalGroupsPolicy::Merge),
        Some("Strict") => Ok(SupplementalGroupsPolicy::Strict),
        Some(other) => Err(SecurityError::SupplementalGroupsPolicy(other.to_owned())),
    }
}

fn contexts<'a>(
    pod: &'a Pod,
    container: &'a Container,
) -> (Option<&'a PodSecurityContext>, Option<&'a SecurityContext>) {
    (spec_of(pod).security_context.as_ref(), container.security_context.as_ref())
}

struct Merged<'a> {
    of_pod: Option<&'a PodSecurityContext>,
    of_container: Option<&'a SecurityContext>,
}

impl Merged<'_> {
    fn run_as_user(&self) -> Option<i64> {
        self.of_container.and_then(|c| c.run_as_user).or_else(|| self.of_pod.and_then(|p| p.run_as_user))
    }
    fn run_as_group(&self) -> Option<i64> {
        self.of_container.and_then(|c| c.run_as_group).or_else(|| self.of_pod.and_then(|p| p.run_as_group))
    }
    fn run_as_non_root(&self) -> Option<bool> {
        self.of_container
            .and_then(|c| c.run_as_non_root)
            .or_else(|| self.of_pod.and_then(|p| p.run_as_non_root))
    }
}

#[cfg(test)]
mod tests;
