//! Writes metrics in the text format of Prometheus, version 0.0.4, straight into one growing string.
//!
//! Called by everything that answers a scrape: `stats::resource`, `stats::cadvisor` and the agent's own metrics. It
//! owns the format (headers, escaping, numbers as Go writes them) and that a family is written once and never empty;
//! names, labels and values are the caller's. `parse` reads the format back, strictly, for tests.
//!
//! OpenMetrics is not written: upstream's handlers do not offer it. They do offer the protobuf formats to who asks;
//! whoever asks also takes text, as the Content-Type of an answer says what it is.

mod labels;
mod lint;
mod number;
mod parser;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use labels::{Extra, Labels};
pub use lint::lint;
pub use number::Value;
pub use parser::{ParseError, ParsedFamily, ParsedSample, parse};

/// The Content-Type of what is written here.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while its source lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations in buckets; written by [`Exposition::histogram`].
    Histogram,
    /// Quantiles; nothing here writes it, others do.
    Summary,
    /// Anything.
    Untyped,
}

impl Kind {
    /// Its word in a TYPE line.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
            Kind::Untyped => "untyped",
        }
    }
}

/// Where parts of a document go.
type Sink = Box<dyn FnMut(&str) + Send>;

/// From so many bytes on what is written goes to the sink, if there is one.
const PART: usize = 64 * 1024;

/// A document under way: families one after the other, the samples of each after its [`Exposition::family`].
#[derive(Default)]
pub struct Exposition {
    /// What is written, or has not gone to the sink yet.
    out: String,
    sink: Option<Sink>,
    written: BTreeSet<String>,
    /// The family whose samples are being written.
    current: String,
    kind: Option<Kind>,
    /// HELP and TYPE of the current family, until its first sample is written.
    header: String,
}

/// Buckets of observations.
#[derive(Clone, Copy, Debug)]
pub struct Buckets<'a> {
    /// Upper bounds in ascending order without the infinite one, each with how many observations are at most that.
    pub cumulative: &'a [(f64, u64)],
    /// Sum of all observations.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
}

impl Exposition {
    /// An empty document.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty document with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: String::with_capacity(bytes), ..Self::default() }
    }

    /// An empty document that is handed on in parts of some 64 KiB while it is written, so that no more of it is held.
    /// [`Exposition::into_string`] hands on the rest and answers nothing.
    pub fn streamed(sink: impl FnMut(&str) + Send + 'static) -> Self {
        Self { sink: Some(Box::new(sink)), ..Self::default() }
    }

    /// Begins a family. Its HELP and TYPE are written with its first sample, so one without samples leaves no trace.
    /// What was begun before is not written again: a reader would refuse the whole document.
    pub fn family(&mut self, name: &str, help: &str, kind: Kind) {
        self.current.clear();
        self.current.push_str(name);
        self.header.clear();
        self.kind = (!self.written.contains(name)).then_some(kind);
        self.header.push_str("# HELP ");
        self.header.push_str(name);
        self.header.push(' ');
        labels::push_escaped(&mut self.header, help, false);
        self.header.push_str("\n# TYPE ");
        self.header.push_str(name);
        self.header.push(' ');
        self.header.push_str(kind.as_str());
        self.header.push('\n');
    }

    /// Writes a sample of the current family; `name` is the family's, with `_bucket`, `_sum` or `_count` where its
    /// kind has them, and what is of another family is left out. Each name may come once with the same labels. `at` is
    /// in milliseconds since the epoch.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Into<Value>, at: Option<i64>) {
        let suffix = name.strip_prefix(self.current.as_str());
        let belongs = match self.kind {
            Some(Kind::Histogram) => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
            Some(Kind::Summary) => matches!(suffix, Some("" | "_sum" | "_count")),
            _ => suffix == Some(""),
        };
        if belongs && self.open() {
            self.out.push_str(name);
            labels::push_set(&mut self.out, labels, None);
            self.finish(value.into(), at);
        }
    }

    /// Writes a sample of the current family whose labels were rendered before, with more labels between them.
    pub fn sample_of(
        &mut self,
        labels: &Labels,
        more: &[Extra<'_>],
        value: impl Into<Value>,
        at: Option<i64>,
    ) {
        if self.open() {
            self.out.push_str(&self.current);
            labels.push(&mut self.out, more);
            self.finish(value.into(), at);
        }
    }

    /// Writes the buckets, sum and count of a histogram, which the current family is. The infinite bucket is added.
    pub fn histogram(&mut self, labels: &[(&str, &str)], buckets: &Buckets<'_>, at: Option<i64>) {
        if self.kind != Some(Kind::Histogram) || !self.open() {
            return;
        }
        let finite = buckets.cumulative.iter().filter(|(bound, _)| bound.is_finite()).copied();
        for (bound, count) in finite.chain([(f64::INFINITY, buckets.count)]) {
            self.begin("_bucket");
            labels::push_set(&mut self.out, labels, Some(bound));
            self.finish(count.into(), at);
        }
        for (suffix, value) in [("_sum", Value::from(buckets.sum)), ("_count", buckets.count.into())] {
            self.begin(suffix);
            labels::push_set(&mut self.out, labels, None);
            self.finish(value, at);
        }
    }

    /// What is written so far and not handed on.
    pub fn as_str(&self) -> &str {
        &self.out
    }

    /// The document.
    pub fn into_string(mut self) -> String {
        self.hand_on();
        self.out
    }

    fn hand_on(&mut self) {
        if let Some(sink) = &mut self.sink {
            sink(&self.out);
            self.out.clear();
        }
    }

    fn begin(&mut self, suffix: &str) {
        self.out.push_str(&self.current);
        self.out.push_str(suffix);
    }

    fn finish(&mut self, value: Value, at: Option<i64>) {
        self.out.push(' ');
        number::push(&mut self.out, value);
        if let Some(at) = at {
            self.out.push(' ');
            number::push_integer(&mut self.out, at);
        }
        self.out.push('\n');
        if self.out.len() >= PART {
            self.hand_on();
        }
    }

    /// Writes the header before the first sample; false when the family is not to be written.
    fn open(&mut self) -> bool {
        if self.kind.is_none() {
            return false;
        }
        if !self.header.is_empty() {
            self.written.insert(self.current.clone());
            self.out.push_str(&self.header);
            self.header.clear();
        }
        true
    }
}
