//! `/stats/summary` and the pages of metrics: documents made of one reading of the node, and of what the agent counts.

use http::{HeaderMap, Method, Request, Response, StatusCode};
use rubelet_core::stats::{cadvisor, resource, summary};

use super::form::Form;
use super::{Api, answers};
use crate::body::Body;
use crate::node::Extent;

impl Api {
    /// Answers `/stats/summary`.
    pub(super) async fn summary(&self, request: Request<Body>) -> Response<Body> {
        let only_cpu_and_memory = match Form::read(request).await {
            Ok(form) => form.all("only_cpu_and_memory") == ["true"],
            Err(why) => {
                let why = format!("Internal Error: parse form failed: {why}");
                return answers::text(StatusCode::INTERNAL_SERVER_ERROR, why);
            }
        };
        let extent = if only_cpu_and_memory { Extent::CpuAndMemory } else { Extent::Summary };
        let usage = self.node.usage(extent).await;
        answers::json(summary::summary(&usage, only_cpu_and_memory))
    }

    /// Answers `/metrics/resource`.
    pub(super) async fn resource(&self, headers: &HeaderMap) -> Response<Body> {
        let usage = self.node.usage(Extent::CpuAndMemory).await;
        let started = Some(self.settings.started);
        answers::long_metrics(headers, started, move |page| resource::write(&usage, page)).await
    }

    /// Answers `/metrics/cadvisor`.
    pub(super) async fn cadvisor(&self, headers: &HeaderMap) -> Response<Body> {
        let usage = self.node.usage(Extent::Everything).await;
        let started = Some(self.settings.started);
        answers::long_metrics(headers, started, move |page| cadvisor::write(&usage, page)).await
    }

    /// Answers `/metrics`.
    pub(super) async fn kubelet_metrics(&self, headers: &HeaderMap) -> Response<Body> {
        let usage = self.node.usage(Extent::Storage).await;
        answers::metrics(headers, None, self.metrics.render_kubelet(Some(&usage)))
    }

    /// Answers `/metrics/probes`.
    pub(super) fn probes(&self, headers: &HeaderMap) -> Response<Body> {
        answers::metrics(headers, Some(self.settings.started), self.metrics.render_probes())
    }

    /// Answers `/metrics/slis`; with DELETE everything is counted anew.
    pub(super) fn slis(&self, method: &Method, headers: &HeaderMap) -> Response<Body> {
        if *method == Method::DELETE {
            self.metrics.reset_slis();
            return answers::text(StatusCode::OK, "metrics reset\n");
        }
        self.metrics.observe_checks(&self.node.checks(), "healthz");
        answers::metrics(headers, Some(self.settings.started), self.metrics.render_slis())
    }
}
