//! Starting: only what is wanted, in order, and nothing once a pod ends.

use rubelet_testkit::scripted::{Call, Fact, Op};

use super::{Judge, PodTruth, Verdict};
use crate::scenario::{Role, containers_of};

impl Judge<'_> {
    /// A call that starts something begins.
    pub(super) fn check_start_call(&mut self, call: &Call) -> Verdict {
        let (uid, now) = (&call.subject.pod_uid, self.now);
        if !self.delivered || !self.listed {
            return Err("something is started before the agent knows what is wanted and what runs".to_owned());
        }
        // What was decided at the very instant of the news may still be on its way.
        let news = self.delivered_at == now;
        let name = call.subject.pod_name.clone();
        if call.op == Op::RunPodSandbox
            && let Some((other, _)) = self.pods.iter().find(|(other, truth)| {
                *other != uid && truth.name == name && truth.running().next().is_some()
            })
        {
            return Err(format!("{uid} starts while {other} of the same name still runs"));
        }
        let Some(truth) = self.pods.get_mut(uid) else {
            return Err(format!("{uid} is started and was never wanted"));
        };
        let wanted = truth.wanted.as_ref().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        if wanted.is_none() {
            return if news { Ok(()) } else { Err(format!("{uid} is to end and something is started")) };
        }
        if truth.ending.take().is_some() {
            truth.ending_told = None;
            truth.statuses.begin_anew();
        }
        if let Some(phase) = truth.statuses.terminal() {
            return Err(format!("{uid} is {phase} and something is started"));
        }
        if call.op != Op::StartContainer {
            return Ok(());
        }
        let open = truth.hooks.values().find(|id| truth.containers.get(*id).is_some_and(|c| c.running));
        match open {
            Some(id) => Err(format!("the postStart hook of {id} is still under way")),
            None => Ok(()),
        }
    }

    /// A container runs.
    pub(super) fn check_started(&mut self, fact: &Fact) -> Verdict {
        let Some(truth) = self.pods.get(&fact.subject.pod_uid) else { return Ok(()) };
        let Some(pod) = &truth.known else { return Ok(()) };
        let Some(instance) = truth.containers.get(&fact.subject.id) else { return Ok(()) };
        let name = &fact.subject.container;
        if let Some((id, _)) =
            truth.running().find(|(id, other)| other.name == *name && **id != fact.subject.id)
        {
            return Err(format!("{name} runs twice: {id} and {}", fact.subject.id));
        }
        let Some(role) = truth.role(name) else { return Ok(()) };
        for (earlier, earlier_role) in containers_of(pod) {
            if earlier == *name {
                break;
            }
            match earlier_role {
                Role::Init if !in_sandbox(truth, &earlier, &instance.sandbox, |c| c.exit == Some(0)) => {
                    return Err(format!("{name} ({role:?}) starts before init container {earlier} is done"));
                }
                Role::Sidecar if !truth.passed.contains(&(instance.sandbox.clone(), earlier.clone())) => {
                    return Err(format!("{name} ({role:?}) starts before sidecar {earlier} did"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether any instance of a container in a sandbox is so.
fn in_sandbox(truth: &PodTruth, name: &str, sandbox: &str, so: impl Fn(&super::Instance) -> bool) -> bool {
    truth.containers.values().any(|c| c.name == name && c.sandbox == sandbox && so(c))
}
