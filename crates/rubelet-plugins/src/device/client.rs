//! One device plugin and what it is asked. Every question has a deadline; none is asked twice.

use std::error::Error as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use super::v1beta1::device_plugin_client::DevicePluginClient;
use super::v1beta1::{self as wire, ContainerAllocateResponse, DevicePluginOptions};
use crate::socket::{connect, words_of};

/// How long a plugin may take to answer that it is there; upstream's.
const DIAL: Duration = Duration::from_secs(10);
/// How long for which devices it would rather give.
const PREFERRED: Duration = Duration::from_secs(10);
/// How long for preparing devices for a container. Upstream waits without an end, and with it every pod of the node.
const ALLOCATE: Duration = Duration::from_secs(60);
/// How long for preparing devices for a start; upstream's.
const PRE_START: Duration = Duration::from_secs(30);
/// Largest answer in bytes: thousands of devices with their health.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Why devices are not prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllocateError {
    /// The plugin says so, or says nothing in time.
    Refused(String),
    /// It has gone meanwhile.
    Lost(String),
}

/// A device plugin that has registered; cheap to clone.
#[derive(Clone, Debug)]
pub struct DevicePlugin(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    number: u64,
    resource: String,
    socket: PathBuf,
    channel: Channel,
    options: DevicePluginOptions,
}

impl DevicePlugin {
    /// Connects to a plugin and asks for its options.
    ///
    /// # Errors
    /// Nobody answers, or not in time.
    pub(super) async fn connect(resource: &str, socket: &Path) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let dial = tokio::time::timeout(DIAL, connect(socket));
        let channel = dial.await.unwrap_or_else(|_| Err(too_late(DIAL)));
        let channel = channel.map_err(|problem| format!("failed to dial device plugin: {problem}"))?;
        let mut client = client(&channel);
        let options = within(DIAL, client.get_device_plugin_options(wire::Empty {})).await;
        let options = options.map_err(|problem| format!("failed to get device plugin options: {problem}"))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (resource, socket) = (resource.to_owned(), socket.to_owned());
        Ok(Self(Arc::new(Inner { number, resource, socket, channel, options })))
    }

    /// The resource it offers.
    pub fn resource(&self) -> &str {
        &self.0.resource
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.0.socket
    }

    /// What it wants to be asked.
    pub fn options(&self) -> DevicePluginOptions {
        self.0.options
    }

    /// Whether both are one registration: a plugin that has registered anew is another.
    pub fn is(&self, other: &Self) -> bool {
        self.0.number == other.0.number
    }

    /// Which of `available` it would rather give when there are to be `size` with `must_include`.
    ///
    /// # Errors
    /// It does not say, or not in time.
    pub async fn preferred(
        &self,
        available: Vec<String>,
        must_include: Vec<String>,
        size: usize,
    ) -> Result<Vec<String>, String> {
        let request = wire::ContainerPreferredAllocationRequest {
            available_device_i_ds: available,
            must_include_device_i_ds: must_include,
            allocation_size: i32::try_from(size).unwrap_or(i32::MAX),
        };
        let request = wire::PreferredAllocationRequest { container_requests: vec![request] };
        let answer = within(PREFERRED, client(&self.0.channel).get_preferred_allocation(request)).await;
        let answer = answer.map_err(|problem| {
            format!("device plugin GetPreferredAllocation rpc failed with err: {problem}")
        })?;
        Ok(answer.container_responses.into_iter().next().map(|one| one.device_i_ds).unwrap_or_default())
    }

    /// Prepares devices for a container, and tells what it needs to use them.
    ///
    /// # Errors
    /// [`AllocateError`]
    pub async fn allocate(&self, ids: Vec<String>) -> Result<ContainerAllocateResponse, AllocateError> {
        let request = wire::AllocateRequest {
            container_requests: vec![wire::ContainerAllocateRequest { devices_ids: ids }],
        };
        let mut client = client(&self.0.channel);
        let Ok(answer) = tokio::time::timeout(ALLOCATE, client.allocate(request)).await else {
            return Err(AllocateError::Refused(too_late(ALLOCATE)));
        };
        let answer = answer.map_err(|status| match (status.code(), status.source()) {
            (Code::Unavailable, _) | (_, Some(_)) => AllocateError::Lost(words_of(&status)),
            _ => AllocateError::Refused(words_of(&status)),
        })?;
        let first = answer.into_inner().container_responses.into_iter().next();
        first.ok_or_else(|| AllocateError::Refused("no containers return in allocation response".to_owned()))
    }

    /// Prepares devices for the start of a container that has them.
    ///
    /// # Errors
    /// It refuses, or does not answer in time.
    pub async fn pre_start(&self, ids: Vec<String>) -> Result<(), String> {
        let request = wire::PreStartContainerRequest { devices_ids: ids };
        let answer = within(PRE_START, client(&self.0.channel).pre_start_container(request)).await;
        answer
            .map(drop)
            .map_err(|problem| format!("device plugin PreStartContainer rpc failed with err: {problem}"))
    }

    /// Its devices, now and whenever one changes.
    ///
    /// # Errors
    /// It does not begin to tell.
    pub(super) async fn list_and_watch(&self) -> Result<Streaming<wire::ListAndWatchResponse>, String> {
        within(DIAL, client(&self.0.channel).list_and_watch(wire::Empty {})).await
    }
}

fn client(channel: &Channel) -> DevicePluginClient<Channel> {
    DevicePluginClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
}

async fn within<A>(
    limit: Duration,
    call: impl Future<Output = Result<Response<A>, Status>>,
) -> Result<A, String> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| words_of(&status)),
        Err(_elapsed) => Err(too_late(limit)),
    }
}

fn too_late(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs())
}

/// A plugin's answer as it is kept.
pub fn encode(answer: &ContainerAllocateResponse) -> Vec<u8> {
    answer.encode_to_vec()
}

/// A plugin's answer that was kept.
///
/// # Errors
/// It is none.
pub fn decode(bytes: &[u8]) -> Result<ContainerAllocateResponse, String> {
    ContainerAllocateResponse::decode(bytes).map_err(|error| error.to_string())
}
