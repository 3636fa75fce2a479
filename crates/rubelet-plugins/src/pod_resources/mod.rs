//! The podresources API: what containers have of the machine, told to agents of the node that watch it. Owns the socket
//! and the protocol, both versions; what there is to tell is a [`PodResources`]'s.

pub mod v1;
pub mod v1alpha1;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::socket::{connections, listen};

/// Name of the socket in `pod-resources`.
pub const SOCKET: &str = "kubelet.sock";

/// A question, for whoever counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// All pods, v1.
    List,
    /// One pod, v1.
    Get,
    /// What could be given.
    Allocatable,
    /// All pods, v1alpha1.
    ListAlpha,
}

/// What there is to tell. Implemented by the shell.
pub trait PodResources: Send + Sync + 'static {
    /// Whether one more question may be answered now.
    fn may_ask(&self) -> bool;
    /// A question was asked; `failed` once more when it could not be answered.
    fn count(&self, question: Question, failed: bool);
    /// Every pod that has not ended.
    fn list(&self) -> Vec<v1::PodResources>;
    /// One pod.
    fn get(&self, namespace: &str, name: &str) -> Option<v1::PodResources>;
    /// What could be given in all.
    fn allocatable(&self) -> v1::AllocatableResourcesResponse;
}

/// Serves both versions at a socket until it is dropped.
///
/// # Errors
/// The socket cannot be made or has broken.
pub async fn serve(socket: PathBuf, resources: Arc<dyn PodResources>) -> io::Result<()> {
    let listener = tokio::task::spawn_blocking(move || listen(&socket)).await.map_err(io::Error::other)??;
    let lister = Lister(resources);
    let server = Server::builder()
        .add_service(v1::pod_resources_lister_server::PodResourcesListerServer::new(lister.clone()))
        .add_service(v1alpha1::pod_resources_lister_server::PodResourcesListerServer::new(lister));
    server.serve_with_incoming(connections(listener)).await.map_err(io::Error::other)
}

#[derive(Clone)]
struct Lister(Arc<dyn PodResources>);

impl Lister {
    fn answer<A>(
        &self,
        question: Question,
        answer: impl FnOnce(&dyn PodResources) -> Result<A, Status>,
    ) -> Result<Response<A>, Status> {
        if !self.0.may_ask() {
            return Err(Status::resource_exhausted("rejected by rate limit"));
        }
        self.0.count(question, false);
        let answer = answer(&*self.0);
        if answer.is_err() {
            self.0.count(question, true);
        }
        answer.map(Response::new)
    }
}

#[tonic::async_trait]
impl v1::pod_resources_lister_server::PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<v1::ListPodResourcesRequest>,
    ) -> Result<Response<v1::ListPodResourcesResponse>, Status> {
        self.answer(Question::List, |all| Ok(v1::ListPodResourcesResponse { pod_resources: all.list() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<v1::AllocatableResourcesRequest>,
    ) -> Result<Response<v1::AllocatableResourcesResponse>, Status> {
        self.answer(Question::Allocatable, |all| Ok(all.allocatable()))
    }

    async fn get(
        &self,
        request: Request<v1::GetPodResourcesRequest>,
    ) -> Result<Response<v1::GetPodResourcesResponse>, Status> {
        let v1::GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        self.answer(Question::Get, |all| match all.get(&pod_namespace, &pod_name) {
            Some(pod) => Ok(v1::GetPodResourcesResponse { pod_resources: Some(pod) }),
            None => Err(Status::unknown(format!("pod {pod_name} in namespace {pod_namespace} not found"))),
        })
    }
}

#[tonic::async_trait]
impl v1alpha1::pod_resources_lister_server::PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<v1alpha1::ListPodResourcesRequest>,
    ) -> Result<Response<v1alpha1::ListPodResourcesResponse>, Status> {
        self.answer(Question::ListAlpha, |all| {
            let pod_resources = all.list().into_iter().map(to_alpha).collect();
            Ok(v1alpha1::ListPodResourcesResponse { pod_resources })
        })
    }
}

fn to_alpha(pod: v1::PodResources) -> v1alpha1::PodResources {
    let devices = |one: v1::ContainerDevices| v1alpha1::ContainerDevices {
        resource_name: one.resource_name,
        device_ids: one.device_ids,
    };
    let container = |one: v1::ContainerResources| v1alpha1::ContainerResources {
        name: one.name,
        devices: one.devices.into_iter().map(devices).collect(),
    };
    let containers = pod.containers.into_iter().map(container).collect();
    v1alpha1::PodResources { name: pod.name, namespace: pod.namespace, containers }
}
