//! Rules about the agent's own log and its traces (component-base logs and tracing `Validate`).

use rubelet_core::quantity::Amount;

use crate::duration::GoDuration;
use crate::gate_table::Gate;
use crate::types::OutputRoutingOptions;
use crate::validate::Checks;

pub(super) fn check(checks: &mut Checks<'_>) {
    log(checks);
    tracing(checks);
}

/// Levels above this do not fit klog's int32.
const MAX_VERBOSITY: i64 = i32::MAX as i64;

fn log(checks: &mut Checks<'_>) {
    let logging = &checks.config.logging;
    checks.one_of("logging.format", &logging.format, &["text", "json"]);
    if logging.flush_frequency.duration <= GoDuration::ZERO {
        let value = logging.flush_frequency.duration;
        checks.refuse("logging.flushFrequency", value, "must be greater than zero");
    }
    checks.range("logging.verbosity", logging.verbosity.into(), 0, MAX_VERBOSITY);
    if !logging.vmodule.is_empty() && logging.format != "text" {
        let value = format!("{} entries", logging.vmodule.len());
        checks.refuse("logging.vmodule", value, "is only for logging.format text");
    }
    for (index, item) in logging.vmodule.iter().enumerate() {
        let field = |name: &str| format!("logging.vmodule[{index}].{name}");
        if item.file_pattern.is_empty() {
            checks.refuse(&field("filePattern"), "", "must not be empty");
        } else if item.file_pattern.contains(['=', ',']) {
            let message = "must not contain an equal sign or a comma";
            checks.refuse(&field("filePattern"), &item.file_pattern, message);
        }
        checks.range(&field("verbosity"), item.verbosity.into(), 0, MAX_VERBOSITY);
    }
    routing(checks, "logging.options.text", &logging.options.text);
    routing(checks, "logging.options.json", &logging.options.json);
}

fn routing(checks: &mut Checks<'_>, field: &str, options: &OutputRoutingOptions) {
    if options.split_stream {
        checks.needs_gate(&format!("{field}.splitStream"), true, Gate::LoggingAlphaOptions);
    }
    let size = &options.info_buffer_size.0;
    if !Amount::parse(size).is_ok_and(Amount::is_zero) {
        checks.needs_gate(&format!("{field}.infoBufferSize"), size, Gate::LoggingAlphaOptions);
    }
}

fn tracing(checks: &mut Checks<'_>) {
    let Some(tracing) = &checks.config.tracing else { return };
    if let Some(rate) = tracing.sampling_rate_per_million {
        checks.range("tracing.samplingRatePerMillion", rate.into(), 0, 1_000_000);
    }
    if let Some(endpoint) = &tracing.endpoint
        && let Some((scheme, _)) = endpoint.split_once("//")
        && !["dns:", "unix:", "unix-abstract:"].contains(&scheme)
    {
        let message = "must be host:port, or start with dns://, unix:// or unix-abstract://";
        checks.refuse("tracing.endpoint", endpoint, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{TracingConfiguration, VModuleItem};
    use crate::validate::test_support::check;

    #[test]
    fn log_rules() {
        check(
            |c| {
                c.logging.format = "xml".into();
                c.logging.flush_frequency.duration = GoDuration::ZERO;
                c.logging.verbosity = u32::MAX;
                c.logging.vmodule = vec![VModuleItem { file_pattern: "a=b".into(), verbosity: 1 }];
                c.logging.options.json.split_stream = true;
            },
            &[
                "logging.format: \"xml\": must be one of \"text\", \"json\"",
                "logging.flushFrequency: \"0s\": must be greater than zero",
                "logging.verbosity: 4294967295: must be between 0 and 2147483647",
                "logging.vmodule: \"1 entries\": is only for logging.format text",
                "logging.vmodule[0].filePattern: \"a=b\": must not contain an equal sign or a comma",
                "logging.options.json.splitStream: true: needs the feature gate LoggingAlphaOptions, which is off",
            ],
        );
    }

    #[test]
    fn trace_rules() {
        let tracing = |endpoint: &str, rate| {
            Some(TracingConfiguration {
                endpoint: Some(endpoint.to_owned()),
                sampling_rate_per_million: Some(rate),
            })
        };
        check(|c| c.tracing = tracing("localhost:4317", 1_000_000), &[]);
        check(|c| c.tracing = tracing("unix:///run/otel.sock", 0), &[]);
        check(
            |c| c.tracing = tracing("http://collector:4317", -1),
            &[
                "tracing.samplingRatePerMillion: -1: must be between 0 and 1000000",
                "tracing.endpoint: \"http://collector:4317\": must be host:port, or start with dns://, unix:// or unix-abstract://",
            ],
        );
    }
}
