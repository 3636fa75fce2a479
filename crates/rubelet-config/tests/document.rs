//! What a configuration tells of itself: the document of `/configz` and the values of flags.

#![expect(clippy::panic, reason = "a helper that finds the wrong outcome has to fail the test")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rubelet_config::{Files, Loaded, Outcome, flags_in_force, load_from};
use serde_json::json;

/// One file, named `k`.
struct OneFile(Vec<u8>);

impl Files for OneFile {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.clone())
    }
    fn walk(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec![])
    }
    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(Path::new("/work").join(path))
    }
}

#[track_caller]
fn load(flags: &[&str], file: &str) -> Loaded {
    let args = flags.iter().chain(&["--config=k"]).map(OsString::from);
    match load_from(args, &OneFile(file.as_bytes().to_vec())) {
        Ok(Outcome::Run(loaded)) => *loaded,
        other => panic!("expected a configuration, got {other:?}"),
    }
}

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

/// Lines of a file, each a value that is not the default; every kind of field is among them.
const LINES: &[&str] = &[
    "enableServer: false",
    "staticPodPath: manifests",
    "podLogsDir: /logs",
    "syncFrequency: 1m30.5s",
    "staticPodURL: http://localhost/",
    "port: 10350",
    "tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]",
    "tlsCurvePreferences: [29, 4588]",
    "tlsMinVersion: VersionTLS13",
    "authentication: {x509: {clientCAFile: ca.crt}, webhook: {enabled: false, cacheTTL: 1s}, anonymous: {enabled: true}}",
    "authorization: {mode: AlwaysAllow, webhook: {cacheUnauthorizedTTL: 5s}}",
    "registryPullQPS: 0",
    "healthzPort: 0",
    "oomScoreAdj: 0",
    "clusterDNS: ['10.0.0.10', 'fd00::10']",
    "nodeStatusUpdateFrequency: 20s",
    "imageGCHighThresholdPercent: 90",
    "cgroupRoot: /pods",
    "singleProcessOOMKill: false",
    "cpuManagerPolicyOptions: {}",
    "podPidsLimit: 0",
    "resolvConf: ''",
    "maxParallelImagePulls: 4",
    "evictionHard: {memory.available: 1Gi}\nmergeDefaultEvictionSettings: true",
    "evictionSoft: {nodefs.available: 20%}\nevictionSoftGracePeriod: {nodefs.available: 1m}",
    "featureGates: {KubeletCrashLoopBackOffMax: false}",
    "failSwapOn: false\nmemorySwap: {swapBehavior: LimitedSwap}",
    "containerLogMaxSize: 1Mi",
    "systemReserved: {cpu: 100m, memory: 1Gi}",
    "enforceNodeAllocatable: []",
    "logging: {verbosity: 3, vmodule: [{filePattern: 'a*', verbosity: 7}], flushFrequency: 7000000000}",
    "shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s",
    "memoryThrottlingFactor: 0.7",
    "registerWithTaints: [{key: a, value: b, effect: NoSchedule}, {key: c, effect: NoExecute}]",
    "tracing: {samplingRatePerMillion: 7}",
    "userNamespaces: {idsPerPod: 131072}",
];

proptest! {
    #[test]
    fn the_document_loads_as_the_same_configuration(
        chosen in prop::sample::subsequence(LINES, 0..=LINES.len()),
        max_pods in 1..200,
    ) {
        let file = format!("{HEAD}{}\n", chosen.join("\n"));
        let first = load(&[&format!("--max-pods={max_pods}")], &file).config;
        let document = first.to_document().to_string();
        let again = load(&[], &document);
        prop_assert_eq!(&again.config, &first);
        prop_assert!(!again.warnings.iter().any(|warning| warning.contains("unknown")), "{:?}", again.warnings);
        // A document is stable: what is told of it is what was told before.
        prop_assert_eq!(again.config.to_document().to_string(), document);
    }
}

#[test]
fn secrets_are_told_nowhere() {
    let loaded = load(
        &["--manifest-url-header=Authorization:Bearer hunter2"],
        &format!("{HEAD}staticPodURL: http://localhost/\n"),
    );
    let document = loaded.config.to_document();
    assert_eq!(document["staticPodURLHeader"], json!({"Authorization": ["<masked>"]}));
    assert_eq!(document["kind"], "KubeletConfiguration");
    let flags: BTreeMap<String, String> = flags_in_force(&loaded.config, &loaded.flags).into_iter().collect();
    assert_eq!(flags["manifest-url-header"], "CLASSIFIED");
    assert!(!format!("{document}{flags:?}").contains("hunter2"));
}

#[test]
fn flags_tell_what_is_in_force() {
    let file = format!(
        "{HEAD}evictionHard: {{memory.available: 1Gi, nodefs.available: 10%}}\nclusterDNS: [10.0.0.10, 10.0.0.11]\n\
         registerWithTaints: [{{key: a, value: b, effect: NoSchedule}}]\nreservedMemory: [{{numaNode: 1, limits: {{memory: 1948Mi}}}}]\n\
         memoryManagerPolicy: Static\nfeatureGates: {{MemoryQoS: true, AllAlpha: false}}\nmaxPods: 30\n\
         kubeReserved: {{memory: 924Mi}}\n"
    );
    let given = ["--v=4", "--node-labels=a=b,c", "--root-dir=/r", "--sync-frequency=90s", "--max-pods=31"];
    let loaded = load(&given, &file);
    let told = flags_in_force(&loaded.config, &loaded.flags);
    assert!(told.is_sorted());
    let flags: BTreeMap<&str, &str> =
        told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for (name, value) in [
        ("config", "k"),
        ("v", "4"),
        ("node-labels", "a=b,c="),
        ("root-dir", "/r"),
        ("sync-frequency", "1m30s"),
        ("max-pods", "31"),
        ("fail-swap-on", "true"),
        ("eviction-hard", "memory.available<1Gi,nodefs.available<10%"),
        ("cluster-dns", "[10.0.0.10,10.0.0.11]"),
        ("register-with-taints", "a=b:NoSchedule"),
        ("reserved-memory", "1:memory=1948Mi"),
        ("feature-gates", "AllAlpha=false,MemoryQoS=true"),
        ("storage-driver-password", ""),
        ("help", "false"),
    ] {
        assert_eq!(flags.get(name), Some(&value), "--{name}");
    }
}
