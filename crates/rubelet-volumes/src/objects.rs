//! How volumes read objects of the API. Owns the trait alone; the shell implements it, for ConfigMaps and Secrets over
//! its cache of watched objects, so that such a volume costs no request of its own.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
use rubelet_core::env::Missing;

/// Reads objects that a pod of this node refers to.
pub trait ObjectReader: Send + Sync {
    /// The ConfigMap as the API server has it now or had it a moment ago.
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, Missing>>;

    /// The Secret, likewise.
    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str)
    -> BoxFuture<'a, Result<Arc<Secret>, Missing>>;

    /// The claim as the API server has it now: a request each time.
    fn claim<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolumeClaim>, Missing>>;

    /// The PersistentVolume, likewise.
    fn persistent_volume<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolume>, Missing>>;
}
