//! The structs inside `KubeletConfiguration`: authentication, logging, tracing and the small ones.
//!
//! Owns names and defaults only, like `configuration`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::duration::{GoDuration, LogFlushFrequency};
use crate::fields::{Field, Reader, config_struct};
use crate::tree::{Kind, Node};

config_struct! {
    /// How callers of the HTTPS server prove who they are.
    pub struct KubeletAuthentication {
        /// Client certificates.
        x509: KubeletX509Authentication = "x509", zero_is_default, KubeletX509Authentication::default();
        /// Bearer tokens, checked by the API server.
        webhook: KubeletWebhookAuthentication = "webhook", zero_is_default, KubeletWebhookAuthentication::default();
        /// Callers without credentials.
        anonymous: KubeletAnonymousAuthentication = "anonymous", zero_is_default, KubeletAnonymousAuthentication::default();
    }
}

config_struct! {
    /// Client certificate authentication.
    pub struct KubeletX509Authentication {
        /// Bundle of authorities whose client certificates are accepted; empty is off.
        client_ca_file: String = "clientCAFile", zero_is_default, String::new();
    }
}

config_struct! {
    /// Bearer token authentication by TokenReview.
    pub struct KubeletWebhookAuthentication {
        /// Whether tokens are accepted.
        enabled: bool = "enabled", zero_is_kept, true;
        /// How long answers are kept.
        cache_ttl: GoDuration = "cacheTTL", zero_is_default, GoDuration::from_mins(2);
    }
}

config_struct! {
    /// Requests without credentials.
    pub struct KubeletAnonymousAuthentication {
        /// Whether they are let through to authorization as `system:anonymous`.
        enabled: bool = "enabled", zero_is_kept, false;
    }
}

config_struct! {
    /// What authenticated callers may do.
    pub struct KubeletAuthorization {
        /// `Webhook` or `AlwaysAllow`.
        mode: String = "mode", zero_is_default, "Webhook".into();
        /// Settings of mode `Webhook`.
        webhook: KubeletWebhookAuthorization = "webhook", zero_is_default, KubeletWebhookAuthorization::default();
    }
}

config_struct! {
    /// Authorization by SubjectAccessReview.
    pub struct KubeletWebhookAuthorization {
        /// How long a yes is kept.
        cache_authorized_ttl: GoDuration = "cacheAuthorizedTTL", zero_is_default, GoDuration::from_mins(5);
        /// How long a no is kept.
        cache_unauthorized_ttl: GoDuration = "cacheUnauthorizedTTL", zero_is_default, GoDuration::from_secs(30);
    }
}

config_struct! {
    /// How pods may use swap.
    pub struct MemorySwapConfiguration {
        /// Empty or `NoSwap`: none; `LimitedSwap`: in proportion to the memory request.
        swap_behavior: String = "swapBehavior", zero_is_default, String::new();
    }
}

config_struct! {
    /// Limits of container restart back-off.
    pub struct CrashLoopBackOffConfig {
        /// Longest back-off, 1s to 300s; `None` when the feature gate is off.
        max_container_restart_period: Option<GoDuration> = "maxContainerRestartPeriod", zero_is_kept, Some(GoDuration::from_secs(300));
    }
}

config_struct! {
    /// Shutdown time for pods of a priority and above.
    pub struct ShutdownGracePeriodByPodPriority {
        /// Lowest pod priority this entry is for.
        priority: i32 = "priority", zero_is_kept, 0;
        /// Time in seconds.
        shutdown_grace_period_seconds: i64 = "shutdownGracePeriodSeconds", zero_is_kept, 0;
    }
}

config_struct! {
    /// Memory kept on one NUMA node.
    pub struct MemoryReservation {
        /// Number of the NUMA node.
        numa_node: i32 = "numaNode", zero_is_kept, 0;
        /// Amounts by memory type: `memory` or `hugepages-<size>`.
        limits: BTreeMap<String, QuantityText> = "limits", zero_is_kept, BTreeMap::new();
    }
}

config_struct! {
    /// A taint the node is created with.
    pub struct Taint {
        /// A qualified name.
        key: String = "key", zero_is_kept, String::new();
        /// A label value, or empty.
        value: String = "value", zero_is_default, String::new();
        /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
        effect: String = "effect", zero_is_kept, String::new();
        /// Must not be set.
        time_added: Option<String> = "timeAdded", zero_is_kept, None;
    }
}

config_struct! {
    /// Where OpenTelemetry traces go.
    pub struct TracingConfiguration {
        /// OTLP gRPC endpoint; unset is localhost:4317.
        endpoint: Option<String> = "endpoint", zero_is_kept, None;
        /// Samples per million spans; unset follows the parent span.
        sampling_rate_per_million: Option<i32> = "samplingRatePerMillion", zero_is_kept, None;
    }
}

config_struct! {
    /// Sizes of user namespaces.
    pub struct UserNamespaces {
        /// Ids per pod, a multiple of 65536 below 2^32; unset is 65536.
        ids_per_pod: Option<i64> = "idsPerPod", zero_is_kept, None;
    }
}

config_struct! {
    /// The agent's own log. Source: component-base `LoggingConfiguration`.
    pub struct LoggingConfiguration {
        /// `text` or `json`.
        format: String = "format", zero_is_default, "text".into();
        /// Longest time between two flushes.
        flush_frequency: LogFlushFrequency = "flushFrequency", zero_is_default, LogFlushFrequency { duration: GoDuration::from_secs(5), as_text: true };
        /// Threshold of messages that are written; 0 is the least.
        verbosity: u32 = "verbosity", zero_is_kept, 0;
        /// Thresholds of single source files; text format only.
        vmodule: Vec<VModuleItem> = "vmodule", zero_is_default, Vec::new();
        /// Settings of the formats.
        options: FormatOptions = "options", zero_is_default, FormatOptions::default();
    }
}

config_struct! {
    /// The verbosity of source files that match a pattern.
    pub struct VModuleItem {
        /// File name without extension, or a glob for it.
        file_pattern: String = "filePattern", zero_is_kept, String::new();
        /// Threshold for messages of these files.
        verbosity: u32 = "verbosity", zero_is_kept, 0;
    }
}

config_struct! {
    /// Settings of the log formats.
    pub struct FormatOptions {
        /// For format `text`.
        text: OutputRoutingOptions = "text", zero_is_default, OutputRoutingOptions::default();
        /// For format `json`.
        json: OutputRoutingOptions = "json", zero_is_default, OutputRoutingOptions::default();
    }
}

config_struct! {
    /// Where log messages go; needs gate LoggingAlphaOptions.
    pub struct OutputRoutingOptions {
        /// Whether errors go to stderr and the rest to stdout.
        split_stream: bool = "splitStream", zero_is_default, false;
        /// Buffer of the info stream; 0 is none.
        info_buffer_size: QuantityText = "infoBufferSize", zero_is_kept, QuantityText("0".into());
    }
}

/// A quantity as the user wrote it (text or number), valid once it has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuantityText(pub String);

impl Field for QuantityText {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let (Kind::Text(text) | Kind::Int { text, .. } | Kind::Float { text, .. }) = &node.kind else {
            return reader.wrong(node, "a quantity such as 1Gi");
        };
        if let Err(error) = rubelet_core::quantity::Amount::parse(text) {
            return reader.wrong(node, &format!("a quantity ({error})"));
        }
        Some(Self(text.clone()))
    }
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
    fn to_json(&self) -> Value {
        Value::String(self.0.clone())
    }
}

/// HTTP headers that may carry tokens: values never show in debug output or JSON.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HttpHeaders(pub BTreeMap<String, Vec<String>>);

const MASKED: &str = "<masked>";

impl fmt::Debug for HttpHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, MASKED))).finish()
    }
}

impl Field for HttpHeaders {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        BTreeMap::read(node, reader).map(Self)
    }
    fn merge(&mut self, node: &Node, reader: &mut Reader<'_>) {
        Field::merge(&mut self.0, node, reader);
    }
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
    fn to_json(&self) -> Value {
        self.0.keys().map(|name| (name.clone(), Value::from(vec![MASKED]))).collect()
    }
}
