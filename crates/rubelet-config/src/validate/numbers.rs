//! Rules about numbers and durations: ranges, orders and gates.

use crate::duration::GoDuration;
use crate::gate_table::Gate;
use crate::validate::Checks;

pub(super) fn check(checks: &mut Checks<'_>) {
    counts(checks);
    images(checks);
    cpu_quota(checks);
    shutdown(checks);
    back_off(checks);
    memory_qos(checks);
    user_namespaces(checks);
}

fn counts(checks: &mut Checks<'_>) {
    let c = checks.config;
    checks.at_least("nodeLeaseDurationSeconds", c.node_lease_duration_seconds.into(), 1);
    checks.at_least("eventBurst", c.event_burst.into(), 0);
    checks.at_least("eventRecordQPS", c.event_record_qps.into(), 0);
    checks.range("healthzPort", c.healthz_port.into(), 0, 65535);
    checks.range("iptablesDropBit", c.iptables_drop_bit.into(), 0, 31);
    checks.range("iptablesMasqueradeBit", c.iptables_masquerade_bit.into(), 0, 31);
    checks.at_least("kubeAPIBurst", c.kube_api_burst.into(), 0);
    checks.at_least("kubeAPIQPS", c.kube_api_qps.into(), 0);
    checks.at_least("nodeStatusMaxImages", c.node_status_max_images.into(), -1);
    checks.at_least("maxOpenFiles", c.max_open_files, 0);
    checks.at_least("maxPods", c.max_pods.into(), 0);
    checks.range("oomScoreAdj", c.oom_score_adj.into(), -1000, 1000);
    checks.at_least("podsPerCore", c.pods_per_core.into(), 0);
    checks.range("port", c.port.into(), 1, 65535);
    checks.range("readOnlyPort", c.read_only_port.into(), 0, 65535);
    if c.enable_server && c.read_only_port != 0 && c.read_only_port == c.port {
        checks.refuse("readOnlyPort", c.read_only_port, "is the port of the secure server (port), too");
    }
    checks.at_least("registryBurst", c.registry_burst.into(), 0);
    checks.at_least("registryPullQPS", c.registry_pull_qps.into(), 0);
    checks.at_least("containerLogMaxWorkers", c.container_log_max_workers.into(), 1);
    checks.at_least("containerLogMaxFiles", c.container_log_max_files.into(), 2);
    if c.container_log_monitor_interval < GoDuration::from_secs(3) {
        let value = c.container_log_monitor_interval;
        checks.refuse("containerLogMonitorInterval", value, "must be 3s or more");
    }
    if c.run_once {
        checks.refuse("runOnce", true, "this mode has been removed; it must not be set");
    }
}

fn images(checks: &mut Checks<'_>) {
    let c = checks.config;
    let (low, high) = (c.image_gc_low_threshold_percent, c.image_gc_high_threshold_percent);
    checks.range("imageGCHighThresholdPercent", high.into(), 0, 100);
    checks.range("imageGCLowThresholdPercent", low.into(), 0, 100);
    if low >= high {
        let message = format!("must be less than imageGCHighThresholdPercent, which is {high}");
        checks.refuse("imageGCLowThresholdPercent", low, message);
    }
    let (least, most) = (c.image_minimum_gc_age, c.image_maximum_gc_age);
    if least < GoDuration::ZERO {
        checks.refuse("imageMinimumGCAge", least, "must not be negative");
    }
    if most < GoDuration::ZERO {
        checks.refuse("imageMaximumGCAge", most, "must not be negative");
    }
    if most > GoDuration::ZERO && most <= least {
        let message = format!("must be greater than imageMinimumGCAge, which is {least}");
        checks.refuse("imageMaximumGCAge", most, message);
    }
    if let Some(parallel) = c.max_parallel_image_pulls {
        checks.at_least("maxParallelImagePulls", parallel.into(), 1);
        if c.serialize_image_pulls && parallel > 1 {
            let message = "cannot be larger than 1 unless serializeImagePulls is false";
            checks.refuse("maxParallelImagePulls", parallel, message);
        }
    }
}

fn cpu_quota(checks: &mut Checks<'_>) {
    let period = checks.config.cpu_cfs_quota_period;
    if checks.enabled(Gate::CustomCPUCFSQuotaPeriod) {
        if period < GoDuration::from_millis(1) || period > GoDuration::from_secs(1) {
            checks.refuse("cpuCFSQuotaPeriod", period, "must be between 1ms and 1s");
        }
    } else if period != GoDuration::from_millis(100) {
        checks.needs_gate("cpuCFSQuotaPeriod", period, Gate::CustomCPUCFSQuotaPeriod);
    }
}

fn shutdown(checks: &mut Checks<'_>) {
    let c = checks.config;
    let (all, critical) = (c.shutdown_grace_period, c.shutdown_grace_period_critical_pods);
    let fields = [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)];
    if checks.enabled(Gate::GracefulNodeShutdown) {
        if critical > all {
            let message = format!("must not be more than shutdownGracePeriod, which is {all}");
            checks.refuse("shutdownGracePeriodCriticalPods", critical, message);
        }
        for (field, value) in fields {
            if value != GoDuration::ZERO && value < GoDuration::from_secs(1) {
                checks.refuse(field, value, "must be zero, or 1s or more");
            }
        }
    } else {
        for (field, value) in fields {
            if value > GoDuration::ZERO {
                checks.needs_gate(field, value, Gate::GracefulNodeShutdown);
            }
        }
    }
    let entries = c.shutdown_grace_period_by_pod_priority.len();
    if entries == 0 {
        return;
    }
    let field = "shutdownGracePeriodByPodPriority";
    let value = format!("{entries} entries");
    if !checks.enabled(Gate::GracefulNodeShutdownBasedOnPodPriority) {
        checks.needs_gate(field, value, Gate::GracefulNodeShutdownBasedOnPodPriority);
    } else if all > GoDuration::ZERO || critical > GoDuration::ZERO {
        checks.refuse(field, value, "cannot be used together with shutdownGracePeriod");
    }
}

fn back_off(checks: &mut Checks<'_>) {
    let field = "crashLoopBackOff.maxContainerRestartPeriod";
    let most = checks.config.crash_loop_back_off.max_container_restart_period;
    match (checks.enabled(Gate::KubeletCrashLoopBackOffMax), most) {
        (true, None) => checks.refuse(field, "", "must be set"),
        (true, Some(period)) => {
            if period < GoDuration::from_secs(1) || period > GoDuration::from_secs(300) {
                checks.refuse(field, period, "must be between 1s and 300s");
            }
        }
        (false, Some(period)) => {
            checks.needs_gate(field, period, Gate::KubeletCrashLoopBackOffMax);
        }
        (false, None) => {}
    }
}

fn memory_qos(checks: &mut Checks<'_>) {
    match checks.config.memory_throttling_factor {
        Some(factor) if !(factor > 0.0 && factor <= 1.0) => {
            checks.refuse("memoryThrottlingFactor", factor, "must be above 0 and at most 1");
        }
        None if checks.enabled(Gate::MemoryQoS) => {
            let message = "must be set when the feature gate MemoryQoS is on";
            checks.refuse("memoryThrottlingFactor", "", message);
        }
        _ => {}
    }
}

fn user_namespaces(checks: &mut Checks<'_>) {
    let Some(ids) = checks.config.user_namespaces.as_ref().and_then(|u| u.ids_per_pod) else {
        return;
    };
    let field = "userNamespaces.idsPerPod";
    if ids < 65536 || ids % 65536 != 0 {
        checks.refuse(field, ids, "must be a multiple of 65536");
    } else if ids > i64::from(u32::MAX) {
        checks.refuse(field, ids, format!("must not be more than {}", u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ShutdownGracePeriodByPodPriority, UserNamespaces};
    use crate::validate::test_support::check;

    #[test]
    fn ranges() {
        check(
            |c| {
                c.node_lease_duration_seconds = 0;
                c.event_burst = -1;
                c.healthz_port = 65536;
                c.iptables_drop_bit = 32;
                c.node_status_max_images = -2;
                c.oom_score_adj = -1001;
                c.port = 65536;
                c.container_log_max_files = 1;
                c.container_log_monitor_interval = GoDuration::from_secs(2);
                c.run_once = true;
            },
            &[
                "nodeLeaseDurationSeconds: 0: must be 1 or more",
                "eventBurst: -1: must be 0 or more",
                "healthzPort: 65536: must be between 0 and 65535",
                "iptablesDropBit: 32: must be between 0 and 31",
                "nodeStatusMaxImages: -2: must be -1 or more",
                "oomScoreAdj: -1001: must be between -1000 and 1000",
                "port: 65536: must be between 1 and 65535",
                "containerLogMaxFiles: 1: must be 2 or more",
                "containerLogMonitorInterval: \"2s\": must be 3s or more",
                "runOnce: true: this mode has been removed; it must not be set",
            ],
        );
        check(|c| c.healthz_port = 0, &[]);
    }

    #[test]
    fn image_rules() {
        check(
            |c| c.image_gc_low_threshold_percent = 85,
            &["imageGCLowThresholdPercent: 85: must be less than imageGCHighThresholdPercent, which is 85"],
        );
        check(
            |c| c.image_maximum_gc_age = GoDuration::from_secs(60),
            &["imageMaximumGCAge: \"1m0s\": must be greater than imageMinimumGCAge, which is 2m0s"],
        );
        check(|c| c.max_parallel_image_pulls = Some(0), &["maxParallelImagePulls: 0: must be 1 or more"]);
        check(
            |c| c.max_parallel_image_pulls = Some(4),
            &["maxParallelImagePulls: 4: cannot be larger than 1 unless serializeImagePulls is false"],
        );
    }

    #[test]
    fn periods() {
        check(
            |c| c.cpu_cfs_quota_period = GoDuration::from_secs(2),
            &["cpuCFSQuotaPeriod: \"2s\": must be between 1ms and 1s"],
        );
        check(
            |c| {
                c.feature_gates.insert("CustomCPUCFSQuotaPeriod".into(), false);
                c.cpu_cfs_quota_period = GoDuration::from_millis(50);
            },
            &["cpuCFSQuotaPeriod: \"50ms\": needs the feature gate CustomCPUCFSQuotaPeriod, which is off"],
        );
        check(
            |c| {
                let period = Some(GoDuration::from_secs(301));
                c.crash_loop_back_off.max_container_restart_period = period;
            },
            &["crashLoopBackOff.maxContainerRestartPeriod: \"5m1s\": must be between 1s and 300s"],
        );
    }

    #[test]
    fn shutdown_rules() {
        check(
            |c| c.shutdown_grace_period_critical_pods = GoDuration::from_secs(5),
            &[
                "shutdownGracePeriodCriticalPods: \"5s\": must not be more than shutdownGracePeriod, which is 0s",
            ],
        );
        check(
            |c| c.shutdown_grace_period = GoDuration::from_millis(500),
            &["shutdownGracePeriod: \"500ms\": must be zero, or 1s or more"],
        );
        check(
            |c| {
                c.shutdown_grace_period = GoDuration::from_secs(30);
                c.shutdown_grace_period_by_pod_priority = vec![ShutdownGracePeriodByPodPriority::default()];
            },
            &[
                "shutdownGracePeriodByPodPriority: \"1 entries\": cannot be used together with shutdownGracePeriod",
            ],
        );
    }

    #[test]
    fn memory_and_namespaces() {
        check(
            |c| c.memory_throttling_factor = Some(0.0),
            &["memoryThrottlingFactor: 0: must be above 0 and at most 1"],
        );
        check(
            |c| c.user_namespaces = Some(UserNamespaces { ids_per_pod: Some(65537) }),
            &["userNamespaces.idsPerPod: 65537: must be a multiple of 65536"],
        );
        check(
            |c| c.user_namespaces = Some(UserNamespaces { ids_per_pod: Some(1 << 32) }),
            &["userNamespaces.idsPerPod: 4294967296: must not be more than 4294967295"],
        );
    }
}
