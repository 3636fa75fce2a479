//! Sockets of the node: connecting to one, serving on one. Shared by the parts of this crate; decides nothing.

use std::error::Error as _;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use futures::Stream;
use futures::stream;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

/// One connection to a socket; it is never made anew.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, String> {
    let mut stream = Some(UnixStream::connect(socket).await.map_err(|error| error.to_string())?);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::other("the connection is gone")) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.map_err(|error| error.to_string())
}

/// What a failed call says; of a failure of the connection the innermost cause.
pub(crate) fn words_of(status: &Status) -> String {
    let innermost = std::iter::successors(status.source(), |cause| (*cause).source()).last();
    innermost.map_or_else(
        || format!("rpc error: code = {:?} desc = {}", status.code(), status.message()),
        ToString::to_string,
    )
}

/// A socket to serve on, in place of one that an earlier run has left. Its folder is made if it is missing, for root only.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Connections as they come in.
pub(crate) fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, async |listener| {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    })
}
