//! The clean-up over a scripted runtime.

use k8s_openapi::api::core::v1::PodStatus;
use rubelet_core::Pod;
use rubelet_core::lifecycle::{PodState, TerminationCause};
use rubelet_core::pulled_images::{PulledWith, VerificationPolicy};
use rubelet_cri::{CriErrorKind, CriFuture, v1};
use rubelet_testkit::pods;
use rubelet_testkit::scripted::{Fault, Op, RuntimeKind, ScriptedCri};

use super::*;
use crate::desired::{DesiredPod, SourceKind};
use crate::table::PodRow;

/// The scripted images, on a real directory.
struct Placed(ScriptedCri, PathBuf);

impl ImageService for Placed {
    fn list_images(&self, request: v1::ListImagesRequest) -> CriFuture<v1::ListImagesResponse> {
        self.0.list_images(request)
    }
    fn image_status(&self, request: v1::ImageStatusRequest) -> CriFuture<v1::ImageStatusResponse> {
        self.0.image_status(request)
    }
    fn remove_image(&self, request: v1::RemoveImageRequest) -> CriFuture<v1::RemoveImageResponse> {
        self.0.remove_image(request)
    }
    fn image_fs_info(&self, _: v1::ImageFsInfoRequest) -> CriFuture<v1::ImageFsInfoResponse> {
        let mountpoint = self.1.display().to_string();
        let fs_id = Some(v1::FilesystemIdentifier { mountpoint });
        let usage = v1::FilesystemUsage { fs_id, ..v1::FilesystemUsage::default() };
        let answer =
            v1::ImageFsInfoResponse { image_filesystems: vec![usage], container_filesystems: vec![] };
        Box::pin(async move { Ok(answer) })
    }
    fn pull_image(&self, request: v1::PullImageRequest, limit: Duration) -> CriFuture<v1::PullImageResponse> {
        self.0.pull_image(request, limit)
    }
}

struct World {
    cri: ScriptedCri,
    clean_up: CleanUp,
    pleg: Pleg,
    table: PodTable,
    desired: watch::Sender<Arc<DesiredPods>>,
    events: EventRecorder,
    pulled: PulledImages,
    root: tempfile::TempDir,
}

impl World {
    /// A node that knows what is wanted: nothing. Images go after two minutes.
    fn new(high_percent: u8) -> Self {
        let cri = ScriptedCri::new(RuntimeKind::Containerd2);
        let (clock, fs, metrics) = (Clock::system(), FsPool::inline(), Metrics::new());
        let root = tempfile::tempdir().unwrap();
        let runtime: Arc<dyn RuntimeService> = Arc::new(cri.clone());
        let pleg = Pleg::new(runtime.clone(), fs.clone(), metrics.clone(), clock.clone());
        let (desired, wanted) =
            watch::channel(Arc::new(DesiredPods { complete: true, ..DesiredPods::default() }));
        let (table, events) = (PodTable::default(), EventRecorder::new(clock.clone()));
        let policy = VerificationPolicy::AlwaysVerify;
        let pulled = PulledImages::new(root.path(), policy, fs.clone(), clock.clone(), metrics.clone());
        let images = ImagePolicy {
            high_percent,
            low_percent: high_percent.saturating_sub(1),
            min_age: Duration::from_secs(120),
            max_age: None,
        };
        let settings = CleanUpSettings {
            images,
            dead: DeadPolicy::default(),
            node_name: "node".into(),
            pod_logs_dir: root.path().join("logs"),
            container_logs_dir: root.path().join("links"),
        };
        let clean_up = CleanUp::new(CleanUpParts {
            settings,
            clock,
            fs,
            runtime,
            images: Arc::new(Placed(cri.clone(), root.path().to_owned())),
            pleg: pleg.clone(),
            table: table.clone(),
            desired: wanted,
            events: events.clone(),
            metrics,
            pulled: pulled.clone(),
        });
        Self { cri, clean_up, pleg, table, desired, events, pulled, root }
    }

    /// Images that are old enough to go.
    async fn old_images(&self, images: &[&str]) {
        for image in images {
            self.cri.add_image(image, 10);
        }
        assert_eq!(self.clean_up.images(Need::All).await.images, 0, "none is old enough");
        tokio::time::advance(Duration::from_secs(121)).await;
    }

    async fn left(&self) -> Vec<String> {
        let images = self.cri.list_images(v1::ListImagesRequest::default()).await.unwrap().images;
        let mut names: Vec<String> = images.into_iter().flat_map(|image| image.repo_tags).collect();
        names.sort();
        names
    }

    fn publish(&self, pod: &Arc<Pod>, state: PodState, reason: Option<&str>) -> PodUid {
        let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap());
        let status = PodStatus { reason: reason.map(str::to_owned), ..PodStatus::default() };
        self.table.publish(&uid, PodRow { pod: pod.clone(), status: Arc::new(status), state });
        uid
    }

    fn want(&self, pod: &Arc<Pod>) {
        let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap());
        let wanted = DesiredPod { pod: pod.clone(), source: SourceKind::File, arrival: 1 };
        let desired = DesiredPods { pods: [(uid, wanted)].into(), complete: true, doubtful: false };
        self.desired.send_replace(Arc::new(desired));
    }

    /// A sandbox of the pod, stopped, with a dead container `app`.
    async fn dead(&self, pod: &Pod) {
        let [name, uid] = [&pod.metadata.name, &pod.metadata.uid].map(|text| text.clone().unwrap());
        let labels: std::collections::BTreeMap<String, String> = [
            ("io.kubernetes.pod.name", name.as_str()),
            ("io.kubernetes.pod.namespace", "default"),
            ("io.kubernetes.pod.uid", uid.as_str()),
            ("io.kubernetes.container.name", "app"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let metadata =
            v1::PodSandboxMetadata { name, uid, namespace: "default".into(), ..Default::default() };
        let config = v1::PodSandboxConfig {
            metadata: Some(metadata),
            labels: labels.clone(),
            log_directory: self.root.path().join("logs/x").display().to_string(),
            ..Default::default()
        };
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let sandbox = self.cri.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
        self.cri.add_image("busybox:1", 10);
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "busybox:1".into(), ..Default::default() }),
            labels,
            log_path: "app/0.log".into(),
            ..Default::default()
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let container = self.cri.create_container(request).await.unwrap().container_id;
        self.cri
            .start_container(v1::StartContainerRequest { container_id: container.clone() })
            .await
            .unwrap();
        let stop = v1::StopContainerRequest { container_id: container, timeout: 0 };
        self.cri.stop_container(stop).await.unwrap();
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox };
        self.cri.stop_pod_sandbox(stop).await.unwrap();
    }

    /// Has Pleg list once.
    async fn list(&self) {
        let pleg = self.pleg.clone();
        let listing = tokio::spawn(async move { pleg.run().await });
        let mut news = self.pleg.listing();
        news.wait_for(Option::is_some).await.unwrap();
        listing.abort();
    }

    fn told(&self, reason: &str) -> Vec<String> {
        let events = self.events.snapshot().into_iter();
        events.filter(|event| event.reason == reason).map(|event| event.message).collect()
    }
}

fn pod(name: &str, image: &str) -> Arc<Pod> {
    let mut pod = pods::pod(name).container(pods::container("app")).build();
    pod.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    Arc::new(pod)
}

fn finished() -> PodState {
    PodState::Finished { cause: TerminationCause::Completed }
}

#[tokio::test(start_paused = true)]
async fn images_go_as_far_as_needed_and_their_records_with_them() {
    let world = World::new(100);
    world.old_images(&["r.io/a:1", "r.io/b:1", "r.io/c:1"]).await;
    world.pulled.begin("r.io/a:1").await.unwrap();
    let id = world.cri.add_image("r.io/a:1", 10);
    world.pulled.ended("r.io/a:1", Some((&id, &PulledWith::node()))).await;
    let could = world.clean_up.reclaimable().await;
    assert_eq!((could.images, could.image_bytes), (3, 30));
    assert_eq!(world.left().await.len(), 3, "to ask removes nothing");
    let freed = world.clean_up.images(Need::Bytes(11)).await;
    assert_eq!((freed.images, freed.bytes, freed.problems.len()), (2, 20, 0));
    assert_eq!(world.left().await.len(), 1);
    let freed = world.clean_up.images(Need::All).await;
    assert_eq!((freed.images, freed.bytes), (1, 10));
    assert!(world.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_pods_need_or_are_about_to_need_stays() {
    let world = World::new(100);
    let running = pod("running", "r.io/running:1");
    world.publish(&running, PodState::Syncing, None);
    let ended = pod("ended", "r.io/ended:1");
    world.publish(&ended, finished(), None);
    world.dead(&ended).await;
    let pending = pod("pending", "r.io/pending:1");
    world.want(&pending);
    world.old_images(&["r.io/running:1", "r.io/ended:1", "r.io/pending:1", "r.io/idle:1"]).await;
    world.clean_up.images(Need::All).await;
    // The dead container is made of busybox, whatever its pod says now.
    let left = world.left().await;
    let left: Vec<&str> = left.iter().map(|name| name.rsplit('/').next().unwrap()).collect();
    assert_eq!(left, ["busybox:1", "pending:1", "running:1"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_before_it_is_known_what_is_wanted_and_used() {
    let world = World::new(100);
    world.old_images(&["r.io/a:1"]).await;
    world.desired.send_replace(Arc::default());
    let freed = world.clean_up.images(Need::All).await;
    assert_eq!((freed.images, freed.problems.len()), (0, 1));
    world.desired.send_replace(Arc::new(DesiredPods { complete: true, ..DesiredPods::default() }));
    world.cri.inject(Op::ListContainers, Fault::ErrorBefore(CriErrorKind::Unreachable), 1);
    let freed = world.clean_up.images(Need::All).await;
    assert_eq!((freed.images, freed.problems.len()), (0, 1), "{freed:?}");
    assert_eq!(world.clean_up.images(Need::All).await.images, 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_removed_does_not_keep_the_next() {
    let world = World::new(100);
    world.old_images(&["r.io/a:1", "r.io/b:1"]).await;
    world.cri.inject(Op::RemoveImage, Fault::ErrorBefore(CriErrorKind::Unknown), 1);
    let freed = world.clean_up.images(Need::Bytes(1)).await;
    assert_eq!((freed.images, freed.problems.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_once_with_what_is_left() {
    // Any disk is at least that full.
    let world = World::new(0);
    world.old_images(&["r.io/a:1"]).await;
    let mut state = world.clean_up.0.images.lock().await;
    world.clean_up.0.check_disk(&mut state).await;
    world.clean_up.0.check_disk(&mut state).await;
    drop(state);
    assert!(world.left().await.is_empty());
    let told = world.told("FreeDiskSpaceFailed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("(freed 10 bytes)"), "{told:?}");
    assert_eq!(world.told("ImageGCFailed"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_when_it_comes_again() {
    let world = World::new(100);
    std::fs::remove_dir_all(world.root.path()).unwrap();
    let mut state = world.clean_up.0.images.lock().await;
    world.clean_up.0.check_disk(&mut state).await;
    assert_eq!(world.told("ImageGCFailed").len(), 0);
    world.clean_up.0.check_disk(&mut state).await;
    assert_eq!(world.told("ImageGCFailed").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disk_with_room_costs_no_list() {
    let world = World::new(100);
    world.old_images(&["r.io/a:1"]).await;
    let lists = world.cri.calls_of(Op::ListImages);
    let mut state = world.clean_up.0.images.lock().await;
    for _ in 0..3 {
        assert_eq!(world.clean_up.0.check_disk(&mut state).await, None);
    }
    assert_eq!(world.cri.calls_of(Op::ListImages), lists);
}

#[tokio::test(start_paused = true)]
async fn of_ended_pods_the_evicted_keep_nothing() {
    let world = World::new(100);
    let (completed, evicted, live) = (pod("completed", "x"), pod("evicted", "x"), pod("live", "x"));
    world.publish(&completed, finished(), None);
    world.publish(&evicted, finished(), Some("Evicted"));
    world.publish(&live, PodState::Syncing, None);
    for pod in [&completed, &evicted, &live] {
        world.dead(pod).await;
    }
    world.list().await;
    let freed = world.clean_up.0.free_containers(false).await;
    assert_eq!((freed.containers, freed.sandboxes, freed.problems.len()), (1, 1, 0));
    assert!(world.cri.containers_of("evicted").is_empty());
    let calls = world.cri.calls();
    assert_eq!(world.clean_up.0.free_containers(false).await, Freed::default());
    assert_eq!(world.cri.calls(), calls, "each is looked at once");
    assert_eq!(world.clean_up.reclaimable().await.containers, 1);
    let freed = world.clean_up.containers().await;
    assert_eq!((freed.containers, freed.sandboxes), (1, 1));
    assert_eq!(world.cri.containers_of("live").len(), 1, "its worker sees to it");
}
