//! Removes what pods that are long gone have left on the node: directories, logs, journal records, dangling
//! log links, volumes of drivers that nobody uses. It is told which pods are known and touches nothing of those; a
//! volume that may still be mounted is left alone, and all of those are told in one message.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use rubelet_core::ids::PodUid;
use rubelet_core::lifecycle::{Effect, Input, PodState, TerminationCause, step};
use tracing::{info, warn};

use crate::pod_dirs;
use crate::services::Services;

/// Pods whose volumes are taken away at the same time: one that hangs keeps few others waiting.
const AT_ONCE: usize = 4;

/// Pods that are named when something of them stays; the rest are counted.
const TOLD: usize = 5;

/// Looks once. `known` is every pod that is desired, worked on, or held by the runtime.
pub async fn run(services: &Services, known: &BTreeSet<PodUid>) {
    let pods_dir = services.node.root_dir.join("pods");
    match pod_dirs::pods_on_disk(&services.fs, &pods_dir).await {
        Ok(mut found) => {
            // One whose directory is gone may have volumes that are not.
            found.extend(services.volumes.journaled_pods());
            found.retain(|uid| !is_known(services, known, uid));
            found.sort();
            found.dedup();
            remove_pods(services, &found).await;
        }
        Err(error) => warn!("{}", crate::logging::chain(&error)),
    }
    services.volumes.unstage_unused().await;
    services.containers.sweep(|uid| is_known(services, known, uid)).await;
    services.cgroups.sweep(|uid| is_known(services, known, uid)).await;
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

/// Removes what pods that are gone have left; tells what stays of all of them in one message.
async fn remove_pods(services: &Services, gone: &[PodUid]) {
    let (mut cleaned, mut stays) = (0_u32, Vec::new());
    for some in gone.chunks(AT_ONCE) {
        let removed = join_all(some.iter().map(|uid| remove_pod(services, uid))).await;
        for (uid, removed) in some.iter().zip(removed) {
            match removed {
                Ok(()) => cleaned += 1,
                Err(problem) => stays.push(format!("{uid}: {problem}")),
            }
        }
    }
    let pods = &services.metrics.pods;
    pods.orphan_volumes_cleaned.set(cleaned.into());
    pods.orphan_volumes_errors.set(u32::try_from(stays.len()).unwrap_or(u32::MAX).into());
    if cleaned > 0 {
        info!(pods = cleaned, "removed the directories of pods that are gone");
    }
    if !stays.is_empty() {
        let told = stays.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
        warn!(pods = stays.len(), "volumes or directories of pods that are gone stay for now: {told}");
    }
}

/// Removes the directory of a pod that is gone; says why when something of it has to stay.
async fn remove_pod(services: &Services, uid: &PodUid) -> Result<(), String> {
    let dir = services.node.root_dir.join("pods").join(uid.as_str());
    remove_volumes(services, uid, &dir).await?;
    let volumes = dir.join("volumes");
    let foreign = services
        .fs
        .run(format!("read {}", volumes.display()), move || Ok(foreign_volumes(&volumes)))
        .await
        .unwrap_or_else(|error| vec![error.to_string().into()]);
    if !foreign.is_empty() {
        return Err(format!("it holds volumes of others, which are left alone: {foreign:?}"));
    }
    pod_dirs::remove(&services.fs, &dir).await.map_err(|error| crate::logging::chain(&error))
}

/// Takes away volumes this agent made, on proof that nothing of the pod runs: the runtime is asked again.
async fn remove_volumes(services: &Services, uid: &PodUid, dir: &Path) -> Result<(), String> {
    let observed = services.pleg.observe(uid).await.map_err(|error| crate::logging::chain(&error))?;
    services.pleg.forget(uid);
    // A static pod that is put back has the UID it had, and others before it in this sweep may have taken long.
    if services.table.get(uid).is_some() {
        return Err("it is back".to_owned());
    }
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
