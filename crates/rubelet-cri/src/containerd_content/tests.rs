//! The client against a content service in the same process.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Mutex;

use futures::future::BoxFuture;
use futures::stream;
use rubelet_core::pull_progress::PullMeter;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Response;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc as ServerGrpc, NamedService};
use tonic_prost::ProstCodec;
use tower::Service;

use super::*;
use crate::deadline::Deadlines;
use crate::error::CriErrorKind;

/// Answers as a containerd that is pulling one image, and remembers what it was asked.
#[derive(Clone, Default)]
struct FakeContent {
    /// Filters of List, the digest of Read.
    asked: Arc<Mutex<Vec<String>>>,
    namespaces: Arc<Mutex<Vec<String>>>,
}

impl NamedService for FakeContent {
    const NAME: &'static str = "containerd.services.content.v1.Content";
}

const MANIFEST: &str = r#"{"config":{"digest":"sha256:c","size":3},
    "layers":[{"digest":"sha256:l1","size":20},{"digest":"sha256:l2","size":77}]}"#;

impl FakeContent {
    fn ingests() -> ListStatusesResponse {
        let status =
            |reference: &str, offset, total| IngestStatus { reference: reference.into(), offset, total };
        let statuses = vec![status("layer-sha256:l2", 20, 77), status("layer-sha256:other", -1, 0)];
        ListStatusesResponse { statuses }
    }

    fn list(&self, request: &ListContentRequest) -> Vec<Info> {
        self.asked.lock().unwrap().extend(request.filters.clone());
        let info = |digest: &str, children: &[&str]| Info {
            digest: digest.into(),
            labels: children
                .iter()
                .map(|child| (format!("{CHILD_LABEL}l.{child}"), (*child).into()))
                .collect(),
        };
        if request.filters[0].starts_with("labels") {
            return vec![info("sha256:old", &["sha256:l1"]), info("sha256:m", &["sha256:l1", "sha256:l2"])];
        }
        vec![info("sha256:c", &[]), info("sha256:l1", &[])]
    }
}

impl Service<http::Request<Body>> for FakeContent {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let namespace = request.headers()["containerd-namespace"].to_str().unwrap().to_owned();
            this.namespaces.lock().unwrap().push(namespace);
            let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
            Ok(match method.as_str() {
                "ListStatuses" => {
                    let mut grpc =
                        ServerGrpc::new(ProstCodec::<ListStatusesResponse, ListStatusesRequest>::default());
                    let answer = tower::service_fn(|_: Request<ListStatusesRequest>| async {
                        Ok::<_, Status>(Response::new(Self::ingests()))
                    });
                    grpc.unary(answer, request).await
                }
                "List" => {
                    let mut grpc =
                        ServerGrpc::new(ProstCodec::<ListContentResponse, ListContentRequest>::default());
                    let answer = tower::service_fn(move |request: Request<ListContentRequest>| {
                        let blobs = this.list(request.get_ref());
                        // One blob a message: all of them count.
                        let messages =
                            blobs.into_iter().map(|blob| Ok(ListContentResponse { info: vec![blob] }));
                        futures::future::ready(Ok::<_, Status>(Response::new(stream::iter(messages))))
                    });
                    grpc.server_streaming(answer, request).await
                }
                _ => {
                    let mut grpc =
                        ServerGrpc::new(ProstCodec::<ReadContentResponse, ReadContentRequest>::default());
                    let answer = tower::service_fn(move |request: Request<ReadContentRequest>| {
                        this.asked.lock().unwrap().push(request.into_inner().digest);
                        let mut parts = vec![];
                        for part in MANIFEST.as_bytes().chunks(50) {
                            parts.push(Ok(ReadContentResponse { data: part.to_vec() }));
                        }
                        futures::future::ready(Ok::<_, Status>(Response::new(stream::iter(parts))))
                    });
                    grpc.server_streaming(answer, request).await
                }
            })
        })
    }
}

/// A CRI client of a socket behind which `server` serves.
fn serve(dir: &Path, server: tonic::transport::server::Router) -> ContainerdContent {
    let path = dir.join("containerd.sock");
    let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
    tokio::spawn(server.serve_with_incoming(incoming));
    let client = CriClient::new(&format!("unix://{}", path.display()), Deadlines::default()).unwrap();
    ContainerdContent::new(&client)
}

#[tokio::test]
async fn a_look_finds_the_manifest_and_what_is_here_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeContent::default();
    let content = serve(dir.path(), tonic::transport::Server::builder().add_service(fake.clone()));

    let mut meter = PullMeter::default();
    let look = content.look("r.test:5000/team/my.app:1", None).await.unwrap();
    assert_eq!(look.ingests.len(), 2);
    assert_eq!((look.ingests[1].offset, look.ingests[1].total), (0, 0), "a negative size is none");
    let progress = meter.read(&look, Duration::ZERO).unwrap();
    assert_eq!((progress.done, progress.total), (43, 100));
    assert_eq!(meter.manifest(), Some("sha256:m"));
    let asked = std::mem::take(&mut *fake.asked.lock().unwrap());
    assert_eq!(
        asked,
        [
            r#"labels."containerd.io/distribution.source.r.test"~="(^|,)team/my[.]app(,|$)",labels."containerd.io/gc.ref.content.config""#,
            "sha256:m",
            r#"digest=="sha256:c""#,
            r#"digest=="sha256:l1""#,
            r#"digest=="sha256:l2""#,
        ],
        "only the manifest that something is downloaded for is read"
    );
    assert!(fake.namespaces.lock().unwrap().iter().all(|namespace| namespace == "k8s.io"));

    let look = content.look("r.test:5000/team/my.app:1", Some("sha256:old")).await.unwrap();
    let digests: Vec<&str> = look.manifests.iter().map(|manifest| manifest.digest.as_str()).collect();
    assert_eq!(digests, ["sha256:old", "sha256:m"], "the one that is asked for as well");
}

#[tokio::test]
async fn a_runtime_without_the_service_cannot_tell() {
    let dir = tempfile::tempdir().unwrap();
    let routes = tonic::service::Routes::default();
    let content = serve(dir.path(), tonic::transport::Server::builder().add_routes(routes));
    let error = content.look("app", None).await.unwrap_err();
    assert_eq!(error.kind, CriErrorKind::Unimplemented, "{error}");
}

#[tokio::test]
async fn a_runtime_that_is_away_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("unix://{}", dir.path().join("none.sock").display());
    let content = ContainerdContent::new(&CriClient::new(&endpoint, Deadlines::default()).unwrap());
    assert_eq!(content.ingests().await.unwrap_err().kind, CriErrorKind::Unreachable);
}
