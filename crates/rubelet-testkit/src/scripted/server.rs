//! The scripted runtime on a unix socket, for tests of the whole agent. A thin wrapper: every call goes to the
//! model behind [`ScriptedCri`]. When the test restarts the runtime, connections break and the socket refuses.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use rubelet_cri::{CriError, Deadlines, ImageService, RuntimeService, v1};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status};

use super::ScriptedCri;

/// Which call named which trace.
type Traced = Arc<Mutex<Vec<(String, String)>>>;

/// Deadlines are the client's: on this side of the socket calls may hang.
const NO_DEADLINE: Duration = Duration::from_secs(900 * 24 * 3600);

/// A scripted runtime that listens. Dropping it closes the socket and breaks every connection.
#[derive(Debug)]
pub struct CriServer {
    path: PathBuf,
    traced: Traced,
    task: JoinHandle<()>,
    /// Connections live as long as this does.
    _alive: watch::Sender<()>,
}

impl CriServer {
    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The endpoint to give to an agent.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Every call so far that named the trace it belongs to: the RPC (`/runtime.v1.RuntimeService/Version`) and its
    /// `traceparent`.
    pub fn traced_calls(&self) -> Vec<(String, String)> {
        self.traced.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for CriServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves a scripted runtime on a unix socket, until the returned value is dropped. What stood at the path
/// before is replaced.
pub fn serve(cri: &ScriptedCri, path: &Path) -> io::Result<CriServer> {
    let deadlines =
        Deadlines { request: NO_DEADLINE, exec_without_timeout: NO_DEADLINE, checkpoint: NO_DEADLINE };
    let wire = Wire(cri.with_deadlines(deadlines));
    let mut listener = Some(bind(path)?);
    let socket = path.to_owned();
    let (alive, closed) = watch::channel(());
    let traced = Traced::default();
    let noted = traced.clone();
    let task = tokio::spawn(async move {
        loop {
            wire.0.wait_for(|cri| cri.with(|model, _| model.down_until.is_none().then_some(()))).await;
            let epoch = wire.0.with(|model, _| model.epoch);
            // A socket that cannot be bound again looks to the agent like a runtime that stays down.
            let Some(listener) = listener.take().or_else(|| bind(&socket).ok()) else { return };
            accept(&wire, listener, epoch, closed.clone(), &noted).await;
        }
    });
    Ok(CriServer { path: path.to_owned(), traced, task, _alive: alive })
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Serves connections until the epoch ends.
async fn accept(
    wire: &Wire,
    listener: UnixListener,
    epoch: u64,
    closed: watch::Receiver<()>,
    traced: &Traced,
) {
    let state = (listener, wire.0.clone(), closed);
    let connections = stream::unfold(state, move |(listener, cri, closed)| async move {
        let accepted = listener.accept().await;
        let connection =
            accepted.map(|(stream, _)| Breakable::new(stream, cri.clone(), epoch, closed.clone()));
        Some((connection, (listener, cri, closed)))
    });
    let traced = traced.clone();
    let note = tower::util::MapRequestLayer::new(move |request: http::Request<tonic::body::Body>| {
        if let Some(trace) = request.headers().get("traceparent") {
            let call =
                (request.uri().path().to_owned(), String::from_utf8_lossy(trace.as_bytes()).into_owned());
            traced.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        }
        request
    });
    let server = Server::builder()
        .layer(note)
        .add_service(v1::runtime_service_server::RuntimeServiceServer::new(wire.clone()))
        .add_service(v1::image_service_server::ImageServiceServer::new(wire.clone()))
        .serve_with_incoming(connections);
    tokio::select! {
        _ = server => {}
        () = wire.0.broken_since(epoch) => {}
    }
}

/// A connection that breaks when its epoch ends or the server is dropped.
struct Breakable {
    stream: UnixStream,
    broken: BoxFuture<'static, ()>,
    is_broken: bool,
}

impl Breakable {
    fn new(stream: UnixStream, cri: ScriptedCri, epoch: u64, mut closed: watch::Receiver<()>) -> Self {
        let broken = async move {
            tokio::select! {
                () = cri.broken_since(epoch) => {}
                _ = closed.changed() => {}
            }
        };
        Self { stream, broken: broken.boxed(), is_broken: false }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_broken = self.is_broken || self.broken.poll_unpin(cx).is_ready();
        if self.is_broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Breakable {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// The model as a tonic service.
#[derive(Clone)]
struct Wire(ScriptedCri);

fn status_of(error: CriError) -> Status {
    Status::new(Code::from_i32(error.code), error.message)
}

type Chunks<T> = BoxStream<'static, Result<T, Status>>;

/// A streaming list with everything in one piece.
fn one_chunk<T: Send + 'static>(chunk: T) -> Response<Chunks<T>> {
    Response::new(stream::once(std::future::ready(Ok(chunk))).boxed())
}

/// Passes calls through: `method: Request => Response`. Written out as `async_trait` would, which does not look
/// into macros.
macro_rules! pass {
    ($($method:ident: $request:ident => $response:ident),* $(,)?) => {$(
        fn $method<'a, 'async_trait>(
            &'a self,
            request: Request<v1::$request>,
        ) -> BoxFuture<'async_trait, Result<Response<v1::$response>, Status>>
        where
            'a: 'async_trait,
            Self: 'async_trait,
        {
            let answer = self.0.$method(request.into_inner());
            async move { answer.await.map(Response::new).map_err(status_of) }.boxed()
        }
    )*};
}

#[tonic::async_trait]
impl v1::runtime_service_server::RuntimeService for Wire {
    type GetContainerEventsStream = Chunks<v1::ContainerEventResponse>;
    type StreamPodSandboxesStream = Chunks<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = Chunks<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = Chunks<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Chunks<v1::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Chunks<v1::StreamPodSandboxMetricsResponse>;

    pass! {
        version: VersionRequest => VersionResponse,
        status: StatusRequest => StatusResponse,
        runtime_config: RuntimeConfigRequest => RuntimeConfigResponse,
        update_runtime_config: UpdateRuntimeConfigRequest => UpdateRuntimeConfigResponse,
        run_pod_sandbox: RunPodSandboxRequest => RunPodSandboxResponse,
        stop_pod_sandbox: StopPodSandboxRequest => StopPodSandboxResponse,
        remove_pod_sandbox: RemovePodSandboxRequest => RemovePodSandboxResponse,
        pod_sandbox_status: PodSandboxStatusRequest => PodSandboxStatusResponse,
        list_pod_sandbox: ListPodSandboxRequest => ListPodSandboxResponse,
        update_pod_sandbox_resources: UpdatePodSandboxResourcesRequest => UpdatePodSandboxResourcesResponse,
        create_container: CreateContainerRequest => CreateContainerResponse,
        start_container: StartContainerRequest => StartContainerResponse,
        stop_container: StopContainerRequest => StopContainerResponse,
        remove_container: RemoveContainerRequest => RemoveContainerResponse,
        list_containers: ListContainersRequest => ListContainersResponse,
        container_status: ContainerStatusRequest => ContainerStatusResponse,
        update_container_resources: UpdateContainerResourcesRequest => UpdateContainerResourcesResponse,
        reopen_container_log: ReopenContainerLogRequest => ReopenContainerLogResponse,
        checkpoint_container: CheckpointContainerRequest => CheckpointContainerResponse,
        exec_sync: ExecSyncRequest => ExecSyncResponse,
        exec: ExecRequest => ExecResponse,
        attach: AttachRequest => AttachResponse,
        port_forward: PortForwardRequest => PortForwardResponse,
        container_stats: ContainerStatsRequest => ContainerStatsResponse,
        list_container_stats: ListContainerStatsRequest => ListContainerStatsResponse,
        pod_sandbox_stats: PodSandboxStatsRequest => PodSandboxStatsResponse,
        list_pod_sandbox_stats: ListPodSandboxStatsRequest => ListPodSandboxStatsResponse,
        list_metric_descriptors: ListMetricDescriptorsRequest => ListMetricDescriptorsResponse,
        list_pod_sandbox_metrics: ListPodSandboxMetricsRequest => ListPodSandboxMetricsResponse,
    }

    async fn get_container_events(
        &self,
        _request: Request<v1::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        let events = self.0.container_events().await.map_err(status_of)?;
        Ok(Response::new(events.map(|event| event.map_err(status_of)).boxed()))
    }
    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        let request = v1::ListPodSandboxRequest { filter: request.into_inner().filter };
        let pod_sandboxes = self.0.list_pod_sandbox(request).await.map_err(status_of)?.items;
        Ok(one_chunk(v1::StreamPodSandboxesResponse { pod_sandboxes }))
    }
    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        let request = v1::ListContainersRequest { filter: request.into_inner().filter };
        let containers = self.0.list_containers(request).await.map_err(status_of)?.containers;
        Ok(one_chunk(v1::StreamContainersResponse { containers }))
    }
    async fn stream_container_stats(
        &self,
        _request: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        Err(Status::unimplemented("not part of the scripted runtime"))
    }
    async fn stream_pod_sandbox_stats(
        &self,
        _request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        Err(Status::unimplemented("not part of the scripted runtime"))
    }
    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        Err(Status::unimplemented("not part of the scripted runtime"))
    }
}

#[tonic::async_trait]
impl v1::image_service_server::ImageService for Wire {
    type StreamImagesStream = Chunks<v1::StreamImagesResponse>;

    pass! {
        list_images: ListImagesRequest => ListImagesResponse,
        image_status: ImageStatusRequest => ImageStatusResponse,
        remove_image: RemoveImageRequest => RemoveImageResponse,
        image_fs_info: ImageFsInfoRequest => ImageFsInfoResponse,
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        let answer = self.0.pull_image(request.into_inner(), NO_DEADLINE).await;
        answer.map(Response::new).map_err(status_of)
    }
    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let request = v1::ListImagesRequest { filter: request.into_inner().filter };
        let images = self.0.list_images(request).await.map_err(status_of)?.images;
        Ok(one_chunk(v1::StreamImagesResponse { images }))
    }
}
