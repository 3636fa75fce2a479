//! Where the agent keeps the files of a pod.
//!
//! Owns every path that is built from names in a pod (upstream `kubelet_getters.go`, `BuildPodLogsDirectory`).
//! Names come from outside, so no path is built from one that could leave its directory. Never touches a file.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::ids::PodUid;

/// Longest file name of common file systems, and of the legacy log link.
const NAME_LIMIT: usize = 255;

/// A name that cannot be one component of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} cannot be part of a path")]
pub struct UnsafeName {
    /// What it names.
    pub what: &'static str,
    /// The name.
    pub value: String,
}

/// The directories of one pod, all names checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPaths {
    /// `<root-dir>/pods/<uid>`.
    pub dir: PathBuf,
    /// `<pod-logs-dir>/<namespace>_<name>_<uid>`.
    pub logs: PathBuf,
}

/// Checks a pod's names and builds its directories.
pub fn pod_paths(root_dir: &Path, pod_logs_dir: &Path, pod: &Pod) -> Result<PodPaths, UnsafeName> {
    let metadata = &pod.metadata;
    let uid = component("pod UID", metadata.uid.as_deref().unwrap_or_default())?;
    let name = component("pod name", metadata.name.as_deref().unwrap_or_default())?;
    let namespace = component("namespace", metadata.namespace.as_deref().unwrap_or_default())?;
    Ok(PodPaths {
        dir: root_dir.join("pods").join(uid),
        logs: pod_logs_dir.join(format!("{namespace}_{name}_{uid}")),
    })
}

impl PodPaths {
    /// The pod's `/etc/hosts`.
    pub fn hosts_file(&self) -> PathBuf {
        self.dir.join("etc-hosts")
    }
    /// Where volumes are mounted.
    pub fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }
    /// One volume of a plugin. The plugin's name has its `/` escaped as `~`.
    pub fn volume(&self, plugin: &str, volume: &str) -> Result<PathBuf, UnsafeName> {
        let plugin = plugin.replace('/', "~");
        Ok(self.volumes().join(component("volume plugin", &plugin)?).join(component("volume", volume)?))
    }
    /// Where plugins keep what they need to know about the pod.
    pub fn plugins(&self) -> PathBuf {
        self.dir.join("plugins")
    }
    /// Where a container keeps its termination messages.
    pub fn container(&self, container: &str) -> Result<PathBuf, UnsafeName> {
        Ok(self.dir.join("containers").join(component("container", container)?))
    }
    /// The termination message file of one instance: eight hexadecimal digits that are new for each.
    pub fn termination_log(&self, container: &str, random: u32) -> Result<PathBuf, UnsafeName> {
        Ok(self.container(container)?.join(format!("{random:08x}")))
    }
    /// The log directory of a container.
    pub fn container_logs(&self, container: &str) -> Result<PathBuf, UnsafeName> {
        Ok(self.logs.join(component("container", container)?))
    }
    /// The log file of one instance.
    pub fn container_log(&self, container: &str, restart_count: u32) -> Result<PathBuf, UnsafeName> {
        Ok(self.container_logs(container)?.join(format!("{restart_count}.log")))
    }
}

/// The log file of an instance below the sandbox's log directory: what CRI is given.
pub fn relative_log_path(container: &str, restart_count: u32) -> Result<String, UnsafeName> {
    Ok(format!("{}/{restart_count}.log", component("container", container)?))
}

/// Name of the link `<pod>_<namespace>_<container>-<id>.log` that log collectors read, at most 255 bytes. The
/// part before the suffix is cut when it is longer.
pub fn legacy_log_link(pod: &Pod, container: &str, container_id: &str) -> Result<String, UnsafeName> {
    let metadata = &pod.metadata;
    let name = component("pod name", metadata.name.as_deref().unwrap_or_default())?;
    let namespace = component("namespace", metadata.namespace.as_deref().unwrap_or_default())?;
    let container = component("container", container)?;
    let id = component("container ID", container_id)?;
    let mut link = format!("{name}_{namespace}_{container}-{id}");
    let mut end = link.len().min(NAME_LIMIT - ".log".len());
    while !link.is_char_boundary(end) {
        end -= 1;
    }
    link.truncate(end);
    link.push_str(".log");
    Ok(link)
}

/// The file that a checkpoint of a container is written to, made at the time `at` (RFC 3339).
pub fn checkpoint_file(root_dir: &Path, pod: &Pod, container: &str, at: &str) -> Result<PathBuf, UnsafeName> {
    let metadata = &pod.metadata;
    let name = component("pod name", metadata.name.as_deref().unwrap_or_default())?;
    let namespace = component("namespace", metadata.namespace.as_deref().unwrap_or_default())?;
    let container = component("container", container)?;
    Ok(root_dir.join("checkpoints").join(format!("checkpoint-{name}_{namespace}-{container}-{at}.tar")))
}

/// The pod a log directory belongs to: what stands after the last `_`.
pub fn pod_uid_of_log_dir(name: &str) -> PodUid {
    PodUid::from(name.rsplit('_').next().unwrap_or_default())
}

/// The restart count a log file name tells: `<n>.log`, with or without the suffixes of rotation.
pub fn restart_count_of_log(file_name: &str) -> Option<u32> {
    let (count, rest) = file_name.split_once('.')?;
    let is_log = rest == "log" || rest.starts_with("log.");
    if is_log && count.bytes().all(|b| b.is_ascii_digit()) { count.parse().ok() } else { None }
}

/// One component of a path: not empty, not `.` or `..`, without a slash or a zero byte, not too long.
fn component<'a>(what: &'static str, value: &'a str) -> Result<&'a str, UnsafeName> {
    let bad = value.is_empty()
        || value == "."
        || value == ".."
        || value.contains(['/', '\0'])
        || value.len() > NAME_LIMIT;
    if bad { Err(UnsafeName { what, value: value.to_owned() }) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, uid: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace, "uid": uid}}))
            .unwrap()
    }

    fn paths(pod: &Pod) -> Result<PodPaths, UnsafeName> {
        pod_paths(Path::new("/root-dir"), Path::new("/logs"), pod)
    }

    #[test]
    fn paths_are_where_upstream_has_them() {
        let paths = paths(&pod("shop", "web", "u-1")).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        assert_eq!(text(paths.dir.clone()), "/root-dir/pods/u-1");
        assert_eq!(text(paths.logs.clone()), "/logs/shop_web_u-1");
        assert_eq!(text(paths.hosts_file()), "/root-dir/pods/u-1/etc-hosts");
        assert_eq!(text(paths.plugins()), "/root-dir/pods/u-1/plugins");
        assert_eq!(
            text(paths.volume("kubernetes.io/empty-dir", "v").unwrap()),
            "/root-dir/pods/u-1/volumes/kubernetes.io~empty-dir/v"
        );
        assert_eq!(
            text(paths.termination_log("app", 0xbeef).unwrap()),
            "/root-dir/pods/u-1/containers/app/0000beef"
        );
        assert_eq!(text(paths.container_log("app", 3).unwrap()), "/logs/shop_web_u-1/app/3.log");
        assert_eq!(relative_log_path("app", 3).unwrap(), "app/3.log");
        assert_eq!(pod_uid_of_log_dir("shop_web_u-1").as_str(), "u-1");
        assert_eq!(pod_uid_of_log_dir("u-1").as_str(), "u-1");
    }

    #[test]
    fn checkpoints_are_named_after_what_they_are_of() {
        let file = |container| {
            checkpoint_file(Path::new("/r"), &pod("shop", "web", "u"), container, "2026-01-02T03:04:05Z")
        };
        let expected = Path::new("/r/checkpoints/checkpoint-web_shop-app-2026-01-02T03:04:05Z.tar");
        assert_eq!(file("app").unwrap(), expected);
        assert!(file("../../etc").is_err());
    }

    #[test]
    fn the_legacy_link_is_cut_to_255_bytes() {
        let pod_ = pod("shop", "web", "u");
        assert_eq!(legacy_log_link(&pod_, "app", "abc").unwrap(), "web_shop_app-abc.log");
        let long = pod("shop", &"p".repeat(250), "u");
        let link = legacy_log_link(&long, "app", "abc").unwrap();
        assert_eq!(link.len(), 255);
        assert!(link.starts_with("ppp") && link.ends_with(".log"));
    }

    #[test]
    fn names_that_leave_their_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", "/x", "a\0b"] {
            assert!(paths(&pod("shop", name, "u")).is_err(), "{name:?}");
            assert!(paths(&pod(name, "web", "u")).is_err(), "{name:?}");
            assert!(paths(&pod("shop", "web", name)).is_err(), "{name:?}");
            assert!(paths(&pod("shop", "web", "u")).unwrap().container(name).is_err(), "{name:?}");
            assert!(relative_log_path(name, 0).is_err(), "{name:?}");
        }
        assert_eq!(
            paths(&pod("shop", "..", "u")).unwrap_err().to_string(),
            "pod name \"..\" cannot be part of a path"
        );
    }

    #[test]
    fn restart_counts_are_read_from_log_names() {
        assert_eq!(restart_count_of_log("7.log"), Some(7));
        assert_eq!(restart_count_of_log("12.log.20260101-000000.gz"), Some(12));
        for name in ["x.log", "7", "7.txt", ".log", "+7.log", "7.logx"] {
            assert_eq!(restart_count_of_log(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_name_escapes(namespace in "\\PC{0,12}", name in "[./a-z_\0-]{0,12}", uid in "[./a-f0-9-]{0,8}", container in "[./a-z]{0,8}") {
            if let Ok(paths) = paths(&pod(&namespace, &name, &uid)) {
                let inside = |path: &Path, base: &str| path.starts_with(base)
                    && path.components().all(|c| !matches!(c, std::path::Component::ParentDir))
                    && path.components().count() > Path::new(base).components().count();
                prop_assert!(inside(&paths.dir, "/root-dir/pods"));
                prop_assert!(inside(&paths.logs, "/logs"));
                prop_assert_eq!(paths.logs.components().count(), 3);
                if let Ok(log) = paths.container_log(&container, 1) {
                    prop_assert!(inside(&log, paths.logs.to_str().unwrap()));
                    prop_assert_eq!(log.components().count(), 5);
                }
            }
        }
    }
}
