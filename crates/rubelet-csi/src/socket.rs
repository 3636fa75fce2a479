//! The way to a driver's socket: one connection per call, as upstream makes them. A driver that was replaced is met at once,
//! whoever still holds the old socket; at rest nothing is kept. Used by [`crate::CsiClient`] alone.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Longest path the kernel takes as the name of a socket, in bytes.
const LONGEST_NAME: usize = 107;

/// The path that a driver's endpoint means: a path, or `unix://` and a path.
pub(crate) fn path_of(endpoint: &Path) -> PathBuf {
    let text = endpoint.to_str().unwrap_or_default();
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
    path.map_or_else(|| endpoint.to_path_buf(), PathBuf::from)
}

/// Opens a connection. Nothing has been asked of the driver when this fails; the error says why in words.
pub(crate) async fn connect(path: &Path) -> Result<Channel, String> {
    let stream = match open(path).await {
        Ok(stream) => stream,
        Err(error) => return Err(explain(path, &error).await),
    };
    let mut stream = Some(stream);
    // The transport asks a second time only to connect anew, and a call is made once.
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::other("the connection is gone")) }
    });
    // The authority is never resolved; upstream's kubelet says the same one.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|error| format!("cannot speak with {}: {error}", path.display()))
}

/// A driver binds its socket where the path is short, within its container; on the node the same socket may lie deeper than
/// the kernel lets a name be. It is then reached by way of its directory.
async fn open(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().as_bytes().len() <= LONGEST_NAME {
        return UnixStream::connect(path).await;
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let dir = tokio::fs::File::open(dir).await?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)).await
}

/// Says in words of the user's world why a socket cannot be opened.
async fn explain(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("{shown} does not exist; is the driver running?"),
        io::ErrorKind::PermissionDenied => format!("no permission to open {shown}"),
        io::ErrorKind::ConnectionRefused => match tokio::fs::metadata(path).await {
            Ok(meta) if !meta.file_type().is_socket() => format!("{shown} is not a socket"),
            _ => format!("nothing listens on {shown}; is the driver running?"),
        },
        _ => format!("cannot connect to {shown}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_paths_or_name_them() {
        let check = |endpoint: &str, path: &str| assert_eq!(path_of(Path::new(endpoint)), Path::new(path));
        check("/var/lib/kubelet/plugins/d/csi.sock", "/var/lib/kubelet/plugins/d/csi.sock");
        check("unix:///run/csi.sock", "/run/csi.sock");
        check("unix:/run/csi.sock", "/run/csi.sock");
    }
}
