//! What `promtool check metrics` remarks on metrics that parse. For tests: names that upstream gave keep what it
//! remarks on, new ones are to be without remarks.

use super::{Kind, ParsedFamily};

/// Remarks, each with the family's name in front, in the order of families.
pub fn lint(families: &[ParsedFamily]) -> Vec<String> {
    families
        .iter()
        .flat_map(|family| remarks(family).map(|remark| format!("{}: {remark}", family.name)))
        .collect()
}

fn remarks(family: &ParsedFamily) -> impl Iterator<Item = &'static str> {
    let name = family.name.as_str();
    let labels: Vec<&str> =
        family.samples.iter().flat_map(|sample| &sample.labels).map(|(label, _)| label.as_str()).collect();
    let distribution = matches!(family.kind, Kind::Histogram | Kind::Summary);
    let reserved = ["_bucket", "_count", "_sum"].iter().any(|suffix| name.ends_with(suffix));
    let abbreviated = |word: &str| {
        matches!(
            word,
            "s" | "ms" | "us" | "ns" | "sec" | "b" | "kb" | "mb" | "gb" | "tb" | "pb" | "m" | "h" | "d"
        )
    };
    let camel = |name: &str| {
        name.as_bytes().windows(2).any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase())
    };
    [
        (family.help.is_empty(), "no help text"),
        (
            family.kind == Kind::Counter && !name.ends_with("_total"),
            "counter metrics should have \"_total\" suffix",
        ),
        (
            family.kind == Kind::Gauge && name.ends_with("_total"),
            "non-counter metrics should not have \"_total\" suffix",
        ),
        (!distribution && reserved, "only histograms and summaries should have such a suffix"),
        (
            family.kind != Kind::Histogram && labels.contains(&"le"),
            "only histograms should have a label \"le\"",
        ),
        (
            family.kind != Kind::Summary && labels.contains(&"quantile"),
            "only summaries should have a label \"quantile\"",
        ),
        (name.contains(':'), "metric names should not contain ':'"),
        (camel(name), "metric names should be written in 'snake_case' not 'camelCase'"),
        (
            labels.iter().any(|label| camel(label)),
            "label names should be written in 'snake_case' not 'camelCase'",
        ),
        (name.split('_').skip(1).any(abbreviated), "metric names should not contain abbreviated units"),
    ]
    .into_iter()
    .filter_map(|(applies, remark)| applies.then_some(remark))
}
