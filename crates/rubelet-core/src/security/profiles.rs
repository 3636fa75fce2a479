//! Seccomp and AppArmor profiles of a container.
//!
//! Owns where a profile is looked up and how it is named to the runtime; never reads a profile.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SeccompProfile};

use super::SecurityFacts;
use crate::containers::{regular_containers, spec_of};

/// Prefix of the AppArmor annotations from before the field existed.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// A profile as the runtime is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The runtime's own.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// Seccomp: absolute path of a file. AppArmor: name of a profile loaded on the node.
    Localhost(String),
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Seccomp type Localhost without a file.
    #[error("localhostProfile must be set if seccompProfile type is Localhost")]
    SeccompMissing,
    /// Seccomp file outside of the profile directory.
    #[error("seccomp localhostProfile {0:?} must stay below the profile directory: \"..\" is not allowed")]
    SeccompEscapes(String),
    /// AppArmor type Localhost without a name.
    #[error("missing localhost apparmor profile name")]
    AppArmorMissing,
    /// Unknown AppArmor type.
    #[error("unknown apparmor profile type: {0:?}")]
    AppArmorType(String),
}

/// The seccomp profile of a container: its own field, else the pod's, else the node's default.
pub fn seccomp_profile(
    pod: &Pod,
    container: &Container,
    facts: &SecurityFacts,
) -> Result<Profile, ProfileError> {
    let own = container.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    let of_pod = spec_of(pod).security_context.as_ref().and_then(|p| p.seccomp_profile.as_ref());
    match own.or(of_pod) {
        None if facts.seccomp_default => Ok(Profile::RuntimeDefault),
        None => Ok(Profile::Unconfined),
        Some(profile) => seccomp_field(profile, &facts.seccomp_root),
    }
}

fn seccomp_field(profile: &SeccompProfile, root: &str) -> Result<Profile, ProfileError> {
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Profile::RuntimeDefault),
        "Localhost" => {
            let file = profile.localhost_profile.as_deref().unwrap_or_default();
            if file.is_empty() {
                return Err(ProfileError::SeccompMissing);
            }
            if file.split('/').any(|part| part == "..") {
                return Err(ProfileError::SeccompEscapes(file.to_owned()));
            }
            let parts: Vec<&str> = file.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
            Ok(Profile::Localhost(format!("{}/{}", root.trim_end_matches('/'), parts.join("/"))))
        }
        _ => Ok(Profile::Unconfined),
    }
}

/// The AppArmor profile of a container: its own field, else its annotation (static pods may have no field), else
/// the pod's field.
pub fn apparmor_profile(pod: &Pod, container: &Container) -> Result<Option<Profile>, ProfileError> {
    let own = container.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    if let Some(profile) = own {
        return apparmor_field(profile).map(Some);
    }
    if let Some(profile) = annotated(pod, &container.name) {
        return Ok(Some(profile));
    }
    let of_pod = spec_of(pod).security_context.as_ref().and_then(|p| p.app_armor_profile.as_ref());
    of_pod.map(apparmor_field).transpose()
}

fn apparmor_field(profile: &AppArmorProfile) -> Result<Profile, ProfileError> {
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Profile::RuntimeDefault),
        "Unconfined" => Ok(Profile::Unconfined),
        "Localhost" => match &profile.localhost_profile {
            Some(name) => Ok(Profile::Localhost(name.clone())),
            None => Err(ProfileError::AppArmorMissing),
        },
        other => Err(ProfileError::AppArmorType(other.to_owned())),
    }
}

fn annotated(pod: &Pod, container: &str) -> Option<Profile> {
    let value = pod.metadata.annotations.as_ref()?.get(&format!("{APPARMOR_ANNOTATION}{container}"))?;
    match value.as_str() {
        "runtime/default" => Some(Profile::RuntimeDefault),
        "unconfined" => Some(Profile::Unconfined),
        other => other.strip_prefix("localhost/").map(|name| Profile::Localhost(name.to_owned())),
    }
}

/// The old textual form of an AppArmor profile, which older runtimes still read.
pub fn apparmor_legacy_name(profile: &Profile) -> String {
    match profile {
        Profile::RuntimeDefault => "runtime/default".to_owned(),
        Profile::Unconfined => "unconfined".to_owned(),
        Profile::Localhost(name) => format!("localhost/{name}"),
    }
}

/// Whether a pod wants AppArmor at all: any profile but unconfined.
pub fn requires_apparmor(pod: &Pod) -> bool {
    let spec = spec_of(pod);
    let confined =
        |profile: Option<&AppArmorProfile>| profile.is_some_and(|profile| profile.type_ != "Unconfined");
    let by_field = confined(spec.security_context.as_ref().and_then(|p| p.app_armor_profile.as_ref()))
        || regular_containers(spec)
            .map(|c| &c.security_context)
            .chain(spec.ephemeral_containers.iter().flatten().map(|c| &c.security_context))
            .any(|context| confined(context.as_ref().and_then(|c| c.app_armor_profile.as_ref())));
    let mut annotations = pod.metadata.annotations.iter().flatten();
    by_field || annotations.any(|(key, value)| key.starts_with(APPARMOR_ANNOTATION) && value != "unconfined")
}
