//! How volumes read objects of the API. Owns the trait alone; the shell implements it, for ConfigMaps and Secrets over
//! its cache of watched objects, so that such a volume costs no request of its own.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
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

    /// All ClusterTrustBundles, as last heard of. A reader without them says so.
    fn cluster_trust_bundles(&self) -> BoxFuture<'_, Result<Vec<Arc<ClusterTrustBundle>>, Missing>> {
        let message = "ClusterTrustBundle projection is not supported in static kubelet mode";
        Box::pin(std::future::ready(Err(Missing::Failed(message.to_owned()))))
    }
}

/// What volumes of drivers ask of the API and tell it. The shell implements it; a node without an API server has none.
pub trait VolumeApi: Send + Sync {
    /// The CSIDriver object as last heard of; `None` when there is none, which means the defaults.
    fn csi_driver<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, Missing>>;

    /// The VolumeAttachment of that name as the API server has it now: a request each time.
    fn volume_attachment<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<VolumeAttachment>, Missing>>;

    /// Says that this node uses the volume, by its unique name; done once `status.volumesInUse` of the node has it, so
    /// that nobody detaches it meanwhile. Idempotent.
    fn use_volume<'a>(&'a self, unique_name: &'a str) -> BoxFuture<'a, Result<(), Missing>>;

    /// Says that this node does not use the volume any more: it may be detached. Idempotent.
    fn release_volume(&self, unique_name: &str);

    /// The device path that `status.volumesAttached` of the node has for the volume; `None` while it is not there.
    fn attached(&self, unique_name: &str) -> Option<String>;

    /// Waits until `status.volumesAttached` of the node has the volume; its device path. Cancel-safe, polls nothing.
    fn wait_attached<'a>(&'a self, unique_name: &'a str) -> BoxFuture<'a, String>;

    /// The claim is about to grow on this node: its status says so, unless it does already.
    fn claim_expanding<'a>(&'a self, namespace: &'a str, name: &'a str)
    -> BoxFuture<'a, Result<(), Missing>>;

    /// The claim has grown on this node: its status is brought up to `capacity`, bytes.
    fn claim_expanded<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        capacity: i64,
    ) -> BoxFuture<'a, Result<(), Missing>>;

    /// The driver could not let the claim grow: `infeasible` for good.
    fn claim_not_expanded<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        infeasible: bool,
        message: &'a str,
    ) -> BoxFuture<'a, Result<(), Missing>>;
}
