//! Feature gates: which are known, which are on, and what may be set.
//!
//! Owns the rules of component-base `featuregate`: unknown names, locked gates, `AllAlpha` and
//! `AllBeta`, dependencies. The data is in `gate_table`. The rest of the agent asks
//! [`FeatureGates::enabled`] and never looks at names.

use std::collections::BTreeMap;

use crate::gate_table::{GATES, Gate};
use crate::problem::Problem;
use crate::suggest;

/// How mature a gate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// New, off, may change.
    Alpha,
    /// Mostly on, may still change.
    Beta,
    /// Stable; the gate goes away later.
    Ga,
    /// Kept for old clusters only.
    Deprecated,
}

impl Stage {
    /// The stage as upstream prints it in `kubernetes_feature_enabled{stage}`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
            Self::Ga => "",
            Self::Deprecated => "DEPRECATED",
        }
    }
}

/// What is known about one gate.
#[derive(Clone, Copy, Debug)]
pub struct GateSpec {
    /// The gate.
    pub gate: Gate,
    /// Its name in configuration.
    pub name: &'static str,
    /// Its stage at this Kubernetes version.
    pub stage: Stage,
    /// Whether it is on when nobody says anything.
    pub default: bool,
    /// Whether it may only have its default.
    pub locked: bool,
    /// Gates that must be on when this one is.
    pub needs: &'static [Gate],
}

/// Switches every alpha gate that is not set by name.
const ALL_ALPHA: &str = "AllAlpha";
/// Switches every beta gate that is not set by name.
const ALL_BETA: &str = "AllBeta";

impl Gate {
    /// What is known about this gate.
    #[must_use]
    pub fn spec(self) -> &'static GateSpec {
        // The table is generated in the order of the enum; a test holds it to that.
        &GATES[self as usize]
    }

    fn named(name: &str) -> Option<&'static GateSpec> {
        GATES.iter().find(|spec| spec.name == name)
    }
}

/// The state of every gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    /// Gates that differ from their default or were set by name.
    set: BTreeMap<Gate, bool>,
}

impl FeatureGates {
    /// Whether a gate is on.
    #[must_use]
    pub fn enabled(&self, gate: Gate) -> bool {
        self.set.get(&gate).copied().unwrap_or(gate.spec().default)
    }

    /// All gates with their state, in the order of names, for metrics and help.
    pub fn all(&self) -> impl Iterator<Item = (&'static GateSpec, bool)> {
        GATES.iter().map(|spec| (spec, self.enabled(spec.gate)))
    }

    /// The gates for the values of `featureGates`, with everything that is wrong about them.
    /// Wrong entries are left out, so the result is usable for further checks.
    #[must_use]
    pub fn from_settings(settings: &BTreeMap<String, bool>) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut gates = Self::default();
        for (stage, name) in [(Stage::Alpha, ALL_ALPHA), (Stage::Beta, ALL_BETA)] {
            if let Some(value) = settings.get(name) {
                let of_stage = GATES.iter().filter(|spec| spec.stage == stage && !spec.locked);
                gates.set.extend(of_stage.map(|spec| (spec.gate, *value)));
            }
        }
        for (name, value) in settings {
            if name == ALL_ALPHA || name == ALL_BETA {
                continue;
            }
            let field = format!("featureGates[{name}]");
            match Gate::named(name) {
                None => {
                    let hint = suggest::hint(name, GATES.iter().map(|spec| spec.name));
                    let message = format!("unrecognized feature gate: {name}{hint}");
                    problems.push(Problem::field(field, value, message));
                }
                Some(spec) if spec.locked && spec.default != *value => {
                    let message = format!(
                        "cannot set feature gate {name} to {value}, feature is locked to {}",
                        spec.default
                    );
                    problems.push(Problem::field(field, value, message));
                }
                Some(spec) => {
                    gates.set.insert(spec.gate, *value);
                }
            }
        }
        if problems.is_empty() {
            problems.extend(gates.unmet(settings));
        }
        (gates, problems)
    }

    /// Gates that are on although something they need is off.
    fn unmet(&self, settings: &BTreeMap<String, bool>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for spec in GATES.iter().filter(|spec| self.enabled(spec.gate)) {
            let off: Vec<&str> = spec
                .needs
                .iter()
                .filter(|needed| !self.enabled(**needed))
                .map(|needed| needed.spec().name)
                .collect();
            let Some(first) = off.first() else { continue };
            // Point at the entry the user wrote: the gate itself, or the one it misses.
            let blamed = if settings.contains_key(spec.name) { spec.name } else { first };
            let message = format!(
                "{} is enabled, but depends on features that are disabled: {}",
                spec.name,
                off.join(", ")
            );
            let value = self.enabled(Gate::named(blamed).map_or(spec.gate, |s| s.gate));
            problems.push(Problem::field(format!("featureGates[{blamed}]"), value, message));
        }
        problems
    }

    /// Warnings upstream prints for gates that will go away.
    #[must_use]
    pub fn retiring(settings: &BTreeMap<String, bool>) -> Vec<&'static str> {
        settings
            .keys()
            .filter_map(|name| Gate::named(name))
            .filter(|spec| matches!(spec.stage, Stage::Ga | Stage::Deprecated))
            .map(|spec| spec.name)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> BTreeMap<String, bool> {
        text.split_whitespace()
            .map(|pair| pair.split_once('=').expect("name=value"))
            .map(|(name, value)| (name.to_owned(), value == "true"))
            .collect()
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) -> FeatureGates {
        let (gates, problems) = FeatureGates::from_settings(&settings(text));
        let messages: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(messages, expected);
        gates
    }

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, spec) in GATES.iter().enumerate() {
            assert_eq!(spec.gate as usize, index, "{}", spec.name);
        }
        assert!(GATES.is_sorted_by_key(|spec| spec.name));
    }

    #[test]
    fn defaults_are_those_of_1_36() {
        let gates = check("", &[]);
        assert!(gates.enabled(Gate::GracefulNodeShutdown));
        assert!(gates.enabled(Gate::PLEGOnDemandRelist));
        assert!(!gates.enabled(Gate::EventedPLEG));
        assert!(!gates.enabled(Gate::MemoryQoS));
        assert!(gates.enabled(Gate::SidecarContainers));
        assert_eq!(gates.all().filter(|(spec, on)| *on != spec.default).count(), 0);
    }

    #[test]
    fn gates_are_set_by_name_and_by_stage() {
        let gates = check("MemoryQoS=true ContainerCheckpoint=false", &[]);
        assert!(gates.enabled(Gate::MemoryQoS));
        assert!(!gates.enabled(Gate::ContainerCheckpoint));
        let gates = check("AllAlpha=true PodsAPI=false", &[]);
        assert!(gates.enabled(Gate::EventedPLEG));
        assert!(!gates.enabled(Gate::PodsAPI));
    }

    #[test]
    fn what_may_not_be_set_is_refused() {
        check("MemoryQos=true", &["unrecognized feature gate: MemoryQos; did you mean \"MemoryQoS\"?"]);
        check(
            "SidecarContainers=false Nonsense=true",
            &[
                "unrecognized feature gate: Nonsense",
                "cannot set feature gate SidecarContainers to false, feature is locked to true",
            ],
        );
        check("SidecarContainers=true", &[]);
    }

    #[test]
    fn dependencies_are_checked() {
        check(
            "GracefulNodeShutdown=false",
            &[
                "GracefulNodeShutdownBasedOnPodPriority is enabled, but depends on features that are disabled: GracefulNodeShutdown",
                "WindowsGracefulNodeShutdown is enabled, but depends on features that are disabled: GracefulNodeShutdown",
            ],
        );
        check(
            "ResourceHealthStatus=false",
            &[
                "ResourceHealthStatusMessage is enabled, but depends on features that are disabled: ResourceHealthStatus",
            ],
        );
    }

    #[test]
    fn retiring_gates_are_named() {
        let set = settings("SidecarContainers=true EventedPLEG=true DisableCPUQuotaWithExclusiveCPUs=false");
        assert_eq!(FeatureGates::retiring(&set), ["DisableCPUQuotaWithExclusiveCPUs", "SidecarContainers"]);
    }
}
