//! The checkpoints of CPUs and memory on disk, and what the runtime says of containers that run, from which they are
//! made anew when they are of no use.

use std::path::{Path, PathBuf};

use futures::{StreamExt as _, stream};
use rubelet_core::cpu_manager::RunningContainer;
use rubelet_core::cpu_set::CpuSet;
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::labels;
use rubelet_core::topology::NumaMask;
use rubelet_cri::{CriError, RuntimeService, v1};
use tracing::warn;

use crate::fs_pool::FsPool;

/// Upstream's name of the CPU manager's file.
const CPUS: &str = "cpu_manager_state";
/// Upstream's name of the memory manager's file.
const MEMORY: &str = "memory_manager_state";
/// Containers that are asked for at the same time.
const AT_ONCE: usize = 8;

/// The files.
#[derive(Clone)]
pub(super) struct Store {
    dir: PathBuf,
    fs: FsPool,
}

/// What the files say; `None` where there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub(super) cpus: Option<Vec<u8>>,
    pub(super) memory: Option<Vec<u8>>,
}

impl Store {
    pub(super) fn new(dir: PathBuf, fs: FsPool) -> Self {
        Self { dir, fs }
    }

    pub(super) async fn load(&self) -> Stored {
        Stored { cpus: self.read(CPUS).await, memory: self.read(MEMORY).await }
    }

    async fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.dir.join(name);
        let told = format!("read {}", path.display());
        let read = move || match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        match self.fs.run(told, read).await {
            Ok(bytes) => bytes,
            Err(error) => {
                warn!("{}", crate::logging::chain(&error));
                // As good as one that says nothing: what runs is asked.
                Some(vec![])
            }
        }
    }

    /// Writes both. What cannot be written is told: the agent goes on, and would find its way without.
    pub(super) async fn save(&self, cpus: String, memory: String) {
        for (name, text) in [(CPUS, cpus), (MEMORY, memory)] {
            let path = self.dir.join(name);
            let told = format!("write {}", path.display());
            let write = move || replace(&path, &text);
            if let Err(error) = self.fs.run(told, write).await {
                warn!("{}", crate::logging::chain(&error));
            }
        }
    }
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
        return Ok(());
    }
    rubelet_linux::record::replace(path, text)
}

/// A container and whose it is, by its labels.
pub(super) fn owner(container: &v1::Container) -> Option<(PodUid, String)> {
    let label = |name: &str| container.labels.get(name).filter(|value| !value.is_empty());
    Some((PodUid::from(label(labels::POD_UID)?.as_str()), label(labels::CONTAINER_NAME)?.clone()))
}

/// Containers that run or are about to.
pub(super) async fn live_containers(
    runtime: &dyn RuntimeService,
    states: &[v1::ContainerState],
) -> Result<Vec<v1::Container>, CriError> {
    let listed = runtime.list_containers(v1::ListContainersRequest { filter: None }).await?;
    let live = |container: &v1::Container| states.iter().any(|state| container.state == i32::from(*state));
    Ok(listed.containers.into_iter().filter(live).collect())
}

/// Containers that run, with the CPUs and the memory nodes they were given.
pub(super) async fn running(
    runtime: &dyn RuntimeService,
) -> Result<Vec<(RunningContainer, NumaMask)>, CriError> {
    let live = live_containers(runtime, &[v1::ContainerState::ContainerRunning]).await?;
    let looked = stream::iter(live).map(|container| async move {
        let (uid, name) = owner(&container)?;
        let request = v1::ContainerStatusRequest { container_id: container.id.clone(), verbose: true };
        // One that has ended meanwhile has nothing.
        let status = runtime.container_status(request).await.ok()?;
        let (cpus, memory) = pinning(&status);
        let running = RunningContainer {
            uid,
            container: name,
            id: ContainerId::from(container.id),
            cpus: cpus.parse::<CpuSet>().ok().filter(|cpus| !cpus.is_empty()),
        };
        let nodes = memory.parse::<CpuSet>().unwrap_or_default().iter().collect();
        Some((running, nodes))
    });
    Ok(looked.buffered(AT_ONCE).filter_map(std::future::ready).collect().await)
}

/// The cpuset and the memory nodes of a container. Older runtimes only tell them in the words of the OCI.
fn pinning(status: &v1::ContainerStatusResponse) -> (String, String) {
    let told = status.status.as_ref().and_then(|status| status.resources.as_ref()?.linux.as_ref());
    if let Some(linux) = told {
        return (linux.cpuset_cpus.clone(), linux.cpuset_mems.clone());
    }
    let info = status.info.get("info").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let cpu = info.as_ref().and_then(|info| info.pointer("/runtimeSpec/linux/resources/cpu"));
    let text = |name: &str| {
        let value = cpu.and_then(|cpu| cpu.get(name)).and_then(serde_json::Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    (text("cpus"), text("mems"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_of_newer_and_older_runtimes() {
        let mut status = v1::ContainerStatusResponse::default();
        assert_eq!(pinning(&status), (String::new(), String::new()));
        let spec = r#"{"runtimeSpec": {"linux": {"resources": {"cpu": {"cpus": "2-3", "mems": "1"}}}}}"#;
        status.info.insert("info".to_owned(), spec.to_owned());
        assert_eq!(pinning(&status), ("2-3".to_owned(), "1".to_owned()));
        let linux = v1::LinuxContainerResources { cpuset_cpus: "4".to_owned(), ..Default::default() };
        let resources = v1::ContainerResources { linux: Some(linux), ..Default::default() };
        status.status = Some(v1::ContainerStatus { resources: Some(resources), ..Default::default() });
        assert_eq!(pinning(&status), ("4".to_owned(), String::new()));
    }

    #[test]
    fn checkpoints_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CPUS);
        replace(&path, "one").unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        replace(&path, "one").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written);
        replace(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
    }
}
