//! Whether everybody agrees: the API holds what users want, its statuses say what the runtime runs, and nothing is left
//! of what nobody wants. Where every run has to arrive.

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::judge::{
    condition, is_mirror, is_node_ready, is_over, name_of, ready_sandboxes, running_ids, runtime_uid,
    statuses, uid_of,
};
use crate::scenario::{GATE, Kind, NODE, SimPod};
use crate::world::World;

/// What is still missing, if anything.
pub fn unsettled(world: &World) -> Option<String> {
    if !world.is_calm() {
        return Some("trouble is still to come".to_owned());
    }
    if !world.api.get::<Node>("", NODE).is_some_and(|node| is_node_ready(&node)) {
        return Some("the node is not ready".to_owned());
    }
    let pods: Vec<Pod> = world.api.list_all();
    for pod in &pods {
        if let Some(problem) = problem_of(world, pod) {
            return Some(format!("pod {} ({}): {problem}", name_of(pod), uid_of(pod)));
        }
    }
    for (place, uid) in &world.manifests {
        let name = world.pods[*place].api_name();
        let shown = pods.iter().any(|pod| is_mirror(pod) && runtime_uid(pod) == *uid);
        if !shown {
            return Some(format!("{name} has no mirror"));
        }
    }
    for (uid, name) in &world.uids {
        if pods.iter().any(|pod| runtime_uid(pod) == *uid) {
            continue;
        }
        if let Some(left) = world.judge.left_of(name, uid) {
            return Some(format!("{left} of {name} ({uid}) is left"));
        }
        let dir = world.root().join("pods").join(uid);
        if dir.exists() {
            return Some(format!("{} is left", dir.display()));
        }
    }
    None
}

fn problem_of(world: &World, pod: &Pod) -> Option<String> {
    let (name, uid) = (name_of(pod), runtime_uid(pod));
    let Some((place, made)) = world.pods.iter().enumerate().find(|(_, made)| made.api_name() == name) else {
        return Some("nobody made it".to_owned());
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("it is not gone yet".to_owned());
    }
    if is_mirror(pod) && world.manifests.get(&place) != Some(&uid) {
        return Some("it mirrors no manifest".to_owned());
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let reason = pod.status.as_ref().and_then(|status| status.reason.clone()).unwrap_or_default();
    if made.kind == Kind::TooBig {
        let right = phase == "Failed" && reason == "OutOfcpu";
        return (!right).then(|| format!("it does not fit and is told to be {phase} ({reason})"));
    }
    if is_over(pod) {
        return (made.kind != Kind::Job).then(|| format!("it is told to have {phase} ({reason})"));
    }
    let observed = pod.status.as_ref().and_then(|status| status.observed_generation);
    // A manifest has no generation, so that its mirror's is none that the node could have observed.
    if observed != pod.metadata.generation && !is_mirror(pod) {
        return Some(format!("observed generation {observed:?} of {:?}", pod.metadata.generation));
    }
    let runs = !running_ids(&world.cri, &name, &uid, "app").is_empty();
    if !runs && !world.is_provided(place) {
        return waits(made, pod, &phase);
    }
    if made.kind == Kind::Job {
        return Some(format!("it is told to be {phase} and is to end by itself"));
    }
    if ready_sandboxes(&world.cri, &name, &uid) != 1 {
        return Some("it has no sandbox".to_owned());
    }
    for status in statuses(pod) {
        let ids = running_ids(&world.cri, &name, &uid, &status.name);
        if status.name == "init" {
            if status.state.as_ref().is_none_or(|state| state.terminated.is_none()) {
                return Some(format!("its init container is told to be {:?}", status.state));
            }
            continue;
        }
        let told = status.container_id.as_deref().unwrap_or_default().rsplit("//").next().unwrap_or_default();
        let told_to_run = status.state.as_ref().is_some_and(|state| state.running.is_some());
        if ids.len() != 1 || ids[0] != told || !told_to_run || !status.ready {
            return Some(format!("of {} runs {ids:?} and told is {:?} {told}", status.name, status.state));
        }
    }
    let served = !made.gated || condition(pod, GATE) == Some("True");
    let ready = condition(pod, "Ready") == Some("True");
    if phase != "Running" || ready != served || condition(pod, "ContainersReady") != Some("True") {
        return Some(format!(
            "everything runs and it is told to be {phase} (ready: {ready}, gate: {served})"
        ));
    }
    let has_ip =
        pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some() && status.host_ip.is_some());
    (!has_ip).then(|| "it has no address".to_owned())
}

fn waits(made: &SimPod, pod: &Pod, phase: &str) -> Option<String> {
    let app = statuses(pod).find(|status| status.name == "app");
    let waiting = app.and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let expected = match made.need {
        Some(need) if need.is_env() => "CreateContainerConfigError",
        _ => "ContainerCreating",
    };
    // One that had run before waits with what it was, and one behind its init containers with that.
    let fine = phase != "Pending"
        || matches!(waiting.as_deref(), Some("PodInitializing"))
        || waiting.as_deref() == Some(expected);
    (!fine).then(|| format!("it waits for an object and is told to be {phase}, {waiting:?}"))
}
