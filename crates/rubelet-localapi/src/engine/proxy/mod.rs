//! `nodes/{name}/proxy` and `pods/{name}/proxy`: requests that go on to the node agent's own API, or to a port of a pod
//! or of the node, as kube-apiserver's proxy subresources send them on.
//!
//! Finds out where a request goes and prepares it; `headers` says what goes with it, `dial` carries it over the network.
//! What is for the agent never leaves the process: [`crate::node::NodeStreams::proxy`] answers. What the client proved
//! itself with stays here. Links inside HTML pages are left as they are, unlike upstream.

mod dial;
mod headers;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use rubelet_apimachinery::status::{self, ApiError, bad_request};
use serde_json::Value;

use self::dial::Target;
use super::dispatch::Call;
use super::request::path_beyond;
use super::{body, encode, lookup, respond};
use crate::node::Body;

/// The methods that are sent on.
pub(crate) const METHODS: [Method; 7] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];

/// The node agent's port, where the Node does not say.
const KUBELET_PORT: u16 = 10250;

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
enum Destination {
    /// The node agent of this process.
    Agent,
    /// Over the network.
    Network(Target),
}

/// Sends a request on.
pub(crate) async fn serve(call: Call, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    if call.info.query.has("dryRun") {
        return Err(bad_request("dryRun is not supported"));
    }
    let destination = match call.resource.plural {
        "nodes" => of_node(&call)?,
        _ => of_pod(&call)?,
    };
    let upgrades = headers::is_upgrade(request.headers());
    let Some(tail) = call.info.tail.as_deref() else {
        return match *request.method() {
            Method::GET | Method::HEAD if !upgrades => Ok(to_root(request.uri())),
            _ => send(&call, destination, request, "/".to_owned()).await,
        };
    };
    let path = path_beyond(tail)?;
    send(&call, destination, request, path).await
}

/// Where the place itself is: pages there have links that count on its last slash.
fn to_root(uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = respond::answer(301, "text/plain; charset=utf-8", body::whole(""));
    response.headers_mut().remove(header::CONTENT_TYPE);
    if let Ok(place) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

async fn send(
    call: &Call,
    destination: Destination,
    mut request: Request<Body>,
    path: String,
) -> Result<Response<Body>, ApiError> {
    let place = request.uri().path();
    let tail = call.info.tail.as_deref().unwrap_or_default();
    let prefix = place.strip_suffix(tail).unwrap_or(place).to_owned();
    let host = headers::host(&request);
    let upgrades = headers::is_upgrade(request.headers());
    let whole = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let there = PathAndQuery::try_from(whole).map_err(|_| status::unknown_path())?;
    *request.uri_mut() = Uri::from(there);
    *request.version_mut() = http::Version::HTTP_11;
    headers::withhold_credentials(request.headers_mut());
    if !upgrades {
        headers::drop_hop_by_hop(request.headers_mut());
    }
    let (mut response, authority) = match destination {
        Destination::Agent => {
            // A browser's cookies are for this server, if for anybody.
            request.headers_mut().remove(header::COOKIE);
            let Some((_, node)) = &call.api.inner.node else { return Err(status::unknown_path()) };
            (node.proxy(request).await, String::new())
        }
        Destination::Network(target) => {
            headers::forwarded(request.headers_mut(), &host, &format!("{prefix}{}", request_path(tail)));
            let stopping = call.api.inner.stopping.clone();
            (dial::exchange(&target, request, upgrades, stopping).await?, target.authority())
        }
    };
    headers::answered(&mut response, &[&authority, &host], &prefix);
    Ok(response)
}

fn request_path(tail: &str) -> &str {
    if tail.is_empty() { "/" } else { tail }
}

/// What a name in a path may say of an object: scheme and port beside its name (`SplitSchemeNamePort`).
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(text: &'a str, what: &str) -> Result<Self, ApiError> {
        let mut parts = text.split(':');
        let parts = (parts.next().unwrap_or_default(), parts.next(), parts.next(), parts.next());
        let (scheme, name, port) = match parts {
            (name, port, None, _) => ("", name, port.unwrap_or_default()),
            (scheme, Some(name), Some(port), None) => (scheme, name, port),
            _ => ("?", "", ""),
        };
        if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
            return Err(bad_request(format!("invalid {what} request {text:?}")));
        }
        Ok(Self { https: scheme == "https", name, port })
    }

    /// The target at this address; the scheme's own port where none is named.
    fn at(&self, address: IpAddr) -> Result<Target, ApiError> {
        let port = match self.port {
            "" if self.https => 443,
            "" => 80,
            port => port.parse().map_err(|_| {
                dial::unreachable(format!("lookup {}: {:?} is no port", self.name, self.port))
            })?,
        };
        Ok(Target { https: self.https, address: SocketAddr::new(address, port) })
    }
}

/// An object as it is stored.
fn stored(call: &Call, name: &str) -> Result<Value, ApiError> {
    let snapshot = call.api.store().snapshot().map_err(lookup::failed)?;
    let record = lookup::record(&snapshot, call.resource, call.namespace(), name)?
        .ok_or_else(|| status::not_found(call.resource, name))?;
    encode::decode(&record.bytes)
}

fn of_node(call: &Call) -> Result<Destination, ApiError> {
    let named = Named::parse(&call.info.name, "node")?;
    let node = stored(call, named.name)?;
    let kubelet = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let kubelet = kubelet.as_u64().filter(|port| *port > 0).unwrap_or(KUBELET_PORT.into());
    if named.port.is_empty() || named.port == kubelet.to_string() {
        return match &call.api.inner.node {
            Some((own, _)) if own == named.name => Ok(Destination::Agent),
            _ => Err(status::internal(format!(
                "error dialing backend: node {} is not this machine, and this API does not reach it",
                named.name
            ))),
        };
    }
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let mut internal = addresses.filter(|address| address["type"] == "InternalIP");
    let address = internal.find_map(|address| address["address"].as_str());
    Ok(Destination::Network(named.at(allowed(address)?)?))
}

fn of_pod(call: &Call) -> Result<Destination, ApiError> {
    let mut named = Named::parse(&call.info.name, "pod")?;
    let pod = stored(call, named.name)?;
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.map(|container| &container["ports"][0]["containerPort"]);
    let first = ports.find_map(Value::as_u64).map(|port| port.to_string());
    if named.port.is_empty() {
        named.port = first.as_deref().unwrap_or_default();
    }
    Ok(Destination::Network(named.at(allowed(pod["status"]["podIP"].as_str())?)?))
}

/// An address that may be a pod's or a node's and not this API's own machine inside (`IsGlobalUnicast`).
fn allowed(address: Option<&str>) -> Result<IpAddr, ApiError> {
    let address = address.and_then(|address| address.parse::<IpAddr>().ok());
    // An IPv4 address in the clothes of IPv6 is what it is.
    let global = |address: &IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) => {
            let special = v4.is_unspecified() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast();
            !special && !v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            let special = v6.is_unspecified() || v6.is_loopback() || v6.is_multicast();
            !special && !v6.is_unicast_link_local()
        }
    };
    address.filter(global).ok_or_else(|| bad_request("address not allowed"))
}
