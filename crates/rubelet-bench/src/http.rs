//! A kept-open HTTP connection to a port of the agent, so that asking often costs the agent little.
//!
//! Owns GET over loopback. Never retries. Called while a run waits for pods.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The connection. Dropping it closes it.
pub(crate) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects to a port of this machine.
    pub(crate) async fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // How a connection ends is told by the request that was under way.
            let _ended = connection.await;
        });
        Ok(Self { sender, driver })
    }

    /// The body of a 200 answer.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Bytes> {
        let request = Request::get(path).header(http::header::HOST, "localhost").body(Empty::new())?;
        let asked = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, body))
        };
        let (status, body) =
            tokio::time::timeout(LIMIT, asked).await.with_context(|| format!("{path}: no answer"))??;
        if status != StatusCode::OK {
            bail!("{path}: {status}");
        }
        Ok(body)
    }
}

/// A port that is free now.
pub(crate) async fn free_port() -> Result<u16> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
    Ok(listener.local_addr()?.port())
}
