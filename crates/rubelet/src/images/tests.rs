//! Pulls with credentials against an image service that knows which ones are right.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use rubelet_cri::CriFuture;

use super::*;

/// Takes a second for a pull; images that begin with `private` need the password `right`.
#[derive(Default)]
struct Registry {
    present: Arc<Mutex<BTreeSet<String>>>,
    pulls: Arc<Mutex<Vec<v1::PullImageRequest>>>,
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
        let present = self.present.clone();
        self.pulls.lock().unwrap().push(request.clone());
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
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
        Self { images: ImageManager::new(Arc::new(registry), limits), pulls }
    }

    /// Passwords of the pulls so far.
    fn tried(&self) -> Vec<String> {
        let pulls = self.pulls.lock().unwrap();
        pulls.iter().map(|request| request.auth.clone().unwrap_or_default().password).collect()
    }
}

fn request(image: &str, passwords: &[&str]) -> PullRequest {
    let auth = |password: &&str| v1::AuthConfig { password: (*password).to_owned(), ..Default::default() };
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
