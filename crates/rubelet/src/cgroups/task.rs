//! The groups above pods: what all pods together and each class may have, and what is reserved for others.
//!
//! One task: it makes them once the runtime has told which driver it uses, sets them again when pods begin or end and
//! each minute, and tells the node's events of limits that the kernel refuses, until it takes them.

use std::collections::BTreeMap;
use std::time::Duration;

use rubelet_core::qos::QosClass;
use rubelet_core::resources::{CgroupRoot, GroupSettings, ReservedGroup, cgroup_path, reserved_settings};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Shared;
use crate::events::EventSubject;
use crate::logging::chain;

/// How often groups are set although nothing happened (upstream `periodicQOSCgroupUpdateInterval`), and limits that
/// were refused are tried again.
const PERIOD: Duration = Duration::from_secs(60);
/// Pods that begin or end within this time are one change.
const TOGETHER: Duration = Duration::from_millis(100);

/// Limits that are told of: not set yet, or refused.
type Pending = BTreeMap<String, Limit>;

enum Limit {
    AllPods,
    Reserved(ReservedGroup),
}

pub(super) async fn run(shared: &Shared) {
    let mut runtime = shared.parts.runtime_state.clone();
    // The sender lives as long as the agent; without it there is nothing to wait for.
    drop(runtime.wait_for(|state| state.info.is_some()).await);
    let root = shared.root();
    let enforcement = &shared.parts.settings.enforcement;
    let mut pending = Pending::new();
    for group in &enforcement.reserved {
        pending.insert(group.path(root.driver), Limit::Reserved(group.clone()));
    }
    if root.per_qos {
        pending.insert(cgroup_path(&root, QosClass::Guaranteed, None), Limit::AllPods);
    }
    let mut next_full = Instant::now();
    loop {
        if root.per_qos {
            match shared.ensure_above(&root).await {
                Ok(()) => refresh(shared, &root).await,
                Err(error) => warn!("{}", chain(&error)),
            }
        }
        if next_full <= Instant::now() {
            enforce(shared, &root, &mut pending).await;
            next_full = Instant::now() + PERIOD;
        }
        tokio::time::sleep(TOGETHER).await;
        // Both arms are cancel-safe: a notice is kept until it is taken.
        tokio::select! {
            () = shared.news.notified() => {}
            () = tokio::time::sleep_until(next_full) => {}
        }
    }
}

/// Sets the classes to what their pods come to.
async fn refresh(shared: &Shared, root: &CgroupRoot) {
    let classes = shared.classes();
    let node = &shared.parts.metrics.node;
    if shared.parts.settings.qos.memory_qos.is_some() {
        node.memory_qos_min.set(classes.memory_min as f64);
        node.memory_qos_low.set(classes.memory_low as f64);
    }
    for (class, settings) in [
        (QosClass::Guaranteed, &classes.guaranteed),
        (QosClass::Burstable, &classes.burstable),
        (QosClass::BestEffort, &classes.best_effort),
    ] {
        if *settings == GroupSettings::default() {
            continue;
        }
        let group = cgroup_path(root, class, None);
        if let Err(error) = set_class(shared, &group, settings).await {
            // Somebody removed it: it is made anew.
            *shared.ready.lock().await = None;
            warn!("{}", chain(&error));
        }
    }
}

/// A class that uses more than it may from now on is kept from growing (upstream `retrySetMemoryReserve`).
async fn set_class(
    shared: &Shared,
    group: &str,
    settings: &GroupSettings,
) -> Result<(), super::writer::WriteError> {
    let refused = match shared.set(group, settings).await {
        Err(error) => error,
        Ok(()) => return Ok(()),
    };
    let usage = shared.read(group).await.memory_usage;
    match (settings.memory, usage) {
        (Some(limit), Some(usage)) if usage > limit => {
            debug!(group, limit, usage, "the class uses more than is left for it");
            shared.set(group, &GroupSettings { memory: Some(usage), ..settings.clone() }).await
        }
        _ => Err(refused),
    }
}

/// Sets limits that are not set yet, and tells how that went.
async fn enforce(shared: &Shared, root: &CgroupRoot, pending: &mut Pending) {
    let parts = &shared.parts;
    let node = EventSubject::node(&parts.settings.node_name);
    let mut done = vec![];
    for (group, limit) in &*pending {
        let (settings, what) = match limit {
            Limit::AllPods => (shared.all_pods(root), None),
            Limit::Reserved(reserved) => {
                let unified = parts.settings.facts.memory_qos.is_some();
                (reserved_settings(reserved, &parts.settings.reservations, unified), Some(reserved.owner))
            }
        };
        let problem = match limit {
            // It is not the agent's to make.
            Limit::Reserved(_) if !parts.tree.exists(group) => {
                Some(format!("cgroup {group:?} does not exist, or lacks controllers"))
            }
            _ => shared.set(group, &settings).await.err().map(|error| chain(&error)),
        };
        match (problem, what) {
            (None, None) => {
                let told = "Updated Node Allocatable limit across pods";
                parts.events.normal(&node, "NodeAllocatableEnforced", told);
                done.push(group.clone());
            }
            (None, Some(owner)) => {
                let told = format!("Updated limits on {owner} reserved cgroup {group}");
                parts.events.normal(&node, "NodeAllocatableEnforced", told);
                done.push(group.clone());
            }
            (Some(problem), None) => {
                let told = format!("Failed to update Node Allocatable Limits {group:?}: {problem}");
                parts.events.warning(&node, "FailedNodeAllocatableEnforcement", told);
            }
            (Some(problem), Some(owner)) => {
                let whose = if owner == "system" { "System" } else { "Kube" };
                let told =
                    format!("Failed to enforce {whose} Reserved Cgroup Limits on {group:?}: {problem}");
                parts.events.warning(&node, "FailedNodeAllocatableEnforcement", told);
            }
        }
    }
    pending.retain(|group, _| !done.contains(group));
}
