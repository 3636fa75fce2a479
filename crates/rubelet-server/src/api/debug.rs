//! What is for people who look into the agent: its configuration, its verbosity, and the profiles of a Go program that
//! this is not.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde_json::json;

use super::{Api, answers, form};
use crate::body::Body;
use crate::query::Query;

/// Marks errors of profiles, for `go tool pprof`.
const GO_PPROF: HeaderName = HeaderName::from_static("x-go-pprof");

/// Profiles of a Go program, with what there is in their place.
const PROFILES: &[(&str, &str)] = &[
    ("allocs", "not recorded; see process_resident_memory_bytes in /metrics"),
    ("block", "not recorded"),
    ("cmdline", "the command line of this process"),
    ("goroutine", "tasks of the async runtime, in figures, with debug=1"),
    ("heap", "not recorded; see process_resident_memory_bytes in /metrics"),
    ("mutex", "not recorded"),
    ("profile", "not recorded; use perf record -p on the node"),
    ("symbol", "none: there are no Go symbols"),
    ("threadcreate", "not recorded; see /proc/<pid>/task on the node"),
    ("trace", "not recorded; use perf trace -p on the node"),
];

impl Api {
    /// Answers `/configz`.
    pub(super) fn configz(&self) -> Response<Body> {
        answers::plain_json(json!({ "kubeletconfig": self.node.config() }).to_string())
    }

    /// Answers `/debug/flags/v`.
    pub(super) async fn verbosity(&self, request: Request<Body>) -> Response<Body> {
        if request.method() != Method::PUT {
            return said(StatusCode::NOT_ACCEPTABLE, "unsupported http method");
        }
        let text = match form::read(request.into_body()).await {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(why) => return said(StatusCode::BAD_REQUEST, &format!("error reading request body: {why}")),
        };
        match self.set_verbosity(&text) {
            Ok(()) => said(StatusCode::OK, &format!("successfully set klog.logging.verbosity to {text}")),
            Err(why) => said(StatusCode::BAD_REQUEST, &why),
        }
    }

    fn set_verbosity(&self, text: &str) -> Result<(), String> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let parsing = |why: &str| format!("strconv.ParseUint: parsing {text:?}: {why}");
        if !digits {
            return Err(parsing("invalid syntax"));
        }
        let level: u32 = text.parse().map_err(|_| parsing("value out of range"))?;
        let failed = |why: &str| format!("failed set klog.logging.verbosity {text}: {why}");
        if i32::try_from(level).is_err() {
            return Err(failed(&format!("strconv.ParseInt: parsing {text:?}: value out of range")));
        }
        // Above the highest level that means something, more changes nothing.
        let level = u8::try_from(level).unwrap_or(u8::MAX);
        self.node.set_verbosity(level).map_err(|why| failed(&why))
    }

    /// Answers what is behind `/debug/pprof/`.
    pub(super) fn pprof(&self, name: &str, query: Option<&str>) -> Response<Body> {
        match name {
            "" => self.profiles(),
            "cmdline" => {
                let line: Vec<String> =
                    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
                answers::plain(StatusCode::OK, line.join("\0"))
            }
            "symbol" => answers::plain(StatusCode::OK, "num_symbols: 0\n"),
            "goroutine"
                if Query::parse(query.unwrap_or_default()).first("debug").is_some_and(|d| d != "0") =>
            {
                answers::plain(StatusCode::OK, tasks())
            }
            name => match PROFILES.iter().find(|(known, _)| *known == name) {
                None => not_a_profile(StatusCode::NOT_FOUND, "Unknown profile"),
                Some((_, instead)) => not_a_profile(
                    StatusCode::NOT_IMPLEMENTED,
                    &format!(
                        "{} is written in Rust: it has no Go runtime that could record the profile {name:?} ({instead})",
                        self.settings.program
                    ),
                ),
            },
        }
    }

    /// The page at `/debug/pprof/` itself, which upstream's router does not find.
    fn profiles(&self) -> Response<Body> {
        let mut page = format!("{}: /debug/pprof/\n\n", self.settings.program);
        for (name, what) in PROFILES {
            let _ = writeln!(page, "{name}: {what}");
        }
        answers::plain(StatusCode::OK, page)
    }
}

/// What the async runtime tells of its tasks.
fn tasks() -> String {
    let metrics = tokio::runtime::Handle::current().metrics();
    format!(
        "tasks: {}\nworker threads: {}\ntasks that wait for a worker: {}\n",
        metrics.num_alive_tasks(),
        metrics.num_workers(),
        metrics.global_queue_depth()
    )
}

fn said(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = answers::error(code, message);
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn not_a_profile(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = answers::error(code, message);
    response.headers_mut().insert(GO_PPROF, HeaderValue::from_static("1"));
    response
}
