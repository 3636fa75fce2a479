//! ClusterTrustBundles: watched from when the first pod on this node shows one, and not at all before.
//!
//! Owns the watch and which pods are told of changes. Which bundles a volume shows is `rubelet_core::projection`'s.
//! Called by `api_objects`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::Pod;
use rubelet_apiclient::reflector::Reflector;
use rubelet_core::env::Missing;
use rubelet_core::ids::PodUid;
use rubelet_core::projection::wants_trust_bundles;
use tokio::sync::watch;

/// How long a volume waits for the first list before it says what it waits for.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// Starts the watch.
type Start = Box<dyn FnOnce() -> Reflector<ClusterTrustBundle> + Send>;

/// The bundles; cheap to clone.
#[derive(Clone)]
pub struct TrustBundles(Arc<Shared>);

struct Shared {
    /// Taken with the first pod; none from the start where the feature gate is off.
    start: Mutex<Option<Start>>,
    bundles: watch::Sender<Option<Reflector<ClusterTrustBundle>>>,
    /// Pods that show bundles; bounded by the pods of the node.
    holders: Mutex<BTreeSet<PodUid>>,
    /// The revision of the store that pods were told of.
    told: Mutex<u64>,
}

impl TrustBundles {
    /// Bundles that `start` begins to watch once a pod shows one.
    pub fn new(start: impl FnOnce() -> Reflector<ClusterTrustBundle> + Send + 'static) -> Self {
        Self::with(Some(Box::new(start)))
    }

    /// The feature gate is off: volumes that show bundles cannot be made.
    pub fn off() -> Self {
        Self::with(None)
    }

    fn with(start: Option<Start>) -> Self {
        Self(Arc::new(Shared {
            start: Mutex::new(start),
            bundles: watch::Sender::new(None),
            holders: Mutex::default(),
            told: Mutex::default(),
        }))
    }

    /// Tells the pod's worker of changes from now on, if the pod shows bundles.
    pub fn hold(&self, uid: &PodUid, pod: &Pod) {
        if !wants_trust_bundles(pod) {
            return;
        }
        lock(&self.0.holders).insert(uid.clone());
        if let Some(start) = lock(&self.0.start).take() {
            self.0.bundles.send_replace(Some(start()));
        }
    }

    /// The pod needs nothing any more.
    pub fn release(&self, uid: &PodUid) {
        lock(&self.0.holders).remove(uid);
    }

    /// Ends the watch: the agent stops.
    pub fn end(&self) {
        if let Some(bundles) = self.0.bundles.borrow().as_ref() {
            bundles.end();
        }
    }

    /// All bundles.
    ///
    /// # Errors
    /// As long as the API server has not told which there are, and where the feature gate is off.
    pub async fn all(&self) -> Result<Vec<Arc<ClusterTrustBundle>>, Missing> {
        let bundles = self.0.bundles.borrow().clone();
        let failed = |message: &str| Err(Missing::Failed(message.to_owned()));
        let Some(bundles) = bundles else {
            return failed(
                "ClusterTrustBundle projection is not supported: the feature gate ClusterTrustBundleProjection is off",
            );
        };
        if tokio::time::timeout(FIRST_LIST, bundles.synced()).await.is_err() {
            return failed("ClusterTrustBundle informer has not yet synced");
        }
        Ok(bundles.list())
    }

    /// Waits for a change and gives the pods it may matter to. For one caller; cancel-safe: a change is taken only by
    /// who gets it.
    pub async fn changed(&self) -> BTreeSet<PodUid> {
        let mut started = self.0.bundles.subscribe();
        // The sender lives as long as `self`.
        let bundles = started.wait_for(Option::is_some).await.ok().and_then(|bundles| bundles.clone());
        let Some(bundles) = bundles else { return std::future::pending().await };
        let told = *lock(&self.0.told);
        let Ok(revision) = bundles.changes().wait_for(|revision| *revision != told).await.map(|now| *now)
        else {
            return std::future::pending().await;
        };
        *lock(&self.0.told) = revision;
        lock(&self.0.holders).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use rubelet_apiclient::watch::WatchSpec;
    use serde_json::{Value, json};

    use super::*;

    /// A server that lists one bundle, then tells of another, then of nothing.
    fn reflector() -> Reflector<ClusterTrustBundle> {
        let bundle = |name: &str| {
            json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
                "metadata": {"name": name, "uid": name, "resourceVersion": "2"}, "spec": {"trustBundle": "pem"}})
        };
        let list = json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundleList",
            "metadata": {"resourceVersion": "1"}, "items": [bundle("first")]});
        let event = json!({"type": "ADDED", "object": bundle("second")});
        let answer = move |request: &http::Request<Body>| -> Option<Value> {
            let asked = request.uri().to_string();
            assert!(asked.contains("certificates.k8s.io/v1beta1/clustertrustbundles"), "{asked}");
            match asked.contains("watch=") {
                false => Some(list.clone()),
                true if asked.contains("resourceVersion=1") => Some(event.clone()),
                true => None,
            }
        };
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let answer = answer(&request);
            async move {
                match answer {
                    Some(answer) => {
                        let body = http_body_util::Full::new(format!("{answer}\n").into());
                        Ok::<_, std::convert::Infallible>(http::Response::new(body.boxed()))
                    }
                    None => std::future::pending().await,
                }
            }
        });
        Reflector::start(kube::Client::new(service, "default"), WatchSpec::all(1))
    }

    fn pod(shows: bool) -> Pod {
        let source =
            if shows { json!({"clusterTrustBundle": {"path": "p", "name": "first"}}) } else { json!({}) };
        let volume = json!({"name": "v", "projected": {"sources": [source]}});
        serde_json::from_value(json!({"spec": {"containers": [], "volumes": [volume]}})).unwrap()
    }

    async fn names(bundles: &TrustBundles) -> Vec<String> {
        let all = bundles.all().await.unwrap();
        all.iter().filter_map(|bundle| bundle.metadata.name.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn bundles_are_followed_for_pods_that_show_them() {
        let bundles = TrustBundles::new(reflector);
        bundles.hold(&"other".into(), &pod(false));
        assert!(bundles.all().await.is_err(), "nobody shows any: they are not followed");
        bundles.hold(&"one".into(), &pod(true));
        bundles.hold(&"two".into(), &pod(true));
        assert!(names(&bundles).await.contains(&"first".to_owned()));
        while names(&bundles).await != ["first", "second"] {
            assert_eq!(bundles.changed().await, BTreeSet::from(["one".into(), "two".into()]));
        }
        bundles.release(&"one".into());
        bundles.end();
        assert_eq!(names(&bundles).await, ["first", "second"], "what is known stays");
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_gate_volumes_are_told_so() {
        let bundles = TrustBundles::off();
        bundles.hold(&"one".into(), &pod(true));
        let Err(Missing::Failed(message)) = bundles.all().await else { panic!("there are some") };
        assert!(message.contains("feature gate ClusterTrustBundleProjection is off"), "{message}");
    }
}
