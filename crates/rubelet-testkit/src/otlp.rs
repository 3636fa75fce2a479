//! A collector of OpenTelemetry traces that keeps what it is sent, on a port of its own or a unix socket. Never used
//! outside tests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use futures::{Stream, stream};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::io::{self, AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// One span, as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedSpan {
    /// Its name.
    pub name: String,
    /// Its trace, as hexadecimal digits.
    pub trace: String,
    /// Its own ID, as hexadecimal digits.
    pub id: String,
    /// The ID of its parent; empty for the first of a trace.
    pub parent: String,
    /// Its attributes, `key=value`, sorted.
    pub attributes: Vec<String>,
    /// Names of its events, in order.
    pub events: Vec<String>,
    /// 1 internal, 2 server, 3 client.
    pub kind: i32,
    /// Why it failed, when it did.
    pub error: Option<String>,
    /// Begin and end, in nanoseconds since 1970.
    pub time: (u64, u64),
    /// Attributes of the resource, as the span's.
    pub resource: Vec<String>,
}

/// A collector, in a thread of its own so that dropping it breaks its connections too.
#[derive(Debug)]
pub struct Collector {
    received: Received,
    address: Option<SocketAddr>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Listens on a port of its own of the loopback.
    ///
    /// # Errors
    /// When it cannot.
    pub fn on_loopback() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let connections = || {
            let listener = TcpListener::from_std(listener)?;
            Ok(stream::unfold(listener, async |listener| {
                Some((listener.accept().await.map(|(stream, _)| stream), listener))
            }))
        };
        Self::over(connections, Some(address))
    }

    /// Listens on a unix socket.
    ///
    /// # Errors
    /// When it cannot.
    pub fn on_socket(path: &Path) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let connections = || {
            let listener = UnixListener::from_std(listener)?;
            Ok(stream::unfold(listener, async |listener| {
                Some((listener.accept().await.map(|(stream, _)| stream), listener))
            }))
        };
        Self::over(connections, None)
    }

    fn over<S, C>(
        connections: impl FnOnce() -> io::Result<S> + Send + 'static,
        address: Option<SocketAddr>,
    ) -> io::Result<Self>
    where
        S: Stream<Item = io::Result<C>> + Send,
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let received = Received::default();
        let service = TraceServiceServer::new(received.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(connections) = connections() else { return };
                let server = Server::builder().add_service(service).serve_with_incoming(connections);
                tokio::select! {
                    _ = server => {}
                    _ = ended => {}
                }
            });
        });
        Ok(Self { received, address, end: Some(end), thread: Some(thread) })
    }

    /// `host:port`; empty on a socket.
    pub fn endpoint(&self) -> String {
        self.address.map(|address| address.to_string()).unwrap_or_default()
    }

    /// Every span so far, in the order in which they came.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.received.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Received(Arc<Mutex<Vec<ReceivedSpan>>>);

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_resource in request.into_inner().resource_spans {
            let resource =
                of_resource.resource.map(|resource| shown(&resource.attributes)).unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            kept.extend(spans.map(|span| received(span, &resource)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn received(span: Span, resource: &[String]) -> ReceivedSpan {
    // 2 is an error.
    let error = span.status.filter(|status| status.code == 2).map(|status| status.message);
    ReceivedSpan {
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        attributes: shown(&span.attributes),
        events: span.events.into_iter().map(|event| event.name).collect(),
        kind: span.kind,
        error,
        time: (span.start_time_unix_nano, span.end_time_unix_nano),
        resource: resource.to_vec(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(attributes: &[KeyValue]) -> Vec<String> {
    let mut shown: Vec<String> = attributes
        .iter()
        .map(|attribute| {
            let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(any_value::Value::StringValue(text)) => text.clone(),
                Some(any_value::Value::IntValue(number)) => number.to_string(),
                Some(any_value::Value::BoolValue(yes)) => yes.to_string(),
                other => format!("{other:?}"),
            };
            format!("{}={value}", attribute.key)
        })
        .collect();
    shown.sort();
    shown
}
