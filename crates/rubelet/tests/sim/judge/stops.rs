//! Stopping: never what is healthy and wanted, never on incomplete knowledge, in order and with its grace.

use rubelet_core::kill::MINIMUM_STOP_SECONDS;
use rubelet_testkit::scripted::{Call, Fact, Op};

use super::{Judge, PodTruth, Verdict, image_of};
use crate::scenario::{POST_START, PRE_STOP, Role, containers_of};

impl Judge<'_> {
    /// A call that ends or removes something begins.
    pub(super) fn check_stop_call(&mut self, call: &Call) -> Verdict {
        if !self.delivered || !self.listed {
            return Err(format!(
                "{:?} before {}",
                call.op,
                if self.delivered { "the runtime was listed" } else { "the source delivered" }
            ));
        }
        let (now, id) = (self.now, call.subject.id.clone());
        let Some(truth) = self.pods.get_mut(&call.subject.pod_uid) else { return Ok(()) };
        match call.op {
            Op::StopContainer => {
                truth.check_may_stop(&id, now)?;
                truth.check_order(&id, now)?;
                truth.check_hook_ran(&id, now)?;
                truth.check_grace(&id, call.grace.unwrap_or_default(), now)?;
                truth.begin_ending(&id, now);
                Ok(())
            }
            Op::StopPodSandbox | Op::RemovePodSandbox => {
                if truth.sandboxes.get(&id) == Some(&true) && !truth.may_end(now) {
                    return Err(format!("sandbox {id} of a pod that goes on is ended"));
                }
                let inside = truth.running().find(|(_, c)| c.sandbox == id);
                match inside {
                    Some((container, c)) => {
                        Err(format!("sandbox {id} is ended while {} ({container}) runs in it", c.name))
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// A hook is called.
    pub(super) fn check_hook_call(&mut self, call: &Call) -> Verdict {
        let (now, id) = (self.now, call.subject.id.clone());
        let Some(truth) = self.pods.get_mut(&call.subject.pod_uid) else { return Ok(()) };
        if call.command == [POST_START] {
            truth.hooks.insert(call.n, id);
            return Ok(());
        }
        if call.command != [PRE_STOP] {
            return Ok(());
        }
        if !self.delivered || !self.listed {
            return Err("preStop before the agent knows what is wanted and what runs".to_owned());
        }
        truth.check_may_stop(&id, now)?;
        truth.begin_ending(&id, now);
        if let Some(instance) = truth.containers.get_mut(&id) {
            instance.pre_stop_began = true;
        }
        Ok(())
    }

    /// A container was killed because its grace ran out: it must have had it.
    pub(super) fn check_killed(&self, fact: &Fact) -> Verdict {
        let Some(truth) = self.pods.get(&fact.subject.pod_uid) else { return Ok(()) };
        let Some(instance) = truth.containers.get(&fact.subject.id) else { return Ok(()) };
        let changed = truth.changed.get(&instance.name).copied();
        let begun = [truth.ending, truth.ending_told, changed, instance.may_end_since, instance.ending_since];
        let begun = begun.into_iter().flatten().chain(instance.probes.failed_at());
        let Some(begun) = begun.min() else { return Ok(()) };
        // Of a pod that this agent was never told of, only the runtime knows; it gets the least.
        let least = if truth.told { truth.least_grace() } else { MINIMUM_STOP_SECONDS };
        let had = self.now.duration_since(begun).as_secs();
        if had + 1 < least {
            return Err(format!(
                "{} was killed {had} s after its end began, with a grace of {least} s",
                instance.name
            ));
        }
        Ok(())
    }

    /// A container was removed: the last of a wanted app container tells how it ended.
    pub(super) fn check_removed(&self, fact: &Fact) -> Verdict {
        let Some(truth) = self.pods.get(&fact.subject.pod_uid) else { return Ok(()) };
        let Some(instance) = truth.containers.get(&fact.subject.id) else { return Ok(()) };
        let newest = truth
            .order
            .iter()
            .rev()
            .find(|id| truth.containers.get(*id).is_some_and(|c| c.name == instance.name && c.started));
        let is_newest = newest == Some(&fact.subject.id);
        if truth.ending.is_none() && is_newest && truth.role(&instance.name) == Some(Role::App) {
            return Err(format!("the newest instance of {} of a wanted pod is removed", instance.name));
        }
        Ok(())
    }
}

impl PodTruth {
    /// When the pod, or the first of what runs in it, began to be ended.
    fn ending_begun(&self) -> Option<jiff::Timestamp> {
        let all = self.containers.values().filter(|c| c.running).filter_map(|c| c.ending_since);
        all.chain(self.ending).chain(self.ending_told).min()
    }

    fn begin_ending(&mut self, id: &str, now: jiff::Timestamp) {
        if let Some(instance) = self.containers.get_mut(id) {
            instance.ending_since.get_or_insert(now);
            instance.ending_since_now.get_or_insert(now);
        }
    }

    /// A running container of a wanted, unchanged, healthy pod is never stopped.
    fn check_may_stop(&self, id: &str, now: jiff::Timestamp) -> Verdict {
        let Some(instance) = self.containers.get(id).filter(|instance| instance.running) else {
            return Ok(());
        };
        if self.may_end(now) || instance.post_start_failed || instance.probes.failed() {
            return Ok(());
        }
        let Some(pod) = &self.wanted else { return Ok(()) };
        // A sync that was under way when the definition changed may have created it from the old one.
        let under_way = jiff::SignedDuration::from_secs(60);
        let changed = self.changed.get(&instance.name);
        if image_of(pod, &instance.name) != instance.image
            || changed.is_some_and(|at| instance.created_at.duration_since(*at) < under_way)
        {
            return Ok(());
        }
        Err(format!("{} ({id}) is healthy and wanted, and is stopped", instance.name))
    }

    /// Sidecars end after the apps, and in the reverse order of their start.
    fn check_order(&self, id: &str, now: jiff::Timestamp) -> Verdict {
        let Some(instance) = self.containers.get(id).filter(|instance| instance.running) else {
            return Ok(());
        };
        // Without a spec nothing is known of sidecars.
        let failed = instance.post_start_failed || instance.probes.failed();
        if self.role(&instance.name) != Some(Role::Sidecar) || !self.told || failed {
            return Ok(());
        }
        let Some(pod) = &self.known else { return Ok(()) };
        let begun = self.ending_begun().unwrap_or(now);
        if now.duration_since(begun).as_secs() >= self.least_grace() {
            return Ok(());
        }
        let containers = containers_of(pod);
        let own = containers.iter().position(|(name, _)| *name == instance.name).unwrap_or_default();
        for (name, role) in &containers[own + 1..] {
            let runs = self.running().any(|(_, other)| other.name == *name);
            if runs && *role != Role::Init {
                return Err(format!("sidecar {} is stopped while {name} runs", instance.name));
            }
        }
        Ok(())
    }

    fn check_hook_ran(&self, id: &str, now: jiff::Timestamp) -> Verdict {
        let Some(instance) = self.containers.get(id).filter(|instance| instance.running) else {
            return Ok(());
        };
        let spec = self.known.as_ref().and_then(|pod| pod.spec.clone()).unwrap_or_default();
        let hook = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .find(|c| c.name == instance.name)
            .and_then(|c| c.lifecycle.as_ref()?.pre_stop.as_ref()?.exec.as_ref());
        let begun = self.ending_begun().unwrap_or(now);
        let time_left = now.duration_since(begun).as_secs() < self.least_grace();
        if hook.is_some() && !instance.pre_stop_began && time_left {
            return Err(format!("{} ({id}) is stopped without its preStop hook", instance.name));
        }
        Ok(())
    }

    /// The runtime is given what is left of the grace: never more than was allowed, never less than upstream's
    /// minimum.
    fn check_grace(&self, id: &str, given: i64, now: jiff::Timestamp) -> Verdict {
        let Some(instance) = self.containers.get(id) else { return Ok(()) };
        let elapsed = instance.ending_since_now.map_or(0, |since| now.duration_since(since).as_secs());
        let most = (self.most_grace() - elapsed).max(MINIMUM_STOP_SECONDS);
        if given > most || given < MINIMUM_STOP_SECONDS {
            return Err(format!(
                "{} is given {given} s to stop; allowed are {MINIMUM_STOP_SECONDS} to {most}",
                instance.name
            ));
        }
        Ok(())
    }

    fn graces(&self) -> (i64, Option<i64>) {
        let spec = self.known.as_ref().and_then(|pod| pod.spec.as_ref());
        let own = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let deletion = self.known.as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
        (own.max(1), deletion.map(|grace| grace.max(1)))
    }

    fn least_grace(&self) -> i64 {
        let (own, deletion) = self.graces();
        own.min(deletion.unwrap_or(own))
    }

    fn most_grace(&self) -> i64 {
        let (own, deletion) = self.graces();
        if !self.told {
            return MINIMUM_STOP_SECONDS;
        }
        own.max(deletion.unwrap_or(own))
    }
}
