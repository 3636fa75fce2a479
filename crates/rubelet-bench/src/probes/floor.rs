//! The floor of probes: a process that does on the wire what a probe does, at the same pace, and nothing else.
//!
//! Owns the bare exchanges, with requests that are made beforehand and answers that are hardly looked at, and the
//! process that makes them; whether an answer is good is not its business. One thread, one task for each exchange, so
//! that one that takes long delays none. This program is started anew for it, so that the kernel counts its CPU time
//! apart; see `main`. Called by the plan of this part.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rubelet_cri::{CriClient, Deadlines, RuntimeService, v1};
use rubelet_probes::http::AnyServer;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;

use super::Kind;

/// The first argument of the process.
pub(crate) const WORD: &str = "probe-floor";

/// The process. It is killed when this is dropped.
pub(super) struct Floor {
    _child: Child,
    /// Its number.
    pub(super) pid: u32,
}

impl Floor {
    /// Starts it: so many exchanges a second, evenly spread. `address` is a host with its port or the runtime's
    /// socket, `container` the one in which commands run.
    pub(super) fn start(kind: Kind, address: &str, container: &str, pods: usize) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(own);
        command.args([WORD, kind.key(), address, container, &pods.to_string()]);
        let child =
            command.stdin(Stdio::null()).kill_on_drop(true).spawn().context("cannot start the floor")?;
        let pid = child.id().context("the floor has no process")?;
        Ok(Self { _child: child, pid })
    }
}

/// The process itself, as `words` say; returns only with an error.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let [kind, address, container, pods] = words else { bail!("four words are needed") };
    let kind = Kind::ALL.into_iter().find(|known| known.key() == kind).context("no such kind")?;
    let pods: usize = pods.parse::<usize>()?.max(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let asker = Arc::new(Asker::new(kind, address, container)?);
        let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(pods)?);
        for number in (0..pods).cycle() {
            pace.tick().await;
            let asker = Arc::clone(&asker);
            tokio::spawn(async move {
                if let Err(error) = asker.ask(number).await {
                    crate::say(&format!("floor: {error:#}"));
                }
            });
        }
        bail!("for ever has ended")
    })
}

/// Makes the exchanges of one kind.
pub(super) struct Asker {
    kind: Kind,
    address: String,
    container: String,
    tls: TlsConnector,
    /// The whole of a gRPC client's side.
    question: Vec<u8>,
    runtime: Option<CriClient>,
}

impl Asker {
    pub(super) fn new(kind: Kind, address: &str, container: &str) -> Result<Self> {
        let runtime = match kind {
            Kind::Exec => Some(CriClient::new(
                &format!("unix://{}", Path::new(address).display()),
                Deadlines::default(),
            )?),
            _ => None,
        };
        Ok(Self {
            kind,
            address: address.to_owned(),
            container: container.to_owned(),
            tls: connector()?,
            question: question(address),
            runtime,
        })
    }

    /// One exchange.
    pub(super) async fn ask(&self, number: usize) -> Result<()> {
        if let Some(runtime) = &self.runtime {
            return exec(runtime, &self.container).await;
        }
        let address: std::net::SocketAddr = self.address.parse()?;
        let mut stream = TcpStream::connect(address).await?;
        match self.kind {
            Kind::Tcp | Kind::Exec => Ok(()),
            Kind::Http => self.http(&mut stream, number).await,
            Kind::Https => {
                let name = ServerName::IpAddress(address.ip().into());
                self.http(&mut self.tls.connect(name, stream).await?, number).await
            }
            Kind::Grpc => grpc(&mut stream, &self.question).await,
        }
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S, number: usize) -> Result<()> {
        let request = format!(
            "GET /pod/{number} HTTP/1.1\r\nHost: {}\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = [0; 1024];
        let mut length = 0;
        loop {
            match stream.read(&mut answer[length..]).await? {
                0 if answer.starts_with(b"HTTP/1.1 200 ") => return Ok(()),
                0 => bail!("not a good answer: {}", String::from_utf8_lossy(&answer[..length])),
                count => length += count,
            }
        }
    }
}

/// The bare call for one command.
pub(super) async fn exec(runtime: &CriClient, container: &str) -> Result<()> {
    let cmd = vec!["true".to_owned()];
    let request = v1::ExecSyncRequest { container_id: container.to_owned(), cmd, timeout: 1 };
    match runtime.exec_sync(request).await?.exit_code {
        0 => Ok(()),
        code => bail!("true ended with {code}"),
    }
}

/// Writes everything at once, then reads up to the frame that ends the stream.
async fn grpc(stream: &mut TcpStream, question: &[u8]) -> Result<()> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    stream.set_nodelay(true)?;
    stream.write_all(question).await?;
    let mut input = [0; 1024];
    let (mut length, mut at) = (0, 0);
    loop {
        // Frames that are whole: their length in three bytes, their type, flags, stream.
        while let Some(head) = input[at..length].first_chunk::<9>() {
            let end = at + 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if end > length {
                break;
            }
            match (head[3], head[4] & 1) {
                (HEADERS, 1) => return Ok(()),
                (SETTINGS, 0) => stream.write_all(&[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0]).await?,
                _ => {}
            }
            at = end;
        }
        match stream.read(&mut input[length..]).await? {
            0 => bail!("hung up before the answer"),
            count => length += count,
        }
    }
}

/// The preface, settings and the health question on the first stream. Headers are literals that nobody has to
/// remember (RFC 7541, 6.2.2) and three from the static table.
fn question(address: &str) -> Vec<u8> {
    let mut headers = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        headers.extend_from_slice(name);
        headers.push(value.len() as u8);
        headers.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], "/grpc.health.v1.Health/Check");
    literal(&[0x01], address);
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 2, b't', b'e'], "trailers");
    let mut question = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    question.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    question.extend_from_slice(&[0, 0, headers.len() as u8, 1, 4, 0, 0, 0, 1]);
    question.extend_from_slice(&headers);
    // An empty message, and the end.
    question.extend_from_slice(&[0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    question
}

fn connector() -> Result<TlsConnector> {
    let mut config = ClientConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
