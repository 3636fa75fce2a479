//! What is published: counts never fall, ends stay, and who runs on undisturbed stays ready, over all agents.

use std::collections::BTreeMap;

use super::{Judge, Verdict};
use crate::log::StatusView;
use crate::scenario::{Role, containers_of};

/// What was published of one life of a pod UID.
#[derive(Debug, Default)]
pub(super) struct Book {
    counts: BTreeMap<String, i32>,
    terminal: Option<String>,
    last: Option<StatusView>,
    /// The pod was to end and is wanted again: old rows say nothing until its new life has begun.
    suspended: bool,
}

impl Book {
    /// The terminal phase that was published.
    pub(super) fn terminal(&self) -> Option<&str> {
        self.terminal.as_deref()
    }

    /// A new life begins.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::default();
    }
}

fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

impl Judge<'_> {
    pub(super) fn row_gone(&mut self, uid: &str) {
        // Only a pod that is to end may vanish; when it is wanted again it is a new one.
        if let Some(truth) = self.pods.get_mut(uid) {
            truth.statuses.begin_anew();
        }
    }

    pub(super) fn check_status(&mut self, view: &StatusView) -> Verdict {
        let now = self.now;
        self.check_told_health(view)?;
        let Some(truth) = self.pods.get_mut(&view.uid) else {
            return Err(format!("a status of {} is published, which was never wanted", view.uid));
        };
        truth.told = true;
        if !view.syncing {
            truth.ending_told.get_or_insert(now);
        }
        // A new life begins when it does not end any more.
        truth.told_ending = view.ends.then(|| truth.told_ending.unwrap_or(now));
        truth.statuses.suspended = truth.ending.is_some() && truth.wanted.is_some();
        let uid = &view.uid;
        if is_terminal(&view.phase)
            && let Some((id, instance)) = truth.running().next()
        {
            return Err(format!("{uid} is told to be {} while {} ({id}) runs", view.phase, instance.name));
        }
        if !truth.statuses.suspended {
            if let Some(phase) = truth.statuses.terminal()
                && phase != view.phase
            {
                return Err(format!("{uid} was told to be {phase} and is told to be {}", view.phase));
            }
            for container in &view.containers {
                let before = truth.statuses.counts.get(&container.name).copied().unwrap_or_default();
                if container.restarts < before {
                    return Err(format!(
                        "the restart count of {} of {uid} falls from {before} to {}",
                        container.name, container.restarts
                    ));
                }
            }
            for container in &view.containers {
                truth.statuses.counts.insert(container.name.clone(), container.restarts);
            }
            if is_terminal(&view.phase) {
                truth.statuses.terminal = Some(view.phase.clone());
            }
        }
        let may_end = truth.may_end(now) || !view.syncing;
        if let (Some(before), Some(pod), false) = (&truth.statuses.last, &truth.known, may_end) {
            let apps: Vec<String> = containers_of(pod)
                .into_iter()
                .filter(|(_, role)| *role != Role::Init)
                .map(|(name, _)| name)
                .collect();
            let running_id = |view: &StatusView, name: &str| {
                view.containers.iter().find(|c| c.name == name).and_then(|c| c.running.clone())
            };
            // Undisturbed: the instances that were told to run when it was told to be ready run on.
            let undisturbed = before.ready
                && apps.iter().all(|name| {
                    running_id(before, name)
                        .and_then(|id| truth.containers.get(&id))
                        .is_some_and(|instance| instance.running)
                });
            let may_be_unready = truth.running().any(|(_, instance)| instance.probes.may_be_unready());
            if undisturbed && !view.ready && !may_be_unready {
                return Err(format!("{uid} runs on undisturbed and is no longer told to be ready"));
            }
            if undisturbed && view.phase != "Running" {
                return Err(format!("{uid} runs on undisturbed and is told to be {}", view.phase));
            }
            if let Some(name) =
                apps.iter().find(|name| undisturbed && running_id(before, name) != running_id(view, name))
            {
                return Err(format!("{name} of {uid} runs on and is told to be another instance or none"));
            }
        }
        truth.statuses.last = Some(view.clone());
        Ok(())
    }
}
