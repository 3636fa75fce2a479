//! Is a complete configuration acceptable: every rule of upstream's
//! `ValidateKubeletConfiguration`, and the checks upstream makes later, while starting.
//!
//! Owns the meaning of values; it never reads files, the machine or the clock. All rules run, so
//! that a user sees everything at once. Called by `load` and by library users.

mod flags;
mod logging;
mod names;
mod numbers;
mod policies;
mod resources;

use std::fmt::Display;

use crate::configuration::KubeletConfiguration;
use crate::gate_table::Gate;
use crate::gates::FeatureGates;
use crate::problem::Problem;
use crate::suggest;

pub(crate) use flags::{check_flags, skipped_node_ips};

/// The state shared by all rules: what is checked and what was found.
struct Checks<'a> {
    config: &'a KubeletConfiguration,
    gates: &'a FeatureGates,
    problems: Vec<Problem>,
}

impl Checks<'_> {
    fn refuse(&mut self, field: &str, value: impl Display, message: impl Into<String>) {
        self.problems.push(Problem::field(field, value, message));
    }

    /// The value must lie between two bounds, both allowed.
    fn range(&mut self, field: &str, value: i64, least: i64, most: i64) {
        if value < least || value > most {
            self.refuse(field, value, format!("must be between {least} and {most}"));
        }
    }

    /// The value must not be below a bound.
    fn at_least(&mut self, field: &str, value: i64, least: i64) {
        if value < least {
            self.refuse(field, value, format!("must be {least} or more"));
        }
    }

    /// The value must be one of a few words.
    fn one_of(&mut self, field: &str, value: &str, allowed: &[&str]) {
        if !allowed.contains(&value) {
            let list: Vec<String> = allowed.iter().map(|word| format!("{word:?}")).collect();
            let hint = suggest::hint(value, allowed.iter().copied());
            self.refuse(field, value, format!("must be one of {}{hint}", list.join(", ")));
        }
    }

    fn enabled(&self, gate: Gate) -> bool {
        self.gates.enabled(gate)
    }

    /// Something that is set needs a gate that is off.
    fn needs_gate(&mut self, field: &str, value: impl Display, gate: Gate) {
        if !self.enabled(gate) {
            let name = gate.spec().name;
            self.refuse(field, value, format!("needs the feature gate {name}, which is off"));
        }
    }
}

impl KubeletConfiguration {
    /// Everything that is wrong with this configuration; empty means it can be used.
    ///
    /// The problems name fields only; [`crate::load`] adds where each field was set.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let (gates, problems) = FeatureGates::from_settings(&self.feature_gates);
        let mut checks = Checks { config: self, gates: &gates, problems };
        numbers::check(&mut checks);
        policies::check(&mut checks);
        resources::check(&mut checks);
        logging::check(&mut checks);
        checks.problems
    }

    /// What is allowed but most likely not meant.
    #[must_use]
    pub fn advice(&self) -> Vec<Problem> {
        policies::advice(self)
    }

    /// The feature gates of this configuration; wrong entries of `featureGates` do not count.
    #[must_use]
    pub fn gates(&self) -> FeatureGates {
        FeatureGates::from_settings(&self.feature_gates).0
    }
}

#[cfg(test)]
pub(crate) mod test_support {
    use super::*;

    /// Applies `change` to the defaults and compares the problems, one per line.
    #[track_caller]
    pub(crate) fn check(change: impl FnOnce(&mut KubeletConfiguration), expected: &[&str]) {
        let mut config = KubeletConfiguration::default();
        change(&mut config);
        let actual: Vec<String> = config
            .validate()
            .iter()
            .map(|p| p.to_string().trim_start_matches("configuration: ").to_owned())
            .collect();
        assert_eq!(actual, expected);
    }

    #[test]
    fn defaults_are_valid() {
        check(|_| {}, &[]);
        assert_eq!(KubeletConfiguration::default().advice(), []);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        check(
            |c| {
                c.port = 0;
                c.feature_gates.insert("Nope".into(), true);
                c.hairpin_mode = "veth".into();
            },
            &[
                "featureGates[Nope]: true: unrecognized feature gate: Nope",
                "port: 0: must be between 1 and 65535",
                "hairpinMode: \"veth\": must be one of \"promiscuous-bridge\", \"hairpin-veth\", \"none\"",
            ],
        );
    }
}
