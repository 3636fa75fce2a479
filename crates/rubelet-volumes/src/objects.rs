//! How volumes read ConfigMaps and Secrets. Owns the trait alone; the shell implements it over its cache of watched
//! objects, so that a volume costs no request of its own.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
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
}
