//! The client of one driver. Every call has a deadline, kept here and told to the driver; every call has a connection of its
//! own. Never retries, never caches. Made by `rubelet-volumes` for each driver that registers.
//!
//! Calls may be dropped: the driver is told that the call is given up, which says nothing about what it has done by then
//! (upstream's uncertain outcome).

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::error::CsiError;
use crate::request::{Check, ExpandRequest, PublishRequest, StageRequest, StatsRequest};
use crate::socket;
use crate::v1;
use crate::v1::identity_client::IdentityClient;
use crate::v1::node_client::NodeClient;
use crate::v1::node_service_capability::{Type as CapabilityType, rpc::Type as Rpc};
use crate::v1::volume_usage::Unit;

/// How long calls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsiDeadlines {
    /// Calls that do something with a volume, its statistics, and `NodeGetInfo`, for which drivers ask their cloud:
    /// upstream's `csiTimeout`.
    pub volume: Duration,
    /// Calls that a driver answers out of its head: who it is, what it can do, whether it is ready.
    pub info: Duration,
}

impl Default for CsiDeadlines {
    fn default() -> Self {
        Self { volume: Duration::from_secs(120), info: Duration::from_secs(10) }
    }
}

/// One call that has ended, for `csi_operations_seconds`.
#[derive(Clone, Copy, Debug)]
pub struct CallRecord<'a> {
    /// The driver.
    pub driver: &'a str,
    /// Full name of the RPC, as upstream's metric has it (`/csi.v1.Node/NodeStageVolume`).
    pub method: &'static str,
    /// How it ended; [`crate::error::code_name`] has the metric's word.
    pub code: Code,
    /// How long it took.
    pub took: Duration,
    /// For a volume that was written down as one of a kind that drivers took over ([`CsiClient::migrated`]).
    pub migrated: bool,
}

/// Is told of every call that has ended, in the task that called. Calls that were given up are not told.
pub type CallObserver = Arc<dyn Fn(CallRecord<'_>) + Send + Sync>;

/// Who a driver says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub vendor_version: String,
}

/// What a driver says of the node, for the CSINode object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// The driver's name for the node.
    pub node_id: String,
    /// How many volumes it takes; 0 when it does not say.
    pub max_volumes: i64,
    /// Where the node is, in the driver's terms; empty when it does not say.
    pub topology: BTreeMap<String, String>,
}

/// What a driver's node service can do. What this version of the protocol does not know is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCapabilities {
    /// Has volumes staged.
    pub stage_unstage: bool,
    /// Tells how full a volume is.
    pub volume_stats: bool,
    /// Lets volumes grow.
    pub expand: bool,
    /// Tells whether a volume is well.
    pub volume_condition: bool,
    /// Knows `SINGLE_NODE_SINGLE_WRITER` and `SINGLE_NODE_MULTI_WRITER`.
    pub single_node_multi_writer: bool,
    /// Gives the files to the pod's group itself.
    pub volume_mount_group: bool,
}

/// Use of one resource of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Left.
    pub available: i64,
    /// There is.
    pub total: i64,
    /// Used.
    pub used: i64,
}

/// Whether a volume is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeCondition {
    /// It is not.
    pub abnormal: bool,
    /// The driver's words.
    pub message: String,
}

/// What a driver tells of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Bytes.
    pub bytes: Option<Usage>,
    /// Inodes.
    pub inodes: Option<Usage>,
    /// Only of drivers with [`NodeCapabilities::volume_condition`] may it be believed.
    pub condition: Option<VolumeCondition>,
}

/// A client of one driver at one socket. Cheap to clone; opens nothing until it is asked something.
#[derive(Clone)]
pub struct CsiClient {
    inner: Arc<Inner>,
    migrated: bool,
}

struct Inner {
    socket: PathBuf,
    driver: String,
    deadlines: CsiDeadlines,
    observer: Option<CallObserver>,
}

impl fmt::Debug for CsiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsiClient")
            .field("driver", &self.inner.driver)
            .field("socket", &self.inner.socket)
            .finish_non_exhaustive()
    }
}

/// One RPC: `unary!(self, node, "NodeGetInfo", node_get_info, deadline, request)`.
macro_rules! unary {
    ($self:ident, identity, $call:literal, $method:ident, $deadline:expr, $request:expr) => {
        unary!(
            $self,
            IdentityClient,
            concat!("/csi.v1.Identity/", $call),
            $call,
            $method,
            $deadline,
            $request
        )
    };
    ($self:ident, node, $call:literal, $method:ident, $deadline:expr, $request:expr) => {
        unary!($self, NodeClient, concat!("/csi.v1.Node/", $call), $call, $method, $deadline, $request)
    };
    ($self:ident, $client:ident, $full:expr, $call:literal, $method:ident, $deadline:expr, $request:expr) => {{
        let deadline = $deadline;
        let mut request = Request::new($request);
        request.set_timeout(deadline);
        $self
            .call(
                $full,
                $call,
                deadline,
                |channel| async move { $client::new(channel).$method(request).await },
            )
            .await
    }};
}

impl CsiClient {
    /// A client of the driver of this name at this socket (a path, or `unix://` and a path).
    pub fn new(socket: &Path, driver: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                socket: socket::path_of(socket),
                driver: driver.to_owned(),
                deadlines: CsiDeadlines::default(),
                observer: None,
            }),
            migrated: false,
        }
    }

    /// The same client, for calls about a volume of a kind that drivers took over: only the observer is told.
    pub fn migrated(self, migrated: bool) -> Self {
        Self { migrated, ..self }
    }

    /// The same client with other deadlines.
    pub fn with_deadlines(self, deadlines: CsiDeadlines) -> Self {
        self.rebuilt(|inner| inner.deadlines = deadlines)
    }

    /// The same client, which tells `observer` of every call.
    pub fn with_observer(self, observer: CallObserver) -> Self {
        self.rebuilt(|inner| inner.observer = Some(observer))
    }

    fn rebuilt(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Inner {
            socket: self.inner.socket.clone(),
            driver: self.inner.driver.clone(),
            deadlines: self.inner.deadlines,
            observer: self.inner.observer.clone(),
        };
        change(&mut inner);
        Self { inner: Arc::new(inner), migrated: self.migrated }
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.inner.driver
    }

    /// The driver's socket.
    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    /// `GetPluginInfo`.
    ///
    /// # Errors
    /// As every call: [`CsiError`] says what is known of the outcome.
    pub async fn plugin_info(&self) -> Result<PluginInfo, CsiError> {
        let request = v1::GetPluginInfoRequest {};
        let answer =
            unary!(self, identity, "GetPluginInfo", get_plugin_info, self.inner.deadlines.info, request)?;
        Ok(PluginInfo { name: answer.name, vendor_version: answer.vendor_version })
    }

    /// `Probe`: whether the driver is ready; one that does not say is.
    ///
    /// # Errors
    /// See [`CsiError`]; `FailedPrecondition` means that the driver is not well.
    pub async fn probe(&self) -> Result<bool, CsiError> {
        let answer = unary!(self, identity, "Probe", probe, self.inner.deadlines.info, v1::ProbeRequest {})?;
        Ok(answer.ready.unwrap_or(true))
    }

    /// `NodeGetInfo`. A driver without a name for the node is refused, as is one that takes fewer than no volumes.
    ///
    /// # Errors
    /// See [`CsiError`].
    pub async fn node_info(&self) -> Result<NodeInfo, CsiError> {
        const CALL: &str = "NodeGetInfo";
        let request = v1::NodeGetInfoRequest {};
        let answer = unary!(self, node, "NodeGetInfo", node_get_info, self.inner.deadlines.volume, request)?;
        let wrong = |message: String| CsiError::answered(self.driver(), CALL, Code::Internal, message);
        if answer.node_id.is_empty() {
            return Err(wrong("the driver's name for the node is empty".to_owned()));
        }
        if answer.max_volumes_per_node < 0 {
            return Err(wrong(format!("max_volumes_per_node is {}", answer.max_volumes_per_node)));
        }
        let topology = answer.accessible_topology.unwrap_or_default().segments;
        Ok(NodeInfo { node_id: answer.node_id, max_volumes: answer.max_volumes_per_node, topology })
    }

    /// `NodeGetCapabilities`.
    ///
    /// # Errors
    /// See [`CsiError`].
    pub async fn capabilities(&self) -> Result<NodeCapabilities, CsiError> {
        let request = v1::NodeGetCapabilitiesRequest {};
        let deadline = self.inner.deadlines.info;
        let answer = unary!(self, node, "NodeGetCapabilities", node_get_capabilities, deadline, request)?;
        Ok(NodeCapabilities::from(answer))
    }

    /// `NodeStageVolume`.
    ///
    /// # Errors
    /// See [`CsiError`]: where it is not final, the volume must be taken for staged.
    pub async fn stage(&self, request: StageRequest) -> Result<(), CsiError> {
        let request = request.into_wire(self.driver())?;
        let deadline = self.inner.deadlines.volume;
        unary!(self, node, "NodeStageVolume", node_stage_volume, deadline, request).map(drop)
    }

    /// `NodeUnstageVolume`.
    ///
    /// # Errors
    /// See [`CsiError`]: the volume must be taken for staged.
    pub async fn unstage(&self, volume_id: &str, staging_path: &Path) -> Result<(), CsiError> {
        let check = Check { driver: self.driver(), call: "NodeUnstageVolume" };
        let request = v1::NodeUnstageVolumeRequest {
            volume_id: check.id(volume_id)?,
            staging_target_path: check.path("staging target path", staging_path)?,
        };
        let deadline = self.inner.deadlines.volume;
        unary!(self, node, "NodeUnstageVolume", node_unstage_volume, deadline, request).map(drop)
    }

    /// `NodePublishVolume`.
    ///
    /// # Errors
    /// See [`CsiError`]: where it is not final, the volume must be taken for published.
    pub async fn publish(&self, request: PublishRequest) -> Result<(), CsiError> {
        let request = request.into_wire(self.driver())?;
        let deadline = self.inner.deadlines.volume;
        unary!(self, node, "NodePublishVolume", node_publish_volume, deadline, request).map(drop)
    }

    /// `NodeUnpublishVolume`.
    ///
    /// # Errors
    /// See [`CsiError`]: the volume must be taken for published.
    pub async fn unpublish(&self, volume_id: &str, target_path: &Path) -> Result<(), CsiError> {
        let check = Check { driver: self.driver(), call: "NodeUnpublishVolume" };
        let request = v1::NodeUnpublishVolumeRequest {
            volume_id: check.id(volume_id)?,
            target_path: check.path("target path", target_path)?,
        };
        let deadline = self.inner.deadlines.volume;
        unary!(self, node, "NodeUnpublishVolume", node_unpublish_volume, deadline, request).map(drop)
    }

    /// `NodeExpandVolume`; answers with the volume's size in bytes, 0 when the driver does not say.
    ///
    /// # Errors
    /// See [`CsiError`].
    pub async fn expand(&self, request: ExpandRequest) -> Result<i64, CsiError> {
        let request = request.into_wire(self.driver())?;
        let deadline = self.inner.deadlines.volume;
        let answer = unary!(self, node, "NodeExpandVolume", node_expand_volume, deadline, request)?;
        Ok(answer.capacity_bytes)
    }

    /// `NodeGetVolumeStats`.
    ///
    /// # Errors
    /// See [`CsiError`].
    pub async fn stats(&self, request: StatsRequest) -> Result<VolumeStats, CsiError> {
        let request = request.into_wire(self.driver())?;
        let deadline = self.inner.deadlines.volume;
        let answer = unary!(self, node, "NodeGetVolumeStats", node_get_volume_stats, deadline, request)?;
        Ok(VolumeStats::from(answer))
    }

    /// Makes one call on a connection of its own, within its deadline, and tells the observer.
    async fn call<T, F>(
        &self,
        method: &'static str,
        call: &'static str,
        deadline: Duration,
        invoke: impl FnOnce(Channel) -> F,
    ) -> Result<T, CsiError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let began = Instant::now();
        let driver = self.driver();
        // On the heap: the state of a call is large, and most of the time nobody is making one.
        let exchange = Box::pin(async {
            let channel = socket::connect(self.socket()).await.map_err(|reason| {
                CsiError::unreachable(driver, call, format!("connection error: {reason}"))
            })?;
            invoke(channel).await.map_err(|status| CsiError::of_status(driver, call, &status))
        });
        let result = match tokio::time::timeout(deadline, exchange).await {
            Ok(result) => result.map(Response::into_inner),
            Err(_elapsed) => Err(CsiError::no_answer(driver, call)),
        };
        if let Some(observer) = &self.inner.observer {
            let code = result.as_ref().map_or_else(|error| error.code, |_| Code::Ok);
            observer(CallRecord { driver, method, code, took: began.elapsed(), migrated: self.migrated });
        }
        result
    }
}

impl From<v1::NodeGetCapabilitiesResponse> for NodeCapabilities {
    fn from(answer: v1::NodeGetCapabilitiesResponse) -> Self {
        let mut all = Self::default();
        for capability in answer.capabilities {
            let Some(CapabilityType::Rpc(rpc)) = capability.r#type else { continue };
            match Rpc::try_from(rpc.r#type) {
                Ok(Rpc::StageUnstageVolume) => all.stage_unstage = true,
                Ok(Rpc::GetVolumeStats) => all.volume_stats = true,
                Ok(Rpc::ExpandVolume) => all.expand = true,
                Ok(Rpc::VolumeCondition) => all.volume_condition = true,
                Ok(Rpc::SingleNodeMultiWriter) => all.single_node_multi_writer = true,
                Ok(Rpc::VolumeMountGroup) => all.volume_mount_group = true,
                Ok(Rpc::Unknown) | Err(_) => {}
            }
        }
        all
    }
}

impl From<v1::NodeGetVolumeStatsResponse> for VolumeStats {
    /// Of a unit that is told twice the last counts, as upstream; what has no unit is left out.
    fn from(answer: v1::NodeGetVolumeStatsResponse) -> Self {
        let mut stats = Self::default();
        for usage in answer.usage {
            let value = Usage { available: usage.available, total: usage.total, used: usage.used };
            match usage.unit() {
                Unit::Bytes => stats.bytes = Some(value),
                Unit::Inodes => stats.inodes = Some(value),
                Unit::Unknown => {}
            }
        }
        stats.condition = answer
            .volume_condition
            .map(|condition| VolumeCondition { abnormal: condition.abnormal, message: condition.message });
        stats
    }
}
