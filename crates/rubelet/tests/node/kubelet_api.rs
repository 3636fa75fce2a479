//! Clients of the kubelet API's own port, and nodes that serve it: real TLS against the real agent.
//!
//! A client says one request on each connection, with anything in it, and reads the answer as HTTP/1.1 has it. What a
//! connection becomes after an upgrade is in `kubelet_api_streams`.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rubelet_localapi::pki::{Ca, Identity, LIFETIME};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::node::Node;
use crate::wait::{self, PATIENCE};

/// How long a connection may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// An authority of the test's own.
pub fn authority(name: &str) -> Ca {
    Ca::new(name, now()).unwrap()
}

/// A certificate that `authority` gives to a client.
pub fn identity(authority: &Ca, name: &str, groups: &[&str], lifetime: Duration) -> Identity {
    let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    authority.client(name, &groups, now(), lifetime).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "certificates are checked against the machine's clock")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Gives the node a serving certificate of `authority`: new files in the place of those that may be there.
pub fn serve_by(authority: &Ca, node: &Node) {
    let made = authority.server(&["node-1"], &[IpAddr::V4(Ipv4Addr::LOCALHOST)], now(), LIFETIME).unwrap();
    for (file, text) in [("serving.crt", &made.cert_pem), ("serving.key", &made.key_pem)] {
        let part = node.path(&format!("{file}.part"));
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, node.path(file)).unwrap();
    }
}

/// The lines of a configuration that show the files of [`serve_by`].
pub fn serving(node: &Node) -> String {
    let path = |file: &str| node.path(file).display().to_string();
    format!("tlsCertFile: {}\ntlsPrivateKeyFile: {}", path("serving.crt"), path("serving.key"))
}

/// A node without an API server whose port everybody may ask, and such a client.
pub fn open_node(more: &str) -> (Node, Client, Ca) {
    let mut node = Node::without_agent(more);
    let authority = authority("serving");
    serve_by(&authority, &node);
    node.configure(&serving(&node));
    node.configure("authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}");
    node.configure("authorization: {mode: AlwaysAllow}");
    node.start_agent();
    let client = Client::of(&node, &[&authority], None);
    client.wait_open();
    (node, client, authority)
}

/// Who asks, and where.
#[derive(Clone)]
pub struct Client {
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    /// Lines of every head, such as a token's.
    pub headers: String,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// A connection on which anything can be said.
pub type Connection = BufReader<Stream>;

impl Client {
    /// A client of the kubelet API that trusts these authorities and shows `identity`.
    pub fn of(node: &Node, authorities: &[&Ca], identity: Option<&Identity>) -> Self {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(Identity { cert_pem, key_pem }) => config
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(cert_pem.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        Self { port: node.api_port(), tls: Some(Arc::new(config)), headers: String::new() }
    }

    /// A client of a port that speaks in the clear.
    pub fn plain(port: u16) -> Self {
        Self { port, tls: None, headers: String::new() }
    }

    /// The same client with a bearer token.
    pub fn bearing(&self, token: &str) -> Self {
        Self { headers: format!("Authorization: Bearer {token}\r\n"), ..self.clone() }
    }

    /// Connects, and shakes hands.
    pub fn try_connect(&self) -> io::Result<Connection> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_nodelay(true)?;
        let Some(config) = &self.tls else { return Ok(BufReader::new(Stream::Plain(socket))) };
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(BufReader::new(Stream::Tls(Box::new(stream))))
    }

    /// Waits until somebody listens: the node's other ports may be open before this one.
    pub fn wait_open(&self) {
        wait::until("the port to be open", PATIENCE, || {
            self.try_connect().map(drop).map_err(|error| error.to_string())
        });
    }

    /// Connects where that has to work.
    pub fn connect(&self) -> Connection {
        self.try_connect().unwrap()
    }

    /// Says a request line such as `GET /pods`.
    pub fn ask(&self, line: &str) -> Answer {
        self.send(line, "", b"")
    }

    /// Says a request line with more lines in its head, each with its end, and a body.
    pub fn send(&self, line: &str, headers: &str, body: &[u8]) -> Answer {
        self.try_send(line, headers, body).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// As [`Self::send`], where the connection may break.
    pub fn try_send(&self, line: &str, headers: &str, body: &[u8]) -> io::Result<Answer> {
        let mut connection = self.try_connect()?;
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!(
            "{line} HTTP/1.1\r\nHost: node-1\r\nConnection: close\r\n{}{headers}{length}\r\n",
            self.headers
        );
        // A server may answer and close before it has read everything.
        let _ = connection.get_mut().write_all(head.as_bytes());
        let _ = connection.get_mut().write_all(body);
        Answer::read(&mut connection)
    }

    /// The body of a page that is there.
    #[track_caller]
    pub fn page(&self, path: &str) -> String {
        let answer = self.ask(&format!("GET {path}"));
        assert_eq!(answer.code, 200, "{path}: {}", answer.text());
        answer.text()
    }

    /// A page that is JSON.
    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path)).unwrap()
    }

    /// Begins to read a page that goes on.
    pub fn follow(&self, path: &str) -> Follow {
        let mut connection = self.connect();
        let head = format!("GET {path} HTTP/1.1\r\nHost: node-1\r\n{}\r\n", self.headers);
        connection.get_mut().write_all(head.as_bytes()).unwrap();
        let head = read_head(&mut connection).unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && is_chunked(&head), "{head}");
        Follow { connection, text: String::new() }
    }
}

impl Answer {
    /// Reads the next answer of a connection.
    pub fn read(connection: &mut Connection) -> io::Result<Self> {
        let head = read_head(connection)?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| io::Error::other(format!("no answer: {head:?}")))?;
        let mut body = Vec::new();
        if is_chunked(&head) {
            while let Some(mut chunk) = read_chunk(connection)? {
                body.append(&mut chunk);
            }
        } else if let Some(length) = header(&head, "content-length") {
            body.resize(length.parse().map_err(io::Error::other)?, 0);
            connection.read_exact(&mut body)?;
        } else if code != 101 {
            connection.read_to_end(&mut body)?;
        }
        Ok(Self { code, head, body })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header; empty without it.
    pub fn header(&self, name: &str) -> &str {
        header(&self.head, name).unwrap_or_default()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn is_chunked(head: &str) -> bool {
    header(head, "transfer-encoding") == Some("chunked")
}

fn read_head(connection: &mut Connection) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed after {head:?}")));
        }
    }
    Ok(head)
}

fn read_chunk(connection: &mut Connection) -> io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let length = usize::from_str_radix(line.trim_end(), 16).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    let mut chunk = vec![0; length + 2];
    connection.read_exact(&mut chunk)?;
    chunk.truncate(length);
    Ok((length > 0).then_some(chunk))
}

/// A page that goes on.
pub struct Follow {
    connection: Connection,
    /// What came so far.
    pub text: String,
}

impl Follow {
    /// Reads until `wanted` has come.
    #[track_caller]
    pub fn wait(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            let chunk =
                read_chunk(&mut self.connection).unwrap_or_else(|error| panic!("{error}: {}", self.text));
            let chunk = chunk.unwrap_or_else(|| panic!("it ended without {wanted:?}: {}", self.text));
            self.text += &String::from_utf8(chunk).unwrap();
        }
    }

    /// Reads to the end, which has to be a proper one.
    pub fn rest(mut self) -> String {
        while let Some(chunk) = read_chunk(&mut self.connection).unwrap() {
            self.text += &String::from_utf8(chunk).unwrap();
        }
        self.text
    }
}

/// Bytes, over TLS or not.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            // A server that closes without saying so in TLS is one that closes.
            Self::Tls(stream) => match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Writes an authority's certificate where a configuration can name it.
pub fn write_authority(authority: &str, path: &Path) {
    std::fs::write(path, authority).unwrap();
}
