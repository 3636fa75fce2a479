//! Removes what pods that are long gone have left on the node: directories, logs, journal records, dangling
//! log links. It is told which pods are known and touches nothing of those; a volume that may still be
//! mounted is left alone and named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::{Effect, Input, PodState, TerminationCause, step};
use tracing::{info, warn};

use crate::pod_dirs;
use crate::services::Services;

/// Looks once. `known` is every pod that is desired, worked on, or held by the runtime.
pub async fn run(services: &Services, known: &BTreeSet<PodUid>) {
    let pods_dir = services.node.root_dir.join("pods");
    match pod_dirs::pods_on_disk(&services.fs, &pods_dir).await {
        Ok(found) => {
            let (mut cleaned, mut failed) = (0_u32, 0_u32);
            for uid in found.iter().filter(|uid| !is_known(services, known, uid)) {
                if remove_pod(services, uid).await {
                    cleaned += 1;
                } else {
                    failed += 1;
                }
            }
            let pods = &services.metrics.pods;
            pods.orphan_volumes_cleaned.set(cleaned.into());
            pods.orphan_volumes_errors.set(failed.into());
        }
        Err(error) => warn!("{}", crate::logging::chain(&error)),
    }
    match services.journal.list().await {
        Ok(listed) => {
            for uid in listed.iter().filter(|uid| !is_known(services, known, uid)) {
                if let Err(error) = services.journal.remove(uid).await {
                    warn!("{}", crate::logging::chain(&error));
                }
            }
        }
        Err(error) => warn!("{}", crate::logging::chain(&error)),
    }
    sweep_logs(services, known).await;
}

/// Known when the sweep began, or begun since.
fn is_known(services: &Services, known: &BTreeSet<PodUid>, uid: &PodUid) -> bool {
    known.contains(uid) || services.table.get(uid).is_some()
}

/// Removes the directory of a pod that is gone; false when something of it has to stay.
async fn remove_pod(services: &Services, uid: &PodUid) -> bool {
    let dir = services.node.root_dir.join("pods").join(uid.as_str());
    if let Err(problem) = remove_volumes(services, uid, &dir).await {
        warn!(%uid, "the volumes of a pod that is gone stay: {problem}");
        return false;
    }
    let volumes = dir.join("volumes");
    let foreign = services
        .fs
        .run(format!("read {}", volumes.display()), move || Ok(foreign_volumes(&volumes)))
        .await
        .unwrap_or_else(|error| vec![error.to_string().into()]);
    if !foreign.is_empty() {
        warn!(%uid, ?foreign, "the directory of a pod that is gone still holds volumes; they are left alone");
        return false;
    }
    match pod_dirs::remove(&services.fs, &dir).await {
        Ok(()) => {
            info!(%uid, "removed the directory of a pod that is gone");
            true
        }
        Err(error) => {
            warn!(%uid, "{}", crate::logging::chain(&error));
            false
        }
    }
}

/// Takes away volumes this agent made, on proof that nothing of the pod runs: the runtime is asked again.
async fn remove_volumes(services: &Services, uid: &PodUid, dir: &Path) -> Result<(), String> {
    let observed = services.pleg.observe(uid).await.map_err(|error| crate::logging::chain(&error))?;
    services.pleg.forget(uid);
    let ended = PodState::Terminated { cause: TerminationCause::Orphan };
    let (_, effects) = step(&ended, Input::Observed(&observed), services.clock.now());
    let proof = effects.into_iter().find_map(|effect| match effect {
        Effect::CleanUp(proof) => Some(proof),
        _ => None,
    });
    match proof {
        Some(proof) => {
            services.volumes.tear_down(&proof, dir).await.map_err(|error| crate::logging::chain(&error))
        }
        None => Err("something of it runs".to_owned()),
    }
}

/// Volumes that something else made.
fn foreign_volumes(volumes: &Path) -> Vec<PathBuf> {
    let plugins = std::fs::read_dir(volumes).into_iter().flatten().flatten();
    plugins
        .filter(|plugin| std::fs::read_dir(plugin.path()).is_ok_and(|mut entries| entries.next().is_some()))
        .map(|plugin| plugin.path())
        .collect()
}

async fn sweep_logs(services: &Services, known: &BTreeSet<PodUid>) {
    let logs = services.node.pod_logs_dir.clone();
    let listed = services
        .fs
        .run(format!("read {}", logs.display()), move || match std::fs::read_dir(&logs) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
            entries => Ok(entries?.flatten().map(|entry| entry.path()).collect::<Vec<PathBuf>>()),
        })
        .await;
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => {
            warn!("{}", crate::logging::chain(&error));
            return;
        }
    };
    for dir in listed {
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.contains('_')
            && !is_known(services, known, &rubelet_core::paths::pod_uid_of_log_dir(name))
            && let Err(error) = pod_dirs::remove(&services.fs, &dir).await
        {
            warn!("{}", crate::logging::chain(&error));
        }
    }
    if let Err(error) = pod_dirs::remove_dangling_links(&services.fs, &services.node.container_logs_dir).await
    {
        warn!("{}", crate::logging::chain(&error));
    }
}
