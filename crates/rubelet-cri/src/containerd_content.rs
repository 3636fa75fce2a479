//! What containerd is downloading: its own content service, which listens on the socket of its CRI.
//!
//! Owns the few messages of `containerd.services.content.v1` that are needed, written by hand, and the client that makes
//! a [`PullLook`] of them. CRI has no such call; another runtime answers Unimplemented, and its caller does without.
//! Never writes, never caches. The worker asks while a pull takes long, and has `rubelet_core::pull_progress` make a
//! text of the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use prost::Message;
use rubelet_core::pull_progress::{ImageManifest, Ingest, PullLook, parse_manifest, source_of};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::client::{CriClient, error_of, no_answer};
use crate::error::CriError;
use crate::link::Link;
use crate::service::CriFuture;

/// The namespace of containerd in which its CRI keeps everything.
const NAMESPACE: &str = "k8s.io";
/// How long a whole look may take; it is only to tell people something.
const LIMIT: Duration = Duration::from_secs(5);
/// The largest manifest that is read; registries refuse those above 4 MiB.
const LARGEST_MANIFEST: usize = 4 << 20;
/// So many manifests are read in one look.
const MOST_MANIFESTS: usize = 4;
/// Labels with which containerd says what a manifest refers to.
const CHILD_LABEL: &str = "containerd.io/gc.ref.content.";

/// Something that can tell what is being downloaded for an image.
pub trait PullWatch: Send + Sync {
    /// Looks at all downloads, at the manifests of the image's repository for which one is under way, and at `manifest`
    /// (a digest), the one that an earlier look was found to be about. Unimplemented from runtimes that cannot tell.
    fn look(&self, image: &str, manifest: Option<&str>) -> CriFuture<PullLook>;
}

/// containerd's content service, over the connection of a CRI client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ContainerdContent {
    channel: Channel,
    link: Arc<Link>,
}

impl ContainerdContent {
    /// Asks what listens where this client calls.
    pub fn new(client: &CriClient) -> Self {
        let (channel, link) = client.connection();
        Self { channel, link }
    }

    /// Everything that is being downloaded.
    pub fn ingests(&self) -> CriFuture<Vec<Ingest>> {
        let mut calls = self.calls();
        self.bounded("ListStatuses", async move { calls.ingests().await })
    }

    fn calls(&self) -> Calls {
        Calls(Grpc::new(self.channel.clone()).max_decoding_message_size(crate::client::MAX_MESSAGE_BYTES))
    }

    fn bounded<T: Send + 'static>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> CriFuture<T> {
        let link = Arc::clone(&self.link);
        async move {
            match tokio::time::timeout(LIMIT, call).await {
                Ok(answer) => {
                    answer.map_err(|status| -> CriError { error_of(operation, LIMIT, &link, &status) })
                }
                Err(_elapsed) => Err(no_answer(operation, LIMIT)),
            }
        }
        .boxed()
    }
}

impl PullWatch for ContainerdContent {
    fn look(&self, image: &str, manifest: Option<&str>) -> CriFuture<PullLook> {
        let mut calls = self.calls();
        let (source, manifest) = (source_of(image), manifest.map(str::to_owned));
        self.bounded("ListStatuses", async move {
            let mut look = PullLook { ingests: calls.ingests().await?, ..PullLook::default() };
            if let Some((host, path)) = source
                && (!look.ingests.is_empty() || manifest.is_some())
            {
                look.manifests = calls.manifests(&host, &path, manifest.as_deref(), &look.ingests).await?;
                // After the downloads: what is finished in between is in both answers, and nothing is in neither.
                look.present = calls.present(&look.manifests).await?;
            }
            Ok(look)
        })
    }
}

struct Calls(Grpc<Channel>);

impl Calls {
    async fn ingests(&mut self) -> Result<Vec<Ingest>, Status> {
        let path = "/containerd.services.content.v1.Content/ListStatuses";
        self.ready().await?;
        let request = request(ListStatusesRequest {});
        let codec = tonic_prost::ProstCodec::<_, ListStatusesResponse>::default();
        let answer = self.0.unary(request, PathAndQuery::from_static(path), codec).await?;
        let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(answer
            .into_inner()
            .statuses
            .into_iter()
            .map(|status| Ingest {
                reference: status.reference,
                offset: bytes(status.offset),
                total: bytes(status.total),
            })
            .collect())
    }

    /// The manifests that were pulled from a repository and that something is being downloaded for, and `wanted`.
    async fn manifests(
        &mut self,
        host: &str,
        path: &str,
        wanted: Option<&str>,
        ingests: &[Ingest],
    ) -> Result<Vec<ImageManifest>, Status> {
        let under_way: BTreeSet<&str> = ingests.iter().filter_map(Ingest::digest).collect();
        let blobs = self.list(vec![repository_filter(host, path)]).await?;
        let mut digests: Vec<String> = blobs
            .into_iter()
            .filter(|blob| wanted == Some(blob.digest.as_str()) || blob.refers_to(&under_way))
            .map(|blob| blob.digest)
            .collect();
        // The wanted one first, so that the limit never drops it.
        digests.sort_by_key(|digest| wanted != Some(digest.as_str()));
        let mut manifests = vec![];
        for digest in digests.into_iter().take(MOST_MANIFESTS) {
            let json = self.read(&digest).await?;
            manifests.extend(parse_manifest(&digest, &json));
        }
        Ok(manifests)
    }

    /// Which parts of manifests are here in full.
    async fn present(&mut self, manifests: &[ImageManifest]) -> Result<BTreeSet<String>, Status> {
        let digests = manifests.iter().flat_map(|manifest| &manifest.parts).map(|part| part.digest.as_str());
        let filters: Vec<String> = digests
            .filter(|digest| digest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b':'))
            .map(|digest| format!("digest==\"{digest}\""))
            .collect();
        if filters.is_empty() {
            // No filter at all would mean everything.
            return Ok(BTreeSet::new());
        }
        Ok(self.list(filters).await?.into_iter().map(|blob| blob.digest).collect())
    }

    async fn list(&mut self, filters: Vec<String>) -> Result<Vec<Info>, Status> {
        let path = PathAndQuery::from_static("/containerd.services.content.v1.Content/List");
        let mut answers: Streaming<ListContentResponse> =
            self.stream(path, ListContentRequest { filters }).await?;
        let mut blobs = vec![];
        while let Some(answer) = answers.message().await? {
            blobs.extend(answer.info);
        }
        Ok(blobs)
    }

    async fn read(&mut self, digest: &str) -> Result<Vec<u8>, Status> {
        let path = PathAndQuery::from_static("/containerd.services.content.v1.Content/Read");
        let request = ReadContentRequest { digest: digest.to_owned() };
        let mut answers: Streaming<ReadContentResponse> = self.stream(path, request).await?;
        let mut bytes = vec![];
        while let Some(answer) = answers.message().await? {
            if bytes.len() + answer.data.len() > LARGEST_MANIFEST {
                return Ok(vec![]);
            }
            bytes.extend(answer.data);
        }
        Ok(bytes)
    }

    async fn stream<Q, A>(&mut self, path: PathAndQuery, message: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.ready().await?;
        let codec = tonic_prost::ProstCodec::default();
        Ok(self.0.server_streaming(request(message), path, codec).await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::from_error(Box::new(error)))
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request.set_timeout(LIMIT);
    request
}

/// Finds the manifests pulled from a repository: containerd writes a comma-separated list of repositories on what it
/// pulled, and what a manifest refers to.
fn repository_filter(host: &str, path: &str) -> String {
    let path = path.replace('.', "[.]");
    format!(
        "labels.\"containerd.io/distribution.source.{host}\"~=\"(^|,){path}(,|$)\",labels.\"{CHILD_LABEL}config\""
    )
}

#[derive(Clone, PartialEq, Message)]
struct ListStatusesRequest {}

#[derive(Clone, PartialEq, Message)]
struct ListStatusesResponse {
    #[prost(message, repeated, tag = "1")]
    statuses: Vec<IngestStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct IngestStatus {
    #[prost(string, tag = "3")]
    reference: String,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(int64, tag = "5")]
    total: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ListContentRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ListContentResponse {
    #[prost(message, repeated, tag = "1")]
    info: Vec<Info>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(btree_map = "string, string", tag = "5")]
    labels: BTreeMap<String, String>,
}

impl Info {
    fn refers_to(&self, digests: &BTreeSet<&str>) -> bool {
        self.labels
            .iter()
            .any(|(key, value)| key.starts_with(CHILD_LABEL) && digests.contains(value.as_str()))
    }
}

#[derive(Clone, PartialEq, Message)]
struct ReadContentRequest {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, Message)]
struct ReadContentResponse {
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[cfg(test)]
mod tests;
