//! Servers inside the test process that probes ask, with full control of every byte: HTTP with and without TLS, gRPC
//! health, and TCP ports that open, close, or take nobody. They serve until the test process ends, on the loopback or
//! inside a pod's network; they note who asked, and decide nothing.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::ServerConfig;
use tokio::runtime::Runtime;

use crate::node::Node;
use crate::wait;

/// What a client is told to do with what it got is up to the test; nobody waits longer than this for a byte.
const READ_LIMIT: Duration = Duration::from_secs(120);

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listener on the loopback.
pub fn loopback() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// A listener inside a pod's network, where the pod's own address reaches it and no other does.
pub fn in_pod(node: &Node, container_id: &str, port: u16) -> TcpListener {
    let tasks = node.runtime.ctr(&["tasks", "ls"]);
    let mut lines = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words[0] == container_id);
    let pid = line.unwrap_or_else(|| panic!("{container_id} does not run: {tasks}"))[1].to_owned();
    // A thread of its own: its network is not given back.
    let bound = std::thread::spawn(move || {
        let network = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
    });
    bound.join().unwrap()
}

/// What one request gets.
#[derive(Clone, Debug)]
pub struct Answer {
    start: Vec<u8>,
    then: Then,
}

/// What comes after the first bytes of an answer.
#[derive(Clone, Debug)]
enum Then {
    /// The end of the connection.
    Close,
    /// Nothing, until the client has enough of it.
    Nothing,
    /// A byte a second, without an end.
    Drip,
    /// The same again and again, as fast as it is taken.
    Repeat(&'static [u8]),
}

impl Answer {
    /// A short page with this code.
    pub fn code(code: u16) -> Self {
        Self::bytes(&format!("HTTP/1.1 {code} Word\r\nContent-Length: 10\r\n\r\nthe answer"))
    }

    /// A page with this code that is elsewhere.
    pub fn moved(code: u16, location: &str) -> Self {
        Self::bytes(&format!(
            "HTTP/1.1 {code} Moved\r\nLocation: {location}\r\nContent-Length: 8\r\n\r\nit moved"
        ))
    }

    /// These bytes, and the end of the connection.
    pub fn bytes(start: &str) -> Self {
        Self { start: start.as_bytes().to_vec(), then: Then::Close }
    }

    /// These bytes, and nothing more: the connection stays.
    pub fn silent(start: &str) -> Self {
        Self { then: Then::Nothing, ..Self::bytes(start) }
    }

    /// These bytes, and then one a second for ever.
    pub fn drip(start: &str) -> Self {
        Self { then: Then::Drip, ..Self::bytes(start) }
    }

    /// These bytes, and then others without an end.
    pub fn endless(start: &str, more: &'static str) -> Self {
        Self { then: Then::Repeat(more.as_bytes()), ..Self::bytes(start) }
    }

    fn give(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        stream.write_all(&self.start)?;
        stream.flush()?;
        match self.then {
            Then::Close => Ok(()),
            Then::Nothing => {
                while stream.read(&mut [0; 64])? > 0 {}
                Ok(())
            }
            Then::Drip => loop {
                stream.write_all(b"x")?;
                stream.flush()?;
                wait::pause(Duration::from_secs(1));
            },
            Then::Repeat(more) => loop {
                stream.write_all(more)?;
            },
        }
    }
}

/// One request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Seconds since boot.
    pub at: f64,
    /// Its first line and headers.
    pub head: String,
}

#[derive(Default)]
struct Page {
    script: VecDeque<Answer>,
    then: Option<Answer>,
    asked: Vec<Asked>,
}

/// Pages by what stands in the request line, and what was asked of them.
#[derive(Default)]
struct Site {
    pages: Mutex<BTreeMap<String, Page>>,
}

impl Site {
    fn answer(&self, mut stream: impl Read + Write) -> io::Result<()> {
        let mut head = String::new();
        let mut reader = BufReader::new(&mut stream);
        if reader.fill_buf()?.first() == Some(&TLS_HANDSHAKE) {
            // What servers say to clients that speak TLS to them.
            return Answer::bytes("HTTP/1.0 400 Bad Request\r\n\r\nThis is not TLS.\n").give(&mut stream);
        }
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = {
            let mut pages = lock(&self.pages);
            let page = pages.entry(target).or_default();
            page.asked.push(Asked { at: wait::uptime(), head });
            page.script.pop_front().or_else(|| page.then.clone())
        };
        answer.unwrap_or_else(|| Answer::code(404)).give(&mut stream)
    }
}

/// An HTTP server. Clones serve the same pages.
#[derive(Clone)]
pub struct Web {
    site: Arc<Site>,
    /// Where it listens on the loopback.
    pub port: u16,
}

impl Web {
    /// One on the loopback, without pages.
    pub fn start() -> Self {
        let listener = loopback();
        let port = listener.local_addr().unwrap().port();
        let this = Self { site: Arc::default(), port };
        this.serve(listener);
        this
    }

    /// Serves the pages on one more listener.
    pub fn serve(&self, listener: TcpListener) {
        let site = self.site.clone();
        for_each(listener, move |stream| site.answer(stream));
    }

    /// Serves the pages over TLS too; the port.
    pub fn serve_tls(&self, config: ServerConfig) -> u16 {
        let (site, config, listener) = (self.site.clone(), Arc::new(config), loopback());
        let port = listener.local_addr().unwrap().port();
        for_each(listener, move |stream| {
            let connection = rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            let mut stream = rustls::StreamOwned::new(connection, stream);
            site.answer(&mut stream)?;
            stream.conn.send_close_notify();
            stream.flush()
        });
        port
    }

    /// What a page answers from now on: this, once each, and then that for ever.
    pub fn script(&self, target: &str, script: &[Answer], then: Answer) {
        let mut pages = lock(&self.site.pages);
        let page = pages.entry(target.to_owned()).or_default();
        page.script = script.iter().cloned().collect();
        page.then = Some(then);
    }

    /// What a page answers from now on.
    pub fn page(&self, target: &str, answer: Answer) {
        self.script(target, &[], answer);
    }

    /// What was asked of a page so far.
    pub fn asked(&self, target: &str) -> Vec<Asked> {
        lock(&self.site.pages).get(target).map(|page| page.asked.clone()).unwrap_or_default()
    }

    /// Everything that was asked for so far, whether there is such a page or not.
    pub fn targets(&self) -> Vec<String> {
        lock(&self.site.pages)
            .iter()
            .filter(|(_, page)| !page.asked.is_empty())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Waits until a page was asked for so many times.
    pub fn wait_asked(&self, target: &str, times: usize) -> Vec<Asked> {
        wait::until(&format!("{target} to be asked for {times} times"), wait::PATIENCE, || {
            let asked = self.asked(target);
            if asked.len() >= times {
                Ok(asked)
            } else {
                Err(format!("{}; {:?}", asked.len(), self.targets()))
            }
        })
    }
}

/// A thread for the listener and one for each connection. Clients that hang up are no problem.
fn for_each(listener: TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) {
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || {
                let _of_no_use_to_anyone = stream.set_read_timeout(Some(READ_LIMIT));
                let last = stream.try_clone();
                let _the_client_had_enough = serve(stream);
                let _it_may_be_gone = last.map(|last| last.shutdown(Shutdown::Both));
            });
        }
    });
}

/// A TCP port that nobody else takes, whether it is open or not.
pub struct Door {
    pub port: u16,
    open: Mutex<Option<TcpListener>>,
}

impl Door {
    /// One on the loopback that is open.
    pub fn open() -> Self {
        // Reserved: the kernel gives ports below its own range to nobody by itself.
        let port = crate::node::free_port();
        let this = Self { port, open: Mutex::new(None) };
        this.set(true);
        this
    }

    /// Opens or closes it. Connections are taken by the kernel; nobody ever reads.
    pub fn set(&self, open: bool) {
        let mut listener = lock(&self.open);
        *listener = None;
        if open {
            *listener = Some(TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).unwrap());
        }
    }
}

/// A TCP port that is open and takes nobody: who connects waits for an answer in vain.
pub struct FullDoor {
    pub port: u16,
    _held: (std::os::fd::OwnedFd, Vec<TcpStream>),
}

impl FullDoor {
    /// One on the loopback.
    pub fn new() -> Self {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let address = rustix::net::getsockname(&socket).unwrap();
        let address = SocketAddr::try_from(address).unwrap();
        let mut waiting = vec![];
        // The queue is full when one is not taken any more.
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
        }
        Self { port: address.port(), _held: (socket, waiting) }
    }
}

/// What the health of a service is.
#[derive(Clone, Debug)]
pub enum Health {
    /// This number of `ServingStatus`.
    Serving(u8),
    /// This gRPC code and message.
    Fails(u8, &'static str),
    /// No answer.
    Silent,
    /// A page with this HTTP code that is not gRPC.
    Page(u16),
    /// A message of these bytes.
    Message(&'static [u8]),
    /// The start of a message without an end.
    Endless,
}

/// A gRPC server that tells the health of services.
pub struct HealthServer {
    services: Arc<Mutex<BTreeMap<String, Health>>>,
    asked: Arc<Mutex<Vec<(f64, String, HeaderMap)>>>,
    runtime: Runtime,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl HealthServer {
    /// One without services, that listens nowhere yet.
    pub fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { services: Arc::default(), asked: Arc::default(), runtime }
    }

    /// Serves on a listener.
    pub fn serve(&self, listener: TcpListener) {
        self.accept(listener, |stream| std::future::ready(Ok(stream)));
    }

    /// Serves over TLS on a listener, and speaks nothing but HTTP/2.
    pub fn serve_tls(&self, listener: TcpListener, mut config: ServerConfig) {
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        self.accept(listener, move |stream| acceptor.accept(stream));
    }

    fn accept<S, F>(&self, listener: TcpListener, greet: impl Fn(tokio::net::TcpStream) -> F + Send + 'static)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        listener.set_nonblocking(true).unwrap();
        let (services, asked) = (self.services.clone(), self.asked.clone());
        self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (services, asked, greeted) = (services.clone(), asked.clone(), greet(stream));
                let service = service_fn(move |request| check(services.clone(), asked.clone(), request));
                tokio::spawn(async move {
                    let Ok(stream) = greeted.await else { return };
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _the_client_had_enough = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    }

    /// How a service is from now on.
    pub fn set(&self, service: &str, health: Health) {
        lock(&self.services).insert(service.to_owned(), health);
    }

    /// When a service was asked about, in seconds since boot.
    pub fn asked_at(&self, service: &str) -> Vec<f64> {
        lock(&self.asked).iter().filter(|(_, asked, _)| asked == service).map(|(at, ..)| *at).collect()
    }

    /// The headers that came with the first question about a service.
    pub fn asked(&self, service: &str) -> Option<HeaderMap> {
        lock(&self.asked).iter().find(|(_, asked, _)| asked == service).map(|(.., headers)| headers.clone())
    }
}

async fn check(
    services: Arc<Mutex<BTreeMap<String, Health>>>,
    asked: Arc<Mutex<Vec<(f64, String, HeaderMap)>>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let message = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    // Length and flag, then field 1: the name, with a length of one byte.
    let service = String::from_utf8_lossy(message.get(7..).unwrap_or_default()).into_owned();
    let health = match head.uri.path() {
        "/grpc.health.v1.Health/Check" => lock(&services).get(&service).cloned(),
        _ => Some(Health::Fails(12, "unknown method")),
    };
    lock(&asked).push((wait::uptime(), service, head.headers));
    Ok(match health.unwrap_or(Health::Fails(5, "unknown service")) {
        Health::Serving(status) => reply(Some(framed(&[8, status])), 0, ""),
        Health::Message(bytes) => reply(Some(framed(bytes)), 0, ""),
        Health::Fails(code, message) => reply(None, code, message),
        Health::Page(code) => {
            let response = Response::builder().status(code).header("content-type", "text/html");
            response.body(body_of(vec![Frame::data(Bytes::from_static(b"<html>"))])).unwrap()
        }
        Health::Silent => std::future::pending().await,
        Health::Endless => {
            let mut start = BytesMut::new();
            start.put_u8(0);
            start.put_u32(u32::MAX);
            let first = futures::stream::iter([Ok(Frame::data(start.freeze()))]);
            let more = futures::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[0; 4096]))));
            grpc().body(StreamBody::new(first.chain(more)).boxed_unsync()).unwrap()
        }
    })
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

fn grpc() -> http::response::Builder {
    Response::builder().header("content-type", "application/grpc")
}

fn reply(message: Option<Bytes>, code: u8, text: &str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.to_string().parse().unwrap());
    trailers.insert("grpc-message", text.parse().unwrap());
    let frames = message.map(Frame::data).into_iter().chain([Frame::trailers(trailers)]);
    grpc().body(body_of(frames.collect())).unwrap()
}

fn body_of(frames: Vec<Frame<Bytes>>) -> Body {
    StreamBody::new(futures::stream::iter(frames.into_iter().map(Ok))).boxed_unsync()
}
