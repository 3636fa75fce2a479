//! The scripted runtime is itself tested: a test that trusts it must be able to.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use rubelet_cri::observe::{Listing, label};
use rubelet_cri::{CriError, CriErrorKind, ImageService, RuntimeService, v1};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const IMAGE: &str = "busybox:1";

fn sandbox_config(pod: &str, attempt: u32) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.into(),
            uid: format!("{pod}-uid"),
            namespace: "default".into(),
            attempt,
        }),
        log_directory: format!("/logs/{pod}"),
        ..Default::default()
    }
}

/// The steps an agent takes, with the parts that do not matter here left out.
#[derive(Clone)]
struct Steps<C>(C);

impl<C: RuntimeService + ImageService> Steps<C> {
    async fn sandbox(&self, pod: &str, attempt: u32) -> Result<String, CriError> {
        let config = Some(sandbox_config(pod, attempt));
        let request = v1::RunPodSandboxRequest { config, runtime_handler: String::new() };
        self.0.run_pod_sandbox(request).await.map(|answer| answer.pod_sandbox_id)
    }
    async fn pull(&self) -> Result<String, CriError> {
        let image = Some(v1::ImageSpec { image: IMAGE.into(), ..Default::default() });
        let request = v1::PullImageRequest { image, ..Default::default() };
        self.0.pull_image(request, 60 * SECOND).await.map(|answer| answer.image_ref)
    }
    async fn create(&self, pod: &str, sandbox: &str, name: &str, attempt: u32) -> Result<String, CriError> {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt }),
            image: Some(v1::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            labels: [
                (label::POD_UID.to_owned(), format!("{pod}-uid")),
                (label::CONTAINER_NAME.to_owned(), name.to_owned()),
            ]
            .into(),
            log_path: format!("{name}/{attempt}.log"),
            ..Default::default()
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config(pod, 0)),
        };
        self.0.create_container(request).await.map(|answer| answer.container_id)
    }
    async fn start(&self, id: &str) -> Result<(), CriError> {
        self.0.start_container(v1::StartContainerRequest { container_id: id.into() }).await.map(|_| ())
    }
    async fn stop(&self, id: &str, timeout: i64) -> Result<(), CriError> {
        let request = v1::StopContainerRequest { container_id: id.into(), timeout };
        self.0.stop_container(request).await.map(|_| ())
    }
    async fn remove(&self, id: &str) -> Result<(), CriError> {
        self.0.remove_container(v1::RemoveContainerRequest { container_id: id.into() }).await.map(|_| ())
    }
    async fn status(&self, id: &str) -> Result<v1::ContainerStatus, CriError> {
        let request = v1::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.0.container_status(request).await.map(|answer| answer.status.unwrap())
    }
    async fn exec(&self, id: &str, timeout: i64) -> Result<v1::ExecSyncResponse, CriError> {
        let request = v1::ExecSyncRequest { container_id: id.into(), cmd: vec!["check".into()], timeout };
        self.0.exec_sync(request).await
    }
    /// A pod with one running container: (sandbox ID, container ID).
    async fn run(&self, pod: &str) -> (String, String) {
        self.pull().await.unwrap();
        let sandbox = self.sandbox(pod, 0).await.unwrap();
        let container = self.create(pod, &sandbox, "app", 0).await.unwrap();
        self.start(&container).await.unwrap();
        (sandbox, container)
    }
}

fn runtime() -> (ScriptedCri, Steps<ScriptedCri>) {
    let cri = ScriptedCri::new(RuntimeKind::Containerd2);
    (cri.clone(), Steps(cri))
}

/// What became true, as short words with the second it did.
fn story(cri: &ScriptedCri) -> Vec<String> {
    let word = |fact: &Fact| match fact.what {
        FactKind::Exited { code, cause } => format!("Exited({code}, {cause:?})"),
        other => format!("{other:?}"),
    };
    let second = |fact: &Fact| fact.at.as_second() - BASE_SECOND;
    cri.facts().iter().map(|fact| format!("{}s {}", second(fact), word(fact))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_container_lives_by_its_script() {
    let (cri, steps) = runtime();
    cri.script_container("web", "app", [Behaviour::exits(5 * SECOND, 3), Behaviour::forever()]);
    let (sandbox, first) = steps.run("web").await;
    assert_eq!(cri.running_containers().len(), 1);
    tokio::time::sleep(10 * SECOND).await;
    let status = steps.status(&first).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert_eq!(status.finished_at - status.started_at, 5_000_000_000);
    assert_eq!(status.log_path, "/logs/web/app/0.log");
    let second = steps.create("web", &sandbox, "app", 1).await.unwrap();
    steps.start(&second).await.unwrap();
    tokio::time::sleep(1000 * SECOND).await;
    assert_eq!(cri.running_containers()[0].subject.id, second);
    assert_eq!(
        story(&cri),
        ["0s SandboxReady", "0s Created", "0s Started", "5s Exited(3, Itself)", "10s Created", "10s Started"]
    );
    assert_eq!(cri.misuses(), []);
}

async fn check_stop(behaviour: Behaviour, grace: i64, expected: &str) {
    let (cri, steps) = runtime();
    cri.script_container("web", "app", [behaviour]);
    let (_, container) = steps.run("web").await;
    steps.stop(&container, grace).await.unwrap();
    steps.stop(&container, grace).await.unwrap();
    assert_eq!(story(&cri).pop().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn stopping_respects_grace_and_deafness() {
    check_stop(Behaviour::forever(), 30, "0s Exited(143, Terminated)").await;
    check_stop(Behaviour::forever().stopping_for(4 * SECOND), 30, "4s Exited(143, Terminated)").await;
    check_stop(Behaviour::forever().stopping_for(40 * SECOND), 30, "30s Exited(137, Killed)").await;
    check_stop(Behaviour::forever().ignoring_sigterm(), 30, "30s Exited(137, Killed)").await;
    check_stop(Behaviour::forever().ignoring_sigterm(), 0, "0s Exited(137, Killed)").await;
    check_stop(Behaviour::exits(2 * SECOND, 0).ignoring_sigterm(), 30, "2s Exited(0, Itself)").await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_start_ends_as_the_runtimes_say() {
    let (cri, steps) = runtime();
    cri.script_container("web", "app", [Behaviour::cannot_start("no such file")]);
    steps.pull().await.unwrap();
    let sandbox = steps.sandbox("web", 0).await.unwrap();
    let container = steps.create("web", &sandbox, "app", 0).await.unwrap();
    assert_eq!(steps.start(&container).await.unwrap_err().message, "no such file");
    let status = steps.status(&container).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str(), status.started_at), (128, "StartError", 0));
}

#[tokio::test(start_paused = true)]
async fn commands_end_by_script_timeout_or_with_their_container() {
    let (cri, steps) = runtime();
    cri.script_container("web", "app", [Behaviour::exits(60 * SECOND, 0)]);
    let runs = [
        ExecScript { exit_code: 1, stdout: "no".into(), ..Default::default() },
        ExecScript { takes: 5 * SECOND, ..Default::default() },
        ExecScript { takes: 500 * SECOND, ..Default::default() },
    ];
    cri.script_exec("web", "app", "check", runs);
    let (_, container) = steps.run("web").await;
    let first = steps.exec(&container, 1).await.unwrap();
    assert_eq!((first.exit_code, first.stdout.as_slice()), (1, b"no".as_slice()));
    assert_eq!(steps.exec(&container, 1).await.unwrap_err().kind, CriErrorKind::DeadlineExceeded);
    assert_eq!(steps.exec(&container, 0).await.unwrap().exit_code, 137);
    assert_eq!(steps.exec(&container, 0).await.unwrap_err().kind, CriErrorKind::Unknown);
    assert_eq!((cri.now().as_second() - BASE_SECOND, cri.calls_of(Op::ExecSync)), (60, 4));
}

#[tokio::test(start_paused = true)]
async fn images_must_be_pulled_first_and_pulls_follow_the_script() {
    let (cri, steps) = runtime();
    let sandbox = steps.sandbox("web", 0).await.unwrap();
    assert_eq!(steps.create("web", &sandbox, "app", 0).await.unwrap_err().kind, CriErrorKind::NotFound);
    cri.script_pull(
        IMAGE,
        [PullScript::fails(CriErrorKind::Unknown, "no route"), PullScript::takes(7 * SECOND)],
    );
    assert_eq!(steps.pull().await.unwrap_err().message, "no route");
    let image = steps.pull().await.unwrap();
    assert_eq!(cri.now().as_second() - BASE_SECOND, 7);
    let by_name = Some(v1::ImageSpec { image: "docker.io/library/busybox:1".into(), ..Default::default() });
    let found = cri.image_status(v1::ImageStatusRequest { image: by_name, verbose: false }).await.unwrap();
    assert_eq!(found.image.unwrap().id, image);
    steps.create("web", &sandbox, "app", 0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn misuse_is_noticed_and_bad_luck_is_not() {
    let (cri, steps) = runtime();
    let (sandbox, container) = steps.run("web").await;
    steps.start(&container).await.unwrap_err();
    let twin = steps.create("web", &sandbox, "app", 1).await.unwrap();
    steps.start(&twin).await.unwrap();
    steps.sandbox("web", 1).await.unwrap();
    steps.remove(&twin).await.unwrap();
    cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
    steps.create("web", &sandbox, "app", 2).await.unwrap_err();
    let found: Vec<MisuseKind> = cri.misuses().iter().map(|misuse| misuse.what).collect();
    assert_eq!(
        found,
        [
            MisuseKind::StartedTwice,
            MisuseKind::RunningTwice,
            MisuseKind::TwoSandboxes,
            MisuseKind::RemovedRunning,
            MisuseKind::RemovedLiveSandbox,
            MisuseKind::CreatedInDeadSandbox,
        ]
    );

    let (cri, steps) = runtime();
    let (sandbox, _) = steps.run("web").await;
    assert!(cri.kill_sandbox("web"));
    steps.create("web", &sandbox, "app", 1).await.unwrap_err();
    assert_eq!(cri.misuses(), []);
    assert_eq!(story(&cri).split_off(3), ["0s Exited(137, Injected)", "0s SandboxStopped"]);
}

#[tokio::test(start_paused = true)]
async fn names_are_reserved_until_removed() {
    let (_cri, steps) = runtime();
    let (sandbox, container) = steps.run("web").await;
    assert!(steps.create("web", &sandbox, "app", 0).await.unwrap_err().message.contains("reserved"));
    assert!(steps.sandbox("web", 0).await.unwrap_err().message.contains("reserved"));
    steps.stop(&container, 0).await.unwrap();
    steps.remove(&container).await.unwrap();
    steps.create("web", &sandbox, "app", 0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stopping_what_is_not_there_is_an_error_only_on_containerd_1_6() {
    for (kind, expected) in [
        (RuntimeKind::Containerd16, Some(CriErrorKind::NotFound)),
        (RuntimeKind::Containerd2, None),
        (RuntimeKind::CriO, None),
    ] {
        let steps = Steps(ScriptedCri::new(kind));
        assert_eq!(steps.stop("none", 1).await.err().map(|error| error.kind), expected);
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: "none".into() };
        assert_eq!(steps.0.stop_pod_sandbox(request).await.err().map(|error| error.kind), expected);
        steps.remove("none").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn faults_before_and_after_differ_in_their_effect() {
    let (cri, steps) = runtime();
    cri.inject(Op::RunPodSandbox, Fault::ErrorBefore(CriErrorKind::Unknown), 1);
    steps.sandbox("web", 0).await.unwrap_err();
    assert!(cri.sandboxes_of("web").is_empty());
    cri.inject(Op::RunPodSandbox, Fault::ErrorAfter(CriErrorKind::DeadlineExceeded), 1);
    steps.sandbox("web", 0).await.unwrap_err();
    assert_eq!(cri.sandboxes_of("web").len(), 1);
    let applied: Vec<bool> = cri.history().iter().map(|call| call.applied).collect();
    assert_eq!(applied, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn hanging_calls_end_at_their_deadline() {
    let (cri, steps) = runtime();
    let (_, container) = steps.run("web").await;
    cri.inject_for(Op::StopContainer, "web", Fault::Hang, 1);
    assert_eq!(steps.stop(&container, 30).await.unwrap_err().kind, CriErrorKind::DeadlineExceeded);
    assert_eq!(cri.now().as_second() - BASE_SECOND, 150);
    let call = cri.history().pop().unwrap();
    assert_eq!((call.grace, call.outcome), (Some(30), Outcome::Failed(CriErrorKind::DeadlineExceeded)));
    assert_eq!((call.subject.container.as_str(), call.subject.pod_uid.as_str()), ("app", "web-uid"));
    assert_eq!(cri.running_containers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_breaks_calls_and_streams_and_no_container() {
    let (cri, steps) = runtime();
    let (_, container) = steps.run("web").await;
    cri.script_exec("web", "app", "check", [ExecScript { takes: 100 * SECOND, ..Default::default() }]);
    let mut events = cri.container_events().await.unwrap();
    let under_way = tokio::spawn({
        let (steps, container) = (steps.clone(), container.clone());
        async move { steps.exec(&container, 0).await }
    });
    tokio::time::sleep(SECOND).await;
    cri.restart_runtime(3 * SECOND);
    assert_eq!(under_way.await.unwrap().unwrap_err().kind, CriErrorKind::Unreachable);
    assert_eq!(events.next().await.unwrap().unwrap_err().kind, CriErrorKind::Unreachable);
    assert!(events.next().await.is_none());
    assert_eq!(steps.status(&container).await.unwrap_err().kind, CriErrorKind::Unreachable);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(steps.status(&container).await.unwrap().state, v1::ContainerState::ContainerRunning as i32);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_leaves_dead_containers_behind() {
    let (cri, steps) = runtime();
    let (_, container) = steps.run("web").await;
    cri.reboot(SECOND);
    tokio::time::sleep(2 * SECOND).await;
    let status = steps.status(&container).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert_eq!(cri.sandboxes_of("web")[0].state, v1::PodSandboxState::SandboxNotready as i32);
}

#[tokio::test(start_paused = true)]
async fn events_tell_what_happens_when_it_happens() {
    let (cri, steps) = runtime();
    cri.script_container("web", "app", [Behaviour::exits(9 * SECOND, 0)]);
    let events = cri.container_events().await.unwrap();
    let (_, container) = steps.run("web").await;
    let kinds: Vec<(String, i32)> = events
        .take(5)
        .map(|event| event.unwrap())
        .map(|event| (event.container_id, event.container_event_type))
        .collect()
        .await;
    assert_eq!(kinds[4], (container, v1::ContainerEventType::ContainerStoppedEvent as i32));
    assert_eq!(cri.now().as_second() - BASE_SECOND, 9);
}

#[tokio::test(start_paused = true)]
async fn events_can_be_lost_doubled_or_missing_altogether() {
    let (cri, steps) = runtime();
    cri.set_random_faults(RandomFaults { lost_event: 1000, ..RandomFaults::none(1) });
    let mut events = cri.container_events().await.unwrap();
    steps.pull().await.unwrap();
    steps.sandbox("lost", 0).await.unwrap();
    cri.set_random_faults(RandomFaults { duplicated_event: 1000, ..RandomFaults::none(1) });
    let seen = steps.sandbox("seen", 0).await.unwrap();
    for _ in 0..4 {
        assert_eq!(events.next().await.unwrap().unwrap().container_id, seen);
    }
    let old = ScriptedCri::new(RuntimeKind::Containerd16);
    assert_eq!(old.container_events().await.err().unwrap().kind, CriErrorKind::Unimplemented);
}

#[tokio::test(start_paused = true)]
async fn the_hook_can_stop_the_caller_before_or_after_the_effect() {
    for (phase, expected) in [(Phase::Before, 0), (Phase::After, 1)] {
        let (cri, steps) = runtime();
        let reached = Arc::new(AtomicBool::new(false));
        cri.set_hook({
            let reached = Arc::clone(&reached);
            move |point| {
                if point.op == Op::RunPodSandbox && point.phase == phase {
                    reached.store(true, Ordering::Relaxed);
                    return HookAction::Park;
                }
                HookAction::Continue
            }
        });
        let agent = tokio::spawn(async move { steps.sandbox("web", 0).await });
        tokio::time::sleep(1000 * SECOND).await;
        assert!(reached.load(Ordering::Relaxed) && !agent.is_finished());
        agent.abort();
        assert_eq!(cri.sandboxes_of("web").len(), expected);
        assert_eq!(cri.history()[0].outcome, Outcome::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn the_network_problem_spares_the_nodes_own_network() {
    let (cri, steps) = runtime();
    cri.set_network_problem(Some("cni plugin not initialized"));
    assert!(steps.sandbox("web", 0).await.unwrap_err().message.contains("cni plugin"));
    let info = rubelet_cri::connect::check_runtime(&cri).await.unwrap();
    assert!(info.conditions.network_problem.unwrap().contains("cni plugin not initialized"));
    assert_eq!(info.conditions.runtime_problem, None);
    let mut config = sandbox_config("web", 0);
    let options = v1::NamespaceOption { network: v1::NamespaceMode::Node as i32, ..Default::default() };
    config.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options =
        Some(options);
    let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    cri.run_pod_sandbox(request).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_makes_the_same_day() {
    async fn day(seed: u64) -> Vec<String> {
        let (cri, steps) = runtime();
        cri.set_random_faults(RandomFaults::rough(seed));
        for n in 0..30 {
            let _ = steps.pull().await;
            let Ok(sandbox) = steps.sandbox(&format!("pod{n}"), 0).await else { continue };
            let Ok(container) = steps.create(&format!("pod{n}"), &sandbox, "app", 0).await else { continue };
            let _ = steps.start(&container).await;
        }
        cri.history().iter().map(|call| format!("{call:?}")).collect()
    }
    assert_eq!(day(11).await, day(11).await);
    assert_ne!(day(11).await, day(12).await);
}

#[tokio::test(start_paused = true)]
async fn lists_observe_as_one_pod() {
    let (cri, steps) = runtime();
    steps.run("web").await;
    let sandboxes = cri.list_pod_sandbox(Default::default()).await.unwrap().items;
    let containers = cri.list_containers(Default::default()).await.unwrap().containers;
    let listing = Listing::observe(&sandboxes, &containers);
    assert_eq!((listing.pods.len(), listing.problems.len()), (1, 0));
}

mod socket {
    //! The same over a real socket and the real client.

    use rubelet_cri::{CriClient, Deadlines, connect};

    use super::*;

    /// A runtime on a socket of its own and a client of it. The directory goes with the value.
    fn served(kind: RuntimeKind) -> (ScriptedCri, server::CriServer, Steps<CriClient>, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let cri = ScriptedCri::new(kind);
        let server = server::serve(&cri, &directory.path().join("cri.sock")).unwrap();
        let client = CriClient::new(&server.endpoint(), Deadlines::with_request(5 * SECOND)).unwrap();
        (cri, server, Steps(client), directory)
    }

    #[tokio::test]
    async fn a_pod_runs_and_ends() {
        let (cri, _server, steps, _directory) = served(RuntimeKind::Containerd2);
        let info = connect::check_runtime(&steps.0).await.unwrap();
        assert_eq!((info.name.as_str(), info.version.as_str()), ("containerd", "v2.1.4"));
        assert_eq!(info.cgroup_driver, Some(connect::CgroupDriver::Cgroupfs));
        assert!(info.supplemental_groups_policy && info.handlers.len() == 2);
        let mut events = steps.0.container_events().await.unwrap();
        let (_, container) = steps.run("web").await;
        assert_eq!(steps.exec(&container, 1).await.unwrap().exit_code, 0);
        steps.stop(&container, 1).await.unwrap();
        let stopped = v1::ContainerEventType::ContainerStoppedEvent as i32;
        loop {
            let event = events.next().await.unwrap().unwrap();
            if event.container_id == container && event.container_event_type == stopped {
                break;
            }
        }
        steps.remove(&container).await.unwrap();
        assert!(steps.status(&container).await.unwrap_err().is_not_found());
        assert_eq!(cri.misuses(), []);
    }

    #[tokio::test]
    async fn an_old_runtime_has_no_events_and_no_runtime_config() {
        let (_cri, _server, steps, _directory) = served(RuntimeKind::Containerd16);
        assert_eq!(connect::check_runtime(&steps.0).await.unwrap().cgroup_driver, None);
        assert_eq!(steps.0.container_events().await.err().unwrap().kind, CriErrorKind::Unimplemented);
    }

    #[tokio::test]
    async fn a_silent_runtime_is_given_up_at_the_deadline() {
        let (cri, server, _steps, _directory) = served(RuntimeKind::Containerd2);
        cri.inject(Op::Version, Fault::Hang, 1);
        let impatient = Deadlines::with_request(Duration::from_millis(50));
        let client = CriClient::new(&server.endpoint(), impatient).unwrap();
        let error = connect::check_runtime(&client).await.unwrap_err();
        assert!(
            matches!(&error, connect::CheckError::Mute(e) if e.kind == CriErrorKind::DeadlineExceeded),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_client_comes_back_after_the_runtime_did() {
        let (cri, _server, steps, _directory) = served(RuntimeKind::Containerd2);
        let (_, container) = steps.run("web").await;
        let mut events = steps.0.container_events().await.unwrap();
        cri.restart_runtime(3600 * SECOND);
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                assert_eq!(error.kind, CriErrorKind::Unreachable, "{error}");
            }
        }
        let error = steps.status(&container).await.unwrap_err();
        assert_eq!(error.kind, CriErrorKind::Unreachable, "{error}");
        // Started only once the client was refused again: it has to come back through its back-off.
        let failed = |_: &connect::CheckError, _| cri.start_runtime();
        connect::wait_for_runtime(&steps.0, failed).await.unwrap();
        let status = steps.status(&container).await.unwrap();
        assert_eq!(status.state, v1::ContainerState::ContainerRunning as i32);
    }

    #[tokio::test]
    async fn a_socket_that_is_missing_or_no_socket_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, words) in [(file, "is not a socket"), (directory.path().join("none"), "does not exist")] {
            let client = CriClient::new(path.to_str().unwrap(), Deadlines::default()).unwrap();
            let error = connect::check_runtime(&client).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            let again = client.version(Default::default()).await.unwrap_err();
            assert!(again.message.contains(words) && again.retry_in.is_some(), "{again}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_does_not_speak_cri_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("http.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
            }
        });
        let client = CriClient::new(path.to_str().unwrap(), Deadlines::default()).unwrap();
        let error = connect::check_runtime(&client).await.unwrap_err();
        assert!(error.to_string().contains("may not be a container runtime"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_may_change_with_the_age_of_its_container() {
    let (cri, steps) = runtime();
    let ill = ExecScript { exit_code: 1, ..Default::default() };
    let well = ExecScript::default();
    let first = vec![(2 * SECOND, ill.clone()), (4 * SECOND, well)];
    cri.script_exec_by_age("web", "app", "check", [first, vec![(Duration::ZERO, ill)]]);
    let sandbox = steps.sandbox("web", 0).await.unwrap();
    steps.pull().await.unwrap();
    for (attempt, wanted) in [(0, [0, 1, 0]), (1, [1; 3])] {
        let container = steps.create("web", &sandbox, "app", attempt).await.unwrap();
        steps.start(&container).await.unwrap();
        for wanted in wanted {
            tokio::time::sleep(SECOND).await;
            assert_eq!(steps.exec(&container, 1).await.unwrap().exit_code, wanted);
            tokio::time::sleep(SECOND).await;
        }
        let codes: Vec<_> = cri.history().iter().filter_map(|call| call.exit_code).collect();
        assert_eq!(codes[codes.len() - 3..], wanted);
        cri.end_container("web", "app", 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_any_more_is_known() {
    let (cri, steps) = runtime();
    cri.inject(Op::RunPodSandbox, Fault::Hang, 1);
    let call = tokio::time::timeout(SECOND, steps.sandbox("web", 0));
    assert!(call.await.is_err(), "it hangs");
    let call = cri.history().remove(0);
    assert_eq!((call.outcome, call.applied), (Outcome::GivenUp, false));
    assert_eq!(call.ended_at.unwrap().duration_since(call.started_at).as_secs(), 1);
}
