//! How controllers read and write: through the same door as every other client.
//!
//! Typed by resource only; objects are JSON values. Errors are the API's own.

use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use rubelet_apimachinery::status::ApiError;
use rubelet_apimachinery::{Resource, User};
use serde_json::Value;

use crate::engine::Api;
use crate::node::Body;

/// A client of the server in this process.
#[derive(Clone)]
pub(crate) struct Client {
    api: Api,
    user: User,
}

/// What a write came to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no such object, or no longer.
    NotFound,
    /// It was changed by somebody else, or is there already: to be looked at again.
    Conflict,
    /// Anything else, in the server's words.
    Other(String),
}

impl Client {
    /// A client of `api` as the controller `name`.
    pub(crate) fn new(api: Api, name: &str) -> Self {
        Self { api, user: User::controller(name) }
    }

    /// The server.
    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    /// One object.
    pub(crate) async fn get(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Failure> {
        match self.send(Method::GET, &resource.path(namespace, name, ""), None).await {
            Ok(object) => Ok(Some(object)),
            Err(Failure::NotFound) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// All objects of a resource, of one namespace or (when it is empty) of all.
    pub(crate) async fn list(
        &self,
        resource: &'static Resource,
        namespace: &str,
    ) -> Result<Vec<Value>, Failure> {
        let mut list = self.send(Method::GET, &resource.path(namespace, "", ""), None).await?;
        let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let (api_version, kind) = (resource.api_version(), resource.kind);
        Ok(items
            .into_iter()
            .map(|mut item| {
                item["apiVersion"] = api_version.as_str().into();
                item["kind"] = kind.into();
                item
            })
            .collect())
    }

    /// How many objects of a resource there are in a namespace.
    pub(crate) async fn count(&self, resource: &'static Resource, namespace: &str) -> Result<u64, Failure> {
        let path = format!("{}?limit=1", resource.path(namespace, "", ""));
        let list = self.send(Method::GET, &path, None).await?;
        let first = list["items"].as_array().map_or(0, |items| items.len() as u64);
        Ok(first + list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0))
    }

    /// Makes an object.
    pub(crate) async fn create(
        &self,
        resource: &'static Resource,
        namespace: &str,
        object: &Value,
    ) -> Result<Value, Failure> {
        self.send(Method::POST, &resource.path(namespace, "", ""), Some(object)).await
    }

    /// Posts to a subresource.
    pub(crate) async fn post(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, Failure> {
        self.send(Method::POST, &resource.path(namespace, name, subresource), Some(object)).await
    }

    /// Replaces an object, or what a subresource covers of it.
    pub(crate) async fn replace(
        &self,
        resource: &'static Resource,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, Failure> {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        self.send(Method::PUT, &resource.path(text("namespace"), text("name"), subresource), Some(object))
            .await
    }

    /// Deletes an object, if it still is the one meant.
    pub(crate) async fn delete(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        options: &Value,
    ) -> Result<(), Failure> {
        self.send(Method::DELETE, &resource.path(namespace, name, ""), Some(options)).await.map(|_| ())
    }

    /// Deletes all objects of a resource in a namespace.
    pub(crate) async fn delete_all(
        &self,
        resource: &'static Resource,
        namespace: &str,
    ) -> Result<(), Failure> {
        self.send(Method::DELETE, &resource.path(namespace, "", ""), None).await.map(|_| ())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "rubelet-controllers")
            .body(whole(text))
            .map_err(|e| Failure::Other(e.to_string()))?;
        let response = self.api.handle(self.user.clone(), request).await;
        let status = response.status();
        let bytes =
            response.into_body().collect().await.map_err(|e| Failure::Other(e.to_string()))?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let message = answer["message"].as_str().unwrap_or_default();
        Err(match status.as_u16() {
            404 => Failure::NotFound,
            409 => Failure::Conflict,
            _ => Failure::Other(message.to_owned()),
        })
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("it is gone"),
            Self::Conflict => f.write_str("it was changed by somebody else"),
            Self::Other(message) => f.write_str(message),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error.code {
            404 => Self::NotFound,
            409 => Self::Conflict,
            _ => Self::Other(error.message),
        }
    }
}

fn whole(text: String) -> Body {
    http_body_util::Full::new(bytes::Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}
