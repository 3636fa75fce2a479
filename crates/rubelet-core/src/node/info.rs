//! What a node tells of its machine and its runtime: `nodeInfo`, images, runtime handlers, features.
//!
//! Owns the forms in which the API wants them (upstream's setters `VersionInfo`, `Images`, `RuntimeHandlers`,
//! `NodeFeatures` and the library of declared features). Never asks the machine or the runtime.

use k8s_openapi::api::core::v1::{
    ContainerImage, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus,
    NodeSystemInfo,
};

/// Most names of one image in node status.
const MAX_IMAGE_NAMES: usize = 5;

/// What does not change while the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineIdentity {
    /// `/etc/machine-id` or what stands in for it.
    pub machine_id: String,
    /// The firmware's UUID of the machine.
    pub system_uuid: String,
    /// The kernel's identity of this boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel_release: String,
    /// `PRETTY_NAME` of the operating system.
    pub os_image: String,
    /// Size of swap in bytes; 0 is none.
    pub swap_bytes: u64,
    /// CPU architecture as Go names it.
    pub architecture: String,
}

/// What a runtime tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeReport {
    /// Its name, for example `containerd`.
    pub name: String,
    /// Its version as it writes it.
    pub version: String,
    /// Its handlers, in any order.
    pub handlers: Vec<HandlerReport>,
    /// It knows `supplementalGroupsPolicy`.
    pub supplemental_groups_policy: bool,
    /// It can give a pod a user namespace and the node's network.
    pub user_namespaces_host_network: bool,
}

/// What a runtime handler can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandlerReport {
    /// Its name; empty for the default handler.
    pub name: String,
    /// Recursive read-only mounts.
    pub recursive_read_only_mounts: bool,
    /// User namespaces.
    pub user_namespaces: bool,
}

/// An image on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageReport {
    /// Names with digest.
    pub digests: Vec<String>,
    /// Names with tag.
    pub tags: Vec<String>,
    /// Size in bytes.
    pub bytes: u64,
}

/// The architecture as Go, and so Kubernetes, names it.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The version the node gives as kubelet's: that of Kubernetes with the agent's own as build metadata, which
/// comparisons of versions leave out.
pub fn kubelet_version(kubernetes: &str, own: &str) -> String {
    // Build metadata knows no second plus sign.
    format!("{kubernetes}+rubelet.{}", own.replace('+', "."))
}

/// The runtime's version as upstream prints it: three numbers with pre-release and build when it is a semantic
/// version, otherwise the numbers in front of the first other character; `None` when there are no such numbers.
pub fn runtime_version(text: &str) -> Option<String> {
    let text = text.trim_start();
    let text = text.strip_prefix('v').unwrap_or(text);
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let numbers = text[..digits].trim_end_matches('.');
    let parts: Vec<&str> = numbers.split('.').collect();
    if parts.len() < 2 || parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    let extra = &text[numbers.len()..];
    let is_identifiers = |text: &str| {
        text.split('.').all(|id| !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
    };
    let semantic_extra = match (extra.strip_prefix('-'), extra.strip_prefix('+')) {
        (Some(rest), _) => match rest.split_once('+') {
            Some((pre, build)) => is_identifiers(pre) && is_identifiers(build),
            None => is_identifiers(rest),
        },
        (None, Some(build)) => is_identifiers(build),
        (None, None) => extra.is_empty(),
    };
    let semantic =
        parts.len() == 3 && semantic_extra && parts.iter().all(|part| *part == "0" || !part.starts_with('0'));
    Some(if semantic { format!("{numbers}{extra}") } else { numbers.to_owned() })
}

/// Writes `nodeInfo`. Without a runtime the version that stands there stays.
pub(super) fn write_info(
    status: &mut NodeStatus,
    machine: &MachineIdentity,
    runtime: Option<&RuntimeReport>,
    kubelet_version: &str,
) {
    let before = status.node_info.take().unwrap_or_default();
    let container_runtime_version = match runtime {
        Some(runtime) => format!(
            "{}://{}",
            runtime.name,
            runtime_version(&runtime.version).unwrap_or_else(|| "Unknown".to_owned())
        ),
        None => before.container_runtime_version,
    };
    status.node_info = Some(NodeSystemInfo {
        architecture: machine.architecture.clone(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version,
        kernel_version: machine.kernel_release.clone(),
        // Upstream leaves the deprecated version of kube-proxy empty.
        kube_proxy_version: String::new(),
        kubelet_version: kubelet_version.to_owned(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        swap: i64::try_from(machine.swap_bytes)
            .ok()
            .filter(|bytes| *bytes > 0)
            .map(|bytes| NodeSwapStatus { capacity: Some(bytes) }),
        system_uuid: machine.system_uuid.clone(),
    });
}

/// Writes handlers and features; handlers sorted by name.
pub(super) fn write_runtime(status: &mut NodeStatus, runtime: &RuntimeReport) {
    let mut handlers: Vec<NodeRuntimeHandler> = runtime
        .handlers
        .iter()
        .map(|handler| NodeRuntimeHandler {
            name: Some(handler.name.clone()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
                user_namespaces: Some(handler.user_namespaces),
            }),
        })
        .collect();
    handlers.sort_by(|a, b| a.name.cmp(&b.name));
    status.runtime_handlers = (!handlers.is_empty()).then_some(handlers);
    status.features =
        Some(NodeFeatures { supplemental_groups_policy: Some(runtime.supplemental_groups_policy) });
}

/// The images for node status: largest first, at most `max` (-1 is no cap), of each at most five names, those with
/// digests first.
pub fn images(images: &[ImageReport], max: i32) -> Vec<ContainerImage> {
    let mut sorted: Vec<&ImageReport> = images.iter().collect();
    // Equal sizes get a fixed order, so that the status does not change from one list to the next.
    sorted.sort_by(|a, b| {
        b.bytes.cmp(&a.bytes).then_with(|| a.digests.cmp(&b.digests)).then(a.tags.cmp(&b.tags))
    });
    let count = usize::try_from(max).unwrap_or(usize::MAX);
    sorted
        .into_iter()
        .take(count)
        .map(|image| {
            let names: Vec<String> =
                image.digests.iter().chain(&image.tags).take(MAX_IMAGE_NAMES).cloned().collect();
            ContainerImage {
                names: (!names.is_empty()).then_some(names),
                size_bytes: Some(i64::try_from(image.bytes).unwrap_or(i64::MAX)),
            }
        })
        .collect()
}

/// Features that a node declares, with the gate of the same name: of upstream's list those that this agent has.
/// WebSockets to the node are missing until they are built; the API server and the scheduler
/// then treat the node as one that cannot do them, which is true.
const DECLARED: &[&str] = &[
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];
/// Declared when the runtime can do it too.
const USERNS_HOST_NETWORK: &str = "UserNamespacesHostNetworkSupport";

/// The features to declare, sorted; `enabled` tells whether the gate of a name is on.
pub fn declared_features(enabled: impl Fn(&str) -> bool, runtime: Option<&RuntimeReport>) -> Vec<String> {
    if !enabled("NodeDeclaredFeatures") {
        return vec![];
    }
    let of_runtime = runtime.is_some_and(|runtime| runtime.user_namespaces_host_network);
    let candidates = DECLARED.iter().copied().chain(of_runtime.then_some(USERNS_HOST_NETWORK));
    candidates.filter(|name| enabled(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_runtimes() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(runtime_version(text).as_deref(), expected, "{text:?}");
        };
        check("v1.6.20", Some("1.6.20"));
        check("1.6.20~ds1", Some("1.6.20"));
        check("2.0.0-rc.1+build.5", Some("2.0.0-rc.1+build.5"));
        check("v2.1.0+unknown", Some("2.1.0+unknown"));
        check("1.36", Some("1.36"));
        check("1.36.0.4-x", Some("1.36.0.4"));
        check("1.36.", Some("1.36"));
        check("01.2.3-a", Some("01.2.3"));
        check("1.2.3-", Some("1.2.3"));
        check("7", None);
        check("unknown", None);
        check("", None);
    }

    #[test]
    fn the_kubelet_version_is_a_semantic_version() {
        let version = kubelet_version("v1.36.2", "0.1.0-dev+local");
        assert_eq!(version, "v1.36.2+rubelet.0.1.0-dev.local");
        assert_eq!(runtime_version(&version).as_deref(), Some("1.36.2+rubelet.0.1.0-dev.local"));
    }

    #[test]
    fn images_are_sorted_and_cut() {
        let image = |name: &str, bytes, tags: usize| ImageReport {
            digests: vec![format!("{name}@sha256:0")],
            tags: (0..tags).map(|n| format!("{name}:{n}")).collect(),
            bytes,
        };
        let all = [
            image("b", 5, 1),
            image("a", 5, 0),
            image("big", 9, 8),
            ImageReport { bytes: 1, ..Default::default() },
        ];
        let show = |max| {
            images(&all, max)
                .iter()
                .map(|i| format!("{}:{}", i.names.iter().flatten().count(), i.size_bytes.unwrap_or(-1)))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(show(-1), "5:9 1:5 2:5 0:1");
        assert_eq!(show(2), "5:9 1:5");
        assert_eq!(show(0), "");
        assert_eq!(images(&all, 1)[0].names.as_ref().unwrap()[0], "big@sha256:0");
    }

    #[test]
    fn handlers_are_sorted_and_features_told() {
        let mut status = NodeStatus::default();
        let handler =
            |name: &str| HandlerReport { name: name.into(), user_namespaces: true, ..Default::default() };
        let report = RuntimeReport { handlers: vec![handler("runc"), handler("")], ..Default::default() };
        write_runtime(&mut status, &report);
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            serde_json::json!({
                "runtimeHandlers": [
                    {"name": "", "features": {"recursiveReadOnlyMounts": false, "userNamespaces": true}},
                    {"name": "runc", "features": {"recursiveReadOnlyMounts": false, "userNamespaces": true}},
                ],
                "features": {"supplementalGroupsPolicy": false},
            })
        );
    }

    #[test]
    fn declared_features_need_gate_and_runtime() {
        let runtime = RuntimeReport { user_namespaces_host_network: true, ..Default::default() };
        let all = |_: &str| true;
        assert_eq!(
            declared_features(all, None),
            [
                "InPlacePodLevelResourcesVerticalScaling",
                "InPlacePodVerticalScalingInitContainers",
                "RestartAllContainersOnContainerExits",
            ]
        );
        assert_eq!(
            declared_features(all, Some(&runtime)),
            [
                "InPlacePodLevelResourcesVerticalScaling",
                "InPlacePodVerticalScalingInitContainers",
                "RestartAllContainersOnContainerExits",
                "UserNamespacesHostNetworkSupport",
            ]
        );
        assert!(declared_features(|name| name != "NodeDeclaredFeatures", Some(&runtime)).is_empty());
        assert!(declared_features(|name| name == "NodeDeclaredFeatures", Some(&runtime)).is_empty());
    }
}
