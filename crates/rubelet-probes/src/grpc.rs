//! The gRPC probe: one `grpc.health.v1.Health/Check` on the pod's address, without TLS.
//!
//! Owns one HTTP/2 connection per run, driven inside the run: no task, no cache, nothing left when it returns. Outcomes
//! and texts are upstream's (`pkg/probe/grpc`), whose library tries to connect again until the timeout. Called by the
//! prober of the shell.

use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::future::poll_fn;
use http::{HeaderMap, Request, Response, StatusCode};
use k8s_openapi::api::core::v1::GRPCAction;
use prost::Message;
use rubelet_core::downward::push_go_quoted;
use rubelet_core::probes::ProbeOutcome;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::dial::{is_our_own, os_text};
use crate::words::{go_duration, rpc_error};

mod greeting;

use self::greeting::Greeted;

/// What the probe calls itself.
const USER_AGENT: &str = "kube-probe/1.36";
/// Pause before connecting again; gRPC's first back-off.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);
/// How long the connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(50);
/// The largest answer that is read; a status is two bytes.
const ANSWER_LIMIT: usize = 64 << 10;

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Why one try ended without an answer.
enum Broken {
    /// There is no connection that HTTP/2 could be spoken on.
    Connecting(String),
    /// The call failed, or the server refused it.
    Call(Code, String),
    /// This process or this machine has no room for another connection, which says nothing about the server.
    NoRoom(String),
    /// Time is up.
    Late,
}

/// Asks a server for its health, within `timeout` over all.
pub async fn check(action: &GRPCAction, pod_ip: &str, timeout: Duration) -> ProbeOutcome {
    let deadline = Instant::now() + timeout;
    let (ip, port) = (pod_ip.parse::<IpAddr>(), u16::try_from(action.port));
    let (Ok(ip), Ok(port)) = (ip, port) else {
        return ProbeOutcome::Error(format!("{pod_ip:?} and {} are no address of a pod", action.port));
    };
    let address = SocketAddr::new(ip, port);
    let service = action.service.as_deref().unwrap_or_default();

    let mut last_problem = String::new();
    loop {
        let greeted = Arc::new(AtomicBool::new(false));
        match attempt(address, service, deadline, &greeted).await {
            Ok(status) => return judge(status),
            Err(Broken::Call(code, text)) => return refused(code, &text, timeout),
            Err(Broken::Connecting(problem)) => last_problem = problem,
            Err(Broken::NoRoom(problem)) => return ProbeOutcome::Error(problem),
            Err(Broken::Late) if greeted.load(Ordering::Relaxed) => {
                return refused(Code::DeadlineExceeded, "", timeout);
            }
            Err(Broken::Late) => return unconnected(address, timeout, &last_problem),
        }
        let next = Instant::now() + CONNECT_AGAIN;
        if next >= deadline {
            return unconnected(address, timeout, &last_problem);
        }
        tokio::time::sleep_until(next).await;
    }
}

/// What a server's status says.
fn judge(status: i32) -> ProbeOutcome {
    let name = match status {
        0 => "UNKNOWN",
        1 => return ProbeOutcome::Success,
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        other => return ProbeOutcome::Failure(format!("service unhealthy (responded with \"{other}\")")),
    };
    ProbeOutcome::Failure(format!("service unhealthy (responded with {name:?})"))
}

fn refused(code: Code, text: &str, timeout: Duration) -> ProbeOutcome {
    ProbeOutcome::Failure(match code {
        Code::Unimplemented => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {text}"
        ),
        Code::DeadlineExceeded => {
            format!("timeout: health rpc did not complete within {}", go_duration(timeout))
        }
        code => format!("error: health rpc probe failed: {}", rpc_error(code, text)),
    })
}

/// Upstream's text says that time ran out; why there was no connection helps more, and follows.
fn unconnected(address: SocketAddr, timeout: Duration, problem: &str) -> ProbeOutcome {
    let within = go_duration(timeout);
    let mut text = format!(
        "timeout: failed to connect service \"{address}\" within {within}: context deadline exceeded"
    );
    if !problem.is_empty() {
        text.push_str(": ");
        text.push_str(problem);
    }
    ProbeOutcome::Failure(text)
}

/// Connects, asks once and hangs up.
async fn attempt(
    address: SocketAddr,
    service: &str,
    deadline: Instant,
    greeted: &Arc<AtomicBool>,
) -> Result<i32, Broken> {
    // Upstream lets the socket linger for a second, meant to shorten TIME-WAIT. On Linux it does not, but makes closing
    // wait for the other side, which here would block a thread of everybody's.
    let stream = timeout_at(deadline, TcpStream::connect(address))
        .await
        .map_err(|_elapsed| Broken::Late)?
        .map_err(|error| unreachable(address, &error))?;
    let _unimportant = stream.set_nodelay(true);
    let (requests, connection) = h2::client::Builder::new()
        .enable_push(false)
        .max_header_list_size(16 << 10)
        .handshake::<_, Bytes>(Greeted::new(stream, Arc::clone(greeted)))
        .await
        .map_err(|error| Broken::Connecting(error.to_string()))?;
    let mut connection = pin!(connection);

    let result = {
        let mut exchange = pin!(exchange(requests, address, service, deadline));
        // The exchange ends by itself once the connection has; the end of the connection is looked at first, so that
        // its error is the one that is told.
        tokio::select! {
            biased;
            ended = &mut connection => match ended {
                Err(error) => Err(lost(&error)),
                Ok(()) => exchange.await,
            },
            result = &mut exchange => result,
            () = tokio::time::sleep_until(deadline) => Err(Broken::Late),
        }
    };
    // All handles of the connection are gone: it says goodbye and closes.
    let _closed = tokio::time::timeout(GOODBYE, connection).await;
    match result {
        Err(Broken::Call(Code::Unavailable, problem)) if !greeted.load(Ordering::Relaxed) => {
            Err(Broken::Connecting(problem))
        }
        result => result,
    }
}

/// Why there is no connection.
fn unreachable(address: SocketAddr, error: &std::io::Error) -> Broken {
    let text = format!("dial tcp {address}: connect: {}", os_text(error));
    if is_our_own(error) { Broken::NoRoom(text) } else { Broken::Connecting(text) }
}

async fn exchange(
    requests: h2::client::SendRequest<Bytes>,
    address: SocketAddr,
    service: &str,
    deadline: Instant,
) -> Result<i32, Broken> {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("user-agent", USER_AGENT)
        .header("te", "trailers")
        .header("grpc-timeout", format!("{left}m"))
        .body(())
        .map_err(|error| Broken::Call(Code::Internal, error.to_string()))?;
    let mut requests = requests.ready().await.map_err(|error| lost(&error))?;
    let (response, mut body) = requests.send_request(request, false).map_err(|error| lost(&error))?;
    body.send_data(frame(service), true).map_err(|error| lost(&error))?;
    answer(response.await.map_err(|error| lost(&error))?).await
}

/// A gRPC message of the question.
fn frame(service: &str) -> Bytes {
    let message = CheckRequest { service: service.to_owned() };
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}

/// Reads an answer up to its trailers.
async fn answer(response: Response<h2::RecvStream>) -> Result<i32, Broken> {
    let (head, mut body) = response.into_parts();
    check_head(head.status, &head.headers)?;
    if let Some(status) = status_of(&head.headers) {
        // Trailers only: there is no body.
        return Err(broken(&status));
    }
    let mut data = BytesMut::new();
    while let Some(chunk) = poll_fn(|cx| body.poll_data(cx)).await {
        let chunk = chunk.map_err(|error| lost(&error))?;
        let _window = body.flow_control().release_capacity(chunk.len());
        if data.len() + chunk.len() > ANSWER_LIMIT {
            let text = format!("grpc: received message larger than max ({ANSWER_LIMIT} bytes)");
            return Err(Broken::Call(Code::ResourceExhausted, text));
        }
        data.extend_from_slice(&chunk);
    }
    let trailers = poll_fn(|cx| Pin::new(&mut body).poll_trailers(cx)).await.map_err(|error| lost(&error))?;
    match trailers.as_ref().and_then(status_of) {
        Some(status) if status.code() == Code::Ok => message(data.freeze()),
        Some(status) => Err(broken(&status)),
        None => {
            Err(Broken::Call(Code::Internal, "server closed the stream without sending trailers".to_owned()))
        }
    }
}

/// Refuses what is not gRPC, in the words of gRPC for Go.
fn check_head(status: StatusCode, headers: &HeaderMap) -> Result<(), Broken> {
    let mut problems = vec![];
    if status != StatusCode::OK {
        let reason = status.canonical_reason().unwrap_or_default();
        let number = status.as_u16();
        problems.push(format!("unexpected HTTP status code received from server: {number} ({reason})"));
    }
    match headers.get("content-type") {
        None => problems.push("malformed header: missing HTTP content-type".to_owned()),
        Some(kind) if is_grpc(kind.as_bytes()) => {}
        Some(kind) => {
            let mut text = "transport: received unexpected content-type ".to_owned();
            push_go_quoted(&mut text, &String::from_utf8_lossy(kind.as_bytes()));
            problems.push(text);
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Err(Broken::Call(code, problems.join("; ")))
}

/// `application/grpc`, alone or with a subtype or parameters.
fn is_grpc(kind: &[u8]) -> bool {
    kind.strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The status in headers or trailers; tonic undoes the escapes of its message.
fn status_of(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}

fn broken(status: &Status) -> Broken {
    match status.code() {
        Code::Ok => Broken::Call(Code::Internal, "the server sent no answer".to_owned()),
        code => Broken::Call(code, status.message().to_owned()),
    }
}

/// The one message of a body.
fn message(mut data: Bytes) -> Result<i32, Broken> {
    let malformed = |text: &str| Err(Broken::Call(Code::Internal, text.to_owned()));
    if data.len() < 5 {
        return malformed("the server sent no answer");
    }
    if data.get_u8() != 0 {
        return malformed("grpc: compressed flag set with identity or empty encoding");
    }
    if usize::try_from(data.get_u32()) != Ok(data.len()) {
        return malformed("the length of the answer is not what it says");
    }
    match CheckResponse::decode(data) {
        Ok(answer) => Ok(answer.status),
        Err(error) => malformed(&format!("grpc: failed to unmarshal the received message: {error}")),
    }
}

/// What the loss of the stream or the connection means.
fn lost(error: &h2::Error) -> Broken {
    let code = match error.reason() {
        Some(h2::Reason::CANCEL) if error.is_reset() => Code::Cancelled,
        Some(h2::Reason::REFUSED_STREAM) => Code::Unavailable,
        Some(_) if error.is_reset() => Code::Internal,
        _ => Code::Unavailable,
    };
    Broken::Call(code, error.to_string())
}

#[cfg(test)]
mod tests;
