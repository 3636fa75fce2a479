//! What volumes of drivers ask of the API server and tell it: `rubelet_volumes::VolumeApi` for a node that has one.
//!
//! Owns the watch of CSIDrivers, which begins when the first is asked for, and the requests; what a claim's status is to
//! say is `rubelet_core::volumes::claim_status`'. Used by the volumes; the node agent writes what it says of the Node.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::Api;
use kube::api::{Patch, PatchParams};
use rubelet_apiclient::reflector::Reflector;
use rubelet_apiclient::wake::Wake;
use rubelet_apiclient::watch::WatchSpec;
use rubelet_core::env::Missing;
use rubelet_core::volumes::claim_status;
use rubelet_volumes::VolumeApi;
use serde_json::Value;

use crate::clock::Clock;
use crate::node_view::NodeView;
use crate::volumes_in_use::VolumesInUse;

/// How long a volume waits for the first list of CSIDrivers.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a volume waits for the Node to say that it is in use.
const STATUS: Duration = Duration::from_secs(10);
/// Pauses between attempts that are forbidden: the Node authorizer hears of an attachment a moment later than others.
const NOT_YET: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];
/// How often a claim that somebody else writes meanwhile is read again.
const TRIES: u32 = 5;

/// The API server, for volumes.
pub struct ApiVolumes {
    client: kube::Client,
    drivers: OnceLock<Reflector<CSIDriver>>,
    seed: u64,
    wake: Wake,
    in_use: VolumesInUse,
    node: NodeView,
    clock: Clock,
}

impl ApiVolumes {
    /// Through this client. `seed` spreads watches as everywhere; `wake` is news that the server answers again.
    pub fn new(
        client: kube::Client,
        seed: u64,
        wake: Wake,
        in_use: VolumesInUse,
        node: NodeView,
        clock: Clock,
    ) -> Self {
        Self { client, drivers: OnceLock::new(), seed, wake, in_use, node, clock }
    }

    /// The watch of CSIDrivers, begun by the first who asks: a node without volumes of drivers has none. Must be called
    /// inside a tokio runtime.
    pub fn drivers(&self) -> &Reflector<CSIDriver> {
        self.drivers.get_or_init(|| {
            Reflector::start(
                self.client.clone(),
                WatchSpec::all(self.seed).with_clean(trim_driver).with_wake(self.wake.clone()),
            )
        })
    }

    /// Follows nothing any more: the agent stops.
    pub fn end(&self) {
        if let Some(drivers) = self.drivers.get() {
            drivers.end();
        }
    }

    async fn attachment(&self, name: &str) -> Result<VolumeAttachment, Missing> {
        let attachments: Api<VolumeAttachment> = Api::all(self.client.clone());
        let mut pauses = NOT_YET.iter();
        loop {
            match (asked(attachments.get(name)).await, pauses.next()) {
                (Err(Refusal { code: 403, .. }), Some(pause)) => tokio::time::sleep(*pause).await,
                (answer, _) => return answer.map_err(Missing::from),
            }
        }
    }

    /// Changes a claim's status by a patch that is good for the version it was made from only.
    async fn change_claim(
        &self,
        namespace: &str,
        name: &str,
        change: impl Fn(&PersistentVolumeClaim) -> Option<Value> + Send,
    ) -> Result<(), Missing> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let mut tries = 1;
        loop {
            let claim = asked(claims.get(name)).await?;
            let Some(patch) = change(&claim) else { return Ok(()) };
            let (options, patch) = (PatchParams::default(), Patch::Merge(&patch));
            match asked(claims.patch_status(name, &options, &patch)).await {
                Ok(_) => return Ok(()),
                Err(Refusal { code: 409, .. }) if tries < TRIES => tries += 1,
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }
}

/// Why a request was in vain.
struct Refusal {
    /// HTTP status; 0 when there was no answer.
    code: u16,
    text: String,
}

impl From<Refusal> for Missing {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            404 => Self::NotFound(refusal.text),
            _ => Self::Failed(refusal.text),
        }
    }
}

async fn asked<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Refusal> {
    match tokio::time::timeout(REQUEST, request).await {
        Err(_) => Err(Refusal { code: 0, text: format!("no answer within {} s", REQUEST.as_secs()) }),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(Refusal { code: status.code, text: status.message.clone() }),
        Ok(Err(error)) => Err(Refusal { code: 0, text: crate::logging::chain(&error) }),
    }
}

/// Of a CSIDriver, its name and what it says of itself.
fn trim_driver(driver: &mut CSIDriver) {
    let metadata = std::mem::take(&mut driver.metadata);
    driver.metadata.name = metadata.name;
    driver.metadata.uid = metadata.uid;
    driver.metadata.resource_version = metadata.resource_version;
}

impl VolumeApi for ApiVolumes {
    fn csi_driver<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, Missing>> {
        Box::pin(async move {
            let drivers = self.drivers();
            if tokio::time::timeout(FIRST_LIST, drivers.synced()).await.is_err() {
                let text =
                    format!("CSIDriver {name:?} is not known yet: the API server has not listed CSIDrivers");
                return Err(Missing::Failed(text));
            }
            Ok(drivers.get("", name))
        })
    }

    fn volume_attachment<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<VolumeAttachment>, Missing>> {
        Box::pin(async move { self.attachment(name).await.map(Arc::new) })
    }

    fn use_volume<'a>(&'a self, unique_name: &'a str) -> BoxFuture<'a, Result<(), Missing>> {
        Box::pin(async move {
            let held = tokio::time::timeout(STATUS, self.in_use.hold(unique_name)).await;
            held.map_err(|_| {
                let text =
                    "Volume has not been added to the list of VolumesInUse in the node's volume status";
                Missing::Failed(text.to_owned())
            })
        })
    }

    fn release_volume(&self, unique_name: &str) {
        self.in_use.release(unique_name);
    }

    fn attached(&self, unique_name: &str) -> Option<String> {
        let node = self.node.get()?;
        let attached = node.status.as_ref()?.volumes_attached.as_ref()?;
        attached.iter().find(|volume| volume.name == unique_name).map(|volume| volume.device_path.clone())
    }

    fn wait_attached<'a>(&'a self, unique_name: &'a str) -> BoxFuture<'a, String> {
        Box::pin(async move {
            let mut node = self.node.clone();
            loop {
                if let Some(path) = self.attached(unique_name) {
                    return path;
                }
                node.changed().await;
            }
        })
    }

    fn claim_expanding<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), Missing>> {
        Box::pin(async move { self.change_claim(namespace, name, claim_status::expanding).await })
    }

    fn claim_expanded<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        capacity: i64,
    ) -> BoxFuture<'a, Result<(), Missing>> {
        Box::pin(async move {
            let change = move |claim: &_| Some(claim_status::expanded(claim, capacity));
            self.change_claim(namespace, name, change).await
        })
    }

    fn claim_not_expanded<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        infeasible: bool,
        message: &'a str,
    ) -> BoxFuture<'a, Result<(), Missing>> {
        Box::pin(async move {
            let change =
                move |claim: &_| claim_status::not_expanded(claim, infeasible, message, self.clock.now());
            self.change_claim(namespace, name, change).await
        })
    }
}

#[cfg(test)]
mod tests;
