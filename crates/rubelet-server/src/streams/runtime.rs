//! The connection to the runtime's streaming server: dialled, asked to change its protocol, handed over raw.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::negotiate;
use crate::body::Body;
use crate::problem::Problem;

/// How long the runtime may take to be reached, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that is read of an answer that is no upgrade.
const REFUSAL: usize = 16 << 10;

/// The runtime's side of a stream.
pub(crate) struct Opened {
    pub(crate) connection: TokioIo<Upgraded>,
    /// The headers of its answer.
    pub(crate) headers: HeaderMap,
}

/// Why there is none.
pub(crate) enum Refused {
    /// It could not be asked.
    Problem(Problem),
    /// It said no; that is the client's answer too.
    Answer(Box<Response<Body>>),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Refused::Problem(problem)
    }
}

/// Asks the server at `url` (as the runtime gave it) to change to what `headers` say.
pub(crate) async fn open(url: &str, method: Method, headers: HeaderMap) -> Result<Opened, Refused> {
    let unreachable = |why: &str| Problem::internal(format!("error dialing backend: {why}"));
    let opened = tokio::time::timeout(PATIENCE, ask(url, method, headers));
    let response = match opened.await {
        Err(_) => return Err(unreachable("the runtime's streaming server did not answer in time").into()),
        Ok(Err(why)) => return Err(unreachable(&why).into()),
        Ok(Ok(response)) => response,
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    let headers = response.headers().clone();
    match hyper::upgrade::on(response).await {
        Ok(upgraded) => Ok(Opened { connection: TokioIo::new(upgraded), headers }),
        Err(error) => Err(unreachable(&error.to_string()).into()),
    }
}

async fn ask(url: &str, method: Method, headers: HeaderMap) -> Result<Response<Incoming>, String> {
    let url: Uri = url.parse().map_err(|error| format!("bad streaming URL: {error}"))?;
    if url.scheme_str() != Some("http") {
        return Err(format!("unsupported scheme of streaming URL {url}"));
    }
    let Some(authority) = url.authority() else { return Err(format!("no host in streaming URL {url}")) };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let connection = TcpStream::connect((host, authority.port_u16().unwrap_or(80)))
        .await
        .map_err(|error| format!("{authority}: {error}"))?;
    // Keys that are typed are not kept back to be sent with the next.
    connection.set_nodelay(true).map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .handshake(TokioIo::new(connection))
        .await
        .map_err(|error| error.to_string())?;
    // Ends with the exchange: it hands the connection over, or closes it when the answer is dropped.
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
    request.headers_mut().insert(header::HOST, host);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| format!("bad path in streaming URL {url}"))?;
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// What the client gets of an answer that is no upgrade: its code and text, as a `Status`.
async fn refusal(response: Response<Incoming>) -> Refused {
    let (head, body) = response.into_parts();
    if head.status.as_u16() < 400 {
        let why = format!("invalid upgrade response: status code {}", head.status.as_u16());
        return Problem::internal(why).into();
    }
    let body = tokio::time::timeout(PATIENCE, Limited::new(body, REFUSAL).collect()).await;
    let text = match body {
        Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        _ => String::new(),
    };
    let text = if text.is_empty() { "the runtime refused the stream".to_owned() } else { text };
    let mut answer = Problem::new(head.status, text).response();
    answer.headers_mut().extend(negotiate::response_headers(&head.headers, false));
    Refused::Answer(Box::new(answer))
}
