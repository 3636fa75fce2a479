//! Logs: text in the field's klog format, or JSON, to standard error; levels as upstream's `-v`. And the one
//! printer of error chains. Spans for [`crate::tracing_export`] pass by: they are never printed.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::log_health;
use crate::tracing_export::{ExportLayer, spans};

/// Format of log lines (`logging.format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// klog: `I0102 15:04:05.000000  123 target] message key="value"`.
    Text,
    /// One JSON object a line.
    Json,
}

/// What kube puts before the error of the connection below it; it tells a person nothing.
const KUBE_LAYER: &str = "ServiceError: ";

/// An error with everything that caused it: `a: b: c`. A cause that the error above repeats is said once.
pub fn chain(error: &dyn Error) -> String {
    let own = |error: &dyn Error| {
        let text = error.to_string();
        text.strip_prefix(KUBE_LAYER).map(str::to_owned).unwrap_or(text)
    };
    let mut text = own(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let said = own(cause);
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        source = cause.source();
    }
    text
}

/// The filter of the process's logger, once it has one.
static FILTER: OnceLock<FilterHandle> = OnceLock::new();

type FilterHandle = reload::Handle<EnvFilter, Registry>;

/// Sets the process's logger. `verbosity` is `-v`: below 4 info, from 4 debug, from 6 trace; libraries below us
/// stay at warn until 8. `export` takes the spans that are not for the log. Does nothing when a logger is set already.
pub fn init(format: LogFormat, verbosity: u32, export: Option<ExportLayer>) {
    let (layers, handle) = layers(format, verbosity, export);
    if tracing_subscriber::registry().with(layers).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Changes the verbosity of the logger that [`init`] set.
///
/// # Errors
/// When there is none: the program around the agent has a logger of its own.
pub fn set_verbosity(verbosity: u32) -> Result<(), String> {
    let handle = FILTER.get().ok_or("the program that this agent is part of has a log of its own")?;
    handle.reload(filter(verbosity)).map_err(|problem| problem.to_string())
}

fn filter(verbosity: u32) -> EnvFilter {
    let (ours, theirs) = match verbosity {
        0..=3 => ("info", "warn"),
        4..=5 => ("debug", "warn"),
        6..=7 => ("trace", "info"),
        _ => ("trace", "debug"),
    };
    // The API client's library logs whole answers that it cannot decode, Secrets among them.
    EnvFilter::new(format!(
        "{theirs},kube_client=error,rubelet={ours},rubelet_core={ours},rubelet_cri={ours},rubelet_linux={ours},\
         rubelet_apiclient={ours},rubelet_volumes={ours},{}=off",
        spans::TARGET
    ))
}

/// What the logger is made of. Every layer has a filter of its own, and there is none that takes nothing: only then
/// a span that nobody wants costs no more than a look at a flag.
pub(crate) fn layers(
    format: LogFormat,
    verbosity: u32,
    export: Option<ExportLayer>,
) -> (Vec<ExportLayer>, FilterHandle) {
    let (filter, handle) = reload::Layer::new(filter(verbosity));
    let printed = tracing_subscriber::fmt::layer()
        .with_writer(|| log_health::watched(std::io::stderr()))
        // A log that nobody takes (a full disk, a reader that died) must not end the agent: that error would be told
        // on standard error, by a macro that panics.
        .log_internal_errors(false);
    let printed = match format {
        LogFormat::Text => printed.event_format(Klog).with_filter(filter).boxed(),
        LogFormat::Json => {
            let printed = printed.json().flatten_event(true).with_current_span(false).with_span_list(false);
            printed.with_filter(filter).boxed()
        }
    };
    (export.into_iter().chain([printed]).collect(), handle)
}

/// klog's text format.
struct Klog;

impl<S, N> FormatEvent<S, N> for Klog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let letter = match *event.metadata().level() {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            _ => 'I',
        };
        let now = crate::clock::Clock::system().now().to_zoned(jiff::tz::TimeZone::system());
        let mut fields = Fields::default();
        event.record(&mut fields);
        let target = event.metadata().target().rsplit("::").next().unwrap_or_default();
        writeln!(
            out,
            "{letter}{} {:>7} {target}] {}{}",
            now.strftime("%m%d %H:%M:%S%.6f"),
            std::process::id(),
            fields.message,
            fields.rest
        )
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            _ if value.is_empty() => {}
            name => {
                let _ = write!(self.rest, " {name}={value:?}");
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_name_every_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(std::io::Error::other("inner"))), "outer: inner");
    }
}
