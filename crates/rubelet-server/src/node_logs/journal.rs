//! A query for services: what journald has of them, else the log files of that name (upstream `nodeLogQuery.Copy`).
//!
//! journalctl is run without a shell; everything from the request is part of an argument that begins with the option's
//! name, so that nothing can be taken for an option. Its output is passed on as the client takes it. A query may take
//! [`PATIENCE`], and there are only so many at a time.
//!
//! Better than upstream: times are told to journalctl in UTC, by name, and `untilTime` is not `sinceTime`.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::beneath::{self, OpenError, Opened};
use super::conditions::Span;
use super::query::{LogQuery, Options};
use super::{NodeLogs, files};
use crate::body::{self, Body};

/// How long a query may take, with everything.
const PATIENCE: Duration = Duration::from_secs(30);
const BLOCK: usize = 32 * 1024;
/// The longest line of journalctl's list of units that counts.
const MAX_UNIT: u64 = 4096;

/// Answers a query for services that was found valid.
pub(super) fn serve(logs: &NodeLogs, parts: &Parts, query: LogQuery) -> Response<Body> {
    let Ok(place) = logs.queries.clone().try_acquire_owned() else {
        return files::error(
            StatusCode::TOO_MANY_REQUESTS,
            "there are too many queries of this node's logs under way, try again later",
        );
    };
    let gzip = parts.headers.get(ACCEPT_ENCODING).is_some_and(|encoding| encoding == "gzip");
    let (sender, chunks) = mpsc::channel(1);
    let copy = Copy { logs: logs.clone(), chunks: sender };
    let work = async move {
        let _place = place;
        let late = copy.chunks.clone();
        if tokio::time::timeout(PATIENCE, copy.run(&query)).await.is_err() {
            let text = format!("\nerror: cut off after {} s\n", PATIENCE.as_secs());
            // A client that is too slow to take it knows that it is late.
            let _ = late.try_send(text.into());
        }
    };
    let flow = Flow {
        work: Some(work.boxed()),
        chunks,
        gzip: gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast())),
    };
    let chunks = stream::unfold(flow, |mut flow| async move {
        let next = flow.next().await?;
        Some((next.map(Frame::data), flow))
    });
    let mut response = Response::new(body::whole(""));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if parts.method != http::Method::HEAD {
        *response.body_mut() = StreamBody::new(chunks).boxed_unsync();
    }
    response
}

/// A body that is made while it is taken: there is no task that could outlive the connection.
struct Flow {
    /// Gone when it is done.
    work: Option<BoxFuture<'static, ()>>,
    chunks: mpsc::Receiver<Bytes>,
    /// Gone when it is finished, or when nothing is compressed.
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl Flow {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let chunk = match &mut self.work {
                // Both are cancel-safe: a chunk that was not taken stays, and the work goes on where it was.
                Some(work) => tokio::select! { biased;
                    chunk = self.chunks.recv() => chunk,
                    () = work => {
                        self.work = None;
                        continue;
                    }
                },
                None => self.chunks.recv().await,
            };
            match (chunk, &mut self.gzip) {
                (Some(chunk), None) => return Some(Ok(chunk)),
                (Some(chunk), Some(gzip)) => match compress(gzip, &chunk) {
                    Ok(bytes) if bytes.is_empty() => {}
                    ready => return Some(ready),
                },
                (None, gzip) => {
                    let last = gzip.take()?.finish();
                    return Some(last.map(Bytes::from));
                }
            }
        }
    }
}

fn compress(gzip: &mut GzEncoder<Vec<u8>>, chunk: &[u8]) -> io::Result<Bytes> {
    io::Write::write_all(gzip, chunk)?;
    Ok(std::mem::take(gzip.get_mut()).into())
}

/// The client has gone.
struct Gone;

/// What one query writes.
struct Copy {
    logs: NodeLogs,
    chunks: mpsc::Sender<Bytes>,
}

/// Which services journald knows.
struct Known {
    installed: bool,
    services: Vec<String>,
}

impl Copy {
    async fn run(self, query: &LogQuery) {
        // Whoever has gone needs no answer.
        let _ = self.copy(query).await;
    }

    async fn tell(&self, text: impl Into<Bytes>) -> Result<(), Gone> {
        self.chunks.send(text.into()).await.map_err(|_| Gone)
    }

    async fn copy(&self, query: &LogQuery) -> Result<(), Gone> {
        let known = self.known(&query.services).await;
        let (native, in_files): (Vec<&String>, Vec<&String>) =
            query.services.iter().partition(|service| known.services.contains(service));
        if !native.is_empty() {
            self.journal(&query.options, &native).await?;
        }
        if in_files.is_empty() {
            return Ok(());
        }
        let mut found = true;
        if query.options != Options::default() {
            let names: Vec<&str> = in_files.iter().map(|name| name.as_str()).collect();
            let text = format!(
                "\noptions present and query resolved to log files for [{}]\ntry without specifying options\n",
                names.join(" ")
            );
            self.tell(text).await?;
            found = false;
        } else {
            for service in in_files {
                found &= self.file(service).await?;
            }
        }
        if !found && !known.installed {
            let text = "\njournalctl is not installed on this node: only log files were looked for\n";
            self.tell(text).await?;
        }
        Ok(())
    }

    /// Those of the services that journald has something of, by the list of its units.
    async fn known(&self, wanted: &[String]) -> Known {
        let nothing = |installed| Known { installed, services: Vec::new() };
        let mut command = Command::new(&*self.logs.journalctl);
        command.args(["--field", "_SYSTEMD_UNIT"]).kill_on_drop(true);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return nothing(error.kind() != io::ErrorKind::NotFound),
        };
        let Some(output) = child.stdout.take() else { return nothing(true) };
        let (mut lines, mut services, mut line) = (BufReader::new(output), Vec::new(), Vec::new());
        loop {
            line.clear();
            match (&mut lines).take(MAX_UNIT).read_until(b'\n', &mut line).await {
                Ok(0) => break,
                Ok(_) => {
                    let unit = line.strip_suffix(b"\n").unwrap_or(&line);
                    services.extend(wanted.iter().filter(|service| is_unit(unit, service)).cloned());
                }
                Err(_) => return nothing(true),
            }
        }
        match child.wait().await {
            Ok(status) if status.success() => Known { installed: true, services },
            _ => nothing(true),
        }
    }

    /// What journalctl says, and what it complains of, in the order in which it does.
    async fn journal(&self, options: &Options, services: &[&String]) -> Result<(), Gone> {
        match self.run_journal(options, services).await {
            Ok(done) => done,
            Err(error) => {
                tracing::debug!("journalctl cannot be run: {error}");
                self.tell("\nerror: journal output not available\n").await
            }
        }
    }

    async fn run_journal(&self, options: &Options, services: &[&String]) -> io::Result<Result<(), Gone>> {
        let (output, input) = io::pipe()?;
        let errors = input.try_clone()?;
        let mut child = {
            // The command holds our ends of the pipe, and goes with this block.
            let mut command = Command::new(&*self.logs.journalctl);
            command.args(arguments(options, services)).kill_on_drop(true);
            command.stdin(Stdio::null()).stdout(input).stderr(errors).spawn()?
        };
        let mut output = pipe::Receiver::from_owned_fd(output.into())?;
        loop {
            let mut block = BytesMut::with_capacity(BLOCK);
            if output.read_buf(&mut block).await? == 0 {
                break;
            }
            if let Err(gone) = self.tell(block).await {
                return Ok(Err(gone));
            }
        }
        // An exit code says no more than the output did.
        child.wait().await?;
        Ok(Ok(()))
    }

    /// The service's log file: of that name, with `.log`, or in a directory of that name. Whether there was one.
    async fn file(&self, service: &str) -> Result<bool, Gone> {
        let (root, name) = (self.logs.root.clone(), service.to_owned());
        let opened = self.logs.reads.run(move || first_of(&root, &name)).await;
        match opened.unwrap_or_else(|error| Err(error.into())) {
            Ok(Some((file, length))) => {
                let (file, mut span) = (Arc::new(file), Span { start: 0, length });
                while span.length > 0 {
                    match self.logs.reads.next(&file, &mut span).await {
                        Ok(block) => self.tell(block).await?,
                        // It was cut off meanwhile: this is its end.
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                        Err(error) => {
                            self.tell(format!("\nerror getting log for {service}: {error}\n")).await?;
                            break;
                        }
                    }
                }
                Ok(true)
            }
            Ok(None) => {
                self.tell(format!("\nlog not found for {service}\n")).await?;
                Ok(false)
            }
            Err(error) => {
                self.tell(format!("\nerror getting log for {service}: {error}\n")).await?;
                Ok(true)
            }
        }
    }
}

/// Whether the unit is what the service's name means.
fn is_unit(unit: &[u8], service: &str) -> bool {
    unit.strip_prefix(service.as_bytes()).is_some_and(|rest| matches!(rest, b"" | b".service"))
}

/// The first file there is of a service, with its length. Blocking.
fn first_of(root: &Path, service: &str) -> Result<Option<(std::fs::File, u64)>, OpenError> {
    for name in [service.to_owned(), format!("{service}.log"), format!("{service}/{service}.log")] {
        match beneath::open(root, name.as_bytes()) {
            Ok(Opened::File(file)) => {
                let length = file.metadata()?.len();
                return Ok(Some((file, length)));
            }
            Ok(Opened::Directory(_)) | Err(OpenError::Missing) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// journalctl's arguments, in upstream's order (`getLoggingCmd`).
fn arguments(options: &Options, services: &[&String]) -> Vec<OsString> {
    let mut arguments: Vec<String> =
        ["--utc", "--no-pager", "--output=short-precise"].map(str::to_owned).into();
    if let Some(since) = options.since {
        arguments.push(format!("--since={}", date(since)));
    }
    if let Some((until, _)) = &options.until {
        arguments.push(format!("--until={}", date(*until)));
    }
    if let Some(lines) = options.tail_lines {
        arguments.extend(["--pager-end".to_owned(), format!("--lines={lines}")]);
    }
    arguments.extend(services.iter().map(|service| format!("--unit={service}")));
    if !options.pattern.is_empty() {
        arguments.push(format!("--grep={}", options.pattern));
    }
    if let Some(boot) = options.boot {
        arguments.extend(["--boot".to_owned(), boot.to_string()]);
    }
    arguments.into_iter().map(OsString::from).collect()
}

/// A time as systemd reads it, wherever this machine is.
fn date(time: Timestamp) -> String {
    let time = time.to_zoned(TimeZone::UTC);
    format!(
        "{}-{}-{} {}:{}:{} UTC",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(query: &str) -> Vec<String> {
        let query = LogQuery::parse(query).unwrap().unwrap();
        let services: Vec<&String> = query.services.iter().collect();
        let arguments = arguments(&query.options, &services);
        arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn arguments_are_upstreams() {
        let first = ["--utc", "--no-pager", "--output=short-precise"];
        let check = |query: &str, rest: &[&str]| {
            assert_eq!(vector(query), [&first[..], rest].concat(), "{query}");
        };
        check("query=p1&query=p2", &["--unit=p1", "--unit=p2"]);
        check(
            "query=p1&sinceTime=2019-12-04T02:03:04Z&untilTime=2020-01-02T23:00:00-02:00&tailLines=7&pattern=a+b&boot=-1",
            &[
                "--since=2019-12-4 2:3:4 UTC",
                "--until=2020-1-3 1:0:0 UTC",
                "--pager-end",
                "--lines=7",
                "--unit=p1",
                "--grep=a b",
                "--boot",
                "-1",
            ],
        );
        check("query=--file%3Dx&pattern=--help", &["--unit=--file=x", "--grep=--help"]);
    }

    #[test]
    fn units_are_whole_names() {
        for (unit, service, expected) in [
            ("kubelet.service", "kubelet", true),
            ("kubelet.service", "kubelet.service", true),
            ("init.scope", "init.scope", true),
            ("my-kubelet.service", "kubelet", false),
            ("kubelet.service", "kube", false),
            ("kubelet.slice", "kubelet", false),
            ("", "kubelet", false),
        ] {
            assert_eq!(is_unit(unit.as_bytes(), service), expected, "{unit} {service}");
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_request_is_an_option(service in "\\PC{1,20}", pattern in "\\PC{0,20}", boot in any::<i64>(), lines in any::<i64>()) {
            let options = Options { pattern, boot: Some(boot), tail_lines: Some(lines), ..Options::default() };
            let mut arguments = arguments(&options, &[&service]).into_iter().map(|text| text.into_string().unwrap());
            while let Some(argument) = arguments.next() {
                let known = ["--utc", "--no-pager", "--output=short-precise", "--pager-end"].contains(&argument.as_str())
                    || ["--lines=", "--unit=", "--grep="].iter().any(|name| argument.starts_with(name));
                if argument == "--boot" {
                    prop_assert!(arguments.next().unwrap().parse::<i64>().is_ok());
                } else {
                    prop_assert!(known, "{argument}");
                }
            }
        }
    }
}
