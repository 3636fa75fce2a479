//! Makes a page of metrics: families in the order of their names, as upstream's registry gives them.

use std::collections::BTreeMap;

use rubelet_core::stats::exposition::Exposition;

use super::desc::Desc;
use super::families::{Family, Samples, Shown};

/// Values that are asked for when a page is made.
#[derive(Default)]
pub struct Collected {
    families: BTreeMap<&'static str, (&'static Desc, Vec<Sample>)>,
}

/// Label values and the value.
type Sample = (Vec<String>, f64);

impl Collected {
    /// Tells one value. What has not as many label values as the metric has labels, or was told before, is left out:
    /// a scrape would fail as a whole.
    pub fn tell(&mut self, desc: &'static Desc, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), desc.labels.len(), "{}", desc.name);
        if labels.len() != desc.labels.len() {
            return;
        }
        let (_, samples) = self.families.entry(desc.name).or_insert_with(|| (desc, Vec::new()));
        samples.push((labels.iter().map(|&label| label.to_owned()).collect(), value));
    }
}

/// A family of either sort.
enum Source<'a> {
    Cells(&'a dyn Family),
    Collected(&'static Desc, Vec<Sample>),
}

/// Renders families and what was collected, in one order.
pub(super) fn render(families: &[&dyn Family], collected: Collected) -> String {
    let mut sources: BTreeMap<&str, Source<'_>> = BTreeMap::new();
    for family in families {
        sources.insert(family.desc().name, Source::Cells(*family));
    }
    for (name, (desc, mut samples)) in collected.families {
        samples.sort_by(|(a, _), (b, _)| a.cmp(b));
        samples.dedup_by(|(a, _), (b, _)| a == b);
        sources.insert(name, Source::Collected(desc, samples));
    }
    let mut page = Exposition::with_capacity(32 * 1024);
    for source in sources.into_values() {
        let desc = match &source {
            Source::Cells(family) => family.desc(),
            Source::Collected(desc, _) => desc,
        };
        let mut out = Samples::new(desc, &mut page);
        match source {
            Source::Cells(family) => family.write(&mut out),
            Source::Collected(_, samples) => {
                for (labels, value) in samples {
                    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                    out.write(&labels, Shown::Value(value));
                }
            }
        }
    }
    page.into_string()
}
