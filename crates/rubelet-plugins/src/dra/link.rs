//! A connection to a driver's socket whose end is noticed, and the reports of health that come over it. Long paths are
//! reached by way of their directory, as those of CSI drivers.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rubelet_core::dra::health::{Health, Report};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Streaming};

use super::DraError;
use super::wire::health as wire;

/// Longest path the kernel takes as the name of a socket, in bytes.
const LONGEST_NAME: usize = 107;

/// A connection.
#[derive(Debug)]
pub struct DraLink {
    channel: Channel,
    closed: watch::Receiver<()>,
}

impl DraLink {
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits until the other side is gone. Cancel-safe.
    pub async fn closed(&self) {
        // Nothing is ever sent: this ends when the stream is dropped, which the transport does at its end.
        while self.closed.clone().changed().await.is_ok() {}
    }

    /// Has the driver tell of its devices (`NodeWatchResources`); `None` where it does not do such a thing.
    ///
    /// # Errors
    /// The driver refuses, or is gone.
    pub async fn watch_health(&self) -> Result<Option<HealthReports>, DraError> {
        let mut client = wire::dra_resource_health_client::DraResourceHealthClient::new(self.channel());
        match client.node_watch_resources(wire::NodeWatchResourcesRequest {}).await {
            Ok(stream) => Ok(Some(HealthReports(stream.into_inner()))),
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(DraError::of_status(&status)),
        }
    }
}

/// Reports of a driver's devices as they come.
#[derive(Debug)]
pub struct HealthReports(Streaming<wire::NodeWatchResourcesResponse>);

impl HealthReports {
    /// The next report; `None` when the driver has no more to tell. Cancel-safe.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn next(&mut self) -> Result<Option<Vec<Report>>, DraError> {
        match self.0.message().await {
            Ok(message) => {
                Ok(message.map(|message| message.devices.into_iter().filter_map(report).collect()))
            }
            // As everywhere: a driver that has the method but not the service says so with the first message.
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(DraError::of_status(&status)),
        }
    }
}

/// What is told of no device is left out.
fn report(told: wire::DeviceHealth) -> Option<Report> {
    let health = match told.health() {
        wire::HealthStatus::Healthy => Health::Healthy,
        wire::HealthStatus::Unhealthy => Health::Unhealthy,
        wire::HealthStatus::Unknown => Health::Unknown,
    };
    let device = told.device?;
    Some(Report {
        pool: device.pool_name,
        device: device.device_name,
        health,
        message: told.message,
        timeout_seconds: told.health_check_timeout_seconds,
    })
}

/// Opens a connection; the error says in words why that fails.
pub(super) async fn open(path: &Path) -> Result<DraLink, String> {
    let stream = connect(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{} does not exist; is the driver running?", path.display()),
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens on {}; is the driver running?", path.display())
        }
        _ => format!("cannot connect to {}: {error}", path.display()),
    })?;
    let (alive, closed) = watch::channel(());
    let mut stream = Some(Watched { stream, _alive: alive });
    // The transport asks a second time only to connect anew; whoever holds a link makes another one then.
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::other("the connection is gone")) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| format!("cannot speak with {}: {error}", path.display()))?;
    Ok(DraLink { channel, closed })
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().as_bytes().len() <= LONGEST_NAME {
        return UnixStream::connect(path).await;
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let dir = tokio::fs::File::open(dir).await?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)).await
}

/// A stream whose end others can wait for.
struct Watched {
    stream: UnixStream,
    _alive: watch::Sender<()>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
