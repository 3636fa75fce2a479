//! Tests of documents made of readings: against the catalogue of upstream's metrics, and of any reading.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::exposition::{Exposition, ParsedFamily, lint, parse};
use super::fixtures::{any_node, full};
use super::usage::NodeUsage;
use super::{cadvisor, resource, summary};

type Writer = fn(&NodeUsage, &mut Exposition);

const DOCUMENTS: [(&str, Writer); 2] =
    [("/metrics/resource", resource::write), ("/metrics/cadvisor", cadvisor::write)];

fn families(write: Writer, usage: &NodeUsage) -> Vec<ParsedFamily> {
    let mut document = Exposition::new();
    write(usage, &mut document);
    parse(document.as_str()).unwrap_or_else(|error| panic!("{error}\n{}", document.as_str()))
}

/// Type and labels of each metric, one line each.
fn shapes(families: &[ParsedFamily]) -> BTreeSet<String> {
    let mut shapes = BTreeSet::new();
    for family in families {
        for sample in &family.samples {
            let labels: Vec<&str> = sample.labels.iter().map(|(name, _)| name.as_str()).collect();
            let shape = format!("{} {} {}", family.name, family.kind.as_str(), labels.join(","));
            shapes.insert(shape.trim_end().to_owned());
        }
    }
    shapes
}

/// What the catalogue has for a document: what is written, and the names of what is left out, each with a reason.
fn catalogue(document: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut of = BTreeMap::new();
    let mut section = "";
    let text = include_str!("catalogue.txt");
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            continue;
        }
        let (written, left_out): &mut (BTreeSet<String>, BTreeSet<String>) = of.entry(section).or_default();
        match line.strip_prefix("- ") {
            Some(rest) => {
                let (shape, reason) = rest.split_once(" # ").unwrap();
                assert!(!reason.is_empty(), "{line}");
                left_out.insert(shape.split(' ').next().unwrap().to_owned());
            }
            None => {
                written.insert(line.to_owned());
            }
        }
    }
    of.remove(document).unwrap()
}

#[test]
fn what_is_written_is_what_upstream_writes() {
    for (name, write) in DOCUMENTS {
        let families = families(write, &full(2));
        let written = shapes(&families);
        let (expected, left_out) = catalogue(name);
        assert_eq!(written.difference(&expected).collect::<Vec<_>>(), [""; 0], "{name}: not upstream's");
        assert_eq!(expected.difference(&written).collect::<Vec<_>>(), [""; 0], "{name}: missing");
        for family in &families {
            assert!(!left_out.contains(&family.name), "{} is not left out any more", family.name);
            assert!(!family.help.is_empty(), "{}", family.name);
        }
        let names: Vec<&String> = families.iter().map(|family| &family.name).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}

#[test]
fn only_names_that_upstream_gave_are_remarked_on() {
    assert_eq!(lint(&families(resource::write, &full(1))), [""; 0]);
    assert_eq!(
        lint(&families(cadvisor::write, &full(1))),
        [
            "cadvisor_version_info: label names should be written in 'snake_case' not 'camelCase'",
            "container_fs_inodes_total: non-counter metrics should not have \"_total\" suffix",
            "container_memory_failcnt: counter metrics should have \"_total\" suffix",
        ]
    );
}

#[test]
fn of_nothing_nothing_is_told() {
    let usage = NodeUsage::default();
    let values = |write| -> Vec<(String, f64)> {
        let samples = families(write, &usage).into_iter().flat_map(|family| family.samples);
        samples.map(|sample| (sample.name, sample.value)).collect()
    };
    assert_eq!(values(resource::write), [("resource_scrape_error".to_owned(), 0.0)]);
    assert_eq!(
        values(cadvisor::write),
        [("container_scrape_error".to_owned(), 0.0), ("machine_scrape_error".to_owned(), 1.0)]
    );
    for only_cpu_and_memory in [false, true] {
        let json: Value = serde_json::from_slice(&summary::summary(&usage, only_cpu_and_memory)).unwrap();
        assert_eq!(json, serde_json::json!({"node": {"nodeName": "", "startTime": null}, "pods": []}));
    }
}

#[test]
fn what_could_not_be_read_is_a_scrape_error() {
    let usage = NodeUsage { problems: vec!["the runtime is gone".to_owned()], ..full(1) };
    for (name, write) in DOCUMENTS {
        let families = families(write, &usage);
        let errors: Vec<(&str, f64)> = families
            .iter()
            .filter(|family| family.name.ends_with("scrape_error"))
            .map(|family| (family.name.as_str(), family.samples[0].value))
            .collect();
        let expected: &[(&str, f64)] = match name {
            "/metrics/resource" => &[("resource_scrape_error", 1.0)],
            _ => &[("container_scrape_error", 1.0), ("machine_scrape_error", 0.0)],
        };
        assert_eq!(errors, expected);
        assert!(families.len() > expected.len(), "the rest is told all the same");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_reading_makes_documents_that_can_be_read(usage in any_node()) {
        for (_, write) in DOCUMENTS {
            let families = families(write, &usage);
            for sample in families.iter().flat_map(|family| &family.samples) {
                prop_assert!(sample.at.is_none_or(|at| at > 0), "{sample:?}");
                let timeless = sample.name.starts_with("container_spec") || sample.name.contains("start_time");
                prop_assert!(!timeless || sample.at.is_none(), "{sample:?}");
            }
        }
        for only_cpu_and_memory in [false, true] {
            let json: Value = serde_json::from_slice(&summary::summary(&usage, only_cpu_and_memory)).unwrap();
            prop_assert_eq!(json["node"]["nodeName"].as_str(), Some(usage.node_name.as_str()));
            let pods = json["pods"].as_array().unwrap();
            prop_assert_eq!(pods.is_empty(), usage.pods.iter().all(|pod| pod.containers.is_empty()));
        }
    }
}
