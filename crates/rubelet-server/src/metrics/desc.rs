//! What a metric is: name, help, type, labels, buckets and how stable upstream calls it.

pub use rubelet_core::stats::exposition::Kind;

/// What upstream promises of a metric (KEP-1209); shown in front of its help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// No promise.
    Alpha,
    /// Labels are not removed.
    Beta,
    /// Neither name nor labels change.
    Stable,
    /// For the project's own tests.
    Internal,
    /// Not one of Kubernetes' own: what every program tells of its process.
    Unmarked,
}

impl Stability {
    /// As upstream writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
            Self::Stable => "STABLE",
            Self::Internal => "INTERNAL",
            Self::Unmarked => "",
        }
    }
}

/// A metric family.
#[derive(Debug)]
pub struct Desc {
    /// Its full name.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Upstream's promise.
    pub stability: Stability,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets, without infinity.
    pub buckets: &'static [f64],
}

impl Desc {
    /// The help line, with the stability in front as upstream has it.
    pub(super) fn help_line(&self) -> String {
        match self.stability.name() {
            "" => self.help.trim().to_owned(),
            name => format!("[{name}] {}", self.help.trim()),
        }
    }
}
