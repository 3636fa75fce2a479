//! Objects of the API that pods are built from: ConfigMaps and Secrets while a pod refers to them, Services and
//! RuntimeClasses always, claims and their volumes when asked for. Joins the caches of `rubelet_apiclient` with what workers and volumes ask for; decides
//! nothing about pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use rubelet_apiclient::objects::{ChangeDetection, ObjectCache, ObjectError};
use rubelet_apiclient::reflector::Reflector;
use rubelet_core::env::{EnvObjects, EnvReferences, Missing};
use rubelet_core::ids::PodUid;
use rubelet_core::projection::references;
use rubelet_core::runtime_class::{RuntimeClassNotFound, runtime_handler};
use rubelet_core::service_env::service_env;
use rubelet_volumes::ObjectReader;

use crate::pull_credentials::pull_secret_names;
use crate::trust_bundles::TrustBundles;

/// How long a pod waits for the first list of Services or RuntimeClasses before it says what it waits for.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// The objects; cheap to clone.
#[derive(Clone)]
pub struct ApiObjects {
    cache: ObjectCache,
    strategy: ChangeDetection,
    services: Reflector<Service>,
    runtime_classes: Reflector<RuntimeClass>,
    trust_bundles: TrustBundles,
}

/// The Services are not known yet, so that a container cannot be told of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("services have not yet been read at least once, cannot construct envvars")]
pub struct ServicesUnknown;

impl ApiObjects {
    /// Objects from these caches; `strategy` is the first one's.
    pub fn new(
        cache: ObjectCache,
        strategy: ChangeDetection,
        services: Reflector<Service>,
        runtime_classes: Reflector<RuntimeClass>,
        trust_bundles: TrustBundles,
    ) -> Self {
        Self { cache, strategy, services, runtime_classes, trust_bundles }
    }

    /// Follows nothing any more: the agent stops.
    pub fn end(&self) {
        self.cache.end();
        self.services.end();
        self.runtime_classes.end();
        self.trust_bundles.end();
    }

    /// Whether changes are found by looking again, not told.
    pub fn is_polled(&self) -> bool {
        self.strategy != ChangeDetection::Watch
    }

    /// How long answers count as fresh under the Cache strategy; `None` for the default of a minute.
    pub fn set_ttl(&self, ttl: Option<Duration>) {
        self.cache.set_ttl(ttl);
    }

    /// Keeps what the pod refers to at hand from now on.
    pub fn hold(&self, uid: &PodUid, pod: &Pod) {
        self.cache.hold(uid, references(pod));
        self.trust_bundles.hold(uid, pod);
    }

    /// The pod needs nothing any more.
    pub fn release(&self, uid: &PodUid) {
        self.cache.release(uid);
        self.trust_bundles.release(uid);
    }

    /// Waits for pods whose objects changed. For one caller; cancel-safe.
    pub async fn changed(&self) -> BTreeSet<PodUid> {
        // Both keep what nobody took, so that losing the other one loses nothing.
        tokio::select! {
            biased;
            pods = self.cache.changed() => pods,
            pods = self.trust_bundles.changed() => pods,
        }
    }

    /// Reads what an environment refers to.
    pub async fn env_objects(&self, namespace: &str, wanted: &EnvReferences) -> EnvObjects {
        let mut objects = EnvObjects::default();
        for name in &wanted.config_maps {
            let found = self.cache.get_config_map(namespace, name).await;
            let data = found.map(|object| object.data.clone().unwrap_or_default()).map_err(missing);
            objects.config_maps.insert(name.clone(), data);
        }
        for name in &wanted.secrets {
            let found = self.cache.get_secret(namespace, name).await;
            let data = found.map(|object| {
                let data = object.data.iter().flatten();
                data.map(|(key, value)| (key.clone(), value.0.clone())).collect()
            });
            objects.secrets.insert(name.clone(), data.map_err(missing));
        }
        objects
    }

    /// The Secrets a pod pulls images with, and the names of those that are not there.
    pub async fn pull_secrets(&self, pod: &Pod) -> (Vec<Arc<Secret>>, Vec<String>) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let (mut found, mut lost) = (vec![], vec![]);
        for name in pull_secret_names(pod) {
            match self.cache.get_secret(namespace, name).await {
                Ok(secret) => found.push(secret),
                Err(_) => lost.push(name.to_owned()),
            }
        }
        (found, lost)
    }

    /// The variables that tell a pod of Services.
    ///
    /// # Errors
    /// As long as the API server has not told which there are.
    pub async fn service_env(&self, pod: &Pod) -> Result<BTreeMap<String, String>, ServicesUnknown> {
        if tokio::time::timeout(FIRST_LIST, self.services.synced()).await.is_err() {
            return Err(ServicesUnknown);
        }
        let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let services = self.services.list();
        Ok(service_env(services.iter().map(|service| &**service), namespace, links))
    }

    /// The runtime handler of a pod.
    ///
    /// # Errors
    /// The pod names a class that does not exist, or not yet.
    pub async fn runtime_handler(&self, pod: &Pod) -> Result<String, RuntimeClassNotFound> {
        let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        if class.is_none_or(str::is_empty) {
            return Ok(String::new());
        }
        // Without a list a class counts as missing, and the pod tries again.
        let _ = tokio::time::timeout(FIRST_LIST, self.runtime_classes.synced()).await;
        let known = class.and_then(|name| self.runtime_classes.get("", name));
        runtime_handler(class, |_| known.as_ref().map(|class| class.handler.as_str()))
    }
}

fn missing(error: ObjectError) -> Missing {
    match error {
        ObjectError::NotFound(message) => Missing::NotFound(message),
        ObjectError::Failed(message) => Missing::Failed(message),
    }
}

impl ObjectReader for ApiObjects {
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, Missing>> {
        Box::pin(async move { self.cache.get_config_map(namespace, name).await.map_err(missing) })
    }

    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, Missing>> {
        Box::pin(async move { self.cache.get_secret(namespace, name).await.map_err(missing) })
    }

    fn claim<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolumeClaim>, Missing>> {
        Box::pin(async move { self.cache.get_claim(namespace, name).await.map(Arc::new).map_err(missing) })
    }

    fn persistent_volume<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolume>, Missing>> {
        Box::pin(async move { self.cache.get_persistent_volume(name).await.map(Arc::new).map_err(missing) })
    }

    fn cluster_trust_bundles(&self) -> BoxFuture<'_, Result<Vec<Arc<ClusterTrustBundle>>, Missing>> {
        Box::pin(self.trust_bundles.all())
    }
}
