//! One GET over a connection of its own: what lifecycle hooks and the URL source need of HTTP.

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A GET to be made.
pub(crate) struct Get<'a> {
    /// Host name or address, without brackets.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: &'a str,
    /// Headers; a Host header here replaces the one made from host and port.
    pub headers: Vec<(&'a str, &'a str)>,
    /// Longest body that is read.
    pub body_limit: usize,
}

impl Get<'_> {
    /// Makes the request. The caller bounds the time.
    ///
    /// # Errors
    /// A text that says what went wrong; any answer, whatever its status, is none.
    pub(crate) async fn send(&self) -> Result<(http::StatusCode, Bytes), String> {
        let stream = TcpStream::connect((self.host, self.port)).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let mut request = http::Request::get(self.path).header(http::header::CONNECTION, "close");
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            let host = match self.host.contains(':') {
                true => format!("[{}]:{}", self.host, self.port),
                false => format!("{}:{}", self.host, self.port),
            };
            request = request.header(http::header::HOST, host);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), self.body_limit).collect().await;
            let body = body.map_err(|error| {
                format!("the answer cannot be read (it may have {} bytes): {error}", self.body_limit)
            })?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(exchange);
        // Both arms belong to one request and are dropped together; a connection that has ended may have
        // delivered the whole answer, which the exchange then tells.
        tokio::select! {
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    }
}
