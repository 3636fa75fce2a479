//! Images: says whether one is there and pulls it. Pulls of one image are one pull however many pods wait,
//! they run in parallel behind a limiter, and they outlive the pod that asked, as upstream's do. Whether to
//! pull is decided by `rubelet_core::image`; back-off is kept by the pod's worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use rubelet_cri::{CriError, ImageService, v1};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

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
            Err(CriError::new("PullImage", rubelet_cri::CriErrorKind::Canceled, "the agent is stopping"))
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
    under_way: Mutex<BTreeMap<String, Pull>>,
    tasks: Mutex<JoinSet<()>>,
}

/// Token bucket: `qps` tokens a second, `burst` at most.
#[derive(Debug)]
struct Rate {
    qps: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn try_take(&mut self, now: Instant) -> bool {
        if self.qps <= 0.0 {
            return true;
        }
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f64() * self.qps).min(self.burst);
        self.at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

impl ImageManager {
    /// A manager over an image service. Must be called inside a runtime.
    pub fn new(service: Arc<dyn ImageService>, limits: PullLimits) -> Self {
        let burst = f64::from(limits.burst.max(1));
        Self {
            inner: Arc::new(Inner {
                service,
                places: Arc::new(Semaphore::new(limits.parallel.max(1))),
                rate: Mutex::new(Rate { qps: limits.qps, burst, tokens: burst, at: Instant::now() }),
                under_way: Mutex::default(),
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

    /// Whether the registry limit (`registryPullQPS`) lets another pull begin now.
    pub fn may_pull_now(&self) -> bool {
        self.inner.rate.lock().unwrap_or_else(PoisonError::into_inner).try_take(Instant::now())
    }

    /// Pulls an image, or joins the pull of it that is under way. The answer may be dropped: the pull goes on.
    pub fn pull(&self, image: &str) -> PullAnswer {
        let pull = self.join_pull(image);
        let (done, answer) = oneshot::channel();
        let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let _ = done.send(pull.await);
        });
        PullAnswer(answer)
    }

    /// Looks an image up in the background and pulls it if it is missing; `on_pull` is called before a pull begins
    /// and may forbid it. The answer may be dropped.
    pub fn find_or_pull(&self, image: &str, on_pull: impl FnOnce() -> bool + Send + 'static) -> Background {
        let (done, answer) = oneshot::channel();
        let (weak, name) = (Arc::downgrade(&self.inner), image.to_owned());
        let service = self.inner.service.clone();
        let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let found = match find(&*service, &name).await {
                Ok(Some(image)) => Some(Found::Present(image)),
                // Whoever needs it asks again and hears the error.
                Err(_) => None,
                Ok(None) => match weak.upgrade().filter(|_| on_pull()) {
                    Some(inner) => {
                        let pull = Self { inner }.join_pull(&name);
                        Some(Found::Pulled(pull.await))
                    }
                    None => None,
                },
            };
            let _ = done.send(found);
        });
        Background(answer)
    }

    fn join_pull(&self, image: &str) -> Pull {
        let mut under_way = self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = under_way.get(image) {
            return pull.clone();
        }
        let inner = Arc::downgrade(&self.inner);
        let (service, places) = (self.inner.service.clone(), self.inner.places.clone());
        let name = image.to_owned();
        let pull = async move {
            let asked = Instant::now();
            let place = places.acquire_owned().await;
            let began = Instant::now();
            let result = pull_and_find(&*service, &name).await;
            drop(place);
            if let Some(inner) = inner.upgrade() {
                inner.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            }
            result.map(|image| Pulled { image, took: began.elapsed(), waited: asked.elapsed() })
        }
        .boxed()
        .shared();
        under_way.insert(image.to_owned(), pull.clone());
        pull
    }
}

async fn pull_and_find(service: &dyn ImageService, image: &str) -> Result<PresentImage, CriError> {
    let request = v1::PullImageRequest {
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let answer = service.pull_image(request, PULL_LIMIT).await?;
    match find(service, image).await? {
        Some(found) => Ok(found),
        // The name may have moved on since: the pulled reference itself still names the image.
        None => find(service, &answer.image_ref).await?.ok_or_else(|| {
            CriError::new(
                "PullImage",
                rubelet_cri::CriErrorKind::Unknown,
                format!("the image was pulled as {} and is not there", answer.image_ref),
            )
        }),
    }
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
