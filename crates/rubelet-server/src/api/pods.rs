//! Lists of pods: those that are wanted, and those that run.

use bytes::Bytes;
use http::Response;

use super::{Api, answers};
use crate::body::Body;
use crate::problem::Problem;

impl Api {
    /// Answers `/pods`.
    pub(super) fn pods(&self) -> Response<Body> {
        list(self.node.pods())
    }

    /// Answers `/runningpods/`.
    pub(super) async fn running_pods(&self) -> Response<Body> {
        list(self.node.running_pods().await)
    }
}

fn list(pods: Result<Bytes, Problem>) -> Response<Body> {
    match pods {
        Ok(pods) => answers::json(pods),
        Err(problem) => answers::problem(&problem),
    }
}
