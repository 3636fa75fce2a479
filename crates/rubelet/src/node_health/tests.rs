//! Telling of trouble, on a paused clock and a scripted runtime.

use std::sync::Arc;
use std::time::Duration;

use rubelet_core::node::lists::ListTrouble;
use rubelet_cri::{RuntimeService, v1};
use rubelet_server::metrics::Metrics;
use rubelet_testkit::ScriptedCri;
use rubelet_testkit::scripted::{Fault, Op, RuntimeKind};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::clock::Clock;
use crate::events::EventRecorder;
use crate::fs_pool::FsPool;

struct Rig {
    cri: ScriptedCri,
    runtime: Arc<dyn RuntimeService>,
    pleg: Pleg,
    state: watch::Sender<RuntimeState>,
    events: EventRecorder,
    metrics: Metrics,
    tasks: JoinSet<()>,
}

fn start() -> Rig {
    let cri = ScriptedCri::new(RuntimeKind::Containerd2);
    let (runtime, calls) = watched(Arc::new(cri.clone()));
    let clock = Clock::simulated(cri.now());
    let metrics = Metrics::new();
    let pleg = Pleg::new(runtime.clone(), FsPool::inline(), metrics.clone(), clock.clone());
    let (state, runtime_state) = watch::channel(RuntimeState::default());
    let events = EventRecorder::new(clock);
    let parts = Parts {
        pleg: pleg.clone(),
        runtime_state,
        events: events.clone(),
        metrics: metrics.clone(),
        node_name: "node-1".to_owned(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(run(calls, parts));
    Rig { cri, runtime, pleg, state, events, metrics, tasks }
}

fn sandbox_config(pod: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.to_owned(),
            uid: format!("{pod}-uid"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        labels: [
            ("io.kubernetes.pod.uid".to_owned(), format!("{pod}-uid")),
            ("io.kubernetes.pod.name".to_owned(), pod.to_owned()),
            ("io.kubernetes.pod.namespace".to_owned(), "default".to_owned()),
        ]
        .into_iter()
        .collect(),
        ..Default::default()
    }
}

impl Rig {
    /// Runs a sandbox.
    async fn run_sandbox(&self, pod: &str) -> String {
        let config = Some(sandbox_config(pod));
        let request = v1::RunPodSandboxRequest { config, runtime_handler: String::new() };
        self.runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id
    }

    /// A worker that looks at a pod again and again.
    fn watch_pod(&mut self, pod: &str) {
        let (pleg, uid) = (self.pleg.clone(), rubelet_core::ids::PodUid::from(format!("{pod}-uid").as_str()));
        self.tasks.spawn(async move {
            loop {
                let _ = pleg.observe(&uid).await;
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
    }

    /// What was told: reason, whom, message.
    fn told(&self) -> Vec<(String, String, String)> {
        let told = self.events.snapshot();
        told.into_iter().map(|event| (event.reason, event.subject.name, event.message)).collect()
    }

    fn reasons(&self) -> Vec<(String, String)> {
        self.told().into_iter().map(|(reason, name, _)| (reason, name)).collect()
    }

    fn stuck(&self) -> Option<f64> {
        self.metrics.runtime.stuck_pods.get()
    }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

fn pair(reason: &str, name: &str) -> (String, String) {
    (reason.to_owned(), name.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_status_hangs_is_told_alone() {
    let mut rig = start();
    let id = rig.run_sandbox("web").await;
    rig.run_sandbox("db").await;
    rig.cri.inject_for(Op::PodSandboxStatus, "web", Fault::Hang, 1000);
    rig.watch_pod("web");
    rig.watch_pod("db");
    // Lists see the pods that cannot be observed.
    let pleg = rig.pleg.clone();
    rig.tasks.spawn(async move { pleg.run().await });
    seconds(29).await;
    assert_eq!(rig.told(), []);
    seconds(2).await;
    let text = format!(
        "The container runtime has not answered PodSandboxStatus of sandbox {id} for 30 s: this pod is stuck in it, \
         other pods are not affected"
    );
    assert_eq!(rig.told(), [("StuckInRuntime".to_owned(), "default/web".to_owned(), text)]);
    assert_eq!(rig.stuck(), Some(1.0));
    // Told again every five minutes, not with every call.
    seconds(310).await;
    assert_eq!(rig.reasons(), vec![pair("StuckInRuntime", "default/web"); 2]);
    rig.cri.stop_faults();
    seconds(20).await;
    assert_eq!(rig.stuck(), Some(0.0));
    assert_eq!(rig.reasons().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn several_stuck_pods_are_the_nodes_trouble_too() {
    let mut rig = start();
    let mut calls = vec![];
    for pod in ["a", "b", "c", "d", "e", "f", "g"] {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: rig.run_sandbox(pod).await };
        calls.push(rig.runtime.stop_pod_sandbox(request));
    }
    rig.cri.inject(Op::StopPodSandbox, Fault::Delay(Duration::from_secs(100)), 7);
    let pleg = rig.pleg.clone();
    rig.tasks.spawn(async move { pleg.run().await });
    let stopping = tokio::spawn(futures::future::join_all(calls));
    seconds(61).await;
    assert_eq!(rig.stuck(), Some(7.0));
    let (reason, name, message) = rig.told().pop().unwrap();
    assert_eq!((reason.as_str(), name.as_str()), ("PodsStuckInRuntime", "node-1"));
    let names = "default/a, default/b, default/c, default/d, default/e and 2 more";
    assert_eq!(
        message,
        format!("7 pods are stuck in the container runtime, which answers for others: {names}")
    );
    assert_eq!(rig.told().len(), 8);
    assert!(stopping.await.unwrap().iter().all(Result::is_ok));
    seconds(1).await;
    assert_eq!(rig.reasons().pop(), Some(pair("ContainerRuntimeRecovered", "node-1")));
}

#[tokio::test(start_paused = true)]
async fn a_grace_is_no_silence_and_what_is_given_up_early_says_nothing() {
    let mut rig = start();
    let sandbox = rig.run_sandbox("web").await;
    let pleg = rig.pleg.clone();
    rig.tasks.spawn(async move { pleg.run().await });
    // A sandbox that nobody wants any more.
    rig.cri.inject(Op::RunPodSandbox, Fault::Hang, 1);
    let config = Some(sandbox_config("db"));
    let making =
        rig.runtime.run_pod_sandbox(v1::RunPodSandboxRequest { config, runtime_handler: String::new() });
    tokio::time::timeout(Duration::from_secs(20), making).await.unwrap_err();
    // A container that takes its grace.
    let metadata = Some(v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 });
    let image = Some(v1::ImageSpec { image: "image:1".to_owned(), ..Default::default() });
    rig.cri.add_image("image:1", 1);
    let labels = [("io.kubernetes.container.name".to_owned(), "c".to_owned())]
        .into_iter()
        .chain(sandbox_config("web").labels)
        .collect();
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox,
        config: Some(v1::ContainerConfig { metadata, image, labels, ..Default::default() }),
        sandbox_config: Some(sandbox_config("web")),
    };
    let id = rig.runtime.create_container(request).await.unwrap().container_id;
    rig.pleg.observe(&"web-uid".into()).await.unwrap();
    rig.cri.inject(Op::StopContainer, Fault::Hang, 1);
    let stopping =
        rig.runtime.stop_container(v1::StopContainerRequest { container_id: id.clone(), timeout: 300 });
    let stopping = tokio::spawn(stopping);
    seconds(329).await;
    assert_eq!(rig.told(), []);
    seconds(2).await;
    let text = format!("has not answered StopContainer of container c ({id}) for 5 min:");
    let told = rig.told();
    assert_eq!(told.len(), 1);
    assert!(told[0].2.contains(&text), "{}", told[0].2);
    stopping.abort();
}

#[tokio::test(start_paused = true)]
async fn a_silent_runtime_is_no_pods_trouble() {
    let mut rig = start();
    for pod in ["a", "b"] {
        rig.run_sandbox(pod).await;
        rig.cri.inject_for(Op::PodSandboxStatus, pod, Fault::Hang, 12);
        rig.watch_pod(pod);
    }
    let pleg = rig.pleg.clone();
    rig.tasks.spawn(async move { pleg.run().await });
    seconds(15).await;
    let silent = Some(tokio::time::Instant::now());
    rig.state.send_replace(RuntimeState { silent_since: silent, ..Default::default() });
    seconds(150).await;
    assert_eq!(rig.told(), []);
    rig.state.send_replace(RuntimeState::default());
    seconds(25).await;
    assert_eq!(rig.told(), [], "each has its patience again");
    seconds(60).await;
    assert_eq!(rig.told(), []);
}

#[tokio::test(start_paused = true)]
async fn a_long_silence_costs_nothing() {
    let rig = start();
    rig.run_sandbox("web").await;
    rig.cri.inject(Op::PodSandboxStatus, Fault::Hang, 1);
    rig.pleg.observe(&"web-uid".into()).await.unwrap_err();
    let silent = Some(tokio::time::Instant::now());
    rig.state.send_replace(RuntimeState { silent_since: silent, ..Default::default() });
    // A task that looked again and again would not let time pass.
    seconds(3600).await;
    assert_eq!(rig.told(), []);
}

#[tokio::test(start_paused = true)]
async fn lists_that_are_slow_are_told_at_the_begin_now_and_then_and_at_the_end() {
    let rig = start();
    seconds(1).await;
    for (trouble, lasts) in
        [(Some(ListTrouble::Slow), 100), (None, 100), (Some(ListTrouble::Failing), 700), (None, 1)]
    {
        rig.state.send_replace(RuntimeState { list_trouble: trouble, ..Default::default() });
        seconds(lasts).await;
    }
    let reasons: Vec<String> =
        rig.told().into_iter().map(|(reason, name, _)| format!("{reason} {name}")).collect();
    let (slow, over) = ("ContainerRuntimeSlow node-1", "ContainerRuntimeRecovered node-1");
    assert_eq!(reasons, [slow, over, slow, slow, over]);
    let told = rig.told();
    assert!(
        told[0].2.starts_with("the container runtime answers, but listing what it runs takes "),
        "{}",
        told[0].2
    );
    assert_eq!(told[1].2, "what the container runtime runs is listed in good time again, after 100 s");
    assert_eq!(told[4].2, "what the container runtime runs is listed in good time again, after 11 min");
}

#[tokio::test(start_paused = true)]
async fn the_check_names_trouble_and_passes() {
    let rig = start();
    let check = |state: RuntimeState, stuck| {
        let check = runtime_check(&state, &rig.pleg, stuck);
        assert_eq!((check.name, check.problem), ("containerruntime", None));
        check.note.unwrap_or_default()
    };
    let well = RuntimeState::default;
    assert_eq!(check(well(), 0), "");
    assert_eq!(check(well(), 3), "3 pods are stuck in the container runtime");
    let since = Some(tokio::time::Instant::now());
    seconds(12).await;
    let silent =
        RuntimeState { silent_since: since, runtime_problem: Some("nothing listens".into()), ..well() };
    assert_eq!(check(silent, 1), "the container runtime does not answer since 12 s: nothing listens");
    let slow = check(RuntimeState { list_trouble: Some(ListTrouble::Slow), ..well() }, 0);
    assert!(slow.contains("listing what it runs takes"), "{slow}");
    let deaf = RuntimeState { network_problem: Some("no CNI".into()), ..well() };
    assert_eq!(check(deaf, 0), "pods cannot get a network: no CNI");
}
