//! Rules about words and addresses: policies, modes, drivers, TLS, endpoints, taints, paths.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::configuration::KubeletConfiguration;
use crate::flags::parse_bool;
use crate::gate_table::Gate;
use crate::problem::Problem;
use crate::validate::Checks;
use crate::validate::names;

/// Suites of Go's crypto/tls that can be chosen, as `tlsCipherSuites` names them.
const CIPHER_SUITES: &[&str] = &[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// Key exchanges by IANA number: P-256, P-384, P-521, X25519 and the hybrids with ML-KEM.
const CURVES: &[i32] = &[23, 24, 25, 29, 4587, 4588, 4589];

pub(super) fn check(checks: &mut Checks<'_>) {
    words(checks);
    addresses(checks);
    tls(checks);
    cpu_manager(checks);
    topology_options(checks);
    image_credentials(checks);
    taints(checks);
    log_paths(checks);
    for (index, pattern) in checks.config.allowed_unsafe_sysctls.iter().enumerate() {
        if let Err(why) = names::sysctl_pattern(pattern) {
            checks.refuse(&format!("allowedUnsafeSysctls[{index}]"), pattern, why);
        }
    }
}

/// Fields whose value is one word of a few.
fn words(checks: &mut Checks<'_>) {
    let c = checks.config;
    checks.one_of("cgroupDriver", &c.cgroup_driver, &["cgroupfs", "systemd"]);
    checks.one_of("cpuManagerPolicy", &c.cpu_manager_policy, &["none", "static"]);
    checks.one_of("memoryManagerPolicy", &c.memory_manager_policy, &["None", "Static"]);
    checks.one_of(
        "topologyManagerPolicy",
        &c.topology_manager_policy,
        &["none", "best-effort", "restricted", "single-numa-node"],
    );
    checks.one_of("topologyManagerScope", &c.topology_manager_scope, &["container", "pod"]);
    checks.one_of("hairpinMode", &c.hairpin_mode, &["promiscuous-bridge", "hairpin-veth", "none"]);
    checks.one_of("authorization.mode", &c.authorization.mode, &["Webhook", "AlwaysAllow"]);
    checks.one_of(
        "configMapAndSecretChangeDetectionStrategy",
        &c.config_map_and_secret_change_detection_strategy,
        &["Get", "Cache", "Watch"],
    );
    checks.one_of("memorySwap.swapBehavior", &c.memory_swap.swap_behavior, &["", "NoSwap", "LimitedSwap"]);
    checks.one_of("memoryReservationPolicy", &c.memory_reservation_policy, &["None", "TieredReservation"]);
    if c.memory_reservation_policy == "TieredReservation" {
        checks.needs_gate("memoryReservationPolicy", "TieredReservation", Gate::MemoryQoS);
    }
    checks.one_of("showHiddenMetricsForVersion", &c.show_hidden_metrics_for_version, &["", "1.35"]);
    if c.server_tls_bootstrap {
        checks.needs_gate("serverTLSBootstrap", true, Gate::RotateKubeletServerCertificate);
    }
    if c.enable_system_log_query && !c.enable_system_log_handler {
        checks.refuse("enableSystemLogQuery", true, "needs enableSystemLogHandler");
    }
}

fn addresses(checks: &mut Checks<'_>) {
    let c = checks.config;
    for (field, value) in [("address", &c.address), ("healthzBindAddress", &c.healthz_bind_address)] {
        if value.parse::<IpAddr>().is_err() {
            checks.refuse(field, value, "must be an IP address, such as 0.0.0.0, 127.0.0.1 or ::");
        }
    }
    if c.container_runtime_endpoint.is_empty() {
        let message = "must name the runtime's socket, such as unix:///run/containerd/containerd.sock";
        checks.refuse("containerRuntimeEndpoint", "", message);
    } else {
        endpoint(checks, "containerRuntimeEndpoint", &c.container_runtime_endpoint);
    }
    if !c.image_service_endpoint.is_empty() {
        endpoint(checks, "imageServiceEndpoint", &c.image_service_endpoint);
    }
}

/// A unix socket as a URL, or as a bare absolute path as older command lines have it.
fn endpoint(checks: &mut Checks<'_>, field: &str, value: &str) {
    let path = value.strip_prefix("unix://").unwrap_or(value);
    if !path.starts_with('/') {
        checks.refuse(field, value, "must be a unix socket, such as unix:///run/crio/crio.sock");
    }
}

/// Upstream takes half a pair and serves nothing.
fn pair(checks: &mut Checks<'_>) {
    let c = checks.config;
    match (c.tls_cert_file.is_empty(), c.tls_private_key_file.is_empty()) {
        (true, false) => {
            checks.refuse("tlsPrivateKeyFile", &c.tls_private_key_file, "needs tlsCertFile beside it")
        }
        (false, true) => checks.refuse("tlsCertFile", &c.tls_cert_file, "needs tlsPrivateKeyFile beside it"),
        _ => {}
    }
}

fn tls(checks: &mut Checks<'_>) {
    pair(checks);
    let c = checks.config;
    for (index, suite) in c.tls_cipher_suites.iter().enumerate() {
        if !CIPHER_SUITES.contains(&suite.as_str()) {
            let hint = crate::suggest::hint(suite, CIPHER_SUITES.iter().copied());
            let message = format!("not a cipher suite that Go knows{hint}");
            checks.refuse(&format!("tlsCipherSuites[{index}]"), suite, message);
        }
    }
    for (index, curve) in c.tls_curve_preferences.iter().enumerate() {
        let field = format!("tlsCurvePreferences[{index}]");
        if !CURVES.contains(curve) {
            let message = "must be one of 23 (P-256), 24 (P-384), 25 (P-521), 29 (X25519), 4587, 4588, 4589 (with ML-KEM)";
            checks.refuse(&field, curve, message);
        } else if c.tls_curve_preferences[..index].contains(curve) {
            checks.refuse(&field, curve, "appears twice");
        }
    }
    checks.one_of(
        "tlsMinVersion",
        &c.tls_min_version,
        &["", "VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"],
    );
}

fn cpu_manager(checks: &mut Checks<'_>) {
    let c = checks.config;
    let options = &c.cpu_manager_policy_options;
    if c.cpu_manager_policy != "static" {
        for (name, value) in options {
            let field = format!("cpuManagerPolicyOptions[{name}]");
            checks.refuse(&field, value, "options need cpuManagerPolicy static");
        }
        return;
    }
    let known: [(&str, Option<Gate>); 6] = [
        ("full-pcpus-only", None),
        ("strict-cpu-reservation", None),
        ("prefer-align-cpus-by-uncorecache", None),
        ("distribute-cpus-across-numa", Some(Gate::CPUManagerPolicyBetaOptions)),
        ("align-by-socket", Some(Gate::CPUManagerPolicyAlphaOptions)),
        ("distribute-cpus-across-cores", Some(Gate::CPUManagerPolicyAlphaOptions)),
    ];
    for (name, value) in options {
        let field = format!("cpuManagerPolicyOptions[{name}]");
        match known.iter().find(|(option, _)| option == name) {
            None => {
                let hint = crate::suggest::hint(name, known.iter().map(|(option, _)| *option));
                checks.refuse(&field, value, format!("unknown CPU manager policy option{hint}"));
            }
            Some((_, Some(gate))) => checks.needs_gate(&field, value, *gate),
            Some((_, None)) => {}
        }
        if let Err(why) = parse_bool(value) {
            checks.refuse(&field, value, why);
        }
    }
    let on = |name: &str| options.get(name).is_some_and(|value| parse_bool(value) == Ok(true));
    for (one, other) in [
        ("full-pcpus-only", "distribute-cpus-across-cores"),
        ("distribute-cpus-across-numa", "distribute-cpus-across-cores"),
        ("prefer-align-cpus-by-uncorecache", "distribute-cpus-across-cores"),
        ("prefer-align-cpus-by-uncorecache", "distribute-cpus-across-numa"),
    ] {
        if on(one) && on(other) {
            let field = format!("cpuManagerPolicyOptions[{other}]");
            checks.refuse(&field, true, format!("cannot be used together with {one}"));
        }
    }
}

fn topology_options(checks: &mut Checks<'_>) {
    let options: &BTreeMap<String, String> = &checks.config.topology_manager_policy_options;
    for (name, value) in options {
        let field = format!("topologyManagerPolicyOptions[{name}]");
        match name.as_str() {
            "prefer-closest-numa-nodes" => {
                if let Err(why) = parse_bool(value) {
                    checks.refuse(&field, value, why);
                }
            }
            "max-allowable-numa-nodes" => {
                if value.parse::<u32>().map_or(true, |nodes| nodes < 8) {
                    checks.refuse(&field, value, "must be a whole number, 8 or more");
                }
            }
            _ => checks.refuse(
                &field,
                value,
                "unknown topology manager policy option; known are prefer-closest-numa-nodes and max-allowable-numa-nodes",
            ),
        }
    }
}

fn image_credentials(checks: &mut Checks<'_>) {
    let c = checks.config;
    let policy = &c.image_pull_credentials_verification_policy;
    let patterns = &c.preloaded_images_verification_allowlist;
    let (policy_field, list_field) =
        ("imagePullCredentialsVerificationPolicy", "preloadedImagesVerificationAllowlist");
    if !checks.enabled(Gate::KubeletEnsureSecretPulledImages) {
        if !policy.is_empty() {
            checks.needs_gate(policy_field, policy, Gate::KubeletEnsureSecretPulledImages);
        }
        if !patterns.is_empty() {
            checks.needs_gate(list_field, patterns.join(","), Gate::KubeletEnsureSecretPulledImages);
        }
        return;
    }
    let allowlisted = "NeverVerifyAllowlistedImages";
    checks.one_of(
        policy_field,
        policy,
        &["NeverVerify", "NeverVerifyPreloadedImages", allowlisted, "AlwaysVerify"],
    );
    if !patterns.is_empty() && policy != allowlisted {
        let message = format!("needs {policy_field} {allowlisted}");
        checks.refuse(list_field, patterns.join(","), message);
        return;
    }
    for (index, pattern) in patterns.iter().enumerate() {
        if let Err(why) = names::image_pattern(pattern) {
            checks.refuse(&format!("{list_field}[{index}]"), pattern, why);
        }
    }
}

fn taints(checks: &mut Checks<'_>) {
    for (index, taint) in checks.config.register_with_taints.iter().enumerate() {
        let field = |name: &str| format!("registerWithTaints[{index}].{name}");
        if let Err(why) = names::qualified_name(&taint.key) {
            checks.refuse(&field("key"), &taint.key, why);
        }
        if let Err(why) = names::label_value(&taint.value) {
            checks.refuse(&field("value"), &taint.value, why);
        }
        if !taint.effect.is_empty() {
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            checks.one_of(&field("effect"), &taint.effect, &effects);
        }
        if let Some(time) = &taint.time_added {
            checks.refuse(&field("timeAdded"), time, "must not be set");
        }
    }
}

/// The root of log directories shows up in metrics, so it has to be plain.
fn log_paths(checks: &mut Checks<'_>) {
    let path = &checks.config.pod_logs_dir;
    let clean =
        path == "/" || path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    if !path.starts_with('/') {
        checks.refuse("podLogsDir", path, "must be an absolute path");
    } else if !clean {
        checks.refuse("podLogsDir", path, "must be without //, /./, /../ and a slash at the end");
    } else if !path.is_ascii() {
        checks.refuse("podLogsDir", path, "must be ASCII");
    }
}

/// What upstream accepts, too, but is most likely a mistake.
pub(super) fn advice(config: &KubeletConfiguration) -> Vec<Problem> {
    let mut advice = Vec::new();
    for (index, server) in config.cluster_dns.iter().enumerate() {
        if server.parse::<IpAddr>().is_err() {
            let field = format!("clusterDNS[{index}]");
            advice.push(Problem::field(field, server, "not an IP address; it is ignored"));
        }
    }
    let url = &config.static_pod_url;
    if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
        advice.push(Problem::field("staticPodURL", url, "does not start with http:// or https://"));
    }
    let (own, reserved) = (&config.kubelet_cgroups, &config.kube_reserved_cgroup);
    if !own.is_empty() && !reserved.is_empty() && !own.starts_with(reserved.as_str()) {
        let message = format!("lies outside kubeReservedCgroup, which is {reserved:?}");
        advice.push(Problem::field("kubeletCgroups", own, message));
    }
    for (field, value) in [
        ("containerRuntimeEndpoint", &config.container_runtime_endpoint),
        ("imageServiceEndpoint", &config.image_service_endpoint),
    ] {
        if value.starts_with('/') {
            let message = format!("write it as a URL: unix://{value}");
            advice.push(Problem::field(field, value, message));
        }
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Taint;
    use crate::validate::test_support::check;

    #[test]
    fn words_are_checked_with_a_suggestion() {
        check(
            |c| c.topology_manager_policy = "best_effort".into(),
            &[
                "topologyManagerPolicy: \"best_effort\": must be one of \"none\", \"best-effort\", \"restricted\", \"single-numa-node\"; did you mean \"best-effort\"?",
            ],
        );
        check(
            |c| c.memory_swap.swap_behavior = "Unlimited".into(),
            &["memorySwap.swapBehavior: \"Unlimited\": must be one of \"\", \"NoSwap\", \"LimitedSwap\""],
        );
        check(
            |c| c.memory_reservation_policy = "TieredReservation".into(),
            &[
                "memoryReservationPolicy: \"TieredReservation\": needs the feature gate MemoryQoS, which is off",
            ],
        );
        check(|c| c.show_hidden_metrics_for_version = "1.35".into(), &[]);
        check(
            |c| c.show_hidden_metrics_for_version = "1.20".into(),
            &["showHiddenMetricsForVersion: 1.20: must be one of \"\", \"1.35\""],
        );
    }

    #[test]
    fn addresses_and_endpoints() {
        check(
            |c| c.address = "localhost".into(),
            &["address: \"localhost\": must be an IP address, such as 0.0.0.0, 127.0.0.1 or ::"],
        );
        check(
            |c| c.container_runtime_endpoint = "tcp://127.0.0.1:1".into(),
            &[
                "containerRuntimeEndpoint: \"tcp://127.0.0.1:1\": must be a unix socket, such as unix:///run/crio/crio.sock",
            ],
        );
        check(|c| c.container_runtime_endpoint = "/run/crio/crio.sock".into(), &[]);
    }

    #[test]
    fn cpu_options() {
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        check(
            |c| c.cpu_manager_policy_options.extend([option("full-pcpus-only", "true")]),
            &["cpuManagerPolicyOptions[full-pcpus-only]: true: options need cpuManagerPolicy static"],
        );
        check(
            |c| {
                c.cpu_manager_policy = "static".into();
                c.reserved_system_cpus = "0".into();
                c.cpu_manager_policy_options.extend([
                    option("align-by-socket", "true"),
                    option("full-pcpus-only", "maybe"),
                    option("nonsense", "true"),
                ]);
            },
            &[
                "cpuManagerPolicyOptions[align-by-socket]: true: needs the feature gate CPUManagerPolicyAlphaOptions, which is off",
                "cpuManagerPolicyOptions[full-pcpus-only]: \"maybe\": expected true or false",
                "cpuManagerPolicyOptions[nonsense]: true: unknown CPU manager policy option",
            ],
        );
        check(
            |c| {
                c.topology_manager_policy_options.extend([option("max-allowable-numa-nodes", "4")]);
            },
            &["topologyManagerPolicyOptions[max-allowable-numa-nodes]: 4: must be a whole number, 8 or more"],
        );
    }

    #[test]
    fn image_rules() {
        check(
            |c| c.preloaded_images_verification_allowlist = vec!["a".into()],
            &[
                "preloadedImagesVerificationAllowlist: \"a\": needs imagePullCredentialsVerificationPolicy NeverVerifyAllowlistedImages",
            ],
        );
        check(
            |c| {
                c.image_pull_credentials_verification_policy = "NeverVerifyAllowlistedImages".into();
                c.preloaded_images_verification_allowlist = vec!["a".into(), "b:1".into()];
            },
            &["preloadedImagesVerificationAllowlist[1]: \"b:1\": neither tag nor digest is allowed"],
        );
        check(
            |c| {
                c.feature_gates.insert("KubeletEnsureSecretPulledImages".into(), false);
            },
            &[
                "imagePullCredentialsVerificationPolicy: \"NeverVerifyPreloadedImages\": needs the feature gate KubeletEnsureSecretPulledImages, which is off",
            ],
        );
    }

    #[test]
    fn ports_and_pairs_that_do_not_go_together() {
        check(
            |c| c.read_only_port = c.port,
            &["readOnlyPort: 10250: is the port of the secure server (port), too"],
        );
        check(|c| c.tls_cert_file = "/c".into(), &["tlsCertFile: \"/c\": needs tlsPrivateKeyFile beside it"]);
        check(
            |c| c.tls_private_key_file = "/k".into(),
            &["tlsPrivateKeyFile: \"/k\": needs tlsCertFile beside it"],
        );
    }

    #[test]
    fn tls_taints_sysctls_and_paths() {
        check(
            |c| {
                c.tls_cipher_suites = vec!["TLS_AES_128_GCM_SHA265".into()];
                c.tls_curve_preferences = vec![29, 29, 7];
                c.register_with_taints = vec![Taint {
                    key: "a b".into(),
                    value: String::new(),
                    effect: "Never".into(),
                    time_added: Some("now".into()),
                }];
                c.pod_logs_dir = "/var/log/../pods".into();
                c.allowed_unsafe_sysctls = vec!["vm.swappiness".into()];
            },
            &[
                "tlsCipherSuites[0]: \"TLS_AES_128_GCM_SHA265\": not a cipher suite that Go knows; did you mean \"TLS_AES_128_GCM_SHA256\"?",
                "tlsCurvePreferences[1]: 29: appears twice",
                "tlsCurvePreferences[2]: 7: must be one of 23 (P-256), 24 (P-384), 25 (P-521), 29 (X25519), 4587, 4588, 4589 (with ML-KEM)",
                "registerWithTaints[0].key: \"a b\": the name must be 1 to 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit",
                "registerWithTaints[0].effect: \"Never\": must be one of \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "registerWithTaints[0].timeAdded: \"now\": must not be set",
                "podLogsDir: \"/var/log/../pods\": must be without //, /./, /../ and a slash at the end",
                "allowedUnsafeSysctls[0]: \"vm.swappiness\": this sysctl belongs to the whole node; only kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* are per pod",
            ],
        );
    }

    #[test]
    fn advice_is_not_refusal() {
        let config = KubeletConfiguration {
            cluster_dns: vec!["10.96.0.10".into(), "dns.local".into()],
            container_runtime_endpoint: "/run/crio/crio.sock".into(),
            ..KubeletConfiguration::default()
        };
        assert_eq!(config.validate(), []);
        let advice: Vec<String> = config.advice().iter().map(ToString::to_string).collect();
        assert_eq!(
            advice,
            [
                "configuration: clusterDNS[1]: \"dns.local\": not an IP address; it is ignored",
                "configuration: containerRuntimeEndpoint: \"/run/crio/crio.sock\": write it as a URL: unix:///run/crio/crio.sock",
            ]
        );
    }
}
