//! A small API server: HTTP/2 and HTTP/1 over TLS or plain, with a handler that each test gives.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::certs::Pair;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub connection: usize,
    /// The client certificate's common name.
    pub client: Option<String>,
    pub version: Version,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Handler = Arc<dyn Fn(Seen) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// The server; it stops when dropped.
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

/// TLS of a server, and how many streams it takes at once.
#[derive(Clone, Default)]
pub struct Options {
    pub pair: Option<Pair>,
    /// The authority of client certificates; `require` makes one necessary.
    pub client_ca: Option<String>,
    pub require: bool,
    pub max_streams: Option<u32>,
    /// Tells HTTP/2 connections to take no more requests (GOAWAY), what is open goes on.
    pub go_away: Arc<tokio::sync::Notify>,
}

pub fn text(code: u16, body: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_owned())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

/// A watch: chunks come as they are sent.
pub fn stream() -> (tokio::sync::mpsc::UnboundedSender<&'static str>, Response<Body>) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let frames = futures::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|chunk| chunk.map(|text| Ok(hyper::body::Frame::data(Bytes::from(text)))))
    });
    (sender, Response::new(http_body_util::StreamBody::new(frames).boxed_unsync()))
}

impl Server {
    pub async fn start<F, R>(options: Options, handler: F) -> Self
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, options, handler)
    }

    /// On a socket that is there already.
    pub fn on<F, R>(listener: TcpListener, options: Options, handler: F) -> Self
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let record = seen.clone();
        let handler: Handler = Arc::new(move |request| {
            record.lock().unwrap().push(request.clone());
            Box::pin(handler(request))
        });
        let tls = options.pair.as_ref().map(|pair| tls(pair, &options));
        let task = tokio::spawn(async move {
            // Connections end with the server.
            let mut connections = tokio::task::JoinSet::new();
            for number in 1.. {
                let Ok((tcp, _)) = listener.accept().await else { return };
                connections.spawn(serve(number, tcp, tls.clone(), options.clone(), handler.clone()));
            }
        });
        Self { address, seen, task }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        self.seen().pop().unwrap()
    }

    /// Ends all connections and frees the port.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn tls(pair: &Pair, options: &Options) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if options.require { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn serve(
    connection: usize,
    tcp: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    options: Options,
    handler: Handler,
) {
    let service = |client: Option<String>| {
        hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let (handler, client) = (handler.clone(), client.clone());
            async move {
                let (head, body) = request.into_parts();
                let seen = Seen {
                    connection,
                    client,
                    version: head.version,
                    uri: head.uri.path_and_query().unwrap().to_string(),
                    headers: head.headers,
                    body: body.collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
                };
                Ok::<_, Infallible>(handler(seen).await)
            }
        })
    };
    let Some(tls) = tls else {
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(tcp), service(None))
            .await;
        return;
    };
    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await else { return };
    let session = stream.get_ref().1;
    let client = session.peer_certificates().and_then(|chain| {
        let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
        Some(name)
    });
    if session.alpn_protocol() == Some(b"h2") {
        let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        if let Some(most) = options.max_streams {
            http2.max_concurrent_streams(most);
        }
        let mut connection = std::pin::pin!(http2.serve_connection(TokioIo::new(stream), service(client)));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = options.go_away.notified() => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service(client))
            .await;
    }
}
