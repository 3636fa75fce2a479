//! Pulls with credentials against an image service that knows which ones are right.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use rubelet_core::pull_progress::{Ingest, PullLook};
use rubelet_cri::CriFuture;

use super::*;

/// Takes a second for a pull; images that begin with `private` need the password `right`.
struct Registry {
    takes: Duration,
    present: Arc<Mutex<BTreeSet<String>>>,
    pulls: Arc<Mutex<Vec<v1::PullImageRequest>>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { takes: Duration::from_secs(1), present: Arc::default(), pulls: Arc::default() }
    }
}

fn done<T: Send + 'static>(answer: T) -> CriFuture<T> {
    async move { Ok(answer) }.boxed()
}

impl ImageService for Registry {
    fn list_images(&self, _: v1::ListImagesRequest) -> CriFuture<v1::ListImagesResponse> {
        done(Default::default())
    }

    fn image_status(&self, request: v1::ImageStatusRequest) -> CriFuture<v1::ImageStatusResponse> {
        let name = request.image.unwrap().image;
        let image = self.present.lock().unwrap().contains(&name);
        let image = image.then(|| v1::Image { id: format!("sha256:{name}"), ..Default::default() });
        done(v1::ImageStatusResponse { image, ..Default::default() })
    }

    fn remove_image(&self, _: v1::RemoveImageRequest) -> CriFuture<v1::RemoveImageResponse> {
        done(Default::default())
    }

    fn image_fs_info(&self, _: v1::ImageFsInfoRequest) -> CriFuture<v1::ImageFsInfoResponse> {
        done(Default::default())
    }

    fn pull_image(&self, request: v1::PullImageRequest, _: Duration) -> CriFuture<v1::PullImageResponse> {
        let (present, takes) = (self.present.clone(), self.takes);
        self.pulls.lock().unwrap().push(request.clone());
        async move {
            tokio::time::sleep(takes).await;
            let name = request.image.unwrap_or_default().image;
            let password = request.auth.unwrap_or_default().password;
            if password == "down" {
                return Err(CriError::new("PullImage", CriErrorKind::Unreachable, "connection refused"));
            }
            if name.starts_with("private") && password != "right" {
                let message = format!("denied: {}", if password.is_empty() { "nobody" } else { &password });
                return Err(CriError::new("PullImage", CriErrorKind::PermissionDenied, message));
            }
            present.lock().unwrap().insert(name.clone());
            Ok(v1::PullImageResponse { image_ref: name })
        }
        .boxed()
    }
}

struct Bench {
    images: ImageManager,
    pulls: Arc<Mutex<Vec<v1::PullImageRequest>>>,
}

impl Bench {
    fn new() -> Self {
        let registry = Registry::default();
        let pulls = registry.pulls.clone();
        let limits = PullLimits { parallel: 10, qps: 0.0, burst: 0 };
        Self {
            images: ImageManager::new(Arc::new(registry), limits, None, PulledImages::disabled(), || {}),
            pulls,
        }
    }

    /// Passwords of the pulls so far.
    fn tried(&self) -> Vec<String> {
        let pulls = self.pulls.lock().unwrap();
        pulls.iter().map(|request| request.auth.clone().unwrap_or_default().password).collect()
    }
}

fn request(image: &str, passwords: &[&str]) -> PullRequest {
    let auth = |password: &&str| {
        SourcedAuth::from(RegistryAuth { password: (*password).to_owned(), ..RegistryAuth::default() })
    };
    let auths: Vec<_> = passwords.iter().map(auth).collect();
    PullRequest {
        credentials: Some(async move { auths }.boxed()),
        sandbox: Some(v1::PodSandboxConfig { hostname: "web".to_owned(), ..Default::default() }),
        annotations: [("a".to_owned(), "b".to_owned())].into(),
        ..PullRequest::from(image)
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_are_tried_until_one_works() {
    let bench = Bench::new();
    let pulled = bench.images.pull(request("private", &["wrong", "right", "never"])).get().await.unwrap();
    assert_eq!(pulled.image.reference, "sha256:private");
    assert_eq!(pulled.took, Duration::from_secs(2));
    assert_eq!(bench.tried(), ["wrong", "right"]);
    let sent = bench.pulls.lock().unwrap()[0].clone();
    assert_eq!(sent.sandbox_config.unwrap().hostname, "web");
    assert_eq!(sent.image.unwrap().annotations.get("a").map(String::as_str), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn without_credentials_the_pull_is_anonymous() {
    let bench = Bench::new();
    bench.images.pull(request("public", &[])).get().await.unwrap();
    bench.images.pull("public").get().await.unwrap();
    assert!(bench.pulls.lock().unwrap().iter().all(|request| request.auth.is_none()));
    let error = bench.images.pull("private").get().await.unwrap_err();
    assert_eq!(error.message, "denied: nobody");
}

#[tokio::test(start_paused = true)]
async fn every_error_is_told_once() {
    let bench = Bench::new();
    let error = bench.images.pull(request("private", &["a", "b", "a"])).get().await.unwrap_err();
    assert_eq!(error.message, "[denied: a, denied: b]");
    assert_eq!(error.kind, CriErrorKind::PermissionDenied);
    let error = bench.images.pull(request("private", &["a"])).get().await.unwrap_err();
    assert_eq!(error.message, "denied: a");
    let error = bench.images.pull(request("private", &["down", "right"])).get().await.unwrap_err();
    assert_eq!(error.kind, CriErrorKind::Unreachable, "other credentials do not bring the runtime back");
}

#[tokio::test(start_paused = true)]
async fn pulls_are_shared_only_with_the_same_credentials() {
    let bench = Bench::new();
    let answers = [
        bench.images.pull(request("private", &["right"])),
        bench.images.pull(request("private", &["right"])),
        bench.images.pull(request("private", &["wrong"])),
        bench.images.pull("private"),
        bench.images.pull("private"),
    ];
    let results = futures::future::join_all(answers.map(PullAnswer::get)).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, false, false]);
    let mut tried = bench.tried();
    tried.sort();
    assert_eq!(tried, ["", "right", "wrong"]);
    assert!(bench.images.inner.under_way.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn credentials_are_looked_up_only_for_a_pull() {
    let bench = Bench::new();
    bench.images.pull("public").get().await.unwrap();
    let unexpected = PullRequest {
        credentials: Some(async { panic!("the image is there") }.boxed()),
        ..PullRequest::from("public")
    };
    let found = bench.images.find_or_pull(unexpected, || true).get().await;
    assert!(matches!(found, Some(Found::Present(_))), "{found:?}");
    let found = bench.images.find_or_pull(request("private", &["right"]), || true).get().await;
    assert!(matches!(found, Some(Found::Pulled(Ok(_)))), "{found:?}");
    let found = bench.images.find_or_pull(request("other", &[]), || false).get().await;
    assert!(found.is_none());
}

/// Downloads as a test says, and how often they were looked at.
#[derive(Default)]
struct Downloads {
    look: Mutex<Option<PullLook>>,
    looks: std::sync::atomic::AtomicUsize,
}

impl PullWatch for Downloads {
    fn look(&self, _: &str, _: Option<&str>) -> CriFuture<PullLook> {
        self.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let look = self.look.lock().unwrap().clone();
        let unknown = || CriError::new("ListStatuses", CriErrorKind::Unimplemented, "unknown service");
        async move { look.ok_or_else(unknown) }.boxed()
    }
}

fn watched(parallel: usize, look: Option<PullLook>) -> (ImageManager, Arc<Downloads>) {
    let downloads = Arc::new(Downloads { look: Mutex::new(look), ..Downloads::default() });
    let registry = Registry { takes: Duration::from_secs(100), ..Registry::default() };
    let limits = PullLimits { parallel, qps: 0.0, burst: 0 };
    let watch = Some(downloads.clone() as Arc<dyn PullWatch>);
    let records = PulledImages::disabled();
    (ImageManager::new(Arc::new(registry), limits, watch, records, || {}), downloads)
}

#[tokio::test(start_paused = true)]
async fn a_pull_tells_its_place_and_its_figures() {
    let ingest = Ingest { reference: "layer-sha256:a".to_owned(), offset: 1_000_000, total: 4_000_000 };
    let look = PullLook { ingests: vec![ingest], ..PullLook::default() };
    let (images, downloads) = watched(1, Some(look));
    assert_eq!(images.stage("a").await, PullStage::Looking);
    let pulls = ["a", "b", "c"].map(|image| images.pull(image));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(images.stage("b").await, PullStage::Queued(1));
    assert_eq!(images.stage("c").await, PullStage::Queued(2));
    let looks = || downloads.looks.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(looks(), 0, "nobody has asked for one that is pulled");
    let stages = futures::future::join_all((0..20).map(|_| images.stage("a"))).await;
    for stage in &stages {
        let PullStage::Downloading(progress) = stage else { panic!("{stage:?}") };
        assert_eq!((progress.done, progress.total), (1_000_000, 4_000_000));
    }
    assert_eq!(looks(), 1, "all who wait share a look");
    downloads.look.lock().unwrap().as_mut().unwrap().ingests[0].offset = 3_000_000;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let PullStage::Downloading(progress) = images.stage("a").await else { panic!() };
    assert_eq!((progress.done, progress.rate), (3_000_000, Some(500_000)));
    *downloads.look.lock().unwrap() = Some(PullLook::default());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(images.stage("a").await, PullStage::Quiet);
    for pull in pulls {
        pull.get().await.unwrap();
    }
    assert_eq!(images.stage("a").await, PullStage::Looking);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_cannot_tell_is_asked_once() {
    let (images, downloads) = watched(2, None);
    let _pulls = [images.pull("a"), images.pull("b")];
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(images.stage("a").await, PullStage::Pulling);
        assert_eq!(images.stage("b").await, PullStage::Pulling);
    }
    assert_eq!(downloads.looks.load(std::sync::atomic::Ordering::Relaxed), 1);
}
