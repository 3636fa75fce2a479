//! Calls of one driver. Each has a connection of its own: a driver that was replaced is met at once, and nothing is kept at
//! rest. A call that is dropped is given up, which says nothing about what the driver has done by then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rubelet_core::dra::Device;
use rubelet_core::dra::answers::Results;
use rubelet_core::dra::book::ClaimId;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::link::{self, DraLink};
use super::wire::{v1, v1beta1};
use super::{CALL_DEADLINE, DraError, Service};

/// What a driver gave, by UID of the claim.
pub type Prepared = Results<Vec<Device>>;
/// What a driver took back, by UID of the claim.
pub type Unprepared = Results<()>;

/// One call that has ended, for `dra_grpc_operations_duration_seconds`.
#[derive(Clone, Copy, Debug)]
pub struct CallRecord<'a> {
    /// The driver.
    pub driver: &'a str,
    /// Full name of the RPC, as upstream's metric has it.
    pub method: &'static str,
    /// How it ended.
    pub code: Code,
    /// How long it took.
    pub took: Duration,
}

/// Is told of every call that has ended. Calls that were given up are not told.
pub type CallObserver = Arc<dyn Fn(CallRecord<'_>) + Send + Sync>;

/// A client of one driver at one socket. Cheap to clone; opens nothing until it is asked something.
#[derive(Clone)]
pub struct DraClient {
    inner: Arc<Inner>,
}

struct Inner {
    driver: String,
    socket: PathBuf,
    service: Service,
    deadline: Duration,
    observer: Option<CallObserver>,
}

impl DraClient {
    /// For the driver of this name at this socket.
    pub fn new(driver: &str, socket: &Path, service: Service) -> Self {
        let (driver, socket) = (driver.to_owned(), socket.to_owned());
        Self { inner: Arc::new(Inner { driver, socket, service, deadline: CALL_DEADLINE, observer: None }) }
    }

    /// The same, with calls told of.
    #[must_use]
    pub fn with_observer(self, observer: CallObserver) -> Self {
        self.changed(|inner| inner.observer = Some(observer))
    }

    /// The same, with another deadline than [`CALL_DEADLINE`].
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        self.changed(|inner| inner.deadline = deadline)
    }

    fn changed(self, change: impl FnOnce(&mut Inner)) -> Self {
        let old = &self.inner;
        let mut inner = Inner {
            driver: old.driver.clone(),
            socket: old.socket.clone(),
            service: old.service,
            deadline: old.deadline,
            observer: old.observer.clone(),
        };
        change(&mut inner);
        Self { inner: Arc::new(inner) }
    }

    /// Name of the driver.
    pub fn driver(&self) -> &str {
        &self.inner.driver
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    /// `NodePrepareResources`.
    ///
    /// # Errors
    /// See [`DraError`]: the claims must be taken for prepared, though nothing of them may be used.
    pub async fn prepare(&self, claims: &[ClaimId]) -> Result<Prepared, DraError> {
        let request = v1::NodePrepareResourcesRequest { claims: wire_claims(claims) };
        let answer = match self.inner.service {
            Service::V1 => {
                self.call(
                    "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
                    |channel, wait| async move {
                        let mut client = v1::dra_plugin_client::DraPluginClient::new(channel);
                        client.node_prepare_resources(timed(request, wait)).await
                    },
                )
                .await
            }
            Service::V1Beta1 => {
                self.call(
                    "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
                    |channel, wait| async move {
                        let mut client = v1beta1::dra_plugin_client::DraPluginClient::new(channel);
                        client.node_prepare_resources(timed(request, wait)).await
                    },
                )
                .await
            }
        }?;
        let device = |device: v1::Device| Device {
            pool: device.pool_name,
            device: device.device_name,
            share: device.share_id.filter(|_| self.inner.service == Service::V1),
            requests: device.request_names,
            cdi: device.cdi_device_ids,
        };
        let result = |result: v1::NodePrepareResourceResponse| match result.error.as_str() {
            "" => Ok(result.devices.into_iter().map(device).collect()),
            _ => Err(result.error),
        };
        Ok(answer.claims.into_iter().map(|(uid, of)| (uid, result(of))).collect())
    }

    /// `NodeUnprepareResources`.
    ///
    /// # Errors
    /// See [`DraError`]: the claims must be taken for prepared still.
    pub async fn unprepare(&self, claims: &[ClaimId]) -> Result<Unprepared, DraError> {
        let request = v1::NodeUnprepareResourcesRequest { claims: wire_claims(claims) };
        let answer = match self.inner.service {
            Service::V1 => {
                self.call(
                    "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
                    |channel, wait| async move {
                        let mut client = v1::dra_plugin_client::DraPluginClient::new(channel);
                        client.node_unprepare_resources(timed(request, wait)).await
                    },
                )
                .await
            }
            Service::V1Beta1 => {
                self.call(
                    "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
                    |channel, wait| async move {
                        let mut client = v1beta1::dra_plugin_client::DraPluginClient::new(channel);
                        client.node_unprepare_resources(timed(request, wait)).await
                    },
                )
                .await
            }
        }?;
        let result = |result: v1::NodeUnprepareResourceResponse| match result.error.as_str() {
            "" => Ok(()),
            _ => Err(result.error),
        };
        Ok(answer.claims.into_iter().map(|(uid, of)| (uid, result(of))).collect())
    }

    /// A connection that is held.
    ///
    /// # Errors
    /// The driver cannot be reached.
    pub async fn link(&self) -> Result<DraLink, DraError> {
        let opening = link::open(&self.inner.socket);
        match tokio::time::timeout(self.inner.deadline, opening).await {
            Ok(link) => link.map_err(|reason| DraError::unreachable(&reason)),
            Err(_elapsed) => Err(DraError::too_late()),
        }
    }

    /// One call within the deadline, told to the observer.
    async fn call<A, F>(
        &self,
        method: &'static str,
        invoke: impl FnOnce(Channel, Duration) -> F,
    ) -> Result<A, DraError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let began = Instant::now();
        // On the heap: most of the time nobody is making one.
        let exchange = Box::pin(async {
            let link =
                link::open(&self.inner.socket).await.map_err(|reason| DraError::unreachable(&reason))?;
            let answer = invoke(link.channel(), self.inner.deadline).await;
            answer.map(Response::into_inner).map_err(|status| DraError::of_status(&status))
        });
        let result = match tokio::time::timeout(self.inner.deadline, exchange).await {
            Ok(result) => result,
            Err(_elapsed) => Err(DraError::too_late()),
        };
        if let Some(observer) = &self.inner.observer {
            let code = result.as_ref().map_or_else(|error| error.code, |_| Code::Ok);
            observer(CallRecord { driver: self.driver(), method, code, took: began.elapsed() });
        }
        result
    }
}

fn timed<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn wire_claims(claims: &[ClaimId]) -> Vec<v1::Claim> {
    let claim = |claim: &ClaimId| v1::Claim {
        namespace: claim.key.namespace.clone(),
        uid: claim.uid.clone(),
        name: claim.key.name.clone(),
    };
    claims.iter().map(claim).collect()
}
