//! HTTP(S) probes, and the GET that lifecycle hooks make: upstream's handlers, observable behaviour for observable
//! behaviour.
//!
//! The client is our own. HTTP/1 is read as it comes, with a buffer of fixed size, and judged by the rules of Go's
//! client, because pods are written against these: which answers count, what is sent, and the words in events. A
//! client library would hold a head of any length before one sees it, have its own idea of what is malformed, and need
//! a task for each connection. HTTP/2, which servers with TLS may choose, is the `h2` crate's.
//!
//! One connection a request: no pool, no proxy, no cookies, no session of TLS.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerPort, HTTPGetAction};
use rubelet_core::probes::ProbeOutcome;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

pub use self::stream::AnyServer;
use crate::dial::by;
use crate::target::Target;

mod body;
mod head;
mod http2;
mod quote;
mod reader;
mod request;
mod stream;
mod url;

#[cfg(test)]
mod tests;

use body::BodyError;
use head::{BodyKind, Head, HeadError};
use quote::quote;
use reader::Reader;
use request::Request;
use stream::Stream;

/// So much of a body is read; what is longer is cut, and no error.
const BODY_LIMIT: usize = 10 * 1024;
/// So many requests are made at most, following redirects.
const REQUESTS: usize = 10;

/// Probes by a GET: a status of 2xx is success, a redirect that is not followed is one too, with a warning.
///
/// `user` is the user agent where the action names none. `timeout` bounds all of it, names and bodies included.
pub async fn get(action: &HTTPGetAction, target: &Target<'_>, user: &str, timeout: Duration) -> ProbeOutcome {
    let request = match Request::new(action, target.ports(), target.pod_ip, user) {
        Ok(request) => request,
        Err(problem) => return ProbeOutcome::Error(problem),
    };
    let deadline = Some(Instant::now() + timeout);
    let mut answer = match fetch(request, Protocols::Http2OrHttp1, deadline).await {
        Ok(answer) => answer,
        Err(FetchError { fault: Fault::NoRoom(text), .. }) => return ProbeOutcome::Error(text),
        Err(error) => return ProbeOutcome::Failure(error.to_string()),
    };
    let status = answer.status;
    let mut body = Vec::new();
    let kept = (300..400).contains(&status).then_some(&mut body);
    if let Err(problem) = answer.read_body(BODY_LIMIT, kept, deadline).await {
        return ProbeOutcome::Error(problem);
    }
    match status {
        200..300 => ProbeOutcome::Success,
        300..400 => {
            let body = String::from_utf8_lossy(&body);
            ProbeOutcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        _ => ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// What a hook has to say beyond that it was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    /// The server answered, whatever it answered.
    Answered,
    /// It was to be asked over HTTPS and speaks HTTP: it was asked so. Its host and port.
    FellBack(String),
}

/// Why a hook was not heard.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The hook itself is wrong: nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// No answer came, and none will.
    #[error("{0}")]
    Failed(String),
    /// No answer had come when the time was up.
    #[error("{0}")]
    Late(String),
}

/// Calls a lifecycle hook: any answer is a success. A server that speaks HTTP where the hook says HTTPS is asked over
/// HTTP, without the hook's credentials. The start of the body is waited for, unless the server says that it is long.
///
/// `user` is the user agent; without a `timeout` the caller bounds the time.
///
/// # Errors
/// When the hook cannot be sent, or no answer came.
pub async fn call(
    action: &HTTPGetAction,
    ports: &[ContainerPort],
    pod_ip: &str,
    user: &str,
    timeout: Option<Duration>,
) -> Result<Called, CallError> {
    let request = Request::new(action, ports, pod_ip, user).map_err(CallError::Invalid)?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let error = match fetch(request.clone(), Protocols::Http1, deadline).await {
        Ok(answer) => {
            answer.pass_body(deadline).await;
            return Ok(Called::Answered);
        }
        Err(error) => error,
    };
    if matches!(error.fault, Fault::NotTls) {
        let asked = request.url.host.clone();
        // When this fails too, what was asked for is what is told of.
        if let Ok(answer) = fetch(request.over_http(), Protocols::Http1, deadline).await {
            answer.pass_body(deadline).await;
            return Ok(Called::FellBack(asked));
        }
    }
    Err(match error.fault {
        Fault::Timeout => CallError::Late(error.to_string()),
        _ => CallError::Failed(error.to_string()),
    })
}

/// What is offered to a server with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocols {
    /// Both by name.
    Http2OrHttp1,
    /// HTTP/1, which needs no name.
    Http1,
}

/// Why there is no answer.
#[derive(Debug)]
enum Fault {
    /// The time was up.
    Timeout,
    /// The server speaks HTTP where TLS was expected.
    NotTls,
    /// This machine has no room for a connection.
    NoRoom(String),
    /// Anything else, in upstream's words.
    Other(String),
}

/// A fault, with the URL that was asked for.
#[derive(Debug)]
struct FetchError {
    url: String,
    fault: Fault,
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match &self.fault {
            Fault::Timeout => "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            Fault::NotTls => "http: server gave HTTP response to HTTPS client",
            Fault::NoRoom(text) | Fault::Other(text) => text,
        };
        write!(f, "Get {}: {text}", quote(self.url.as_bytes()))
    }
}

/// An answer whose body has not been read. Its connection ends with it.
struct Answer {
    status: u16,
    location: String,
    body: Body,
}

enum Body {
    Http1 { reader: Reader<Stream>, kind: BodyKind },
    Http2(Box<http2::Answer>),
}

impl Answer {
    async fn read_body(
        &mut self,
        limit: usize,
        kept: Option<&mut Vec<u8>>,
        deadline: Option<Instant>,
    ) -> Result<(), String> {
        const LATE: &str =
            "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
        let result = match &mut self.body {
            Body::Http1 { reader, kind } => by(deadline, body::read(reader, *kind, limit, kept)).await,
            Body::Http2(answer) => by(deadline, Box::pin(http2::read_body(answer, limit, kept))).await,
        };
        match (result, &self.body) {
            (Some(Ok(())), _) => Ok(()),
            (None, _) => Err(LATE.into()),
            (Some(Err(BodyError::Malformed(text))), _) => Err(text),
            (Some(Err(BodyError::Io(error))), Body::Http1 { reader, .. }) => {
                Err(reader.stream().error_text("read", &error))
            }
            (Some(Err(BodyError::Io(error))), Body::Http2(_)) => Err(crate::dial::os_text(&error)),
        }
    }

    /// Waits for a body nobody wants to see, unless it is known to be long.
    async fn pass_body(mut self, deadline: Option<Instant>) {
        if let Body::Http1 { kind: BodyKind::Length(length), .. } = &self.body
            && *length > BODY_LIMIT as u64
        {
            return;
        }
        // The answer has been given; how its body ends says nothing about the hook.
        let _ = self.read_body(BODY_LIMIT, None, deadline).await;
    }
}

/// Sends a request, and those that redirects on the same host ask for.
async fn fetch(
    mut request: Request,
    protocols: Protocols,
    deadline: Option<Instant>,
) -> Result<Answer, FetchError> {
    let host = request.url.hostname().to_owned();
    let mut requests = 0;
    loop {
        requests += 1;
        let answer = match by(deadline, exchange(&request, protocols, deadline)).await {
            Some(Ok(answer)) => answer,
            Some(Err(fault)) => return Err(FetchError { url: request.url.shown(), fault }),
            None => return Err(FetchError { url: request.url.shown(), fault: Fault::Timeout }),
        };
        if !matches!(answer.status, 301..=303 | 307 | 308) || answer.location.is_empty() {
            return Ok(answer);
        }
        let failed = |url, text| Err(FetchError { url, fault: Fault::Other(text) });
        let location = answer.location.as_str();
        let url = match request.url.join(location) {
            Ok(url) => url,
            Err(problem) => {
                let shown = quote(location.as_bytes());
                return failed(
                    request.url.shown(),
                    format!("failed to parse Location header {shown}: {problem}"),
                );
            }
        };
        if url.hostname() != host {
            return Ok(answer);
        }
        if requests >= REQUESTS {
            return failed(location.to_owned(), format!("stopped after {REQUESTS} redirects"));
        }
        request = request.redirected(url, location);
    }
}

/// One request on a connection of its own, up to the head of the answer.
async fn exchange(
    request: &Request,
    protocols: Protocols,
    deadline: Option<Instant>,
) -> Result<Answer, Fault> {
    request.check().map_err(Fault::Other)?;
    let mut stream = Stream::open(&request.url, protocols, deadline).await?;
    if stream.is_http2() {
        // Large and rare: on the heap, so that others need no room for it.
        let answer = Box::pin(http2::send(request, stream)).await.map_err(Fault::Other)?;
        let (status, location) = (answer.status, answer.location.clone());
        return Ok(Answer { status, location, body: Body::Http2(Box::new(answer)) });
    }
    // A server may answer and hang up before it has read the request; its answer counts all the same.
    let sent = async {
        stream.write_all(&request.http1()).await?;
        stream.flush().await
    }
    .await;
    let mut reader = Reader::new(stream);
    let broken = |text: String| format!("net/http: HTTP/1.x transport connection broken: {text}");
    let problem = match head::read(&mut reader).await {
        Ok(Head { status, location, body: kind }) => {
            return Ok(Answer { status, location, body: Body::Http1 { reader, kind } });
        }
        Err(HeadError::Malformed(text)) => broken(text),
        Err(HeadError::Broken(error)) => broken(reader.stream().error_text("read", &error)),
        Err(HeadError::Nothing | HeadError::Failed(_)) if let Err(error) = &sent => {
            broken(format!("write error: {}", reader.stream().error_text("write", error)))
        }
        Err(HeadError::Nothing) => "EOF".into(),
        Err(HeadError::Failed(error)) => reader.stream().error_text("read", &error),
    };
    Err(Fault::Other(problem))
}
