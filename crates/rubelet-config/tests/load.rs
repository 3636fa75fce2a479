//! The whole way from arguments and files to a configuration, through the public interface only.

#![expect(clippy::panic, reason = "a helper that finds the wrong outcome has to fail the test")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rubelet_config::{
    Files, Gate, GoDuration, KubeletConfiguration, Loaded, Outcome, load_from, not_acted_on,
};

/// Files in memory; the working directory is `/work`.
struct Disk(BTreeMap<PathBuf, Vec<u8>>);

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        self.0.get(path).cloned().ok_or_else(missing)
    }
    fn walk(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.keys().filter(|path| path.starts_with(directory)).cloned().collect())
    }
    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(Path::new("/work").join(path))
    }
}

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

/// Files whose names start with `+` get the usual two first lines.
fn run(line: &str, files: &[(&str, &str)]) -> Result<Outcome, String> {
    let disk = files.iter().map(|(name, body)| match name.strip_prefix('+') {
        Some(name) => (PathBuf::from(name), format!("{HEAD}{body}").into_bytes()),
        None => (PathBuf::from(name), body.as_bytes().to_vec()),
    });
    let args = line.split_whitespace().map(OsString::from);
    load_from(args, &Disk(disk.collect())).map_err(|errors| errors.to_string())
}

#[track_caller]
fn loaded(line: &str, files: &[(&str, &str)]) -> Loaded {
    match run(line, files) {
        Ok(Outcome::Run(loaded)) => *loaded,
        other => panic!("expected a configuration, got {other:?}"),
    }
}

#[track_caller]
fn check_error(line: &str, files: &[(&str, &str)], expected: &str) {
    match run(line, files) {
        Err(actual) => assert_eq!(actual, expected),
        Ok(outcome) => panic!("expected an error, got {outcome:?}"),
    }
}

#[track_caller]
fn check_warnings(line: &str, files: &[(&str, &str)], expected: &[&str]) -> Loaded {
    let loaded = loaded(line, files);
    assert_eq!(loaded.warnings, expected);
    loaded
}

// Defaults

#[test]
fn without_a_file_the_old_defaults_hold() {
    let config = loaded("", &[]).config;
    assert!(config.authentication.anonymous.enabled);
    assert!(!config.authentication.webhook.enabled);
    assert_eq!(config.authorization.mode, "AlwaysAllow");
    assert_eq!(config.read_only_port, 10255);
    assert!(config.eviction_hard.is_empty());
    assert_eq!(config.sync_frequency, GoDuration::from_secs(60));
}

#[test]
fn with_an_almost_empty_file_the_secure_defaults_hold() {
    let config = loaded("--config=k.yaml", &[("+k.yaml", "")]).config;
    let mut expected = KubeletConfiguration::default();
    for (signal, amount) in [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ] {
        expected.eviction_hard.insert(signal.into(), amount.into());
    }
    assert_eq!(config, expected);
    assert_eq!(config.read_only_port, 0);
    assert!(!config.authentication.anonymous.enabled);
}

#[test]
fn dependent_defaults_follow() {
    let config = |body| loaded("--config=k.yaml", &[("+k.yaml", body)]).config;
    assert!(config("maxParallelImagePulls: 1").serialize_image_pulls);
    assert!(!config("maxParallelImagePulls: 4").serialize_image_pulls);
    let period = |body| config(body).node_status_report_frequency;
    assert_eq!(period("nodeStatusUpdateFrequency: 20s"), GoDuration::from_secs(20));
    assert_eq!(period("nodeStatusUpdateFrequency: 0s"), GoDuration::from_mins(5));
    let off = config("featureGates: {KubeletCrashLoopBackOffMax: false}");
    assert_eq!(off.crash_loop_back_off.max_container_restart_period, None);
    assert_eq!(config("podPidsLimit: -7").pod_pids_limit, -1);
    let hard = config("evictionHard: {memory.available: 1Gi}").eviction_hard;
    assert_eq!(hard.len(), 1);
    let merged = config("evictionHard: {memory.available: 1Gi}\nmergeDefaultEvictionSettings: true");
    assert_eq!(merged.eviction_hard.len(), 5);
    assert_eq!(merged.eviction_hard["memory.available"], "1Gi");
    assert!(config("evictionHard: {}").eviction_hard.is_empty());
}

#[test]
fn null_and_zero_mean_what_they_mean_in_go() {
    let config = |body| loaded("--config=k.yaml", &[("+k.yaml", body)]).config;
    assert_eq!(config("address: ~\nport: null\nfailSwapOn: ~\nauthentication:").port, 10250);
    assert_eq!(config("port: 0\neventBurst: 0").event_burst, 100);
    assert_eq!(config("eventRecordQPS: 0\nhealthzPort: 0").healthz_port, 0);
    assert_eq!(config("resolvConf: \"\"").resolv_conf, "");
    assert_eq!(config("enforceNodeAllocatable: []").enforce_node_allocatable.len(), 0);
    assert_eq!(config("clusterDNS: [~, 10.0.0.10]").cluster_dns, ["", "10.0.0.10"]);
    assert_eq!(config("kubeReserved: {cpu: ~, pid: \"5\"}").kube_reserved.len(), 1);
    assert_eq!(config("maxOpenFiles: 010").max_open_files, 8);
    assert_eq!(
        config("logging: {flushFrequency: 1000000000}").logging.flush_frequency.duration,
        GoDuration::from_secs(1)
    );
}

// Precedence

#[test]
fn flags_win_over_drop_ins_over_the_file() {
    let files = [
        ("+k.yaml", "port: 1\nreadOnlyPort: 1\nhealthzPort: 1\nclusterDNS: [10.0.0.1, 10.0.0.2]"),
        ("+/d/10.conf", "readOnlyPort: 2\nhealthzPort: 2\nclusterDNS: [10.0.0.3]"),
        ("+/d/20/x.conf", "healthzPort: 3"),
        ("/d/README", "not read"),
    ];
    let result = loaded("--config k.yaml --config-dir /d --max_pods=7", &files);
    assert_eq!(result.config.port, 1);
    assert_eq!(result.config.read_only_port, 2);
    assert_eq!(result.config.healthz_port, 3);
    assert_eq!(result.config.max_pods, 7);
    assert_eq!(result.config.cluster_dns, ["10.0.0.3"]);
    assert_eq!(result.files, [Path::new("k.yaml"), Path::new("/d/10.conf"), Path::new("/d/20/x.conf")]);
    assert_eq!(result.skipped_files, [Path::new("/d/README")]);
    let result = loaded("--config k.yaml --config-dir /d --healthz-port=4", &files);
    assert_eq!(result.config.healthz_port, 4);
}

#[test]
fn drop_ins_merge_maps_and_null_removes() {
    let files = [
        (
            "+k.yaml",
            "evictionHard: {memory.available: 1Gi, nodefs.available: 5%}\nport: 1\nkubeReserved: {cpu: 1m}\ntracing: {endpoint: a, samplingRatePerMillion: 5}",
        ),
        (
            "+/d/a.conf",
            "evictionHard: {memory.available: 2Gi, nodefs.available: ~}\nport: ~\nkubeReserved: ~\ntracing: {endpoint: b}",
        ),
    ];
    let config = loaded("--config=k.yaml --config-dir=/d", &files).config;
    assert_eq!(config.eviction_hard, BTreeMap::from([("memory.available".into(), "2Gi".into())]));
    assert_eq!(config.port, 10250);
    assert!(config.kube_reserved.is_empty());
    let tracing = config.tracing.expect("set");
    assert_eq!((tracing.endpoint.as_deref(), tracing.sampling_rate_per_million), (Some("b"), Some(5)));
}

#[test]
fn drop_ins_alone_sit_on_the_old_defaults() {
    let config = loaded("--config-dir=/d --event-qps=0", &[("+/d/a.conf", "readOnlyPort: 0")]).config;
    assert!(config.authentication.anonymous.enabled);
    assert!(config.eviction_hard.is_empty());
    // An explicit zero in a file is the default of the field, not the legacy default.
    assert_eq!(config.read_only_port, 0);
    assert_eq!(config.event_record_qps, 0);
}

#[test]
fn feature_gates_merge_by_name_and_other_maps_are_replaced() {
    let files = [(
        "+k.yaml",
        "featureGates: {MemoryQoS: true, PodsAPI: true}\nevictionHard: {memory.available: 1Gi}",
    )];
    let result = loaded(
        "--config=k.yaml --feature-gates=PodsAPI=false,EventedPLEG=true --eviction-hard=nodefs.available<5%",
        &files,
    );
    assert!(result.gates.enabled(Gate::MemoryQoS));
    assert!(!result.gates.enabled(Gate::PodsAPI));
    assert!(result.gates.enabled(Gate::EventedPLEG));
    assert_eq!(result.config.eviction_hard, BTreeMap::from([("nodefs.available".into(), "5%".into())]));
}

#[test]
fn seccomp_default_is_the_or_of_flag_and_field() {
    let files = [("+k.yaml", "seccompDefault: true")];
    assert!(loaded("--config=k.yaml --seccomp-default=false", &files).config.seccomp_default);
    assert!(loaded("--seccomp-default", &[]).config.seccomp_default);
}

#[test]
fn relative_paths_belong_to_the_file() {
    let files = [
        (
            "+etc/k.yaml",
            "staticPodPath: manifests\nresolvConf: ../r.conf\nauthentication: {x509: {clientCAFile: ./ca.crt}}",
        ),
        ("+/d/a.conf", "tlsCertFile: cert.pem\ntlsPrivateKeyFile: key.pem"),
    ];
    let config = loaded("--config=etc/k.yaml --config-dir=/d", &files).config;
    assert_eq!(config.static_pod_path, "/work/etc/manifests");
    assert_eq!(config.resolv_conf, "/work/r.conf");
    assert_eq!(config.authentication.x509.client_ca_file, "/work/etc/ca.crt");
    assert_eq!(config.tls_cert_file, "cert.pem");
}

#[test]
fn flags_that_are_no_fields() {
    let result = loaded(
        "--root-dir=/r --hostname-override n1 --node-labels=a=b --node-labels c=d --kubeconfig=/k -v4",
        &[],
    );
    assert_eq!(result.flags.root_dir, "/r");
    assert_eq!(result.flags.hostname_override, "n1");
    assert_eq!(result.flags.node_labels.len(), 2);
    assert_eq!(result.config.logging.verbosity, 4);
    assert_eq!(result.flags.cert_dir, "/var/lib/kubelet/pki");
}

// Leniency and warnings

#[test]
fn unknown_and_duplicate_fields_are_warnings_in_the_file() {
    let files = [("+k.yaml", "clusterDomian: a\nmaxPods: 1\nmaxPods: 2\nlogging:\n  options: {txt: {}}\n")];
    let result = check_warnings(
        "--config=k.yaml",
        &files,
        &[
            "k.yaml:3:1: clusterDomian: unknown field; did you mean \"clusterDomain\"?; it is ignored",
            "k.yaml:7:13: logging.options.txt: unknown field; did you mean \"text\"?; it is ignored",
            "k.yaml:5:1: maxPods: the key appears twice; the first is on line 4; the last one counts",
        ],
    );
    assert_eq!(result.config.max_pods, 2);
}

#[test]
fn unknown_fields_are_warnings_and_duplicates_errors_in_drop_ins() {
    check_warnings(
        "--config-dir=/d",
        &[("+/d/a.conf", "nonsense: 1")],
        &["/d/a.conf:3:1: nonsense: unknown field; it is ignored"],
    );
    check_error(
        "--config-dir=/d",
        &[("+/d/a.conf", "port: 1\nport: 2")],
        "invalid configuration: /d/a.conf:4:1: port: the key appears twice; the first is on line 3",
    );
}

#[test]
fn the_file_people_copy_from_articles_works() {
    let result = check_warnings(
        "--config=k.yaml",
        &[(
            "k.yaml",
            "apiVersion: v1\nkind: KubeletConfiguration\nclusterDomain: cluster.local\naddress: 192.168.0.1\n",
        )],
        &[
            "k.yaml:1:13: apiVersion: \"v1\": the right apiVersion is kubelet.config.k8s.io/v1beta1; read as that",
        ],
    );
    assert_eq!(result.config.cluster_domain, "cluster.local");
    assert_eq!(result.config.address, "192.168.0.1");
}

#[test]
fn deprecated_flags_and_old_gates_are_named_once() {
    check_warnings(
        "--cluster-dns=10.0.0.1,x --max-pods=1 --feature-gates=SidecarContainers=true --node-ip=10.0.0.1,y",
        &[],
        &[
            "flag --cluster-dns: clusterDNS[1]: \"x\": not an IP address; it is ignored",
            "flag --node-ip: \"y\": not an IP address; it is ignored",
            "these feature gates will be removed in a later release, stop setting them: SidecarContainers",
            "these flags are deprecated, set them in the --config file instead where a field is named: --cluster-dns (field clusterDNS), --max-pods (field maxPods), --feature-gates (field featureGates)",
        ],
    );
}

#[test]
fn what_is_not_acted_on_is_listed_with_its_place() {
    let result = loaded(
        "--config=k.yaml --volume-plugin-dir=/v --lock-file=/k --kubeconfig=/c --containerd=x --pod-max-pids=1",
        &[(
            "+k.yaml",
            "clusterDomain: a\nmemorySwap:\n  swapBehavior: NoSwap\nmakeIPTablesUtilChains: true\npodPidsLimit: 0\n",
        )],
    );
    assert_eq!(
        not_acted_on(&result),
        ["makeIPTablesUtilChains (k.yaml:6:25)", "volumePluginDir (flag --volume-plugin-dir)", "--lock-file",]
    );
    assert!(not_acted_on(&loaded("", &[])).is_empty());
}

// Errors

#[test]
fn every_problem_of_every_source_is_reported_at_once() {
    check_error(
        "--config=k.yaml --config-dir=/d --prot=1 --max-pods=many --cloud-provider=aws",
        &[
            ("+k.yaml", "port: 70000\nsyncFrequency: 10\nclusterDNS: 10.0.0.10\nauthentication:\n  anonymous:\n    enabled: \"yes\"\nimageGCHighThresholdPercent: 70\nevictionHard:\n  memory.available: 1\n"),
            ("+/d/a.conf", "fileCheckFrequency: 5 minutes\nregisterWithTaints:\n- {key: a, effect: [x]}\n"),
        ],
        "invalid configuration, 11 problems:
  flag --prot: unknown flag; did you mean --port?
  flag --max-pods: maxPods: \"many\": expected a whole number
  k.yaml:4:16: syncFrequency: expected a duration such as \"30s\" or \"1h30m\", got the number 10
  k.yaml:5:13: clusterDNS: expected a list, got the text \"10.0.0.10\"
  k.yaml:8:14: authentication.anonymous.enabled: expected true or false, got the text \"yes\"
  k.yaml:11:21: evictionHard[memory.available]: expected text (write \"1\" in quotes), got the number 1
  /d/a.conf:3:21: fileCheckFrequency: \"5 minutes\": not a duration: unknown unit \" minutes\"; units are ns, us, ms, s, m, h
  /d/a.conf:5:20: registerWithTaints[0].effect: expected text, got a list
  k.yaml:3:7: port: 70000: must be between 1 and 65535
  default: imageGCLowThresholdPercent: 80: must be less than imageGCHighThresholdPercent, which is 70
  flag --cloud-provider: \"aws\": must be empty or external; in-tree cloud providers have been removed",
    );
}

#[test]
fn validation_names_the_source_that_won() {
    check_error(
        "--config=k.yaml --config-dir=/d",
        &[("+k.yaml", "port: 5"), ("+/d/a.conf", "port: -1")],
        "invalid configuration: /d/a.conf:3:7: port: -1: must be between 1 and 65535",
    );
    check_error(
        "--config=k.yaml --port=70000",
        &[("+k.yaml", "port: -1")],
        "invalid configuration: flag --port: port: 70000: must be between 1 and 65535",
    );
    check_error(
        "--config=k.yaml --feature-gates=Nope=true",
        &[("+k.yaml", "featureGates:\n  MemoryQoS: true\n  Nay: true")],
        "invalid configuration, 2 problems:
  k.yaml:5:8: featureGates[Nay]: true: unrecognized feature gate: Nay
  flag --feature-gates: featureGates[Nope]: true: unrecognized feature gate: Nope",
    );
}

#[test]
fn files_that_are_no_configuration() {
    check_error("--config=k.yaml", &[], "invalid configuration: k.yaml: cannot be read: no such file");
    check_error("--config=k.yaml", &[("k.yaml", "")], "invalid configuration: k.yaml:1:1: the file is empty");
    check_error(
        "--config=k.yaml",
        &[("k.yaml", "# nothing\n")],
        "invalid configuration: k.yaml:1:1: the file is empty",
    );
    check_error(
        "--config=k.yaml",
        &[("k.yaml", "- a\n")],
        "invalid configuration: k.yaml:1:1: expected a mapping of fields, got a list",
    );
    check_error(
        "--config=k.yaml",
        &[("k.yaml", "port: 1\n")],
        "invalid configuration, 2 problems:
  k.yaml:1:1: kind: missing; write kind: KubeletConfiguration
  k.yaml:1:1: apiVersion: missing; write apiVersion: kubelet.config.k8s.io/v1beta1",
    );
    check_error(
        "--config=k.yaml",
        &[("k.yaml", "apiVersion: kubelet.config.k8s.io/v1\nkind: Pod\n")],
        "invalid configuration, 2 problems:
  k.yaml:2:7: kind: \"Pod\": must be KubeletConfiguration
  k.yaml:1:13: apiVersion: \"kubelet.config.k8s.io/v1\": must be kubelet.config.k8s.io/v1beta1",
    );
    check_error(
        "--config=k.yaml",
        &[("+k.yaml", "port: [1\n")],
        "invalid configuration: k.yaml:3:7: not valid YAML or JSON: unclosed bracket '['",
    );
}

#[test]
fn bytes_that_are_no_text_are_placed() {
    let mut bytes = HEAD.as_bytes().to_vec();
    bytes.extend(b"port: \xff");
    let disk = Disk(BTreeMap::from([(PathBuf::from("k.yaml"), bytes)]));
    let errors = load_from(["--config=k.yaml".into()], &disk).expect_err("not text");
    assert_eq!(errors.to_string(), "invalid configuration: k.yaml:3:7: not valid UTF-8 text");
}

#[test]
fn secrets_are_not_repeated() {
    check_error(
        "--manifest-url-header=topsecret",
        &[],
        "invalid configuration: flag --manifest-url-header: staticPodURLHeader: \"<masked>\": expected name:value pairs",
    );
    let result = loaded("--manifest-url-header=Authorization:topsecret", &[]);
    assert_eq!(result.config.static_pod_url_header.0["Authorization"], ["topsecret"]);
    assert!(!format!("{result:?}").contains("topsecret"));
    let json = serde_json::to_string(&result.config).expect("serialises");
    assert!(!json.contains("topsecret"), "{json}");
}

// Short circuits and output

#[test]
fn help_and_version_print_and_nothing_else_happens() {
    let printed = |line| match run(line, &[]) {
        Ok(Outcome::Print(text)) => text,
        other => panic!("expected text, got {other:?}"),
    };
    assert_eq!(printed("--version"), "Kubernetes v1.36.2");
    assert!(printed("--version=raw").starts_with("rubelet "));
    assert!(printed("-h").contains("--container-runtime-endpoint string"));
    assert!(printed("--config=missing --help").contains("Usage:"));
    assert!(matches!(run("--version=false", &[]), Ok(Outcome::Run(_))));
}

#[test]
fn the_final_configuration_reads_back_from_its_own_json() {
    let first = loaded(
        "--config=k.yaml --max-pods=7",
        &[(
            "+k.yaml",
            "clusterDNS: [10.0.0.1]\nenforceNodeAllocatable: []\nreservedMemory:\n- {numaNode: 1, limits: {memory: 1Gi}}\nlogging: {vmodule: [{filePattern: a, verbosity: 3}]}\n",
        )],
    );
    let mut json = serde_json::to_value(&first.config).expect("serialises");
    json["apiVersion"] = "kubelet.config.k8s.io/v1beta1".into();
    json["kind"] = "KubeletConfiguration".into();
    let again = loaded("--config=k.json", &[("k.json", &json.to_string())]);
    assert_eq!(again.config, first.config);
    assert!(!again.warnings.iter().any(|warning| warning.contains("unknown")), "{:?}", again.warnings);
}

#[test]
fn what_installers_pass_today_works() {
    let kubeadm = "apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
  webhook:
    cacheAuthorizedTTL: 0s
    cacheUnauthorizedTTL: 0s
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: \"\"
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
kind: KubeletConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: \"0\"
    text:
      infoBufferSize: \"0\"
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
";
    let line = "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
                --config=/var/lib/kubelet/config.yaml --node-ip=10.0.0.5 --hostname-override=n1";
    let config = check_warnings(line, &[("/var/lib/kubelet/config.yaml", kubeadm)], &[]).config;
    assert_eq!(config.static_pod_path, "/etc/kubernetes/manifests");
    assert_eq!(config.logging.flush_frequency.duration, GoDuration::from_secs(5));
    let k3s = "--cloud-provider=external --config-dir=/d --kubeconfig=/k --read-only-port=0 --root-dir=/r \
               --cert-dir=/c --node-ip=10.0.0.1,fd00::1 --runtime-cgroups=/k3s \
               --node-labels=node.kubernetes.io/instance-type=k3s --feature-gates=KubeletInUserNamespace=true";
    let result = loaded(
        k3s,
        &[("+/d/00-k3s.conf", "serializeImagePulls: false\nallowedUnsafeSysctls: [net.ipv4.ip_forward]")],
    );
    assert!(!result.config.serialize_image_pulls);
    assert!(result.gates.enabled(Gate::KubeletInUserNamespace));
}

#[test]
fn the_defaults_read_back_from_their_own_json() {
    let mut json = serde_json::to_value(KubeletConfiguration::default()).expect("serialises");
    json["apiVersion"] = "kubelet.config.k8s.io/v1beta1".into();
    json["kind"] = "KubeletConfiguration".into();
    let pretty = serde_json::to_string_pretty(&json).expect("serialises").replace("  ", "\t");
    let config = loaded("--config=k.json", &[("k.json", &pretty)]).config;
    assert_eq!(config, KubeletConfiguration::default());
}

#[test]
fn json_is_placed_like_yaml() {
    check_error(
        "--config=k.json",
        &[(
            "k.json",
            "\u{feff}{\n\t\"kind\": \"KubeletConfiguration\",\n\t\"apiVersion\": \"kubelet.config.k8s.io\\/v1beta1\",\n\t\"port\": \"ten\"\n}",
        )],
        "invalid configuration: k.json:4:10: port: expected a whole number, got the text \"ten\"",
    );
}

proptest! {
    /// Whatever the file says, the result is a configuration or at least one problem with a place.
    #[test]
    fn no_field_value_makes_loading_panic(
        field in prop::sample::select(vec![
            "port", "syncFrequency", "evictionHard", "clusterDNS", "logging", "featureGates",
            "registerWithTaints", "reservedMemory", "tracing", "memoryThrottlingFactor", "resolvConf",
        ]),
        value in "[-\\[\\]{}:,~'\"a-c01. \n%]{0,24}",
    ) {
        let body = format!("{field}: {value}\n");
        match run("--config=k.yaml", &[("+k.yaml", &body)]) {
            Ok(Outcome::Run(loaded)) => prop_assert!(loaded.config.validate().is_empty()),
            Ok(Outcome::Print(text)) => prop_assert!(false, "printed {}", text),
            Err(text) => prop_assert!(text.contains("k.yaml:"), "{}", text),
        }
    }
}
