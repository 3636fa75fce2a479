//! What a pod says of its waiting, and how often. Real agent, fake API, scripted runtime, paused clock: every version of
//! a pod that the API ever had is looked at, so that what is written too early, too often or left behind is seen.

mod in_process;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition};
use rubelet::clock::Clock;
use rubelet::node_agent::NodeFlags;

use rubelet_cri::CriErrorKind;
use rubelet_testkit::fake_api::{Failure, Fault};
use rubelet_testkit::scripted::{
    BASE_SECOND, Behaviour, ExecScript, Fault as RuntimeFault, Op, PullScript, RuntimeKind,
};
use rubelet_testkit::{FakeApi, ScriptedCri};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

const NODE: &str = "n1";

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct World {
    api: FakeApi,
    cri: ScriptedCri,
    _dir: TempDir,
}

impl World {
    async fn start() -> Self {
        let cri = ScriptedCri::new(RuntimeKind::Containerd2);
        let dir = tempfile::tempdir().expect("a world of the test's own");
        let root = dir.path().join("root");
        let api = FakeApi::new();
        let base = Timestamp::from_second(BASE_SECOND).expect("a world of the test's own");
        let agent = in_process::agent(in_process::config(&root), &root, NODE, Clock::simulated(base));
        let runtime = Arc::new(cri.clone());
        let kubelet = in_process::join(agent, &api, NODE, NodeFlags::default())
            .runtime(runtime.clone(), runtime)
            .build()
            .await
            .expect("a world of the test's own");
        tokio::spawn(kubelet.run(std::future::pending()));
        // The agent is at rest before anything is asked of it.
        tokio::time::sleep(secs(5)).await;
        Self { api, cri, _dir: dir }
    }

    fn create(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!(NODE);
        self.api.create_json(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec}));
    }

    fn pod(&self, name: &str) -> Option<Pod> {
        self.api.get("default", name)
    }

    /// Every version of a pod.
    fn versions(&self, name: &str) -> Vec<Pod> {
        let uid = self.pod(name).and_then(|pod| pod.metadata.uid).unwrap_or_default();
        self.api.history(&uid)
    }

    /// What a container was ever told to wait for, each text once, in order; an empty one for none.
    fn messages(&self, name: &str, container: &str) -> Vec<String> {
        let mut messages: Vec<String> =
            self.versions(name).iter().map(|pod| waiting(pod, container).1).collect();
        messages.dedup();
        messages
    }

    /// Messages of the events of a pod with this reason, each with its count.
    fn events(&self, name: &str, reason: &str) -> Vec<(String, i32)> {
        let mut events: Vec<Event> = self.api.list("default");
        events.retain(|event| {
            event.involved_object.name.as_deref() == Some(name) && event.reason.as_deref() == Some(reason)
        });
        events.sort_by_key(|event| event.first_timestamp.as_ref().map(|time| time.0));
        events
            .into_iter()
            .map(|event| (event.message.unwrap_or_default(), event.count.unwrap_or(0)))
            .collect()
    }

    /// Waits until a pod is as wanted; how long that took.
    async fn until(&self, name: &str, what: &str, so: impl Fn(&Pod) -> bool) -> Duration {
        let began = Instant::now();
        while !self.pod(name).is_some_and(|pod| so(&pod)) {
            let status = || self.pod(name).and_then(|pod| pod.status);
            assert!(
                began.elapsed() < secs(1200),
                "{name} is never {what}: {:?} {:?}",
                self.events(name, "FailedMount"),
                status()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        began.elapsed()
    }

    async fn until_ready(&self, name: &str) -> Duration {
        self.until(name, "ready", |pod| condition(pod, "Ready").status == "True").await
    }

    async fn until_gone(&self, name: &str) -> Duration {
        let began = Instant::now();
        while self.pod(name).is_some() {
            assert!(began.elapsed() < secs(1200), "{name} is never gone");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        began.elapsed()
    }
}

/// Reason and message of a container that waits; empty when it does not.
fn waiting(pod: &Pod, container: &str) -> (String, String) {
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    let waiting = statuses
        .filter(|status| status.name == container)
        .find_map(|status| status.state.as_ref()?.waiting.clone())
        .unwrap_or_default();
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}

fn condition(pod: &Pod, wanted: &str) -> PodCondition {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == wanted).cloned().unwrap_or_default()
}

/// Reason and message of a condition.
fn words(condition: &PodCondition) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{} {}: {}", condition.status, text(&condition.reason), text(&condition.message))
}

fn two_containers() -> Value {
    json!({"containers": [{"name": "a", "image": "slow:1"}, {"name": "b", "image": "here:1"}]})
}

#[tokio::test(start_paused = true)]
async fn a_slow_pull_is_explained_ever_more_rarely() {
    let world = World::start().await;
    world.cri.script_pull("slow:1", [PullScript::takes(secs(200))]);
    world.create("web", two_containers());
    world.until_ready("web").await;
    let pulling = |seconds: &str| format!("pulling image \"slow:1\" ({seconds} so far)");
    assert_eq!(
        world.messages("web", "a"),
        [
            "",
            &pulling("5 s"),
            &pulling("15 s"),
            &pulling("35 s"),
            &pulling("75 s"),
            &pulling("2 min 15 s"),
            &pulling("3 min 15 s"),
            ""
        ]
    );
    assert_eq!(world.messages("web", "b"), ["", "image pull of container \"a\" comes first", ""]);
    for pod in world.versions("web") {
        let (reason, _) = waiting(&pod, "a");
        assert!(matches!(reason.as_str(), "" | "ContainerCreating"), "{reason}");
        let start = condition(&pod, "PodReadyToStartContainers");
        assert!(start.reason.is_none() && start.message.is_none(), "{}", words(&start));
    }
    let told: Vec<String> = world.events("web", "Pulling").into_iter().map(|(message, _)| message).collect();
    let still = |seconds: &str| format!("Still pulling image \"slow:1\": {seconds} so far");
    let expected = ["Pulling image \"slow:1\"", &still("75 s"), &still("2 min 15 s")];
    for text in expected {
        assert!(told.iter().any(|message| message == text), "{text:?} is not among {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fast_start_costs_no_write_more() {
    let world = World::start().await;
    let mut versions = vec![];
    for (name, takes) in [("first", 0), ("second", 4)] {
        let image = format!("{name}:1");
        world.cri.script_pull(&image, [PullScript::takes(secs(takes))]);
        world.create(name, json!({"containers": [{"name": "a", "image": image}]}));
        world.until_ready(name).await;
        assert_eq!(world.messages(name, "a"), [""]);
        versions.push(world.versions(name).len());
    }
    assert_eq!(versions[0], versions[1]);
}

#[tokio::test(start_paused = true)]
async fn pulls_that_wait_for_their_turn_say_so() {
    let world = World::start().await;
    // Five at a time, by default.
    for number in 0..6 {
        let image = format!("slow{number}:1");
        world.cri.script_pull(&image, [PullScript::takes(secs(60))]);
        world.create(&format!("p{number}"), json!({"containers": [{"name": "a", "image": image}]}));
        tokio::time::sleep(secs(1)).await;
    }
    world.until_ready("p5").await;
    let messages = world.messages("p5", "a");
    assert_eq!(messages[1], "image \"slow5:1\" waits for a pull slot behind 5 others");
    assert!(messages.iter().any(|text| text.starts_with("pulling image \"slow5:1\"")), "{messages:?}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_named_once_and_forgotten() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    world.create(
        "web",
        json!({"containers": [{"name": "a", "image": "here:1", "volumeMounts": [{"name": "y", "mountPath": "/y"}]}],
            "volumes": [{"name": "y", "secret": {"secretName": "z"}}]}),
    );
    let told = |pod: &Pod| !waiting(pod, "a").1.is_empty();
    let after = world.until("web", "told what it waits for", told).await;
    assert!((secs(5)..secs(16)).contains(&after), "{after:?}");
    tokio::time::sleep(secs(600)).await;
    let pod = world.pod("web").expect("a pod");
    let text = "volume \"y\" is not ready: secret \"z\" not found";
    assert_eq!(waiting(&pod, "a"), ("ContainerCreating".to_owned(), text.to_owned()));
    let start = condition(&pod, "PodReadyToStartContainers");
    assert_eq!(words(&start), format!("False VolumesNotReady: {text}"));
    assert_eq!(world.messages("web", "a"), ["", text]);
    // Creation, the first status and the explanation.
    assert!(world.versions("web").len() <= 4, "{} versions", world.versions("web").len());

    world.api.create_json(&json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "z", "namespace": "default"}, "data": {"k": "aHVzaA=="}}));
    world.until_ready("web").await;
    let pod = world.pod("web").expect("a pod");
    assert_eq!(words(&condition(&pod, "PodReadyToStartContainers")), "True : ");
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_hangs_is_named_soon() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    let hangs = world.api.fail(Fault::on("get", "persistentvolumeclaims", Failure::Hang));
    world.create(
        "web",
        json!({"containers": [{"name": "a", "image": "here:1", "volumeMounts": [
                {"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "tmp", "emptyDir": {}}]}),
    );
    let told = |pod: &Pod| !waiting(pod, "a").1.is_empty();
    let after = world.until("web", "told what it waits for", told).await;
    assert!(after < secs(7), "{after:?}");
    let pod = world.pod("web").expect("a pod");
    let text = "setting up volume \"data\" since 5 s";
    assert_eq!(waiting(&pod, "a").1, text);
    assert_eq!(
        words(&condition(&pod, "PodReadyToStartContainers")),
        format!("False VolumesNotReady: {text}")
    );
    tokio::time::sleep(secs(10)).await;
    // The request is given up after 10 s.
    let events = world.events("web", "FailedMount");
    assert!(events.len() == 1 && events[0].0.contains("unmounted volumes=[data]"), "{events:?}");
    // A pod that waits so is not kept from ending.
    world.api.delete_with_grace::<Pod>("default", "web", 1);
    assert!(world.until_gone("web").await < secs(10));
    hangs.stop();
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_slow_is_named_while_it_is_made() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    let claim = world.api.create_json(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "claim", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            "volumeName": "pv", "storageClassName": ""}}));
    world.api.create_json(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp"},
            "claimRef": {"namespace": "default", "name": "claim", "uid": "of another claim"}}}));
    world.api.modify_status::<PersistentVolumeClaim>("default", "claim", |claim| {
        claim.status.get_or_insert_default().phase = Some("Bound".to_owned());
    });
    for resource in ["persistentvolumeclaims", "persistentvolumes"] {
        world.api.fail(Fault::on("get", resource, Failure::SlowBody(secs(9))));
    }
    world.create(
        "web",
        json!({"containers": [{"name": "a", "image": "here:1",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}]}),
    );
    tokio::time::sleep(secs(17)).await;
    let slow = "MountVolume.SetUp for volume \"data\" has not finished after 15 s";
    assert_eq!(world.events("web", "FailedMount"), [(slow.to_owned(), 1)]);
    // Each attempt takes 18 s and fails: from the first one on it is the reason that is told, and not often.
    tokio::time::sleep(secs(400)).await;
    let text = |seconds| format!("setting up volume \"data\" since {seconds} s");
    let why = "volume \"data\" is not ready: error processing PVC default/claim: found PV object pv but its \
               pv.Spec.ClaimRef.UID of another claim does not point to claim.UID "
        .to_owned();
    let messages = world.messages("web", "a");
    let uid = claim["metadata"]["uid"].as_str().expect("a UID");
    assert_eq!(messages, [String::new(), text(5), text(15), why + uid]);
    let told: i32 = world
        .events("web", "FailedMount")
        .iter()
        .filter(|(text, _)| text == slow)
        .map(|(_, count)| count)
        .sum();
    assert!((3..=6).contains(&told), "told {told} times");

    world.api.modify::<PersistentVolume>("", "pv", |volume| {
        let spec = volume.spec.get_or_insert_default();
        spec.claim_ref.get_or_insert_default().uid = Some(uid.to_owned());
    });
    world.until_ready("web").await;
    let pod = world.pod("web").expect("a pod");
    assert_eq!(words(&condition(&pod, "PodReadyToStartContainers")), "True : ");
}

#[tokio::test(start_paused = true)]
async fn a_slow_sandbox_and_a_slow_hook_are_explained() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    world.cri.inject_for(Op::RunPodSandbox, "web", RuntimeFault::Delay(secs(20)), 1);
    world.cri.script_exec("web", "a", "", [ExecScript { takes: secs(20), ..ExecScript::default() }]);
    world.create(
        "web",
        json!({"containers": [
            {"name": "a", "image": "here:1", "lifecycle": {"postStart": {"exec": {"command": ["hook"]}}}},
            {"name": "b", "image": "here:1"},
        ]}),
    );
    world.until_ready("web").await;
    let sandbox = |seconds| format!("creating the pod sandbox (network) since {seconds} s");
    let hook = |seconds| format!("postStart hook of container \"a\" running since {seconds} s");
    let texts = [String::new(), sandbox(5), sandbox(15), String::new(), hook(5), hook(15), String::new()];
    assert_eq!(world.messages("web", "a"), texts);
    let behind = "start of container \"a\" comes first".to_owned();
    let texts = [String::new(), sandbox(5), sandbox(15), String::new(), behind, String::new()];
    assert_eq!(world.messages("web", "b"), texts);
    let mut starts: Vec<String> = world
        .versions("web")
        .iter()
        .map(|pod| words(&condition(pod, "PodReadyToStartContainers")))
        .filter(|words| words != " : ")
        .collect();
    starts.dedup();
    let not_yet = |seconds| format!("False SandboxNotReady: {}", sandbox(seconds));
    assert_eq!(starts, ["False : ".to_owned(), not_yet(5), not_yet(15), "True : ".to_owned()]);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_made_says_why_without_a_storm() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    world.cri.inject_for(Op::RunPodSandbox, "web", RuntimeFault::ErrorBefore(CriErrorKind::Unknown), 1000);
    world.create("web", json!({"containers": [{"name": "a", "image": "here:1"}]}));
    tokio::time::sleep(secs(300)).await;
    let pod = world.pod("web").expect("a pod");
    let (reason, message) = waiting(&pod, "a");
    assert_eq!(reason, "ContainerCreating");
    assert!(message.starts_with("Failed to create pod sandbox: "), "{message}");
    assert!(
        words(&condition(&pod, "PodReadyToStartContainers")).starts_with("False SandboxNotReady: Failed")
    );
    assert!(world.versions("web").len() <= 4, "{} versions", world.versions("web").len());
}

#[tokio::test(start_paused = true)]
async fn back_offs_name_the_next_attempt_and_do_not_flicker() {
    let world = World::start().await;
    world.cri.script_pull("gone:1", [PullScript::fails(CriErrorKind::NotFound, "no such image")]);
    world.cri.add_image("here:1", 1000);
    world.cri.script_container("crash", "a", [Behaviour::exits(secs(1), 3)]);
    world.create("pull", json!({"containers": [{"name": "a", "image": "gone:1"}]}));
    world.create("crash", json!({"containers": [{"name": "a", "image": "here:1"}]}));
    // Pull back-offs of 10, 20, 40, 80 and 160 s, and one that goes on.
    tokio::time::sleep(secs(400)).await;
    for (name, reason, start) in [
        ("pull", "ImagePullBackOff", "Back-off pulling image \"gone:1\": ErrImagePull: "),
        ("crash", "CrashLoopBackOff", "back-off "),
    ] {
        let pod = world.pod(name).expect("a pod");
        let (told, message) = waiting(&pod, "a");
        assert_eq!(told, reason);
        assert!(message.starts_with(start), "{message}");
        let (_, at) = message.rsplit_once("; next attempt at ").expect("a time");
        assert!(at.parse::<Timestamp>().expect("a time") > world.cri.now(), "{message}");
        let mut told: Vec<(String, String)> =
            world.versions(name).iter().map(|pod| waiting(pod, "a")).collect();
        told.retain(|(told, _)| told == reason);
        let written = told.len();
        told.dedup();
        assert_eq!(told.len(), written, "each is written once");
        assert!(written <= 6, "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_trouble_with_an_image_is_told_with_its_reason_too() {
    let world = World::start().await;
    world.cri.script_pull("gone:1", [PullScript::fails(CriErrorKind::NotFound, "no such image")]);
    world.create("pull", json!({"containers": [{"name": "a", "image": "gone:1"}]}));
    world.create(
        "never",
        json!({"containers": [{"name": "a", "image": "gone:1", "imagePullPolicy": "Never"}]}),
    );
    tokio::time::sleep(secs(8)).await;
    for (name, told) in [
        (
            "pull",
            &[
                "Failed to pull image \"gone:1\": no such image",
                "Error: ErrImagePull",
                "Error: ImagePullBackOff",
            ][..],
        ),
        ("never", &["Error: ErrImageNeverPull"]),
    ] {
        let mut failed: Vec<String> =
            world.events(name, "Failed").into_iter().map(|(message, _)| message).collect();
        failed.dedup();
        assert_eq!(failed, told, "of {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_has_stopped_is_not_asked_while_others_of_its_pod_stop() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    world.cri.script_container("web", "slow", [Behaviour { stop_takes: secs(25), ..Behaviour::forever() }]);
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 2, "timeoutSeconds": 1});
    world.create(
        "web",
        json!({
            "containers": [
                {"name": "slow", "image": "here:1"},
                {"name": "quick", "image": "here:1", "readinessProbe": probe},
            ],
            "terminationGracePeriodSeconds": 30,
        }),
    );
    world.until_ready("web").await;
    world.api.delete_with_grace::<Pod>("default", "web", 30);
    let took = world.until_gone("web").await;
    assert!(took >= secs(20), "{took:?}");
    assert_eq!(world.events("web", "Unhealthy"), []);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_is_told_while_another_one_waits_for_its_image() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    world.cri.script_pull("slow:1", [PullScript::takes(secs(300))]);
    world.cri.script_container("web", "first", [Behaviour::exits(secs(60), 4), Behaviour::forever()]);
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 2, "timeoutSeconds": 1});
    world.create(
        "web",
        json!({"containers": [
            {"name": "first", "image": "here:1", "readinessProbe": probe},
            {"name": "late", "image": "slow:1"},
        ]}),
    );
    let container = |pod: &Pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let first = statuses.iter().find(|status| status.name == "first")?;
        let ended = first.state.as_ref()?.terminated.as_ref().map(|ended| ended.exit_code);
        Some((first.ready, ended))
    };
    world.until("web", "probed", |pod| container(pod) == Some((true, None))).await;
    let took = world.until("web", "told", |pod| container(pod) == Some((false, Some(4)))).await;
    assert!((secs(55)..secs(65)).contains(&took), "{took:?}");
    assert_eq!(waiting(&world.pod("web").expect("a pod"), "late").0, "ContainerCreating");
    tokio::time::sleep(secs(60)).await;
    let unhealthy = world.events("web", "Unhealthy");
    assert!(unhealthy.iter().map(|(_, count)| count).sum::<i32>() <= 1, "{unhealthy:?}");
    assert!(world.versions("web").len() <= 13, "{} versions", world.versions("web").len());
    world.until_ready("web").await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_does_not_stop_is_named() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    world.create(
        "web",
        json!({"containers": [{"name": "deaf", "image": "here:1"}], "terminationGracePeriodSeconds": 30}),
    );
    world.until_ready("web").await;
    world.cri.inject_for(Op::StopContainer, "web", RuntimeFault::Hang, 1);
    world.api.delete_with_grace::<Pod>("default", "web", 30);
    let took = world.until_gone("web").await;
    assert!(took >= secs(120), "{took:?}");
    let told: Vec<String> =
        world.events("web", "ExceededGracePeriod").into_iter().map(|(message, _)| message).collect();
    let stuck = |ago: &str| {
        format!("Container deaf does not stop: it was told to {ago} ago, with a grace period of 30 s")
    };
    assert_eq!(told, [stuck("40 s"), stuck("60 s"), stuck("100 s")]);
    // The runtime's silence itself is told when the call is given up.
    assert_eq!(world.events("web", "FailedKillPod").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_stops_in_time_is_nobodys_business() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    world.cri.script_container("web", "slow", [Behaviour::forever().stopping_for(secs(25))]);
    world.create(
        "web",
        json!({"containers": [{"name": "slow", "image": "here:1"}], "terminationGracePeriodSeconds": 30}),
    );
    world.until_ready("web").await;
    world.api.delete_with_grace::<Pod>("default", "web", 30);
    world.until_gone("web").await;
    for reason in ["ExceededGracePeriod", "FailedKillPod", "FailedUnmount"] {
        assert!(world.events("web", reason).is_empty(), "{:?}", world.events("web", reason));
    }
}

#[tokio::test(start_paused = true)]
async fn what_else_an_end_waits_for_is_named() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    for (name, op, text) in [
        ("sandbox", Op::StopPodSandbox, "Pod waits for the runtime to stop its sandbox"),
        ("removal", Op::RemoveContainer, "Pod waits for the runtime to remove its containers"),
    ] {
        world.create(
            name,
            json!({"containers": [{"name": "a", "image": "here:1"}], "terminationGracePeriodSeconds": 1}),
        );
        world.until_ready(name).await;
        world.cri.inject_for(op, name, RuntimeFault::Delay(secs(45)), 1);
        world.api.delete_with_grace::<Pod>("default", name, 1);
        // The name is in the API until the pod has ended; containers go after it.
        world.until_gone(name).await;
        tokio::time::sleep(secs(60)).await;
        let told = world.events(name, "FailedKillPod");
        assert_eq!(told.len(), 2, "{told:?}");
        for ((message, count), seconds) in told.iter().zip(["10 s", "30 s"]) {
            assert!(message.starts_with(text) && message.contains(seconds), "{message}");
            assert_eq!(*count, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_an_end_are_told_ever_more_rarely() {
    let world = World::start().await;
    world.cri.add_image("here:1", 1000);
    world.create(
        "web",
        json!({"containers": [{"name": "a", "image": "here:1"}], "terminationGracePeriodSeconds": 1}),
    );
    world.until_ready("web").await;
    world.cri.inject_for(Op::StopContainer, "web", RuntimeFault::ErrorBefore(CriErrorKind::Unknown), 1000);
    world.api.delete_with_grace::<Pod>("default", "web", 1);
    tokio::time::sleep(secs(400)).await;
    let told: i32 = world.events("web", "FailedKillPod").iter().map(|(_, count)| count).sum();
    assert!((3..=7).contains(&told), "told {told} times");
    world.cri.stop_faults();
    world.until_gone("web").await;
}
