//! A published status brought up to what the probes say now, without looking at the runtime: how a change of
//! readiness reaches the API at once. Whoever gets a verdict calls it; the next sync generates a whole status anyway.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};

use super::{conditions, containers};
use crate::containers::{init_containers, is_sidecar, spec_of};
use crate::verdicts::ProbeVerdicts;

/// `status`, the one generated or published last, with `started` and `ready` of its running containers and the
/// conditions that follow from them (Initialized, ContainersReady, Ready) as [`super::generate`] would say them for
/// these verdicts. Everything else stays, so that nothing is told that nobody has looked at: a phase that follows from
/// a sidecar which has started, above all, is the next sync's.
///
/// Readiness gates are judged by the conditions in `pod`, the API's copy.
pub fn with_verdicts(pod: &Pod, status: &PodStatus, verdicts: &ProbeVerdicts, now: Timestamp) -> PodStatus {
    let spec = spec_of(pod);
    let mut status = status.clone();
    for init in init_containers(spec) {
        judge(init, is_sidecar(init), status.init_container_statuses.as_mut(), verdicts);
    }
    for app in &spec.containers {
        judge(app, true, status.container_statuses.as_mut(), verdicts);
    }
    conditions::rejudge(pod, &mut status, now);
    status
}

/// Judges one container, if it runs.
fn judge(
    container: &Container,
    can_be_ready: bool,
    statuses: Option<&mut Vec<ContainerStatus>>,
    verdicts: &ProbeVerdicts,
) {
    let Some(status) = statuses.into_iter().flatten().find(|status| status.name == container.name) else {
        return;
    };
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let Some((_, id)) =
        status.container_id.as_deref().filter(|_| running).and_then(|id| id.split_once("://"))
    else {
        return;
    };
    let verdict = verdicts.of(&id.into());
    let (started, ready) = containers::judge_running(container, verdict, verdicts.probing, Some(status));
    status.started = Some(started);
    status.ready = can_be_ready && ready;
}
