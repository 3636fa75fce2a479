//! Paths that are no resources: discovery, OpenAPI, version, health, and what OpenID Connect looks for.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use rubelet_apimachinery::discovery::{self, Aggregated, Root};
use rubelet_apimachinery::openapi::{self, Document};
use rubelet_apimachinery::status::{self, ApiError, not_acceptable, unknown_path};
use serde_json::Value;

use super::dispatch::only_reads;
use super::media::{self, JSON};
use super::request::RequestInfo;
use super::{Api, body, respond};
use crate::node::Body;

/// The release whose API this is, and this program's own version.
const VERSION: &str = concat!("v1.36.2+rubelet.", env!("CARGO_PKG_VERSION"));
/// What `/livez` and the like look at.
const CHECKS: [&str; 2] = ["ping", "store"];

/// Answers a request for a path that is no resource.
pub(crate) fn answer(
    api: &Api,
    info: &RequestInfo,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let segments: Vec<&str> = info.segments.iter().map(String::as_str).collect();
    let on = |resource: &rubelet_apimachinery::Resource| api.serves(resource);
    only_reads(method)?;
    let document = match segments.as_slice() {
        [] => discovery::paths(),
        ["api"] => {
            if let Some(form) = aggregated(headers) {
                return Ok(typed(discovery::aggregated(Root::Core, form, &on), form.content_type()));
            }
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            discovery::core_versions(host)
        }
        ["apis"] => {
            if let Some(form) = aggregated(headers) {
                return Ok(typed(discovery::aggregated(Root::Groups, form, &on), form.content_type()));
            }
            discovery::groups()
        }
        ["api", version] => discovery::resources("", version, &on).ok_or_else(unknown_path)?,
        ["apis", group] => discovery::group(group).ok_or_else(unknown_path)?,
        ["apis", group, version] => discovery::resources(group, version, &on).ok_or_else(unknown_path)?,
        ["version"] => discovery::version_info(VERSION),
        ["healthz" | "livez" | "readyz", rest @ ..] => return health(api, info, rest),
        ["openapi", "v2"] => return openapi_v2(headers),
        ["openapi", "v3"] => return sent(openapi::v3_index(), JSON, headers, None),
        ["openapi", "v3", rest @ ..] => {
            let document = openapi::v3(&rest.join("/")).ok_or_else(unknown_path)?;
            return sent(document, JSON, headers, info.query.text("hash"));
        }
        [".well-known", "openid-configuration"] => {
            api.inner.reviews.openid_configuration().ok_or_else(unknown_path)?
        }
        ["openid", "v1", "jwks"] => {
            let keys = api.inner.reviews.jwks().ok_or_else(unknown_path)?;
            return Ok(typed(keys, "application/jwk-set+json"));
        }
        _ => return Err(unknown_path()),
    };
    let accepted = media::negotiate(headers, &info.query, false)?;
    Ok(respond::value(200, &document, accepted))
}

fn typed(document: Value, content_type: &'static str) -> Response<Body> {
    respond::answer(200, content_type, body::whole(document.to_string()))
}

fn accept(headers: &HeaderMap) -> String {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

fn aggregated(headers: &HeaderMap) -> Option<Aggregated> {
    Aggregated::accepted(&accept(headers))
}

/// `/livez`, `/readyz` and `/healthz`: one word, or with `verbose` a line for each check.
fn health(api: &Api, info: &RequestInfo, rest: &[&str]) -> Result<Response<Body>, ApiError> {
    let kind = info.segments.first().map(String::as_str).unwrap_or_default();
    let excluded: Vec<&str> = info.query.all("exclude").collect();
    let stopping = kind == "readyz" && api.inner.stopping.is_cancelled();
    let fails = |check: &str| match check {
        "store" => api.store().snapshot().err().map(|error| error.to_string()),
        "shutdown" => stopping.then(|| "process is shutting down".to_owned()),
        _ => None,
    };
    let mut checks = CHECKS.to_vec();
    if kind == "readyz" {
        checks.push("shutdown");
    }
    match rest {
        [] => checks.retain(|check| !excluded.contains(check)),
        [one] if checks.contains(one) => checks.retain(|check| check == one),
        _ => return Err(unknown_path()),
    }
    let mut lines = String::new();
    let mut failed = false;
    for check in checks {
        match fails(check) {
            None => lines.push_str(&format!("[+]{check} ok\n")),
            Some(why) => {
                failed = true;
                lines.push_str(&format!("[-]{check} failed: {why}\n"));
            }
        }
    }
    if failed {
        return Ok(respond::text(500, format!("{lines}{kind} check failed\n")));
    }
    if info.query.has("verbose") {
        return Ok(respond::text(200, format!("{lines}{kind} check passed\n")));
    }
    Ok(respond::text(200, "ok"))
}

fn openapi_v2(headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let accept = accept(headers);
    for entry in accept.split(',') {
        let kind = entry.split(';').next().unwrap_or_default().trim();
        if openapi::V2_PROTOBUF_TYPES.contains(&kind) {
            return sent(openapi::v2_protobuf(), openapi::V2_PROTOBUF_TYPES[0], headers, None);
        }
        if matches!(kind, "" | "*/*" | "application/*" | JSON) {
            return sent(openapi::v2_json(), JSON, headers, None);
        }
    }
    Err(not_acceptable(&[JSON, openapi::V2_PROTOBUF_TYPES[0]]))
}

/// A document that clients may keep; `hash` is the one of version 3 they ask by.
fn sent(
    document: Document,
    content_type: &'static str,
    headers: &HeaderMap,
    hash: Option<&str>,
) -> Result<Response<Body>, ApiError> {
    let etag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_known =
        known.is_some_and(|known| known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let zipped = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let coding: String = coding.split_whitespace().collect();
            coding.starts_with("gzip") && !coding.ends_with(";q=0")
        });
    let bytes = if is_known {
        body::whole("")
    } else if zipped {
        body::whole(document.gzip)
    } else {
        body::whole(document.unpack().map_err(status::internal)?)
    };
    let mut response = respond::answer(200, content_type, bytes);
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let out = response.headers_mut();
    if zipped && !is_known {
        out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    out.insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        out.insert(header::ETAG, etag);
    }
    if hash == Some(document.hash) {
        // What is asked for by its hash never changes.
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
    }
    Ok(response)
}
