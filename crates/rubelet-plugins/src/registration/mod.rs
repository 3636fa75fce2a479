//! Registration v1: how a plugin makes itself known. [`v1`] is the protocol; the two calls of the agent are here, each on
//! a connection of its own and with a deadline. Never retries.

pub mod v1;

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

use crate::handler::Plugin;
use v1::registration_client::RegistrationClient;

/// How long a plugin may take for either answer. Upstream gives one second for the first, which a node under load misses.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Asks who is there.
///
/// # Errors
/// Nobody answers, or not in time, or with what is no plugin's answer.
pub(crate) async fn ask(socket: &Path) -> Result<Plugin, String> {
    let failed = |reason| {
        format!("failed to get plugin info using RPC GetInfo at socket {}, err: {reason}", socket.display())
    };
    let info =
        call(socket, v1::InfoRequest {}, |mut client, request| async move { client.get_info(request).await })
            .await
            .map_err(failed)?;
    if info.name.is_empty() {
        return Err(failed("the plugin has no name".to_owned()));
    }
    let path = info.endpoint.strip_prefix("unix://").unwrap_or(&info.endpoint);
    let endpoint = if path.is_empty() { socket.to_path_buf() } else { PathBuf::from(path) };
    if !endpoint.is_absolute() {
        return Err(failed(format!("endpoint {path:?} is not an absolute path")));
    }
    Ok(Plugin {
        kind: info.r#type,
        name: info.name,
        endpoint,
        versions: info.supported_versions,
        socket: socket.to_path_buf(),
    })
}

/// Tells a plugin whether it was taken, and why not.
///
/// # Errors
/// It could not be told.
pub(crate) async fn tell(socket: &Path, verdict: Result<(), String>) -> Result<(), String> {
    let status = v1::RegistrationStatus {
        plugin_registered: verdict.is_ok(),
        error: verdict.err().unwrap_or_default(),
    };
    call(
        socket,
        status,
        |mut client, request| async move { client.notify_registration_status(request).await },
    )
    .await
    .map(drop)
    .map_err(|reason| {
        format!("failed to send registration status at socket {}, err: {reason}", socket.display())
    })
}

/// One call within the deadline.
async fn call<Q, A, F>(
    socket: &Path,
    request: Q,
    invoke: impl FnOnce(RegistrationClient<Channel>, Request<Q>) -> F,
) -> Result<A, String>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(DEADLINE);
    let exchange = async {
        let channel = connect(socket).await?;
        let client = RegistrationClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        invoke(client, request).await.map_err(|status| words_of(&status))
    };
    match tokio::time::timeout(DEADLINE, exchange).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_elapsed) => Err(too_late()),
    }
}

async fn connect(socket: &Path) -> Result<Channel, String> {
    let mut stream = Some(UnixStream::connect(socket).await.map_err(|error| error.to_string())?);
    // The transport asks a second time only to connect anew, and a call is made once.
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::other("the connection is gone")) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.map_err(|error| error.to_string())
}

fn too_late() -> String {
    format!("no answer within {} s", DEADLINE.as_secs())
}

/// What a failed call says; of a failure of the connection the innermost cause.
fn words_of(status: &Status) -> String {
    let first = status.source();
    let innermost = std::iter::successors(first, |cause| (*cause).source()).last();
    // The transport keeps the deadline as well, and is sometimes the first to notice.
    if innermost.is_some_and(|cause| cause.is::<tonic::TimeoutExpired>()) {
        return too_late();
    }
    innermost.map_or_else(|| format!("{}: {}", status.code(), status.message()), ToString::to_string)
}
