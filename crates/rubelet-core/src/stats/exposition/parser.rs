//! Reads the text format of Prometheus, strictly: it refuses what a careful writer would not write, also where
//! Prometheus itself is lenient. For tests of everything that writes metrics, in this crate and in others.

use std::collections::BTreeSet;

use thiserror::Error;

use super::Kind;

/// A family as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedFamily {
    /// Its name.
    pub name: String,
    /// Its help, unescaped.
    pub help: String,
    /// What its TYPE line says.
    pub kind: Kind,
    /// Its samples, in their order; never empty.
    pub samples: Vec<ParsedSample>,
}

/// A sample as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedSample {
    /// Its name: the family's, or with a suffix that histograms and summaries have.
    pub name: String,
    /// Its labels in their order, unescaped.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
    /// Its time, in milliseconds since the epoch.
    pub at: Option<i64>,
}

impl ParsedSample {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// Why a document is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// The line, from 1; for what a whole family lacks, the line after it.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// Reads a document.
///
/// # Errors
/// The first thing in it that is wrong: a line that is none, a name or value that is none, HELP or TYPE missing,
/// repeated or after samples, a family without samples or in several places, a sample twice, a histogram whose buckets
/// do not add up.
pub fn parse(text: &str) -> Result<Vec<ParsedFamily>, ParseError> {
    let mut reader = Reader::default();
    let mut line = 0;
    for full in text.split_inclusive('\n') {
        line += 1;
        let read = match full.strip_suffix('\n') {
            Some(rest) => reader.line(rest),
            None => Err("it does not end".to_owned()),
        };
        read.map_err(|problem| ParseError { line, problem })?;
    }
    reader.close().map_err(|problem| ParseError { line: line + 1, problem })?;
    Ok(reader.families)
}

#[derive(Default)]
struct Reader {
    families: Vec<ParsedFamily>,
    names: BTreeSet<String>,
    /// HELP of the family that begins.
    help: Option<(String, String)>,
    open: Option<ParsedFamily>,
    /// Names and sorted labels of the open family's samples.
    seen: BTreeSet<(String, Vec<(String, String)>)>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            self.close()?;
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            if !is_metric_name(name) {
                return Err(format!("{name:?} is no name"));
            }
            self.help = Some((name.to_owned(), unescape(help, false)?));
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a type")?;
            return self.begin(name, kind);
        }
        if line.starts_with('#') || line.is_empty() {
            return Err("neither HELP, TYPE nor a sample".to_owned());
        }
        let sample = sample(line)?;
        let family = self.open.as_mut().filter(|family| belongs(family, &sample.name));
        let family = family.ok_or_else(|| format!("{} is not of the family before it", sample.name))?;
        let mut labels = sample.labels.clone();
        labels.sort();
        if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("{} has a label twice", sample.name));
        }
        if !self.seen.insert((sample.name.clone(), labels)) {
            return Err(format!("{} comes twice with the same labels", sample.name));
        }
        family.samples.push(sample);
        Ok(())
    }

    fn begin(&mut self, name: &str, kind: &str) -> Result<(), String> {
        let (_, help) = self
            .help
            .take()
            .filter(|(of, _)| of == name)
            .ok_or_else(|| format!("no HELP before TYPE of {name}"))?;
        let kinds = [Kind::Counter, Kind::Gauge, Kind::Histogram, Kind::Summary, Kind::Untyped];
        let kind = kinds
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or_else(|| format!("{kind} is no type"))?;
        if !self.names.insert(name.to_owned()) {
            return Err(format!("{name} comes twice"));
        }
        self.open = Some(ParsedFamily { name: name.to_owned(), help, kind, samples: Vec::new() });
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        self.seen.clear();
        if let Some((name, _)) = &self.help {
            return Err(format!("no TYPE after HELP of {name}"));
        }
        let Some(family) = self.open.take() else { return Ok(()) };
        if family.samples.is_empty() {
            return Err(format!("{} has no sample", family.name));
        }
        if family.kind == Kind::Histogram {
            check_histogram(&family)?;
        }
        self.families.push(family);
        Ok(())
    }
}

fn belongs(family: &ParsedFamily, sample: &str) -> bool {
    match (family.kind, sample.strip_prefix(family.name.as_str())) {
        (Kind::Histogram, suffix) => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
        (Kind::Summary, suffix) => matches!(suffix, Some("" | "_sum" | "_count")),
        (_, suffix) => suffix == Some(""),
    }
}

/// Every set of labels has ascending buckets that do not shrink, ends with the infinite one, which is the count, and
/// has a sum.
fn check_histogram(family: &ParsedFamily) -> Result<(), String> {
    let without_bound = |sample: &ParsedSample| -> Vec<(String, String)> {
        sample.labels.iter().filter(|(name, _)| name != "le").cloned().collect()
    };
    let sets: BTreeSet<_> = family.samples.iter().map(without_bound).collect();
    for set in sets {
        let of = |suffix: &str| {
            let name = format!("{}{suffix}", family.name);
            let set = &set;
            family.samples.iter().filter(move |sample| sample.name == name && without_bound(sample) == *set)
        };
        let mut last = (f64::NEG_INFINITY, 0.0);
        for bucket in of("_bucket") {
            let bound =
                bucket.label("le").and_then(number).ok_or_else(|| format!("{} without le", bucket.name))?;
            if bound <= last.0 || bucket.value < last.1 {
                return Err(format!("buckets of {} are in disorder", family.name));
            }
            last = (bound, bucket.value);
        }
        let count = of("_count").next().map(|sample| sample.value);
        if last.0 != f64::INFINITY || count != Some(last.1) || of("_sum").next().is_none() {
            return Err(format!("{} lacks its infinite bucket, sum or count", family.name));
        }
    }
    Ok(())
}

fn sample(line: &str) -> Result<ParsedSample, String> {
    let end = line.find(['{', ' ']).ok_or("a sample without a value")?;
    let (name, rest) = line.split_at(end);
    if !is_metric_name(name) {
        return Err(format!("{name:?} is no name"));
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inner) => label_set(inner)?,
        None => (Vec::new(), rest),
    };
    let rest = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let (value, at) = match rest.split_once(' ') {
        Some((value, at)) => (value, Some(at.parse().map_err(|_| format!("{at:?} is no time"))?)),
        None => (rest, None),
    };
    let value = number(value).ok_or_else(|| format!("{value:?} is no number"))?;
    Ok(ParsedSample { name: name.to_owned(), labels, value, at })
}

type LabelSet<'a> = (Vec<(String, String)>, &'a str);

/// Reads labels up to the closing brace; answers them and what follows it.
fn label_set(mut text: &str) -> Result<LabelSet<'_>, String> {
    let mut labels = Vec::new();
    loop {
        let (name, rest) = text.split_once("=\"").ok_or("labels that do not end")?;
        if !is_label_name(name) {
            return Err(format!("{name:?} is no label"));
        }
        let mut escaped = false;
        let end = rest.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let (value, rest) = rest.split_at(end.ok_or("a label's value that does not end")?);
        labels.push((name.to_owned(), unescape(value, true)?));
        // What was split off begins with the quote.
        let rest = rest.get(1..).unwrap_or_default();
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        text = rest.strip_prefix(',').ok_or("no comma between labels")?;
    }
}

fn unescape(text: &str, quoted: bool) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\\' => match rest.next() {
                Some('\\') => out.push('\\'),
                Some('n') => out.push('\n'),
                Some('"') if quoted => out.push('"'),
                _ => return Err("an escape that is none".to_owned()),
            },
            other => out.push(other),
        }
    }
    Ok(out)
}

fn number(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        _ if text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'+' | b'-')) => {
            text.parse().ok()
        }
        _ => None,
    }
}

fn is_metric_name(name: &str) -> bool {
    is_name(name, |byte| byte == b':')
}

fn is_label_name(name: &str) -> bool {
    is_name(name, |_| false)
}

fn is_name(name: &str, also: fn(u8) -> bool) -> bool {
    let starts = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || also(byte);
    let mut bytes = name.bytes();
    bytes.next().is_some_and(starts) && bytes.all(|byte| starts(byte) || byte.is_ascii_digit())
}
