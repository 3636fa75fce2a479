//! The first conversation with a runtime: is it there, does it speak CRI v1, what can it do, is it well?
//! Asks only; what to do about the answers is the caller's. Used by the shell at start and by the node status.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::error::{CriError, CriErrorKind};
use crate::service::RuntimeService;
use crate::v1;

/// The version of the kubelet's runtime API that Version asks with; runtimes ignore it.
const KUBELET_RUNTIME_API_VERSION: &str = "0.1.0";
/// The version of CRI this agent speaks.
const CRI_VERSION: &str = "v1";

/// What a runtime says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Its name, the scheme of container IDs: `containerd`, `cri-o`.
    pub name: String,
    /// Its version, as it writes it.
    pub version: String,
    /// Whether it is well.
    pub conditions: RuntimeConditions,
    /// Its handlers; the default one has an empty name. Empty on runtimes that do not list them.
    pub handlers: Vec<HandlerFeatures>,
    /// It knows `supplementalGroupsPolicy`.
    pub supplemental_groups_policy: bool,
    /// It can give a pod both a user namespace and the node's network.
    pub user_namespaces_host_network: bool,
    /// Who makes its cgroups; `None` on runtimes that do not tell, where the configuration decides.
    pub cgroup_driver: Option<CgroupDriver>,
}

/// What a runtime handler can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerFeatures {
    /// Its name; empty for the default handler.
    pub name: String,
    /// Recursive read-only mounts.
    pub recursive_read_only_mounts: bool,
    /// User namespaces.
    pub user_namespaces: bool,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// systemd, over D-Bus.
    Systemd,
    /// The runtime itself, by writing to the file system.
    Cgroupfs,
}

/// The two conditions every runtime reports; `None` says it is fulfilled, otherwise why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeConditions {
    /// `RuntimeReady`: it can take requests.
    pub runtime_problem: Option<String>,
    /// `NetworkReady`: sandboxes can get a network.
    pub network_problem: Option<String>,
}

/// Why a runtime cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The server answers and does not know the service `runtime.v1`.
    #[error(
        "what listens there does not speak CRI {CRI_VERSION} ({answer}); it may be a runtime older than containerd 1.6 or CRI-O 1.20, a runtime with its CRI plugin disabled, or no runtime at all"
    )]
    NotCri {
        /// What it answered.
        answer: String,
    },
    /// It speaks another version.
    #[error("{name} {version} speaks CRI {found:?}, and {CRI_VERSION:?} is needed")]
    WrongVersion {
        /// Name of the runtime.
        name: String,
        /// Version of the runtime.
        version: String,
        /// Version of CRI it announced.
        found: String,
    },
    /// The socket can be opened, and what is behind it breaks off or keeps silent; it may be a runtime that is
    /// just starting.
    #[error("{0}; the socket can be opened, but what listens there may not be a container runtime")]
    Mute(CriError),
    /// A call failed; it may succeed later.
    #[error(transparent)]
    Call(#[from] CriError),
}

impl CheckError {
    /// Whether waiting cannot help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NotCri { .. } | Self::WrongVersion { .. })
    }
}

/// Asks a runtime for version, state, features and cgroup driver. An unready runtime or network is an answer,
/// not an error.
pub async fn check_runtime(service: &dyn RuntimeService) -> Result<RuntimeInfo, CheckError> {
    let request = v1::VersionRequest { version: KUBELET_RUNTIME_API_VERSION.to_owned() };
    let version = service.version(request).await.map_err(|error| match error.kind {
        CriErrorKind::Unimplemented => CheckError::NotCri { answer: error.message },
        // A server that is not gRPC at all answers with an HTTP status.
        CriErrorKind::Unknown if error.message.contains("HTTP status code") => {
            CheckError::NotCri { answer: error.message }
        }
        // Had the socket itself been the problem, the connection would wait out a back-off.
        CriErrorKind::Unreachable | CriErrorKind::DeadlineExceeded if error.retry_in.is_none() => {
            CheckError::Mute(error)
        }
        _ => CheckError::Call(error),
    })?;
    if version.runtime_api_version != CRI_VERSION {
        return Err(CheckError::WrongVersion {
            name: version.runtime_name,
            version: version.runtime_version,
            found: version.runtime_api_version,
        });
    }
    let status = service.status(v1::StatusRequest { verbose: false }).await?;
    let cgroup_driver = match service.runtime_config(v1::RuntimeConfigRequest {}).await {
        Ok(config) => cgroup_driver_of(&config),
        Err(error) if error.kind == CriErrorKind::Unimplemented => None,
        Err(error) => return Err(error.into()),
    };
    let features = status.features.unwrap_or_default();
    Ok(RuntimeInfo {
        name: version.runtime_name,
        version: version.runtime_version,
        conditions: conditions_of(status.status.as_ref()),
        handlers: status.runtime_handlers.into_iter().map(handler_of).collect(),
        supplemental_groups_policy: features.supplemental_groups_policy,
        user_namespaces_host_network: features.user_namespaces_host_network,
        cgroup_driver,
    })
}

/// Asks until the runtime answers, with a back-off of 100 ms to 5 s. Only an answer that waiting cannot change
/// ends it with an error. `on_failure` hears of each failed try and the wait that follows.
pub async fn wait_for_runtime(
    service: &dyn RuntimeService,
    mut on_failure: impl FnMut(&CheckError, Duration) + Send,
) -> Result<RuntimeInfo, CheckError> {
    let mut backoff = Backoff::for_connection();
    loop {
        match check_runtime(service).await {
            Ok(info) => return Ok(info),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                let wait = backoff.after_failure();
                on_failure(&error, wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// The conditions in a Status answer. A condition that is missing is not fulfilled.
pub fn conditions_of(status: Option<&v1::RuntimeStatus>) -> RuntimeConditions {
    let problem = |name: &str| {
        let condition = status.and_then(|s| s.conditions.iter().find(|c| c.r#type == name));
        match condition {
            Some(condition) if condition.status => None,
            Some(condition) => Some(explain(condition)),
            None => Some(format!("the runtime does not report {name}")),
        }
    };
    RuntimeConditions { runtime_problem: problem("RuntimeReady"), network_problem: problem("NetworkReady") }
}

fn explain(condition: &v1::RuntimeCondition) -> String {
    let parts: Vec<&str> = [condition.reason.as_str(), condition.message.as_str()]
        .into_iter()
        .filter(|p| !p.is_empty())
        .collect();
    if parts.is_empty() { format!("{} is false", condition.r#type) } else { parts.join(": ") }
}

fn handler_of(handler: v1::RuntimeHandler) -> HandlerFeatures {
    let features = handler.features.unwrap_or_default();
    HandlerFeatures {
        name: handler.name,
        recursive_read_only_mounts: features.recursive_read_only_mounts,
        user_namespaces: features.user_namespaces,
    }
}

fn cgroup_driver_of(config: &v1::RuntimeConfigResponse) -> Option<CgroupDriver> {
    match v1::CgroupDriver::try_from(config.linux.as_ref()?.cgroup_driver) {
        Ok(v1::CgroupDriver::Systemd) => Some(CgroupDriver::Systemd),
        Ok(v1::CgroupDriver::Cgroupfs) => Some(CgroupDriver::Cgroupfs),
        Err(_unknown) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(name: &str, status: bool, reason: &str, message: &str) -> v1::RuntimeCondition {
        v1::RuntimeCondition { r#type: name.into(), status, reason: reason.into(), message: message.into() }
    }

    fn check(conditions: Vec<v1::RuntimeCondition>, runtime: Option<&str>, network: Option<&str>) {
        let found = conditions_of(Some(&v1::RuntimeStatus { conditions }));
        assert_eq!(found.runtime_problem.as_deref(), runtime);
        assert_eq!(found.network_problem.as_deref(), network);
    }

    #[test]
    fn conditions_say_why_not() {
        check(
            vec![condition("RuntimeReady", true, "", ""), condition("NetworkReady", true, "", "")],
            None,
            None,
        );
        check(
            vec![
                condition("RuntimeReady", true, "", ""),
                condition("NetworkReady", false, "NetworkPluginNotReady", "cni plugin not initialized"),
            ],
            None,
            Some("NetworkPluginNotReady: cni plugin not initialized"),
        );
        check(
            vec![condition("RuntimeReady", false, "", ""), condition("Other", true, "", "")],
            Some("RuntimeReady is false"),
            Some("the runtime does not report NetworkReady"),
        );
    }

    #[test]
    fn cgroup_driver_is_known_or_left_to_the_configuration() {
        let config = |cgroup_driver| v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver }),
        };
        assert_eq!(cgroup_driver_of(&config(0)), Some(CgroupDriver::Systemd));
        assert_eq!(cgroup_driver_of(&config(1)), Some(CgroupDriver::Cgroupfs));
        assert_eq!(cgroup_driver_of(&config(9)), None);
        assert_eq!(cgroup_driver_of(&v1::RuntimeConfigResponse { linux: None }), None);
    }
}
