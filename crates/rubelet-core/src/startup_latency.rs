//! How long pods take to start, by the rules of the scalability SIG's "pod startup latency" (upstream
//! `PodStartupLatencyTracker`): from a pod's creation until the API shows all its containers running, without the time
//! its images were pulled and its init containers ran.
//!
//! Counted are pods that were seen before they had begun, and that could be scheduled at once. Fed by the API source
//! and by workers; what comes out becomes metrics. Only pods that are starting are remembered.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus, Volume};

use crate::Pod;
use crate::containers::{init_containers, is_sidecar};
use crate::ids::{PodUid, pod_uid};
use crate::phase::Phase;

/// Pulls of one pod that are remembered: more containers than any pod has.
const MAX_PULLS: usize = 256;

/// How long one pod took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartupTimes {
    /// From its creation on, with everything.
    pub total: SignedDuration,
    /// Without pulls and init containers; `None` for a pod whose volumes may keep data, which takes the time of others.
    pub indicator: Option<SignedDuration>,
    /// Whether it has a network of its own.
    pub own_network: bool,
}

/// The pods that are starting.
#[derive(Debug, Default)]
pub struct Startups {
    pods: BTreeMap<PodUid, Startup>,
}

#[derive(Debug)]
enum Startup {
    /// It waited for a scheduler: its time says nothing about this node.
    Excluded,
    /// Its pulls so far.
    Starting(Vec<(Timestamp, Timestamp)>),
}

impl Startups {
    /// The API shows a pod like this since `at`. Returns its times when this is the first sight of it started.
    pub fn seen(&mut self, pod: &Pod, at: Timestamp) -> Option<StartupTimes> {
        let uid = pod_uid(pod);
        let empty = PodStatus::default();
        let status = pod.status.as_ref().unwrap_or(&empty);
        if Phase::of(status).is_some_and(Phase::is_terminal) {
            self.pods.remove(&uid);
            return None;
        }
        match self.pods.get_mut(&uid) {
            // One that has begun was seen by an earlier run of the agent, or was told already.
            None if status.start_time.is_some() => return None,
            None => {
                let began =
                    if is_unschedulable(status) { Startup::Excluded } else { Startup::Starting(Vec::new()) };
                self.pods.insert(uid, began);
                return None;
            }
            Some(Startup::Excluded) => return None,
            Some(startup) if is_unschedulable(status) => {
                *startup = Startup::Excluded;
                return None;
            }
            Some(Startup::Starting(_)) => {}
        }
        if !has_started(pod, status) {
            return None;
        }
        let Some(Startup::Starting(pulls)) = self.pods.remove(&uid) else { return None };
        let created = pod.metadata.creation_timestamp.as_ref()?.0;
        let total = at.duration_since(created).max(SignedDuration::ZERO);
        let spec = pod.spec.as_ref()?;
        let keeps_data = spec.volumes.iter().flatten().any(keeps_data);
        let own_part = total.checked_sub(covered(pulls))?.checked_sub(init_time(pod, status))?;
        Some(StartupTimes {
            total,
            indicator: (!keeps_data).then_some(own_part.max(SignedDuration::ZERO)),
            own_network: !spec.host_network.unwrap_or(false),
        })
    }

    /// An image of a pod was pulled between these times.
    pub fn pulled(&mut self, uid: &PodUid, from: Timestamp, until: Timestamp) {
        if let Some(Startup::Starting(pulls)) = self.pods.get_mut(uid)
            && pulls.len() < MAX_PULLS
        {
            pulls.push((from, until));
        }
    }

    /// Forgets a pod that is gone.
    pub fn forget(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
    }

    /// Forgets every pod but these.
    pub fn keep(&mut self, known: impl Fn(&PodUid) -> bool) {
        self.pods.retain(|uid, _| known(uid));
    }
}

/// Time that is covered by at least one of these.
fn covered(mut spans: Vec<(Timestamp, Timestamp)>) -> SignedDuration {
    spans.sort_unstable();
    let mut total = SignedDuration::ZERO;
    let mut end = Timestamp::MIN;
    for (from, until) in spans {
        let from = from.max(end);
        if until > from {
            total = total.saturating_add(until.duration_since(from));
            end = until;
        }
    }
    total
}

/// Whether every container has been started and runs.
fn has_started(pod: &Pod, status: &PodStatus) -> bool {
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    let runs = |status: &ContainerStatus| {
        status.state.as_ref().and_then(|state| state.running.as_ref()?.started_at.as_ref()).is_some()
    };
    statuses.len() >= containers && statuses.iter().all(runs)
}

/// The time that init containers ran; those that go on beside the others do not count.
fn init_time(pod: &Pod, status: &PodStatus) -> SignedDuration {
    let Some(spec) = &pod.spec else { return SignedDuration::ZERO };
    let ran = |status: &ContainerStatus| {
        let ended = status.state.as_ref()?.terminated.as_ref()?;
        Some(ended.finished_at.as_ref()?.0.duration_since(ended.started_at.as_ref()?.0))
    };
    let times = status.init_container_statuses.iter().flatten().filter(|status| {
        init_containers(spec).iter().any(|init| init.name == status.name && !is_sidecar(init))
    });
    times
        .filter_map(ran)
        .fold(SignedDuration::ZERO, |sum, ran| sum.saturating_add(ran.max(SignedDuration::ZERO)))
}

fn is_unschedulable(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

/// Whether a volume may hold data that outlives the pod, so that making it takes other parties' time.
fn keeps_data(volume: &Volume) -> bool {
    volume.secret.is_none()
        && volume.config_map.is_none()
        && volume.downward_api.is_none()
        && volume.empty_dir.is_none()
        && volume.projected.is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn pod(spec: &Value, status: &Value) -> Pod {
        let mut value = json!({
            "metadata": { "uid": "u", "name": "p", "creationTimestamp": time(0).to_string() },
            "spec": { "containers": [{ "name": "a" }], "initContainers": [
                { "name": "i" },
                { "name": "s", "restartPolicy": "Always" },
            ] },
            "status": status,
        });
        for (key, part) in spec.as_object().into_iter().flatten() {
            value["spec"][key] = part.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn running() -> Value {
        json!({
            "phase": "Running",
            "startTime": time(1).to_string(),
            "containerStatuses": [container("a", "running", 10, 0)],
        })
    }

    fn container(name: &str, state: &str, from: i64, until: i64) -> Value {
        let mut of = json!({ "startedAt": time(from).to_string() });
        if state == "terminated" {
            of["finishedAt"] = json!(time(until).to_string());
            of["exitCode"] = json!(0);
        }
        json!({
            "name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": { state: of },
        })
    }

    /// Shows the statuses one after the other, 0 s, 20 s, 40 s … after the creation, with these pulls before the last.
    fn check(spec: Value, statuses: &[Value], pulls: &[(i64, i64)], expected: Option<(i64, Option<i64>)>) {
        let mut startups = Startups::default();
        let mut told = vec![];
        for (index, status) in statuses.iter().enumerate() {
            if index + 1 == statuses.len() {
                for (from, until) in pulls {
                    startups.pulled(&PodUid::from("u"), time(*from), time(*until));
                }
            }
            told.extend(startups.seen(&pod(&spec, status), time(20 * index as i64)));
        }
        let told: Vec<_> =
            told.iter().map(|t| (t.total.as_secs(), t.indicator.map(|time| time.as_secs()))).collect();
        assert_eq!(told, expected.into_iter().collect::<Vec<_>>(), "{statuses:?}");
    }

    #[test]
    fn a_start_is_measured_from_creation_to_the_first_sight_of_it_running() {
        let new = || json!({});
        check(json!({}), &[new(), running()], &[], Some((20, Some(20))));
        // Told once, however often it is seen.
        check(json!({}), &[new(), running(), running()], &[], Some((20, Some(20))));
        // Seen for the first time when it ran already: another run of the agent started it.
        check(json!({}), &[running(), running()], &[], None);
        let begun = json!({ "startTime": time(1).to_string() });
        check(json!({}), &[begun.clone(), running()], &[], None);
        check(json!({}), &[new(), begun, running()], &[], Some((40, Some(40))));
        // Not every container runs.
        check(json!({ "containers": [{ "name": "a" }, { "name": "b" }] }), &[new(), running()], &[], None);
        let mut half = running();
        half["containerStatuses"].as_array_mut().unwrap().push(container("b", "terminated", 1, 2));
        check(json!({}), &[new(), half], &[], None);
        check(json!({}), &[new(), json!({ "phase": "Failed" }), running()], &[], None);
    }

    #[test]
    fn pulls_and_init_containers_are_not_the_nodes_time() {
        let new = || json!({});
        check(json!({}), &[new(), running()], &[(1, 3), (2, 5), (2, 3), (9, 10)], Some((20, Some(15))));
        // A clock that was set back.
        check(json!({}), &[new(), running()], &[(5, 3)], Some((20, Some(20))));
        check(json!({}), &[new(), running()], &[(-100, 100)], Some((20, Some(0))));
        let mut init = running();
        init["initContainerStatuses"] =
            json!([container("i", "terminated", 2, 6), container("s", "terminated", 2, 9)]);
        check(json!({}), &[new(), init], &[(0, 2)], Some((20, Some(14))));
    }

    #[test]
    fn pods_that_wait_for_others_have_no_indicator() {
        let new = || json!({});
        let waiting = || json!({ "conditions": [{ "type": "PodScheduled", "status": "False" }] });
        check(json!({}), &[waiting(), new(), running()], &[], None);
        check(json!({}), &[new(), waiting(), running()], &[], None);
        for (volume, keeps) in [
            (json!({ "name": "v", "emptyDir": {} }), false),
            (json!({ "name": "v", "secret": {} }), false),
            (json!({ "name": "v", "projected": {} }), false),
            (json!({ "name": "v", "hostPath": { "path": "/" } }), true),
            (json!({ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }), true),
        ] {
            let spec = json!({ "volumes": [volume] });
            check(spec, &[new(), running()], &[], Some((20, (!keeps).then_some(20))));
        }
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut startups = Startups::default();
        startups.seen(&pod(&json!({}), &json!({})), time(0));
        startups.forget(&PodUid::from("u"));
        assert!(startups.pods.is_empty());
        startups.seen(&pod(&json!({}), &json!({})), time(0));
        startups.keep(|_| false);
        assert!(startups.pods.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_covered_is_no_more_than_the_sum_and_no_more_than_the_whole(
            spans in prop::collection::vec((0_i64..100, 0_i64..100), 0..20)
        ) {
            let spans: Vec<_> = spans.into_iter().map(|(from, until)| (time(from), time(until))).collect();
            let seconds: usize = (0..100)
                .filter(|second| spans.iter().any(|(from, until)| *from <= time(*second) && time(*second) < *until))
                .count();
            prop_assert_eq!(covered(spans).as_secs(), seconds as i64);
        }
    }
}
