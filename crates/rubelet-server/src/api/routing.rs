//! Which endpoint a request is for, and what is answered when it is for none.
//!
//! Pure. The rules are those of the two routers that upstream's server stands on, as a client sees them: Go's
//! `http.ServeMux` (clean paths, redirects, `404 page not found`) and go-restful inside it (methods, accepted types,
//! `404: Page Not Found`). Called by [`super::Api`].

use std::borrow::Cow;

use http::Method;

use super::settings::{ApiSettings, Site};
use crate::path;

/// A container in a path, or a pod when `container` is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: Option<String>,
    pub(super) container: String,
}

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// All checks, or the one named.
    Health(Option<String>),
    Metrics,
    Cadvisor,
    Resource,
    Probes,
    Slis,
    Pods,
    RunningPods,
    Summary,
    Logs,
    ContainerLogs(Target),
    Exec(Target),
    Attach(Target),
    PortForward(Target),
    Run(Target),
    Checkpoint(Target),
    Configz,
    Flagz,
    Statusz,
    Verbosity,
    /// What stands behind `/debug/pprof/`.
    Pprof(String),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    To(Endpoint),
    /// The path is no path.
    Malformed,
    /// The same thing is at this path.
    Elsewhere(String),
    /// Nothing is served at this path.
    Nothing,
    /// Something is served above this path, but nothing at it.
    NothingBelow,
    /// Not with this method; these are served.
    Method(&'static str),
    /// JSON is all there is.
    NotAcceptable,
    /// It is turned off, and the text says so.
    Off(&'static str),
}

const DEBUG_OFF: &str = "Debug endpoints are disabled.";

/// What is registered at a path.
enum Found {
    At(Endpoint),
    Off(&'static str),
    Service(Service),
}

/// A path with others below it.
#[derive(Clone, Copy)]
enum Service {
    Pods,
    RunningPods,
    Stats,
    Logs,
    ContainerLogs,
    Exec,
    Attach,
    PortForward,
    Run,
    Checkpoint,
    Pprof,
}

/// Finds what a request is for. `path` is as it was sent, `accept` is the header.
pub(super) fn route(
    site: Site,
    settings: &ApiSettings,
    method: &Method,
    path: &str,
    accept: Option<&str>,
) -> Routed {
    if *method == Method::CONNECT || !path.starts_with('/') {
        return Routed::Nothing;
    }
    let Some(decoded) = path::decoded(path) else { return Routed::Malformed };
    let clean = path::clean(path);
    let found = find(site, settings, &clean);
    if found.is_none() && !clean.ends_with('/') && find(site, settings, &format!("{clean}/")).is_some() {
        return Routed::Elsewhere(format!("{clean}/"));
    }
    if clean != path {
        return Routed::Elsewhere(clean);
    }
    match found {
        None => Routed::Nothing,
        Some(Found::At(endpoint)) => Routed::To(endpoint),
        Some(Found::Off(why)) => Routed::Off(why),
        Some(Found::Service(service)) => service.route(method, &decoded, accept),
    }
}

fn find(site: Site, settings: &ApiSettings, clean: &str) -> Option<Found> {
    // No escape reaches over a slash: what is well-formed is so in each segment.
    let decoded = |segment| path::decoded(segment).unwrap_or_default();
    let segments: Vec<Cow<'_, str>> = clean.split('/').skip(1).map(decoded).collect();
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let segments = segments.as_slice();
    let health = match segments {
        ["healthz"] => Some(None),
        ["healthz", name] if !name.is_empty() => Some(Some((*name).to_owned())),
        _ => None,
    };
    if let Some(check) = health {
        return Some(Found::At(Endpoint::Health(check)));
    }
    if site == Site::Healthz {
        return None;
    }
    match segments {
        ["metrics"] => Some(Found::At(Endpoint::Metrics)),
        ["metrics", "cadvisor"] => Some(Found::At(Endpoint::Cadvisor)),
        ["metrics", "resource"] => Some(Found::At(Endpoint::Resource)),
        ["metrics", "probes"] => Some(Found::At(Endpoint::Probes)),
        ["metrics", "slis"] => Some(Found::At(Endpoint::Slis)),
        ["pods", ..] => Some(Found::Service(Service::Pods)),
        ["stats", _, ..] => Some(Found::Service(Service::Stats)),
        _ if site == Site::ReadOnly || !settings.debugging_handlers => find_disabled(segments),
        _ => find_debugging(settings, segments),
    }
}

/// Paths that are answered with a text although nothing is served there.
fn find_disabled(segments: &[&str]) -> Option<Found> {
    match segments {
        ["run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" | "logs", _, ..]
        | ["debug", "pprof", _, ..] => Some(Found::Off(DEBUG_OFF)),
        _ => None,
    }
}

fn find_debugging(settings: &ApiSettings, segments: &[&str]) -> Option<Found> {
    let either = |on: bool, found: Found, off: &'static str| Some(if on { found } else { Found::Off(off) });
    match segments {
        ["logs", _, ..] => {
            either(settings.system_log_handler, Found::Service(Service::Logs), "logs endpoint is disabled.")
        }
        ["debug", "pprof", _, ..] => either(
            settings.profiling_handler,
            Found::Service(Service::Pprof),
            "profiling endpoint is disabled.",
        ),
        ["debug", "flags", "v"] => either(
            settings.debug_flags_handler,
            Found::At(Endpoint::Verbosity),
            "flags endpoint is disabled.",
        ),
        ["run", ..] => Some(Found::Service(Service::Run)),
        ["exec", ..] => Some(Found::Service(Service::Exec)),
        ["attach", ..] => Some(Found::Service(Service::Attach)),
        ["portForward", ..] => Some(Found::Service(Service::PortForward)),
        ["containerLogs", ..] => Some(Found::Service(Service::ContainerLogs)),
        ["runningpods", _, ..] => Some(Found::Service(Service::RunningPods)),
        ["checkpoint", _, ..] if settings.checkpoint => Some(Found::Service(Service::Checkpoint)),
        ["configz"] => Some(Found::At(Endpoint::Configz)),
        ["flagz"] if settings.flagz => Some(Found::At(Endpoint::Flagz)),
        ["statusz"] if settings.statusz => Some(Found::At(Endpoint::Statusz)),
        _ => None,
    }
}

impl Service {
    /// Its methods, as the header `Allow` lists them.
    fn methods(self) -> &'static str {
        match self {
            Self::Run | Self::Checkpoint => "POST",
            Self::Exec | Self::Attach | Self::PortForward | Self::Stats => "GET, POST",
            Self::Pods | Self::RunningPods | Self::Logs | Self::ContainerLogs | Self::Pprof => "GET",
        }
    }

    /// Whether JSON is all it answers. Upstream refuses more: where a route does not say what it produces, any header
    /// without `*/*`.
    fn is_json(self) -> bool {
        matches!(self, Self::Pods | Self::RunningPods | Self::Stats | Self::Checkpoint)
    }

    /// Escaped slashes count here: this router reads the decoded path.
    fn route(self, method: &Method, path: &str, accept: Option<&str>) -> Routed {
        let tokens: Vec<&str> = path.trim_matches('/').split('/').collect();
        let Some(endpoint) = self.endpoint(&tokens) else { return Routed::NothingBelow };
        if !self.methods().split(", ").any(|served| served == method.as_str()) {
            return Routed::Method(self.methods());
        }
        if self.is_json() && !accept.is_none_or(accepts_json) {
            return Routed::NotAcceptable;
        }
        Routed::To(endpoint)
    }

    /// What is at these parts of a path, the first of which name the service.
    fn endpoint(self, tokens: &[&str]) -> Option<Endpoint> {
        let target = |namespace: &str, pod: &str, uid: Option<&str>, container: &str| Target {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            uid: uid.map(str::to_owned),
            container: container.to_owned(),
        };
        let container = match tokens {
            [_, namespace, pod, container] => Some(target(namespace, pod, None, container)),
            _ => None,
        };
        let with_uid = || match tokens {
            [_, namespace, pod, uid, container] => Some(target(namespace, pod, Some(uid), container)),
            _ => None,
        };
        match (self, tokens) {
            (Self::Pods, [_]) => Some(Endpoint::Pods),
            (Self::RunningPods, [_]) => Some(Endpoint::RunningPods),
            (Self::Stats, [_, "summary"]) => Some(Endpoint::Summary),
            (Self::Logs, _) => Some(Endpoint::Logs),
            (Self::Pprof, [_, _, name @ ..]) => Some(Endpoint::Pprof(name.join("/"))),
            (Self::ContainerLogs, _) => container.map(Endpoint::ContainerLogs),
            (Self::Checkpoint, _) => container.map(Endpoint::Checkpoint),
            (Self::Exec, _) => container.or_else(with_uid).map(Endpoint::Exec),
            (Self::Attach, _) => container.or_else(with_uid).map(Endpoint::Attach),
            (Self::Run, _) => container.or_else(with_uid).map(Endpoint::Run),
            (Self::PortForward, [_, namespace, pod]) => {
                Some(Endpoint::PortForward(target(namespace, pod, None, "")))
            }
            (Self::PortForward, [_, namespace, pod, uid]) => {
                Some(Endpoint::PortForward(target(namespace, pod, Some(uid), "")))
            }
            _ => None,
        }
    }
}

fn accepts_json(accept: &str) -> bool {
    accept.is_empty()
        || accept.split(',').any(|part| {
            let kind = part.split(';').next().unwrap_or_default().trim_matches(' ');
            matches!(kind, "*/*" | "application/json")
        })
}
