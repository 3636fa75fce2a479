//! What is asked of one pod or container: logs, streams, commands, checkpoints.
//!
//! Looks at what a request says, in upstream's order, and finds the pod; the node does the rest.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::form::Form;
use super::routing::Target;
use super::{Api, answers};
use crate::body::Body;
use crate::logs::{LogOptions, Wanted};
use crate::node::Way;
use crate::problem::Problem;
use crate::query::{self, Query};
use crate::streams::{CommandOptions, Dialect, is_translated, is_upgrade, port_forward_ports};

impl Api {
    /// Answers `/containerLogs`.
    pub(super) async fn container_logs(&self, target: Target, query: Option<&str>) -> Response<Body> {
        let query = query.unwrap_or_default().to_owned();
        match self.log_of(&target, &query) {
            Ok(pod) => answered(self.node.log(pod, target.container, query).await),
            Err(problem) => answers::problem(&problem),
        }
    }

    /// The pod whose log is meant, when the request makes sense.
    fn log_of(&self, target: &Target, query: &str) -> Result<Arc<Pod>, Problem> {
        let Target { namespace, pod: name, container, .. } = target;
        for (value, what) in [(name, "podID"), (container, "container name"), (namespace, "podNamespace")] {
            if value.is_empty() {
                return Err(Problem::bad_request(format!("{{\"message\": \"Missing {what}.\"}}")));
            }
        }
        let options = LogOptions::from_query(query).map_err(|error| error.node_problem())?;
        let Some(pod) = self.node.pod(namespace, name, None) else {
            return Err(Problem::not_found(format!("pod {name:?} does not exist")));
        };
        if !has_container(&pod, container) {
            return Err(Problem::not_found(format!("container {container:?} not found in pod {name:?}")));
        }
        let one = match options.wanted {
            Wanted::All => None,
            Wanted::Stdout => Some("Stdout"),
            Wanted::Stderr => Some("Stderr"),
        };
        match one.filter(|_| !self.settings.split_streams) {
            Some(stream) => Err(Problem::bad_request(format!(
                "unable to return the given log stream: {stream:?}. Please enable PodLogsQuerySplitStreams feature gate in kubelet"
            ))),
            None => Ok(pod),
        }
    }

    /// Answers `/exec`, `/attach` and `/portForward`.
    pub(super) async fn stream(&self, way: Way, target: Target, request: Request<Body>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default();
        let asked = match way {
            Way::Exec | Way::Attach => CommandOptions::from_query(query, Dialect::Node).map(drop),
            Way::PortForward => port_forward_ports(query, Dialect::Node, request.headers()).map(drop),
        };
        let pod = match asked.and_then(|()| self.pod_of(&target)) {
            Ok(pod) => pod,
            Err(problem) => return answers::problem(&problem),
        };
        if !is_upgrade(request.headers()) {
            // Upstream finds that out last, and blames itself for it.
            return answers::error(StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required");
        }
        if is_translated(request.headers(), way != Way::PortForward) {
            self.metrics.websocket_streaming(match way {
                Way::Exec => "exec",
                Way::Attach => "attach",
                Way::PortForward => "portforward",
            });
        }
        answered(self.node.stream(way, pod, target.container, request).await)
    }

    /// Answers `/run`.
    pub(super) async fn run(&self, target: Target, request: Request<Body>) -> Response<Body> {
        let pod = match self.pod_of(&target) {
            Ok(pod) => pod,
            Err(problem) => return answers::problem(&problem),
        };
        let command = match Form::read(request).await {
            Ok(form) => form.first("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect(),
            Err(why) => return answers::text(StatusCode::BAD_REQUEST, why),
        };
        match self.node.run(pod, target.container, command).await {
            // Whatever the command wrote, upstream calls it JSON.
            Ok(output) if !output.is_empty() => answers::json(output),
            Ok(_) => Response::new(crate::body::whole("")),
            Err(problem) => answers::problem(&problem),
        }
    }

    /// Answers `/checkpoint`.
    pub(super) async fn checkpoint(&self, target: Target, query: Option<&str>) -> Response<Body> {
        let Target { namespace, pod: name, container, .. } = &target;
        let asked = self.pod_of(&target).and_then(|pod| {
            if !has_container(&pod, container) {
                return Err(Problem::not_found(format!("container {container} does not exist")));
            }
            // The last one counts, and one that is no number is not found.
            let timeout = match Query::parse(query.unwrap_or_default()).all("timeout").last() {
                None => 0,
                Some(text) => query::integer(text)
                    .map_err(|_| Problem::not_found("cannot parse value of timeout parameter"))?,
            };
            let timeout = u64::try_from(timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
            Ok((pod, timeout))
        });
        let (pod, timeout) = match asked {
            Ok(asked) => asked,
            Err(problem) => return answers::problem(&problem),
        };
        match self.node.checkpoint(pod, container.clone(), timeout).await {
            Ok(path) => answers::json(json!({ "items": [path] }).to_string()),
            Err(problem) => {
                let why = format!("checkpointing of {namespace}/{name}/{container} failed ({problem})");
                answers::text(StatusCode::INTERNAL_SERVER_ERROR, why)
            }
        }
    }

    /// The pod that a path names. Upstream looks at the UID only where ports are forwarded; here a pod of the same name
    /// that came later is never taken for the one that was meant.
    fn pod_of(&self, target: &Target) -> Result<Arc<Pod>, Problem> {
        let Target { namespace, pod: name, uid, .. } = target;
        let uid = uid.as_deref().filter(|uid| !uid.is_empty());
        self.node.pod(namespace, name, uid).ok_or_else(|| {
            let other = uid.is_some() && self.node.pod(namespace, name, None).is_some();
            Problem::not_found(if other { "pod not found" } else { "pod does not exist" })
        })
    }
}

fn answered(answer: Result<Response<Body>, Problem>) -> Response<Body> {
    answer.unwrap_or_else(|problem| answers::problem(&problem))
}

/// Whether the pod's spec has a container of this name, of whatever kind.
fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    plain.map(|c| &c.name).chain(ephemeral.map(|c| &c.name)).any(|known| known == name)
}
