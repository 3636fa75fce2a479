//! The server as a service of the same process: a client library over it needs no socket.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use rubelet_apimachinery::User;

use super::Api;
use crate::node::Body;

/// A `tower::Service` that answers as the server answers one user.
#[derive(Clone)]
pub struct ClientService {
    api: Api,
    user: User,
}

impl ClientService {
    pub(super) fn new(api: Api, user: User) -> Self {
        Self { api, user }
    }
}

impl<B> tower::Service<Request<B>> for ClientService
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (api, user) = (self.api.clone(), self.user.clone());
        let request = request.map(|body| body.map_err(std::io::Error::other).boxed_unsync());
        async move { Ok(api.handle(user, request).await) }.boxed()
    }
}
