//! Turns what the API client and the volumes tell into counts.

use std::sync::Arc;

use rubelet_apiclient::connection::{Observed, Observer};
use rubelet_csi::client::CallObserver;
use rubelet_csi::error::code_name;
use rubelet_volumes::VolumeObserver;

use super::Metrics;

/// Counts requests to the API server (`rest_client_*`).
pub(crate) fn requests(metrics: &Metrics) -> Observer {
    let metrics = metrics.clone();
    Observer::new(move |observed| {
        let api = &metrics.api;
        match *observed {
            Observed::Answered { method, host, code, took, bytes } => {
                let method = method.as_str();
                let number = code.map(|code| code.to_string());
                api.requests.with([number.as_deref().unwrap_or("<error>"), method, host]).inc();
                api.request_duration.with([method, host]).observe_duration(took);
                if bytes > 0 {
                    api.request_size.with([method, host]).observe(bytes as f64);
                }
            }
            Observed::Paced { method, host, waits } => {
                api.rate_limiter_duration.with([method.as_str(), host]).observe_duration(waits);
            }
            Observed::Retried { method, host, code } => {
                api.retries.with([&code.to_string(), method.as_str(), host]).inc();
            }
        }
    })
}

/// Counts operations on volumes (`storage_operation_duration_seconds`).
pub(crate) fn volumes(metrics: &Metrics) -> VolumeObserver {
    let metrics = metrics.clone();
    Arc::new(move |operation| {
        let status = if operation.done { "success" } else { "fail-unknown" };
        let labels = [operation.plugin, operation.operation, status, "false"];
        metrics.node.storage_operation.with(labels).observe_duration(operation.took);
    })
}

/// Counts calls of CSI drivers (`csi_operations_seconds`).
pub(crate) fn csi_calls(metrics: &Metrics) -> CallObserver {
    let metrics = metrics.clone();
    Arc::new(move |call| {
        let labels = [call.driver, call.method, code_name(call.code), "false"];
        metrics.node.csi_operation.with(labels).observe_duration(call.took);
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rubelet_volumes::VolumeOperation;

    use super::*;

    #[test]
    fn operations_on_volumes_are_counted_by_kind_and_result() {
        let metrics = Metrics::new();
        let observer = volumes(&metrics);
        for done in [true, false, false] {
            observer(&VolumeOperation {
                plugin: "kubernetes.io/secret",
                operation: "volume_mount",
                done,
                took: Duration::from_secs(2),
            });
        }
        let of = |status| {
            let labels = ["kubernetes.io/secret", "volume_mount", status, "false"];
            let histogram = metrics.node.storage_operation.with(labels);
            (histogram.count(), histogram.sum())
        };
        assert_eq!(of("success"), (1, 2.0));
        assert_eq!(of("fail-unknown"), (2, 4.0));
    }
}
