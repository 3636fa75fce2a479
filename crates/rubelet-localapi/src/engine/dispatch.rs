//! The way of one request: what it is for, whether its user may, which verb carries it out.

use http::{HeaderMap, Method, Request, Response};
use rubelet_apimachinery::User;
use rubelet_apimachinery::kinds::{self, Resource, Served, Subresource};
use rubelet_apimachinery::status::{self, ApiError};

use super::hooks::Decision;
use super::lookup::Shown;
use super::media::{self, Accepted};
use super::request::{RequestInfo, quoted};
use super::{Api, delete, metrics, patch, paths, pods, proxy, read, respond, reviews, watch, write};
use crate::node::Body;

/// A request about a resource that is served, from a user who may.
pub(crate) struct Call {
    pub(crate) api: Api,
    pub(crate) user: User,
    pub(crate) info: RequestInfo,
    pub(crate) headers: HeaderMap,
    pub(crate) resource: &'static Resource,
    pub(crate) subresource: Option<&'static Subresource>,
    pub(crate) accepted: Accepted,
}

impl Call {
    /// The namespace objects are kept under; empty for kinds that have none.
    pub(crate) fn namespace(&self) -> &str {
        if self.resource.namespaced { &self.info.namespace } else { "" }
    }
}

/// Answers a request.
pub(crate) async fn answer(api: &Api, user: User, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let accepted = media::negotiate(&parts.headers, &Default::default(), true).unwrap_or_default();
    let errors = Accepted { form: Default::default(), pretty: accepted.pretty, ..accepted };
    let info = match RequestInfo::parse(&parts.method, &parts.uri) {
        Ok(info) => info,
        Err(error) => return respond::error(&error, errors),
    };
    let errors = match info.query.text("pretty") {
        Some(_) => media::negotiate(&parts.headers, &info.query, true)
            .map(|accepted| Accepted { form: Default::default(), ..accepted })
            .unwrap_or(errors),
        None => errors,
    };
    let outcome = async {
        authorize(api, &user, &info)?;
        if !info.is_resource {
            return paths::answer(api, &info, &parts.method, &parts.headers);
        }
        let request = Request::from_parts(parts, body);
        route(api, user, info, request).await
    };
    match outcome.await {
        Ok(response) => response,
        Err(error) => respond::error(&error, errors),
    }
}

fn authorize(api: &Api, user: &User, info: &RequestInfo) -> Result<(), ApiError> {
    let attributes = info.attributes();
    let decision = api.inner.authorize.allowed(user, &attributes, &Shown(api.store()));
    let Decision::Deny(why) = decision else { return Ok(()) };
    let verb = quoted(&attributes.verb);
    let who = quoted(&user.name);
    let mut message = if info.is_resource {
        let resource = match info.subresource.as_str() {
            "" => attributes.resource.clone(),
            subresource => format!("{}/{subresource}", attributes.resource),
        };
        let place = match attributes.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", quoted(namespace)),
        };
        format!(
            "User {who} cannot {} resource {} in API group {} {place}",
            attributes.verb,
            quoted(&resource),
            quoted(&attributes.group)
        )
    } else {
        format!("User {who} cannot {} path {}", verb.trim_matches('"'), quoted(&info.path))
    };
    if !why.is_empty() {
        message = format!("{message}: {why}");
    }
    if let Some(resource) = kinds::find(&info.group, &info.version, &info.resource) {
        return Err(status::forbidden(resource, &info.name, &message));
    }
    let mut error = ApiError::new(403, "Forbidden", format!("forbidden: {message}"));
    error.details = serde_json::json!({});
    Err(error)
}

async fn route(
    api: &Api,
    user: User,
    info: RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let resource =
        kinds::find(&info.group, &info.version, &info.resource).ok_or_else(status::unknown_path)?;
    if !api.serves(resource) {
        return match info.verb {
            // Old kubectls look for a kind they do not know among these: there are none.
            "list" if resource.plural == "customresourcedefinitions" => Ok(no_definitions(resource)),
            _ => Err(status::needs_cluster(resource)),
        };
    }
    let subresource = match info.subresource.as_str() {
        "" => None,
        name => Some(resource.subresource(name).ok_or_else(status::unknown_path)?),
    };
    check_place(&info, resource)?;
    let proxied = info.subresource == "proxy";
    let allowed = match subresource {
        Some(_) if proxied => proxy::METHODS.contains(request.method()),
        Some(subresource) => subresource.verbs.contains(&info.verb),
        None => resource.verbs.contains(&info.verb),
    };
    let named = !info.name.is_empty();
    let fits = match info.verb {
        _ if proxied => named,
        "create" => named == subresource.is_some(),
        "update" | "patch" | "delete" => named,
        _ => true,
    };
    if !allowed || !fits {
        return Err(status::method_not_allowed(resource));
    }
    let streams = proxied || subresource.is_some_and(|s| pods::endpoint(s.name).is_some());
    let accepted =
        if streams { Accepted::default() } else { media::negotiate(request.headers(), &info.query, true)? };
    let headers = request.headers().clone();
    let call = Call { api: api.clone(), user, info, headers, resource, subresource, accepted };
    if proxied {
        return proxy::serve(call, request).await;
    }
    if streams {
        return pods::stream(call, request).await;
    }
    let body = request.into_body();
    if resource.served == Served::Answered {
        return reviews::create(call, body).await;
    }
    if resource.served == Served::Measured {
        return metrics::read(call).await;
    }
    match (call.info.verb, call.info.subresource.as_str()) {
        ("get", _) => read::get(&call),
        ("list", _) => read::list(call).await,
        ("watch", _) => watch::open(call),
        ("create", "") => write::create(call, body).await,
        ("create", "binding" | "eviction") => pods::create(call, body).await,
        ("create", "token") => reviews::token(call, body).await,
        ("update", _) => write::update(call, body).await,
        ("patch", _) => patch::patch(call, body).await,
        ("delete", "") => delete::delete(call, body).await,
        ("deletecollection", "") => delete::collection(call, body).await,
        _ => Err(status::method_not_allowed(resource)),
    }
}

/// The empty list of a kind of which there is nothing.
fn no_definitions(resource: &Resource) -> Response<Body> {
    let list = serde_json::json!({
        "apiVersion": resource.api_version(), "kind": format!("{}List", resource.kind),
        "metadata": {"resourceVersion": ""}, "items": [],
    });
    respond::value(200, &list, Accepted::default())
}

/// Whether such a path exists: kinds with namespaces are named within one, others outside.
fn check_place(info: &RequestInfo, resource: &Resource) -> Result<(), ApiError> {
    let in_namespace = !info.namespace.is_empty() && info.resource != "namespaces";
    // A namespace is within itself only: who may read one of them asks for no other by its path.
    let elsewhere =
        info.resource == "namespaces" && !info.namespace.is_empty() && info.namespace != info.name;
    if info.deeper || elsewhere || in_namespace && !resource.namespaced {
        return Err(status::unknown_path());
    }
    if resource.namespaced && !in_namespace {
        return match info.verb {
            "list" | "watch" => Ok(()),
            "create" | "deletecollection" if info.name.is_empty() => {
                Err(status::method_not_allowed(resource))
            }
            _ => Err(status::unknown_path()),
        };
    }
    Ok(())
}

/// What a method may be, for paths that are no resources.
pub(crate) fn only_reads(method: &Method) -> Result<(), ApiError> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let message = "the server does not allow this method on the requested resource";
    Err(ApiError::new(405, "MethodNotAllowed", message))
}
