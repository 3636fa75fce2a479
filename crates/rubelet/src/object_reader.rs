//! ConfigMaps and Secrets for volumes, from the cache of what this node's pods refer to.
//!
//! Owns the translation between the cache's words and the core's; keeps nothing itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use rubelet_apiclient::objects::{ObjectCache, ObjectError, ObjectRef};
use rubelet_core::env::Missing;
use rubelet_core::projection::{ObjectKind, references};
use rubelet_volumes::ObjectReader;

/// Reads through the cache.
#[derive(Clone)]
pub struct CachedObjects(pub ObjectCache);

impl ObjectReader for CachedObjects {
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, Missing>> {
        Box::pin(async move { self.0.get_config_map(namespace, name).await.map_err(missing) })
    }

    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, Missing>> {
        Box::pin(async move { self.0.get_secret(namespace, name).await.map_err(missing) })
    }
}

/// The core's word for an object that is not there.
pub fn missing(error: ObjectError) -> Missing {
    match error {
        ObjectError::NotFound(message) => Missing::NotFound(message),
        ObjectError::Failed(message) => Missing::Failed(message),
    }
}

/// Everything a pod refers to, for [`ObjectCache::hold`].
pub fn held_by(pod: &Pod) -> BTreeSet<ObjectRef> {
    let of = |object: rubelet_core::projection::ObjectReference| match object.kind {
        ObjectKind::ConfigMap => ObjectRef::config_map(object.namespace, object.name),
        ObjectKind::Secret => ObjectRef::secret(object.namespace, object.name),
    };
    references(pod).into_iter().map(of).collect()
}
