//! Where the collector is: reads `tracing.endpoint`, a target as gRPC for Go writes it, and makes the exporter for
//! it. Connects to nothing by itself. Called by [`super::start`].

use std::time::Duration;

use hyper_util::rt::TokioIo;
use opentelemetry_otlp::{ExporterBuildError, RetryPolicy, SpanExporter, WithExportConfig, WithTonicConfig};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Where collectors listen unless they are told otherwise.
pub(super) const DEFAULT: &str = "localhost:4317";
/// OTLP's port.
const PORT: u16 = 4317;
/// How long one export may take, repetitions included; OTLP's usual limit.
const LIMIT: Duration = Duration::from_secs(10);

/// What an endpoint says.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Nothing: the environment decides, else [`DEFAULT`].
    Unsaid,
    /// A URL without TLS.
    Url(String),
    /// The path of a unix socket; an abstract one begins with a null byte.
    Socket(String),
}

fn target(endpoint: &str) -> Target {
    let after = |scheme: &str| {
        let rest = endpoint.strip_prefix(scheme)?;
        Some(rest.strip_prefix("//").unwrap_or(rest))
    };
    if endpoint.is_empty() {
        Target::Unsaid
    } else if let Some(path) = after("unix:") {
        Target::Socket(path.to_owned())
    } else if let Some(name) = after("unix-abstract:") {
        Target::Socket(format!("\0{name}"))
    } else {
        // `dns:///host:port`, or `dns://server/host:port`, whose server is not asked.
        let host = match after("dns:") {
            Some(named) => named.rsplit('/').next().unwrap_or_default(),
            None => endpoint,
        };
        let has_port =
            host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok());
        // The colons of a bare IPv6 address are not followed by a port.
        let bare_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
        Target::Url(match (bare_v6, has_port) {
            (true, _) => format!("http://[{host}]:{PORT}"),
            (false, true) => format!("http://{host}"),
            (false, false) => format!("http://{host}:{PORT}"),
        })
    }
}

/// An exporter to an endpoint; empty for the default.
pub(super) fn exporter(endpoint: &str) -> Result<SpanExporter, ExporterBuildError> {
    let builder = SpanExporter::builder()
        .with_tonic()
        .with_timeout(LIMIT)
        .with_retry_policy(RetryPolicy::recommended());
    match target(endpoint) {
        Target::Unsaid => builder.build(),
        Target::Url(url) => builder.with_endpoint(url).build(),
        Target::Socket(path) => builder.with_channel(channel(path)).build(),
    }
}

fn channel(path: String) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The authority is never resolved.
    Endpoint::from_static("http://localhost").timeout(LIMIT).connect_with_connector_lazy(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(endpoint: &str, expected: Target) {
        assert_eq!(target(endpoint), expected, "{endpoint}");
    }

    #[test]
    fn targets_are_read_as_grpc_does() {
        let url = |text: &str| Target::Url(text.to_owned());
        let socket = |text: &str| Target::Socket(text.to_owned());
        check("", Target::Unsaid);
        check("localhost:4317", url("http://localhost:4317"));
        check("collector", url("http://collector:4317"));
        check("192.0.2.7:9", url("http://192.0.2.7:9"));
        check("[2001:db8::7]:4318", url("http://[2001:db8::7]:4318"));
        check("[2001:db8::7]", url("http://[2001:db8::7]:4317"));
        check("2001:db8::7", url("http://[2001:db8::7]:4317"));
        check("dns:collector:4317", url("http://collector:4317"));
        check("dns:///collector:4317", url("http://collector:4317"));
        check("dns://192.0.2.53/collector:4317", url("http://collector:4317"));
        check("unix:///run/otel.sock", socket("/run/otel.sock"));
        check("unix:run/otel.sock", socket("run/otel.sock"));
        check("unix-abstract:otel", socket("\0otel"));
    }

    #[tokio::test]
    async fn a_wrong_endpoint_is_named() {
        assert!(exporter("a b:4317").is_err());
        for good in ["", "localhost:4317", "unix:///run/otel.sock"] {
            assert!(exporter(good).is_ok(), "{good}");
        }
    }
}
