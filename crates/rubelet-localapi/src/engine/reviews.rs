//! Kinds that are answered and never stored: reviews of tokens and rights, bindings; and tokens of service accounts.

use http::Response;
use rubelet_apimachinery::User;
use rubelet_apimachinery::kinds::{self, Resource};
use rubelet_apimachinery::status::{self, ApiError, Cause, bad_request};
use rubelet_apimachinery::strategy::Lookup;
use rubelet_apimachinery::user;
use serde_json::{Value, json};

use super::dispatch::Call;
use super::hooks::{Attributes, Decision, TokenWish};
use super::lookup::Shown;
use super::options::WriteOptions;
use super::write::Write;
use super::{Operation, pods, respond, write};
use crate::node::Body;

/// How long a token is good for when nobody says (`SetDefaults_TokenRequestSpec`).
const TOKEN_SECONDS: i64 = 3600;

/// POST of a kind that is answered at once.
pub(crate) async fn create(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    if call.resource.plural == "bindings" {
        return pods::create_binding(call, body).await;
    }
    let options = WriteOptions::read(&call.info.query, "CreateOptions", false)?;
    let kind = (&*call.resource.api_version(), call.resource.kind);
    let (mut review, warnings) = write::decoded(&call, body, kind, options.validation).await?;
    let shown = Shown(call.api.store());
    let review_status = match call.resource.plural {
        "tokenreviews" => call.api.inner.reviews.token_review(&shown, &review["spec"])?,
        "selfsubjectreviews" => json!({"userInfo": user::info(&call.user)}),
        "selfsubjectrulesreviews" => {
            let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
            let (resources, paths) = call.api.inner.authorize.rules(&call.user, namespace);
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
        }
        plural => access(&call, &shown, plural, &review)?,
    };
    review["status"] = review_status;
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    if call.resource.plural == "selfsubjectreviews" {
        review["metadata"]["creationTimestamp"] = json!(seconds(call.api.now()));
    }
    let query = &call.info.query;
    let mut response = respond::object(201, call.resource, review, call.accepted, query, call.api.now())?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn seconds(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// The answer to one of the access reviews.
fn access(call: &Call, shown: &Shown<'_>, plural: &str, review: &Value) -> Result<Value, ApiError> {
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut causes = Vec::new();
    let mut add = |field: &str, reason, message: &str| {
        causes.push(Cause { field: field.to_owned(), reason, message: message.to_owned() });
    };
    if resource.is_null() == path.is_null() {
        let message = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        if resource.is_null() {
            let field = "spec.resourceAttributes";
            add(field, "FieldValueInvalid", &format!("Invalid value: null: {message}"));
        } else {
            let message = "cannot be specified in combination with resourceAttributes";
            let text = format!("Invalid value: {path}: {message}");
            add("spec.nonResourceAttributes", "FieldValueInvalid", &text);
        }
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let own = plural.starts_with("self");
    let user = if own {
        call.user.clone()
    } else {
        let list = |value: &Value| {
            value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let user = User {
            name: text(&spec["user"]),
            uid: text(&spec["uid"]),
            groups: list(&spec["groups"]),
            extra: spec["extra"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, values)| (key.clone(), list(values)))
                .collect(),
        };
        if user.name.is_empty() && user.groups.is_empty() {
            let message = "Invalid value: \"\": at least one of user or group must be specified";
            add("spec.user", "FieldValueInvalid", message);
        }
        user
    };
    if plural == "localsubjectaccessreviews" {
        if resource.is_null() {
            let message = "Invalid value: null: must be specified";
            add("spec.resourceAttributes", "FieldValueInvalid", message);
        }
        let namespace = text(&resource["namespace"]);
        if namespace != call.info.namespace {
            let message = format!(
                "Invalid value: {namespace:?}: must match metadata.namespace ({})",
                call.info.namespace
            );
            add("spec.resourceAttributes.namespace", "FieldValueInvalid", &message);
        }
    }
    if !causes.is_empty() {
        return Err(status::invalid(call.resource, "", &causes));
    }
    let attributes = if path.is_null() {
        Attributes {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            ..Attributes::default()
        }
    } else {
        Attributes { verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() }
    };
    Ok(match call.api.inner.authorize.allowed(&user, &attributes, shown) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(why) if why.is_empty() => json!({"allowed": false}),
        Decision::Deny(why) => json!({"allowed": false, "reason": why}),
    })
}

fn named(plural: &str) -> Result<&'static Resource, ApiError> {
    kinds::find("", "v1", plural).ok_or_else(|| status::internal(format!("{plural} are not known")))
}

/// POST to `serviceaccounts/{name}/token`.
pub(crate) async fn token(call: Call, body: Body) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "CreateOptions", false)?;
    let kind = ("authentication.k8s.io/v1", "TokenRequest");
    let (mut request, warnings) = write::decoded(&call, body, kind, options.validation).await?;
    let name = call.info.name.clone();
    let namespace = call.namespace().to_owned();
    let request_kind = Resource { group: "authentication.k8s.io", kind: "TokenRequest", ..*call.resource };
    for (field, what, expected) in [("name", "name", &name), ("namespace", "namespace", &namespace)] {
        let given = request["metadata"][field].as_str().unwrap_or_default();
        if !given.is_empty() && given != expected {
            let message =
                format!("Invalid value: {given:?}: must match the service account {what} if specified");
            let field = format!("metadata.{field}");
            let cause = Cause { field, reason: "FieldValueInvalid", message };
            return Err(status::invalid(&request_kind, &name, &[cause]));
        }
    }
    let shown = Shown(call.api.store());
    let write = Write::of(&call, options);
    write.decide_by(&shown, |change| write.admit(change, Operation::Create(&mut request)))?;
    let account =
        shown.get(call.resource, &namespace, &name).ok_or_else(|| status::not_found(call.resource, &name))?;
    let uid = account["metadata"]["uid"].as_str().unwrap_or_default();
    let given = request["metadata"]["uid"].as_str().unwrap_or_default();
    if !given.is_empty() && given != uid {
        let why = format!(
            "the UID in the token request ({given}) does not match the UID of the service account ({uid})"
        );
        let named = Resource { plural: "TokenRequest", group: "authentication.k8s.io", ..*call.resource };
        return Err(status::conflict(&named, &name, &why));
    }
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = json!(TOKEN_SECONDS);
    }
    let bound = bound_object(&shown, &request["spec"]["boundObjectRef"], &namespace, &name)?;
    let node = match bound.as_ref().map(|pod| &pod["spec"]["nodeName"]).and_then(Value::as_str) {
        Some(node) if !node.is_empty() => shown.get(named("nodes")?, "", node),
        _ => None,
    };
    request["metadata"] = json!({"name": name, "namespace": namespace, "uid": uid,
        "creationTimestamp": seconds(call.api.now())});
    let wish = TokenWish { request: &request, account: &account, bound: bound.as_ref(), node: node.as_ref() };
    let issued = call.api.inner.reviews.issue_token(&wish)?;
    request["status"] = issued;
    let query = &call.info.query;
    let mut response = respond::object(201, call.resource, request, call.accepted, query, call.api.now())?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// The object that a token is to be bound to.
fn bound_object(
    shown: &Shown<'_>,
    reference: &Value,
    namespace: &str,
    account: &str,
) -> Result<Option<Value>, ApiError> {
    if !reference.is_object() {
        return Ok(None);
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (api_version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
    let (resource, namespace) = match (api_version, kind) {
        ("" | "v1", "Pod") => (named("pods")?, namespace),
        ("" | "v1", "Secret") => (named("secrets")?, namespace),
        ("" | "v1", "Node") => (named("nodes")?, ""),
        _ => {
            let what = format!("{api_version}, Kind={kind}");
            return Err(bad_request(format!("cannot bind token to object of type {what}")));
        }
    };
    let object = shown.get(resource, namespace, name).ok_or_else(|| status::not_found(resource, name))?;
    if kind == "Pod" && object["spec"]["serviceAccountName"] != account {
        return Err(bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        )));
    }
    let uid = text("uid");
    if !uid.is_empty() && object["metadata"]["uid"] != uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        let named = Resource { plural: kind_name(kind), ..*resource };
        return Err(status::conflict(&named, name, &why));
    }
    Ok(Some(object))
}

fn kind_name(kind: &str) -> &'static str {
    match kind {
        "Pod" => "Pod",
        "Secret" => "Secret",
        _ => "Node",
    }
}
