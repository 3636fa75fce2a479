//! What a runtime that hangs somewhere costs, on a paused clock.

use rubelet_testkit::ScriptedCri;
use rubelet_testkit::scripted::{Fault, Op, RuntimeKind};

use super::*;
use crate::clock::Clock;

fn pleg(cri: &ScriptedCri) -> Pleg {
    let clock = Clock::simulated(cri.now());
    Pleg::new(Arc::new(cri.clone()), FsPool::inline(), Metrics::new(), clock)
}

/// Runs a pod of one container and gives the IDs of sandbox and container.
async fn run_pod(cri: &ScriptedCri, name: &str) -> (String, String) {
    let labels: std::collections::HashMap<String, String> = [
        (UID_LABEL.to_owned(), format!("{name}-uid")),
        ("io.kubernetes.pod.name".to_owned(), name.to_owned()),
        ("io.kubernetes.pod.namespace".to_owned(), "default".to_owned()),
        ("io.kubernetes.container.name".to_owned(), "c".to_owned()),
    ]
    .into();
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        labels: labels.clone().into_iter().collect(),
        ..Default::default()
    };
    cri.add_image("image:1", 1);
    let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    let sandbox = cri.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "image:1".to_owned(), ..Default::default() }),
        labels: labels.into_iter().collect(),
        ..Default::default()
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let id = cri.create_container(request).await.unwrap().container_id;
    cri.start_container(v1::StartContainerRequest { container_id: id.clone() }).await.unwrap();
    (sandbox, id)
}

#[tokio::test(start_paused = true)]
async fn a_container_that_hangs_delays_its_own_pod_only() {
    let cri = ScriptedCri::new(RuntimeKind::Containerd2);
    let (_, stuck) = run_pod(&cri, "stuck").await;
    run_pod(&cri, "well").await;
    let pleg = pleg(&cri);
    cri.inject_for(Op::ContainerStatus, "stuck", Fault::Hang, 1);
    let began = Instant::now();
    let (stuck_uid, well_uid) = (PodUid::from("stuck-uid"), PodUid::from("well-uid"));
    let other = async {
        let observed = pleg.observe(&well_uid).await.unwrap();
        assert_eq!((observed.containers.len(), began.elapsed()), (1, Duration::ZERO));
    };
    let (failed, ()) = futures::join!(pleg.observe(&stuck_uid), other);
    assert_eq!(began.elapsed(), STATUS_DEADLINE);
    let told = crate::logging::chain(&failed.unwrap_err());
    let expected =
        format!("container {stuck} is stuck in the container runtime, other pods are not affected: ");
    assert!(told.starts_with(&expected), "{told}");
    assert!(told.contains("ContainerStatus: deadline exceeded: no answer within 10 s"), "{told}");
    assert_eq!(pleg.observe(&stuck_uid).await.unwrap().containers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_list_asks_for_no_single_container() {
    let cri = ScriptedCri::new(RuntimeKind::Containerd2);
    let (sandbox, container) = run_pod(&cri, "web").await;
    let pleg = pleg(&cri);
    pleg.relist().await.unwrap();
    assert_eq!((cri.calls_of(Op::ContainerStatus), cri.calls_of(Op::PodSandboxStatus)), (0, 0));
    let owner = pleg.owner(&container).unwrap();
    assert_eq!((owner.pod.as_str(), owner.uid.as_str(), owner.container), ("default/web", "web-uid", None));
    assert_eq!(pleg.owner(&sandbox).unwrap().uid.as_str(), "web-uid");
    assert_eq!(pleg.owner("nobody"), None);
    pleg.observe(&"web-uid".into()).await.unwrap();
    assert_eq!(pleg.owner(&container).unwrap().container.as_deref(), Some("c"));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_hangs_is_cut_and_pods_are_read_meanwhile() {
    let cri = ScriptedCri::new(RuntimeKind::Containerd2);
    run_pod(&cri, "web").await;
    let pleg = pleg(&cri);
    cri.inject(Op::ListPodSandbox, Fault::Hang, 1);
    let running = pleg.clone();
    let task = tokio::spawn(async move { running.run().await });
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(pleg.listing().borrow().is_none());
    assert_eq!(pleg.lists().under_way, Some(Duration::from_secs(40)));
    pleg.observe(&"web-uid".into()).await.unwrap();
    assert_eq!(pleg.lists().observed, Some(Duration::ZERO));
    assert_eq!(
        pleg.lists().trouble(Duration::from_secs(40), None),
        Some(rubelet_core::node::lists::ListTrouble::Slow)
    );
    tokio::time::sleep(Duration::from_millis(20_010)).await;
    let (lasts, why) = pleg.lists().failing.unwrap();
    assert_eq!(lasts.as_secs(), 60);
    assert_eq!(why, "ListPodSandbox: deadline exceeded: no answer within 60 s");
    // The event stream, which came up meanwhile, has asked for one.
    tokio::time::sleep(RELIST_GAP).await;
    assert_eq!(pleg.listing().borrow().as_ref().unwrap().pods.len(), 1);
    let facts = pleg.lists();
    assert!(facts.listed.is_some() && facts.failing.is_none() && facts.took.is_zero());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn the_lists_of_one_pod_have_a_deadline() {
    let cri = ScriptedCri::new(RuntimeKind::Containerd2);
    let pleg = pleg(&cri);
    cri.inject(Op::ListContainers, Fault::Hang, 1);
    let began = Instant::now();
    let failed = pleg.observe(&"web-uid".into()).await.unwrap_err();
    assert!(matches!(failed, ObserveError::List(_)), "{failed}");
    assert_eq!(began.elapsed(), POD_LIST_DEADLINE);
    assert_eq!(pleg.lists().observed, None);
}
