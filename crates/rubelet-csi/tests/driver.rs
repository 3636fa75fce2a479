//! The client against real gRPC servers on unix sockets: drivers that work, refuse, hang, lie, break off, vanish and come
//! back, and servers that are no drivers.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rubelet_csi::v1::identity_server::{Identity, IdentityServer};
use rubelet_csi::v1::node_server::{Node, NodeServer};
use rubelet_csi::v1::node_service_capability::{Rpc, Type as CapabilityType, rpc::Type as RpcType};
use rubelet_csi::{
    Access, AccessMode, Capability, Code, CsiClient, CsiDeadlines, CsiError, ExpandRequest, NodeCapabilities,
    PublishRequest, StageRequest, StatsRequest, Usage, VolumeCondition, v1,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What the driver does with its next call of the node service.
enum Turn {
    Refuse(Status),
    Hang,
}

/// A driver that notes what it is asked.
#[derive(Clone, Default)]
struct Driver {
    calls: Arc<Mutex<Vec<String>>>,
    turns: Arc<Mutex<VecDeque<Turn>>>,
    info: Arc<Mutex<v1::NodeGetInfoResponse>>,
    capabilities: Arc<Mutex<Vec<i32>>>,
    stats: Arc<Mutex<v1::NodeGetVolumeStatsResponse>>,
    not_ready: bool,
}

impl Driver {
    async fn turn<T: Send>(&self, call: String, answer: T) -> Result<Response<T>, Status> {
        self.calls.lock().unwrap().push(call);
        let turn = self.turns.lock().unwrap().pop_front();
        match turn {
            None => Ok(Response::new(answer)),
            Some(Turn::Refuse(status)) => Err(status),
            Some(Turn::Hang) => std::future::pending().await,
        }
    }

    fn next(&self, turn: Turn) {
        self.turns.lock().unwrap().push_back(turn);
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    /// Serves on a socket until it is aborted.
    fn serve(&self, socket: &Path) -> JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        let server = Server::builder()
            .add_service(IdentityServer::new(self.clone()))
            .add_service(NodeServer::new(self.clone()));
        tokio::spawn(async move {
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        })
    }
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<v1::GetPluginInfoRequest>,
    ) -> Result<Response<v1::GetPluginInfoResponse>, Status> {
        let answer = v1::GetPluginInfoResponse {
            name: "d".into(),
            vendor_version: "1".into(),
            manifest: BTreeMap::new(),
        };
        Ok(Response::new(answer))
    }
    async fn get_plugin_capabilities(
        &self,
        _: Request<v1::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<v1::GetPluginCapabilitiesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Result<Response<v1::ProbeResponse>, Status> {
        Ok(Response::new(v1::ProbeResponse { ready: self.not_ready.then_some(false) }))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<v1::NodeStageVolumeRequest>,
    ) -> Result<Response<v1::NodeStageVolumeResponse>, Status> {
        let timeout = request.metadata().get("grpc-timeout").is_some();
        let asked = request.into_inner();
        let call = format!(
            "stage {} {} {:?} {:?} {timeout}",
            asked.volume_id, asked.staging_target_path, asked.secrets, asked.publish_context
        );
        self.turn(call, v1::NodeStageVolumeResponse {}).await
    }
    async fn node_unstage_volume(
        &self,
        request: Request<v1::NodeUnstageVolumeRequest>,
    ) -> Result<Response<v1::NodeUnstageVolumeResponse>, Status> {
        let asked = request.into_inner();
        let call = format!("unstage {} {}", asked.volume_id, asked.staging_target_path);
        self.turn(call, v1::NodeUnstageVolumeResponse {}).await
    }
    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Result<Response<v1::NodePublishVolumeResponse>, Status> {
        let asked = request.into_inner();
        let call = format!(
            "publish {} {} {} {} {:?} {:?}",
            asked.volume_id,
            asked.staging_target_path,
            asked.target_path,
            asked.readonly,
            asked.volume_context,
            asked.volume_capability.unwrap()
        );
        self.turn(call, v1::NodePublishVolumeResponse {}).await
    }
    async fn node_unpublish_volume(
        &self,
        request: Request<v1::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<v1::NodeUnpublishVolumeResponse>, Status> {
        let asked = request.into_inner();
        let call = format!("unpublish {} {}", asked.volume_id, asked.target_path);
        self.turn(call, v1::NodeUnpublishVolumeResponse {}).await
    }
    async fn node_get_volume_stats(
        &self,
        request: Request<v1::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<v1::NodeGetVolumeStatsResponse>, Status> {
        let asked = request.into_inner();
        let call = format!("stats {} {}", asked.volume_id, asked.volume_path);
        let answer = self.stats.lock().unwrap().clone();
        self.turn(call, answer).await
    }
    async fn node_expand_volume(
        &self,
        request: Request<v1::NodeExpandVolumeRequest>,
    ) -> Result<Response<v1::NodeExpandVolumeResponse>, Status> {
        let asked = request.into_inner();
        let range = asked.capacity_range.unwrap();
        let call = format!(
            "expand {} {} {} {} {:?}",
            asked.volume_id,
            asked.volume_path,
            asked.staging_target_path,
            range.required_bytes,
            asked.secrets
        );
        let answer = v1::NodeExpandVolumeResponse { capacity_bytes: range.required_bytes + 512 };
        self.turn(call, answer).await
    }
    async fn node_get_capabilities(
        &self,
        _: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<v1::NodeGetCapabilitiesResponse>, Status> {
        let one = |kind: &i32| v1::NodeServiceCapability {
            r#type: Some(CapabilityType::Rpc(Rpc { r#type: *kind })),
        };
        let mut capabilities: Vec<_> = self.capabilities.lock().unwrap().iter().map(one).collect();
        capabilities.push(v1::NodeServiceCapability { r#type: None });
        Ok(Response::new(v1::NodeGetCapabilitiesResponse { capabilities }))
    }
    async fn node_get_info(
        &self,
        _: Request<v1::NodeGetInfoRequest>,
    ) -> Result<Response<v1::NodeGetInfoResponse>, Status> {
        let answer = self.info.lock().unwrap().clone();
        self.turn("info".to_owned(), answer).await
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("csi.sock");
    (dir, socket)
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn stage() -> StageRequest {
    StageRequest { volume_id: "vol".into(), staging_path: "/staging".into(), ..StageRequest::default() }
}

/// What is known of the outcome: code, final, reached.
fn outcome<T: std::fmt::Debug>(result: Result<T, CsiError>) -> (Code, bool, bool) {
    let error = result.unwrap_err();
    (error.code, error.final_, error.reached)
}

#[tokio::test]
async fn requests_arrive_as_they_were_meant() {
    let (_dir, socket) = place();
    let driver = Driver::default();
    let server = driver.serve(&socket);
    let client = CsiClient::new(&socket, "d");
    let secrets = map(&[("pass", "hunter2")]);
    client
        .stage(StageRequest {
            publish_context: map(&[("device", "/dev/x")]),
            secrets: secrets.clone().into(),
            ..stage()
        })
        .await
        .unwrap();
    let capability = Capability {
        access: Access::Mount { fs_type: "ext4".into(), flags: vec!["noatime".into()], group: Some(7) },
        mode: AccessMode::SingleNodeSingleWriter,
    };
    client
        .publish(PublishRequest {
            volume_id: "vol".into(),
            staging_path: Some("/staging".into()),
            target_path: "/target".into(),
            capability,
            read_only: true,
            volume_context: map(&[("pool", "fast")]),
            ..PublishRequest::default()
        })
        .await
        .unwrap();
    let grown = client
        .expand(ExpandRequest {
            volume_id: "vol".into(),
            volume_path: "/target".into(),
            staging_path: Some("/staging".into()),
            required_bytes: 1024,
            capability: Capability { access: Access::Block, mode: AccessMode::SingleNodeWriter },
            secrets: secrets.into(),
        })
        .await;
    assert_eq!(grown, Ok(1536));
    client.unpublish("vol", Path::new("/target")).await.unwrap();
    client.unstage("vol", Path::new("/staging")).await.unwrap();
    assert_eq!(
        driver.calls(),
        [
            r#"stage vol /staging {"pass": "hunter2"} {"device": "/dev/x"} true"#,
            r#"publish vol /staging /target true {"pool": "fast"} VolumeCapability { access_mode: Some(AccessMode { mode: SingleNodeSingleWriter }), access_type: Some(Mount(MountVolume { fs_type: "ext4", mount_flags: ["noatime"], volume_mount_group: "7" })) }"#,
            r#"expand vol /target /staging 1024 {"pass": "hunter2"}"#,
            "unpublish vol /target",
            "unstage vol /staging",
        ]
    );
    server.abort();
}

#[tokio::test]
async fn facts_come_back_as_the_driver_means_them() {
    let (_dir, socket) = place();
    let driver = Driver { not_ready: true, ..Driver::default() };
    let server = driver.serve(&socket);
    let client = CsiClient::new(&socket, "d");
    assert_eq!(client.plugin_info().await.unwrap().name, "d");
    assert_eq!(client.probe().await, Ok(false));
    // A number of a later version of the protocol, and the one that means nothing, are left out.
    *driver.capabilities.lock().unwrap() = vec![0, RpcType::StageUnstageVolume.into(), 77, 6];
    let can = NodeCapabilities { stage_unstage: true, volume_mount_group: true, ..Default::default() };
    assert_eq!(client.capabilities().await, Ok(can));
    *driver.info.lock().unwrap() = v1::NodeGetInfoResponse {
        node_id: "n".into(),
        max_volumes_per_node: 5,
        accessible_topology: Some(v1::Topology { segments: map(&[("zone", "a")]) }),
    };
    let info = client.node_info().await.unwrap();
    assert_eq!((info.node_id.as_str(), info.max_volumes, info.topology), ("n", 5, map(&[("zone", "a")])));
    let usage = |total, unit: i32| v1::VolumeUsage { available: 1, total, used: 2, unit };
    *driver.stats.lock().unwrap() = v1::NodeGetVolumeStatsResponse {
        usage: vec![usage(3, 0), usage(4, 1), usage(5, 2), usage(6, 1), usage(7, 9)],
        volume_condition: Some(v1::VolumeCondition { abnormal: true, message: "lost a leg".into() }),
    };
    let asked = StatsRequest { volume_id: "vol".into(), volume_path: "/t".into(), staging_path: None };
    let stats = client.stats(asked).await.unwrap();
    assert_eq!(stats.bytes, Some(Usage { available: 1, total: 6, used: 2 }));
    assert_eq!(stats.inodes, Some(Usage { available: 1, total: 5, used: 2 }));
    assert_eq!(stats.condition, Some(VolumeCondition { abnormal: true, message: "lost a leg".into() }));
    server.abort();
}

#[tokio::test]
async fn what_a_driver_says_of_the_node_has_to_make_sense() {
    let (_dir, socket) = place();
    let driver = Driver::default();
    let server = driver.serve(&socket);
    let client = CsiClient::new(&socket, "d");
    assert_eq!(client.node_info().await.unwrap_err().message, "the driver's name for the node is empty");
    *driver.info.lock().unwrap() =
        v1::NodeGetInfoResponse { node_id: "n".into(), max_volumes_per_node: -1, accessible_topology: None };
    assert_eq!(client.node_info().await.unwrap_err().message, "max_volumes_per_node is -1");
    *driver.info.lock().unwrap() = v1::NodeGetInfoResponse { node_id: "n".into(), ..Default::default() };
    assert!(client.node_info().await.unwrap().topology.is_empty());
    server.abort();
}

#[tokio::test]
async fn a_refusal_keeps_code_and_words() {
    let (_dir, socket) = place();
    let driver = Driver::default();
    let server = driver.serve(&socket);
    let client = CsiClient::new(&socket, "d");
    for code in 1..=16 {
        driver.next(Turn::Refuse(Status::new(Code::from_i32(code), "mkfs: no such device\n\t\"x\"")));
        let error = client.stage(stage()).await.unwrap_err();
        assert_eq!((error.code as i32, error.call, error.reached), (code, "NodeStageVolume", true));
        assert_eq!(error.message, "mkfs: no such device\n\t\"x\"");
        assert_eq!(error.final_, ![1, 4, 8, 10, 14].contains(&code), "{code}");
    }
    driver.next(Turn::Refuse(Status::internal("boom")));
    let error = client.unpublish("vol", Path::new("/t")).await.unwrap_err();
    assert_eq!(error.to_string(), "rpc error: code = Internal desc = boom");
    server.abort();
}

#[tokio::test]
async fn one_that_hangs_costs_its_deadline_and_holds_up_nobody() {
    let (_dir, socket) = place();
    let driver = Driver::default();
    let server = driver.serve(&socket);
    let short = CsiDeadlines { volume: Duration::from_millis(50), info: Duration::from_millis(50) };
    let client = CsiClient::new(&socket, "d").with_deadlines(short);
    driver.next(Turn::Hang);
    let error = client.stage(stage()).await.unwrap_err();
    assert_eq!(error.to_string(), "rpc error: code = DeadlineExceeded desc = context deadline exceeded");
    assert!(!error.final_ && error.reached);
    // With a call that hangs for good under way, others are answered.
    let patient = CsiClient::new(&socket, "d");
    driver.next(Turn::Hang);
    let hanging = tokio::spawn({
        let client = patient.clone();
        async move { client.stage(stage()).await }
    });
    while driver.calls.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    patient.unstage("vol", Path::new("/s")).await.unwrap();
    assert!(!hanging.is_finished());
    hanging.abort();
    server.abort();
}

#[tokio::test]
async fn without_a_socket_nothing_was_sent_and_one_that_comes_back_is_used() {
    let (dir, socket) = place();
    let client = CsiClient::new(&socket, "d");
    let error = client.stage(stage()).await.unwrap_err();
    let text = format!(
        "rpc error: code = Unavailable desc = connection error: {} does not exist; is the driver running?",
        socket.display()
    );
    assert_eq!(error.to_string(), text);
    assert_eq!((error.final_, error.reached), (false, false));
    let first = Driver::default();
    let server = first.serve(&socket);
    client.stage(stage()).await.unwrap();
    // Nobody listens, but the file is there.
    server.abort();
    let _ended = server.await;
    assert_eq!(outcome(client.stage(stage()).await), (Code::Unavailable, false, false));
    // Another one takes the place while the first lives on: the one at the path is asked.
    std::fs::remove_file(&socket).unwrap();
    let old = first.serve(&socket);
    client.stage(stage()).await.unwrap();
    std::fs::remove_file(&socket).unwrap();
    let second = Driver::default();
    let new = second.serve(&socket);
    client.stage(stage()).await.unwrap();
    assert_eq!((first.calls().len(), second.calls().len()), (2, 1));
    // A file that is no socket.
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "").unwrap();
    let error = client.stage(stage()).await.unwrap_err();
    assert!(error.message.ends_with("csi.sock is not a socket"), "{error}");
    for server in [old, new] {
        server.abort();
    }
    drop(dir);
}

#[tokio::test]
async fn a_socket_may_lie_deeper_than_its_name_may_be_long() {
    let (dir, _) = place();
    let deep = dir.path().join("d".repeat(80)).join("e".repeat(80));
    std::fs::create_dir_all(&deep).unwrap();
    let driver = Driver::default();
    // The driver has a shorter way to it, as from within its container.
    let short = dir.path().join("short");
    std::os::unix::fs::symlink(&deep, &short).unwrap();
    let server = driver.serve(&short.join("csi.sock"));
    CsiClient::new(&deep.join("csi.sock"), "d").stage(stage()).await.unwrap();
    assert_eq!(driver.calls().len(), 1);
    server.abort();
}

/// Serves each connection by hand: reads a little, answers, closes.
fn serve_bytes(socket: &Path, answer: &'static [u8]) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _read = stream.read(&mut buffer).await;
            let _written = stream.write_all(answer).await;
        }
    })
}

#[tokio::test]
async fn who_breaks_off_or_speaks_something_else_leaves_the_outcome_open() {
    for answer in [
        b"".as_slice(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"\0\0\0\x04\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0xff; 600],
    ] {
        let (_dir, socket) = place();
        let server = serve_bytes(&socket, answer);
        let deadlines = CsiDeadlines { volume: Duration::from_secs(20), ..CsiDeadlines::default() };
        let client = CsiClient::new(&socket, "d").with_deadlines(deadlines);
        let error = client.stage(stage()).await.unwrap_err();
        assert!(!error.final_, "{error:?}");
        assert_eq!(error.code, Code::Unavailable, "{error:?}");
        server.abort();
    }
}

/// Answers every call with the same bytes as its message.
#[derive(Clone)]
struct Liar {
    status: http::StatusCode,
    body: &'static str,
}

impl NamedService for Liar {
    const NAME: &'static str = "csi.v1.Node";
}

impl Service<http::Request<Body>> for Liar {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let answer = http::Response::builder()
            .status(self.status)
            .header("content-type", "application/grpc")
            .body(Body::new(self.body.to_owned()))
            .unwrap();
        Box::pin(async move { Ok(answer) })
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_no_refusal() {
    for (status, body) in [
        // A message whose first field has a type that there is not.
        (200, "\0\0\0\0\x02\x07\x07"),
        // A message that ends before its end.
        (200, "\0\0\0\0\x09\x0a"),
        // No message, and no status either.
        (200, ""),
        // Compressed with nothing.
        (200, "\x01\0\0\0\0"),
        (404, ""),
        (503, ""),
        (500, "\0\0\0\0\0"),
    ] {
        let (_dir, socket) = place();
        let listener = UnixListener::bind(&socket).unwrap();
        let liar = Liar { status: http::StatusCode::from_u16(status).unwrap(), body };
        let server = tokio::spawn(async move {
            let server = Server::builder().add_service(liar);
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        match CsiClient::new(&socket, "d").stage(stage()).await {
            // An empty answer of an empty message is what some servers give.
            Ok(()) => assert_eq!((status, body), (200, "\0\0\0\0\0")),
            Err(error) => assert!(!error.final_ && error.reached, "{status} {body:?}: {error:?}"),
        }
        server.abort();
    }
}

#[tokio::test]
async fn the_observer_hears_of_every_call_that_ended() {
    let (_dir, socket) = place();
    let driver = Driver::default();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let heard = Arc::clone(&heard);
        Arc::new(move |call: rubelet_csi::CallRecord<'_>| {
            let code = rubelet_csi::error::code_name(call.code);
            let row = format!("{} {} {code} {}", call.driver, call.method, call.migrated);
            heard.lock().unwrap().push(row);
        })
    };
    let client = CsiClient::new(&socket, "d").with_observer(observer);
    let _missing = client.probe().await;
    let server = driver.serve(&socket);
    client.stage(stage()).await.unwrap();
    driver.next(Turn::Refuse(Status::aborted("busy")));
    let _refused = client.clone().migrated(true).unstage("vol", Path::new("/s")).await;
    // What was not sent is not told.
    let _nonsense = client.unstage("", Path::new("/s")).await;
    assert_eq!(
        *heard.lock().unwrap(),
        [
            "d /csi.v1.Identity/Probe Unavailable false",
            "d /csi.v1.Node/NodeStageVolume OK false",
            "d /csi.v1.Node/NodeUnstageVolume Aborted true",
        ]
    );
    server.abort();
}
