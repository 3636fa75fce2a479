//! Images: says whether one is there and pulls it. Pulls of one image with the same credentials are one pull
//! however many pods wait, they run in parallel behind a limiter, and they outlive the pod that asked, as
//! upstream's do. Whether to pull is decided by `rubelet_core::image`; credentials come from
//! `PullCredentials`; back-off is kept by the pod's worker. Who waits may ask how far a pull is.

mod progress;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use rubelet_core::explain::PullStage;
use rubelet_core::image_credentials::{RegistryAuth, SourcedAuth, in_order};
use rubelet_core::pulled_images::PulledWith;
use rubelet_core::token_bucket::TokenBucket;
use rubelet_cri::{CriError, CriErrorKind, ImageService, PullWatch, v1};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use progress::{Follow, Watching};

use crate::pulled_images::PulledImages;

/// How long one pull may take. Upstream sets no limit; ours only exists so that nothing waits for ever.
const PULL_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Limits of pulls, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct PullLimits {
    /// Pulls at a time.
    pub parallel: usize,
    /// Pulls per second over time, 0 for no limit (`registryPullQPS`).
    pub qps: f64,
    /// Pulls at once on top of `qps` (`registryBurst`).
    pub burst: u32,
}

/// Looks credentials up, when it is certain that they are needed.
pub type CredentialLookup = BoxFuture<'static, Vec<SourcedAuth>>;

/// What to pull, for whom and with what.
#[derive(Default)]
pub struct PullRequest {
    /// The image, with its default tag.
    pub image: String,
    /// Annotations of the pod: runtimes may look at them.
    pub annotations: BTreeMap<String, String>,
    /// The sandbox the image is for. Where pulls are merged it is the first one's.
    pub sandbox: Option<v1::PodSandboxConfig>,
    /// Credentials, tried one after the other until one works. None at all: pulled without.
    pub credentials: Option<CredentialLookup>,
}

impl From<&String> for PullRequest {
    fn from(image: &String) -> Self {
        Self::from(image.as_str())
    }
}

impl From<&str> for PullRequest {
    /// A pull without credentials.
    fn from(image: &str) -> Self {
        Self { image: image.to_owned(), ..Self::default() }
    }
}

/// An image that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresentImage {
    /// Reference to create containers from: the image ID.
    pub reference: String,
    /// The image's own user as a number, when it is one.
    pub uid: Option<i64>,
    /// The image's own user as a name.
    pub username: String,
    /// Size in bytes.
    pub size: u64,
}

/// How a pull went.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: PresentImage,
    /// Time of the pull itself.
    pub took: Duration,
    /// Time with waiting for a place.
    pub waited: Duration,
    /// When it was done.
    pub ended: Instant,
    /// The credentials that did it; `None` for a pull without.
    with: Option<RegistryAuth>,
}

/// A pull under way.
pub struct PullAnswer(oneshot::Receiver<Result<Pulled, CriError>>);

impl PullAnswer {
    /// Waits for the pull.
    ///
    /// # Errors
    /// What the runtime said.
    pub async fn get(self) -> Result<Pulled, CriError> {
        self.0.await.unwrap_or_else(|_| {
            Err(CriError::new("PullImage", CriErrorKind::Canceled, "the agent is stopping"))
        })
    }
}

/// What a look in the background came to.
#[derive(Debug)]
pub enum Found {
    /// The image was there.
    Present(PresentImage),
    /// It was pulled, or the pull failed.
    Pulled(Result<Pulled, CriError>),
}

/// A look, and perhaps a pull, under way.
pub struct Background(oneshot::Receiver<Option<Found>>);

impl Background {
    /// Waits for it; `None` when it came to nothing and has to be asked again.
    pub async fn get(self) -> Option<Found> {
        self.0.await.ok().flatten()
    }
}

/// In the order to try, each once.
type Credentials = Arc<[RegistryAuth]>;

type Pull = Shared<BoxFuture<'static, Result<Pulled, CriError>>>;

/// Handle; cheap to clone. Dropping the last one gives up the pulls under way.
#[derive(Clone)]
pub struct ImageManager {
    inner: Arc<Inner>,
}

struct Inner {
    service: Arc<dyn ImageService>,
    places: Arc<Semaphore>,
    rate: Mutex<Rate>,
    /// By image; those with other credentials are other pulls.
    under_way: Mutex<BTreeMap<String, Vec<UnderWay>>>,
    watching: Watching,
    /// What is remembered of pulls.
    records: PulledImages,
    /// Told of each image that is new.
    on_new: Box<dyn Fn() + Send + Sync>,
    tasks: Mutex<JoinSet<()>>,
}

/// A pull under way.
struct UnderWay {
    with: Credentials,
    pull: Pull,
    follow: Arc<Follow>,
}

/// The pace of `registryPullQPS`.
#[derive(Debug)]
struct Rate {
    /// `None` without a limit.
    bucket: Option<TokenBucket>,
    start: Instant,
}

impl Rate {
    fn try_take(&mut self) -> bool {
        let now = self.start.elapsed();
        self.bucket.as_mut().is_none_or(|bucket| bucket.try_take(now))
    }
}

impl ImageManager {
    /// A manager over an image service; `watch` tells how far pulls are, where the runtime can; `on_new` is called when
    /// an image was pulled. Must be called inside a runtime.
    pub fn new(
        service: Arc<dyn ImageService>,
        limits: PullLimits,
        watch: Option<Arc<dyn PullWatch>>,
        records: PulledImages,
        on_new: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let limited = limits.qps > 0.0;
        let bucket = limited.then(|| TokenBucket::new(limits.qps, limits.burst, Duration::ZERO));
        Self {
            inner: Arc::new(Inner {
                service,
                places: Arc::new(Semaphore::new(limits.parallel.max(1))),
                rate: Mutex::new(Rate { bucket, start: Instant::now() }),
                under_way: Mutex::default(),
                watching: Watching::new(watch),
                records,
                on_new: Box::new(on_new),
                tasks: Mutex::default(),
            }),
        }
    }

    /// Looks an image up; `None` when the runtime does not have it.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn find(&self, image: &str) -> Result<Option<PresentImage>, CriError> {
        find(&*self.inner.service, image).await
    }

    /// How far the pull of an image is. Asks the runtime at most every few seconds, however many wait.
    pub async fn stage(&self, image: &str) -> PullStage {
        let follow = {
            let under_way = self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(first) = under_way.get(image).and_then(|pulls| pulls.first()) else {
                return PullStage::Looking;
            };
            if !first.follow.has_begun() {
                let earlier = |other: &&UnderWay| other.follow.place < first.follow.place;
                return PullStage::Queued(under_way.values().flatten().filter(earlier).count());
            }
            first.follow.clone()
        };
        self.inner.watching.stage(image, &follow).await
    }

    /// Whether the registry limit (`registryPullQPS`) lets another pull begin now.
    pub fn may_pull_now(&self) -> bool {
        self.inner.rate.lock().unwrap_or_else(PoisonError::into_inner).try_take()
    }

    /// Pulls an image, or joins the pull of it that is under way. The answer may be dropped: the pull goes on.
    pub fn pull(&self, request: impl Into<PullRequest>) -> PullAnswer {
        let request = request.into();
        let (done, answer) = oneshot::channel();
        let weak = Arc::downgrade(&self.inner);
        let asked = Instant::now();
        // Without credentials to look up, a pull that is under way is joined at once.
        let begun = request.credentials.is_none().then(|| self.join_pull(&request, &[], asked));
        self.spawn(async move {
            let pulled = match begun {
                Some(pull) => Some(pull.await),
                None => pull_with_credentials(&weak, request, asked).await,
            };
            if let Some(pulled) = pulled {
                let _ = done.send(pulled);
            }
        });
        PullAnswer(answer)
    }

    /// Looks an image up in the background and pulls it if it is missing; `on_pull` is called before a pull begins
    /// and may forbid it. Credentials are looked up only for a pull. The answer may be dropped.
    pub fn find_or_pull(
        &self,
        request: impl Into<PullRequest>,
        on_pull: impl FnOnce() -> bool + Send + 'static,
    ) -> Background {
        let request = request.into();
        let (done, answer) = oneshot::channel();
        let weak = Arc::downgrade(&self.inner);
        let service = self.inner.service.clone();
        self.spawn(async move {
            let found = match find(&*service, &request.image).await {
                Ok(Some(image)) => Some(Found::Present(image)),
                // Whoever needs it asks again and hears the error.
                Err(_) => None,
                Ok(None) if on_pull() => {
                    pull_with_credentials(&weak, request, Instant::now()).await.map(Found::Pulled)
                }
                Ok(None) => None,
            };
            let _ = done.send(found);
        });
        Background(answer)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        // It belongs to the trace of whoever asked for it.
        tasks.spawn(task.in_current_span());
    }

    fn join_pull(&self, request: &PullRequest, credentials: &[SourcedAuth], asked: Instant) -> Pull {
        let auths = in_order([credentials.iter().map(|found| found.auth.clone()).collect()]);
        let mut under_way = self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let same_image = under_way.entry(request.image.clone()).or_default();
        if let Some(same) = same_image.iter().find(|pull| *pull.with == *auths) {
            return same.pull.clone();
        }
        let sources = credentials.to_vec();
        let auths: Credentials = auths.into();
        let inner = Arc::downgrade(&self.inner);
        let (service, places) = (self.inner.service.clone(), self.inner.places.clone());
        let image = v1::ImageSpec {
            image: request.image.clone(),
            annotations: request.annotations.clone(),
            ..Default::default()
        };
        let (with, sandbox) = (auths.clone(), request.sandbox.clone());
        let records = self.inner.records.clone();
        let follow = self.inner.watching.follow(&request.image);
        let followed = follow.clone();
        let pull = async move {
            let place = places.acquire_owned().await;
            let began = Instant::now();
            followed.begin(began);
            let name = image.image.clone();
            let result = match records.begin(&name).await {
                Ok(()) => {
                    let result = pull_and_find(&*service, image, &with, sandbox).await;
                    let pulled = result.as_ref().ok().map(|(image, auth)| {
                        (image.reference.as_str(), pulled_with(auth.as_ref(), &sources))
                    });
                    let pulled = pulled.as_ref().map(|(reference, with)| (*reference, with));
                    records.ended(&name, pulled).await;
                    result
                }
                Err(error) => {
                    let why = crate::logging::chain(&error);
                    let message =
                        format!("Failed to record image pull intent for container image {name:?}: {why}");
                    Err(CriError::new("PullImage", CriErrorKind::Unknown, message))
                }
            };
            drop(place);
            if let Some(inner) = inner.upgrade() {
                inner.forget(&name, &with);
                if result.is_ok() {
                    (inner.on_new)();
                }
            }
            result.map(|(image, with)| Pulled {
                image,
                took: began.elapsed(),
                waited: asked.elapsed(),
                ended: Instant::now(),
                with,
            })
        }
        .boxed()
        .shared();
        same_image.push(UnderWay { with: auths, pull: pull.clone(), follow });
        pull
    }
}

impl Inner {
    /// The pull of an image with these credentials has ended.
    fn forget(&self, image: &str, credentials: &Credentials) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same_image) = under_way.get_mut(image) {
            same_image.retain(|pull| pull.with != *credentials);
            if same_image.is_empty() {
                under_way.remove(image);
            }
        }
    }
}

/// Looks the credentials up, then pulls or joins; `None` when the manager is gone by then.
async fn pull_with_credentials(
    manager: &Weak<Inner>,
    mut request: PullRequest,
    asked: Instant,
) -> Option<Result<Pulled, CriError>> {
    let credentials = match request.credentials.take() {
        Some(lookup) => lookup.await,
        None => Vec::new(),
    };
    let (pull, records) = {
        let manager = ImageManager { inner: manager.upgrade()? };
        (manager.join_pull(&request, &credentials, asked), manager.inner.records.clone())
    };
    let pulled = pull.await;
    if let Ok(pulled) = &pulled
        && pulled.with.is_some()
    {
        // Another's secret may hold the same credentials as the one that is recorded.
        let with = pulled_with(pulled.with.as_ref(), &credentials);
        records.shared(&request.image, &pulled.image.reference, &with).await;
    }
    Some(pulled)
}

/// What is remembered of a pull: whose credentials did it. Without any, everybody may use the image.
fn pulled_with(auth: Option<&RegistryAuth>, credentials: &[SourcedAuth]) -> PulledWith {
    let Some(auth) = auth else { return PulledWith::node() };
    let used = credentials.iter().find(|found| found.auth == *auth);
    used.map_or_else(PulledWith::default, SourcedAuth::pulled_with)
}

async fn pull_and_find(
    service: &dyn ImageService,
    image: v1::ImageSpec,
    credentials: &[RegistryAuth],
    sandbox: Option<v1::PodSandboxConfig>,
) -> Result<(PresentImage, Option<RegistryAuth>), CriError> {
    let name = image.image.clone();
    let (reference, with) = pull_with(service, image, credentials, sandbox).await?;
    let found = match find(service, &name).await? {
        Some(found) => found,
        // The name may have moved on since: the pulled reference itself still names the image.
        None => find(service, &reference).await?.ok_or_else(|| {
            CriError::new(
                "PullImage",
                CriErrorKind::Unknown,
                format!("the image was pulled as {reference} and is not there"),
            )
        })?,
    };
    Ok((found, with))
}

/// Tries one credential after the other until one works; the reference of what was pulled, and which it was.
async fn pull_with(
    service: &dyn ImageService,
    image: v1::ImageSpec,
    credentials: &[RegistryAuth],
    sandbox: Option<v1::PodSandboxConfig>,
) -> Result<(String, Option<RegistryAuth>), CriError> {
    let mut request = v1::PullImageRequest { image: Some(image), auth: None, sandbox_config: sandbox };
    if credentials.is_empty() {
        return Ok((service.pull_image(request, PULL_LIMIT).await?.image_ref, None));
    }
    let mut errors: Vec<CriError> = Vec::new();
    for auth in credentials {
        request.auth = Some(auth_config(auth));
        match service.pull_image(request.clone(), PULL_LIMIT).await {
            Ok(answer) => return Ok((answer.image_ref, Some(auth.clone()))),
            // Other credentials do not bring the runtime back.
            Err(error) if error.kind == CriErrorKind::Unreachable => return Err(error),
            Err(error) => errors.push(error),
        }
    }
    Err(all_of(errors))
}

fn auth_config(auth: &RegistryAuth) -> v1::AuthConfig {
    v1::AuthConfig {
        username: auth.username.clone(),
        password: auth.password.clone(),
        identity_token: auth.identity_token.clone(),
        registry_token: auth.registry_token.clone(),
        ..Default::default()
    }
}

/// One error for several, each message once, in brackets as upstream's aggregates are.
fn all_of(errors: Vec<CriError>) -> CriError {
    let mut messages: Vec<&str> = Vec::new();
    for error in &errors {
        if !messages.contains(&error.message.as_str()) {
            messages.push(&error.message);
        }
    }
    let joined = (messages.len() > 1).then(|| format!("[{}]", messages.join(", ")));
    let last = errors.into_iter().next_back();
    let mut error = last
        .unwrap_or_else(|| CriError::new("PullImage", CriErrorKind::Unknown, "no credentials were tried"));
    if let Some(joined) = joined {
        error.message = joined;
    }
    error
}

async fn find(service: &dyn ImageService, image: &str) -> Result<Option<PresentImage>, CriError> {
    let request = v1::ImageStatusRequest {
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        verbose: false,
    };
    let answer = service.image_status(request).await?;
    Ok(answer.image.map(|image| PresentImage {
        reference: image.id,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
        size: image.size,
    }))
}

#[cfg(test)]
mod tests;
