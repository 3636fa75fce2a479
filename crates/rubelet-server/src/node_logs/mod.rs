//! The node's own logs: `/logs/` and what is below it, and the node log query.
//!
//! Owns what is served of one directory (`/var/log`), as clients of upstream see it, with the difference that nothing
//! outside it can be reached, by links neither. Who may ask was decided before; whether there is such an endpoint at
//! all, too. Called by `api` and by the local API's proxy to its node.
//!
//! - `beneath`: opening what is below the directory
//! - `files`: a file server, with `conditions` (what the client has and wants), `media` (what a file is), `listing`
//!   (a directory's page) and `blocks` (bodies)
//! - `query`: the query and its checks, `pattern` among them; `journal`: its answer
//!
//! Everything is read as the client takes it. There is no task, and there are only so many files and queries open.

mod beneath;
mod blocks;
mod conditions;
mod files;
mod journal;
mod listing;
mod media;
mod pattern;
mod query;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::{ALLOW, CONTENT_LENGTH, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::sync::Semaphore;

use crate::body::{self, Body};
use crate::path::unescaped;
use blocks::Reads;
use query::LogQuery;

/// Where all of it is.
const PREFIX: &str = "/logs/";
/// How many blocks are read at the same time.
const READS: usize = 4;
/// How many files may be open.
const OPEN: usize = 256;
/// How many queries may be under way: each runs journalctl, which reads much.
const QUERIES: usize = 4;

/// The node's logs. Cheap to clone.
#[derive(Clone)]
pub struct NodeLogs {
    root: Arc<Path>,
    journalctl: Arc<Path>,
    query: bool,
    reads: Reads,
    open: Arc<Semaphore>,
    queries: Arc<Semaphore>,
}

impl NodeLogs {
    /// The logs in the directory `root`. `query` says whether the node log query is answered (feature `NodeLogQuery` and
    /// `enableSystemLogQuery`); otherwise its parameters mean nothing.
    pub fn new(root: impl Into<PathBuf>, query: bool) -> Self {
        Self {
            root: root.into().into(),
            journalctl: Path::new("journalctl").into(),
            query,
            reads: Reads::new(READS),
            open: Arc::new(Semaphore::new(OPEN)),
            queries: Arc::new(Semaphore::new(QUERIES)),
        }
    }

    /// With another program in journalctl's place.
    #[must_use]
    pub fn with_journalctl(mut self, program: impl Into<PathBuf>) -> Self {
        self.journalctl = program.into().into();
        self
    }
}

/// Answers a request for `/logs/` or below.
pub async fn serve(root: &NodeLogs, request: Request<Body>) -> Response<Body> {
    let (parts, _) = request.into_parts();
    if parts.method != Method::GET && parts.method != Method::HEAD {
        let mut response = files::error(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let response = answer(root, &parts).await;
    if parts.method == Method::HEAD { without_body(response) } else { response }
}

async fn answer(logs: &NodeLogs, parts: &Parts) -> Response<Body> {
    if parts.uri.path() == PREFIX.trim_end_matches('/') {
        let mut response = Response::new(body::whole(""));
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert(LOCATION, HeaderValue::from_static(PREFIX));
        return response;
    }
    let Some(path) = unescaped(parts.uri.path()) else {
        return files::error(StatusCode::BAD_REQUEST, "400 Bad Request");
    };
    let Some(path) = path.strip_prefix(PREFIX.as_bytes()) else {
        return files::error(StatusCode::NOT_FOUND, "404 page not found");
    };
    let path = match logs.query {
        true => match ask(logs, parts, path).await {
            Ok(Some(file)) => file,
            Ok(None) => path.to_owned(),
            Err(response) => return *response,
        },
        false => path.to_owned(),
    };
    let path = if path.starts_with(b"/") { path } else { [b"/", path.as_slice()].concat() };
    files::serve(logs, parts, path).await
}

/// What a query comes to: a file that it names, nothing because there is none, or an answer.
async fn ask(logs: &NodeLogs, parts: &Parts, path: &[u8]) -> Result<Option<Vec<u8>>, Box<Response<Body>>> {
    let refuse = |code| move |text| Box::new(files::error(code, text));
    let query = LogQuery::parse(parts.uri.query().unwrap_or_default());
    let Some(query) = query.map_err(refuse(StatusCode::BAD_REQUEST))? else { return Ok(None) };
    if !matches!(path, b"" | b"/") {
        return Err(refuse(StatusCode::NOT_ACCEPTABLE)("path not allowed in query mode".to_owned()));
    }
    let missing = match query.file() {
        Some(file) => look(logs, file).await,
        None => None,
    };
    query.validate(missing).map_err(refuse(StatusCode::NOT_ACCEPTABLE))?;
    if query.services.is_empty() {
        return Ok(query.files.into_iter().next().map(String::into_bytes));
    }
    Err(Box::new(journal::serve(logs, parts, query)))
}

/// What is wrong with a file that a query names. A slash before it means the directory, as people write it and older
/// kubelets read it.
async fn look(logs: &NodeLogs, file: &str) -> Option<String> {
    let name = file.trim_start_matches('/').to_owned();
    let (root, relative) = (logs.root.clone(), name.clone());
    let looked = logs.reads.run(move || beneath::open(&root, relative.as_bytes()).map(drop)).await;
    let why = match looked {
        Ok(looked) => looked.err()?.to_string(),
        Err(error) => error.to_string(),
    };
    Some(format!("statat {name}: {why}"))
}

/// The head of an answer, which tells the length of the body that is left out.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0) {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    *response.body_mut() = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
    response
}
