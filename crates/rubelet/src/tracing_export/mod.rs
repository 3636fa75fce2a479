//! Traces for an OpenTelemetry collector: the section `tracing` of the configuration, as OTLP over gRPC.
//!
//! Spans are those of the `tracing` crate whose target is [`spans::TARGET`]; the logger never prints them. They are
//! made in [`spans`], by workers, and in `rubelet_cri`, for every call of the runtime. [`prepare`] makes the layer
//! that turns them into OpenTelemetry's, for the logger; [`PreparedExport::start`] begins to send. `main.rs` calls
//! both. Without the section nothing here is: there is no layer, no task and no queue, and a span is one look at a
//! flag.
//!
//! Never waits for the collector where work is done: spans go through a bounded [`queue`] to one task.
//!
//! A request to the kubelet API is the child of the span that its headers name ([`spans::request`]).

mod endpoint;
mod queue;
pub mod spans;
#[cfg(test)]
mod tests;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanExporter as _};
use rubelet_config::TracingConfiguration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, Registry};

use queue::{Drain, Pace, Queue};

/// `service.name`, as upstream's.
const SERVICE: &str = "kubelet";
/// The name under which spans are made; upstream's are its Go packages.
const SCOPE: &str = "rubelet";
/// How long the last spans may take at an orderly stop.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// What `samplingRatePerMillion` counts in.
const MILLION: f64 = 1_000_000.0;

/// The layer that takes the spans; belongs right on the registry.
pub type ExportLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("tracing.endpoint {endpoint:?} cannot be used")]
pub struct StartError {
    endpoint: String,
    #[source]
    problem: ExporterBuildError,
}

/// An export that has not begun: spans wait in its queue.
#[derive(Debug)]
pub struct PreparedExport {
    endpoint: String,
    drain: Drain,
}

/// Makes the layer and the queue behind it. Connects to nothing and needs no runtime.
///
/// A trace is exported when the one who began it says so (a caller with `traceparent`), or else for
/// `samplingRatePerMillion` of a million that begin here; without a rate for none of these.
pub fn prepare(config: &TracingConfiguration) -> (ExportLayer, PreparedExport) {
    prepare_paced(config, Pace::default())
}

fn prepare_paced(config: &TracingConfiguration, pace: Pace) -> (ExportLayer, PreparedExport) {
    let begun_here = match config.sampling_rate_per_million {
        Some(rate) if rate > 0 => Sampler::TraceIdRatioBased(f64::from(rate) / MILLION),
        _ => Sampler::AlwaysOff,
    };
    let (queue, drain) = Queue::new(pace);
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(begun_here)))
        .with_span_processor(queue)
        .build();
    let endpoint = config.endpoint.clone().unwrap_or_default();
    (layer(&provider), PreparedExport { endpoint, drain })
}

impl PreparedExport {
    /// Begins to export. `host` is the resource attribute `host.name`: the machine's host name or what stands for
    /// it. Must be called inside a tokio runtime; opens no connection before the first span.
    ///
    /// # Errors
    /// [`StartError`] when the endpoint, or what the environment says instead (`OTEL_EXPORTER_OTLP_ENDPOINT`), is
    /// none.
    pub fn start(self, host: &str) -> Result<TracingExport, StartError> {
        let Self { endpoint, drain } = self;
        let mut exporter = match endpoint::exporter(&endpoint) {
            Ok(exporter) => exporter,
            Err(problem) => return Err(StartError { endpoint, problem }),
        };
        let resource = Resource::builder()
            .with_service_name(SERVICE)
            .with_attribute(KeyValue::new("host.name", host.to_owned()))
            .build();
        exporter.set_resource(&resource);
        let to = if endpoint.is_empty() { endpoint::DEFAULT.to_owned() } else { endpoint };
        let end = CancellationToken::new();
        let task = tokio::spawn(drain.run(exporter, to, end.clone()));
        Ok(TracingExport { end, task })
    }
}

/// The export under way. Dropping it leaves it running until the runtime ends.
#[derive(Debug)]
pub struct TracingExport {
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl TracingExport {
    /// Sends the spans that wait, for at most two seconds, and ends the export. A collector that is away is not
    /// waited for.
    pub async fn finish(self) {
        self.end.cancel();
        let mut task = self.task;
        if tokio::time::timeout(LAST_SPANS, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// The layer over a provider, which lives as long as the layer does.
fn layer(provider: &SdkTracerProvider) -> ExportLayer {
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SCOPE))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        // Nothing of ours asks OpenTelemetry's own context; the current span of `tracing` is the truth.
        .with_context_activation(false)
        .with_filter(Targets::new().with_target(spans::TARGET, LevelFilter::TRACE))
        .boxed()
}

/// Writes the current span into the metadata of a call, as W3C `traceparent`: the runtime's spans become its
/// children. Writes nothing outside a span.
pub fn fill_metadata(metadata: &mut MetadataMap) {
    let context = Span::current().context();
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(&context, &mut Metadata(metadata));
    }
}

/// Makes a span that has just been made the child of the one that the headers of a request name, if they do.
fn follow_headers(span: &Span, headers: &http::HeaderMap) {
    let caller = TraceContextPropagator::new().extract(&Headers(headers));
    if caller.span().span_context().is_valid() {
        // A span that is not recorded has no parent to set.
        let _ = span.set_parent(caller);
    }
}

struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        let key = MetadataKey::<Ascii>::from_bytes(key.as_bytes());
        if let (Ok(key), Ok(value)) = (key, MetadataValue::try_from(value)) {
            self.0.insert(key, value);
        }
    }
}

struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
