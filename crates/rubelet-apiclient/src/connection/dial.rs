//! From a name to a stream that HTTP can run on: credentials brought up to date, DNS, TCP, proxy, TLS, each with a
//! message of its own when it fails.

use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::ConnectOptions;
use super::error::ConnectFailure;
use super::proxy::Proxy;
use super::tls::Tls;
use crate::credentials::Credentials;
use crate::kubeconfig::ClusterAccess;

/// How long data may be on the way without an acknowledgement before the kernel gives the connection up.
const USER_TIMEOUT_MS: u32 = 30_000;

/// A stream to the server.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream and what is spoken on it.
pub(super) struct Dialed {
    pub(super) stream: Box<dyn Stream>,
    pub(super) http2: bool,
}

/// Makes streams to one server.
pub(super) struct Dialer {
    host: String,
    port: u16,
    proxy: Option<Proxy>,
    tls: Option<Tls>,
    credentials: Arc<Credentials>,
    timeout: Duration,
    pub(super) keep_alive_interval: Duration,
    pub(super) keep_alive_timeout: Duration,
}

impl Dialer {
    pub(super) fn new(
        access: &ClusterAccess,
        tls: Option<Tls>,
        proxy: Option<Proxy>,
        credentials: Arc<Credentials>,
        options: &ConnectOptions,
    ) -> Self {
        Self {
            host: access.host().to_owned(),
            port: access.port(),
            proxy,
            tls,
            credentials,
            timeout: options.connect_timeout,
            keep_alive_interval: options.keep_alive_interval,
            keep_alive_timeout: options.keep_alive_timeout,
        }
    }

    /// The server's host and port, for messages.
    pub(super) fn address(&self) -> String {
        join(&self.host, self.port)
    }

    /// One attempt, bounded. Plugins have a bound of their own.
    pub(super) async fn dial(&self) -> Result<Dialed, ConnectFailure> {
        self.credentials.prepare().await.map_err(ConnectFailure::Credentials)?;
        match tokio::time::timeout(self.timeout, self.reach()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectFailure::TimedOut { address: self.address(), after: self.timeout }),
        }
    }

    async fn reach(&self) -> Result<Dialed, ConnectFailure> {
        let tcp = match &self.proxy {
            None => tcp(&self.host, self.port, self.timeout).await?,
            Some(proxy) => {
                let mut tcp = tcp(&proxy.host, proxy.port, self.timeout).await?;
                proxy.tunnel(&mut tcp, &self.address()).await?;
                tcp
            }
        };
        let Some(tls) = &self.tls else { return Ok(Dialed { stream: Box::new(tcp), http2: false }) };
        let connector = tokio_rustls::TlsConnector::from(tls.config().await?);
        let stream = connector
            .connect(tls.server_name()?, tcp)
            .await
            .map_err(|source| ConnectFailure::Tls { address: self.address(), source })?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Dialed { stream: Box::new(stream), http2 })
    }
}

/// Tries the name's addresses one after another; each gets its part of the time, the last what is left.
async fn tcp(host: &str, port: u16, within: Duration) -> Result<TcpStream, ConnectFailure> {
    let dns = |source| ConnectFailure::Dns { host: host.to_owned(), source };
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await.map_err(dns)?.collect();
    let share = within / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tune(&stream);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer"),
        }
    }
    Err(ConnectFailure::Tcp { address: join(host, port), source: last })
}

/// The kernel notices a dead peer too, for connections on which HTTP has no ping. A socket that cannot be tuned
/// works all the same.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(30));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10));
    let _ = sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS);
}

/// Host and port as one text.
pub(super) fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
