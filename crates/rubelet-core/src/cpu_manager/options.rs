//! The policy of the CPU manager and the options of the static one, as configuration names them.
//!
//! Owns their meaning; the words themselves and the gates they need are checked with the configuration.

use std::collections::BTreeMap;

use crate::topology::MachineTopology;

/// Who gets CPUs of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuPolicy {
    /// Nobody: the kernel's scheduler shares them all.
    #[default]
    None,
    /// Containers of Guaranteed pods that ask for whole CPUs.
    Static(StaticOptions),
}

impl CpuPolicy {
    /// The word of the configuration and of the checkpoint.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Static(_) => "static",
        }
    }
}

/// Options of the static policy (`cpuManagerPolicyOptions`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StaticOptions {
    /// `full-pcpus-only`: whole cores or nothing.
    pub full_cores_only: bool,
    /// `strict-cpu-reservation`: reserved CPUs are kept from the shared pool, too.
    pub strict_reservation: bool,
    /// `prefer-align-cpus-by-uncorecache`: as few last-level caches as possible.
    pub prefer_few_caches: bool,
    /// `distribute-cpus-across-numa`: what needs several NUMA nodes is spread evenly over them.
    pub distribute_across_nodes: bool,
    /// `align-by-socket`: a wish for NUMA nodes is a wish for their sockets.
    pub align_by_socket: bool,
    /// `distribute-cpus-across-cores`: one thread of each core before a second one.
    pub distribute_across_cores: bool,
}

/// Options that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Nothing of that name is known.
    #[error("unknown CPU manager policy option {0:?}")]
    Unknown(String),
    /// Neither true nor false.
    #[error("value {value:?} of option {option:?} is neither true nor false")]
    Value {
        /// Its name.
        option: String,
        /// What was given.
        value: String,
    },
    /// Two that contradict each other.
    #[error("static policy options {0} and {1} can not be used at the same time")]
    Together(&'static str, &'static str),
    /// More sockets than NUMA nodes.
    #[error(
        "option align-by-socket needs at least one NUMA node for each socket: {sockets} sockets, {nodes} NUMA nodes"
    )]
    Sockets {
        /// Sockets of the machine.
        sockets: usize,
        /// NUMA nodes of the machine that have CPUs.
        nodes: usize,
    },
}

impl StaticOptions {
    /// Reads them as configuration gives them.
    ///
    /// # Errors
    /// When one is unknown or no boolean, or two exclude each other.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, OptionsError> {
        let mut parsed = Self::default();
        for (option, value) in options {
            let field = match option.as_str() {
                "full-pcpus-only" => &mut parsed.full_cores_only,
                "strict-cpu-reservation" => &mut parsed.strict_reservation,
                "prefer-align-cpus-by-uncorecache" => &mut parsed.prefer_few_caches,
                "distribute-cpus-across-numa" => &mut parsed.distribute_across_nodes,
                "align-by-socket" => &mut parsed.align_by_socket,
                "distribute-cpus-across-cores" => &mut parsed.distribute_across_cores,
                _ => return Err(OptionsError::Unknown(option.clone())),
            };
            *field = match value.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                _ => return Err(OptionsError::Value { option: option.clone(), value: value.clone() }),
            };
        }
        let cores = "distribute-cpus-across-cores";
        for (one, other, both) in [
            ("full-pcpus-only", cores, parsed.full_cores_only && parsed.distribute_across_cores),
            (
                "distribute-cpus-across-numa",
                cores,
                parsed.distribute_across_nodes && parsed.distribute_across_cores,
            ),
            (
                "prefer-align-cpus-by-uncorecache",
                cores,
                parsed.prefer_few_caches && parsed.distribute_across_cores,
            ),
            (
                "prefer-align-cpus-by-uncorecache",
                "distribute-cpus-across-numa",
                parsed.prefer_few_caches && parsed.distribute_across_nodes,
            ),
        ] {
            if both {
                return Err(OptionsError::Together(one, other));
            }
        }
        Ok(parsed)
    }

    /// Whether this machine can follow them.
    ///
    /// # Errors
    /// `align-by-socket` where a NUMA node has several sockets.
    pub fn check(self, machine: &MachineTopology) -> Result<(), OptionsError> {
        let nodes: std::collections::BTreeSet<u32> = machine.cpus.iter().map(|cpu| cpu.numa).collect();
        let (sockets, nodes) = (machine.sockets(), nodes.len());
        if self.align_by_socket && sockets > nodes {
            return Err(OptionsError::Sockets { sockets, nodes });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<StaticOptions, String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        StaticOptions::parse(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn options_by_name() {
        let some = StaticOptions { full_cores_only: true, align_by_socket: true, ..StaticOptions::default() };
        assert_eq!(parse(&[("full-pcpus-only", "T"), ("align-by-socket", "1")]), Ok(some));
        assert_eq!(parse(&[("strict-cpu-reservation", "false")]), Ok(StaticOptions::default()));
        for (bad, expected) in [
            (vec![("full-pcpu-only", "true")], "unknown CPU manager policy option \"full-pcpu-only\""),
            (
                vec![("full-pcpus-only", "yes")],
                "value \"yes\" of option \"full-pcpus-only\" is neither true nor false",
            ),
            (
                vec![("full-pcpus-only", "true"), ("distribute-cpus-across-cores", "true")],
                "static policy options full-pcpus-only and distribute-cpus-across-cores can not be used at the same time",
            ),
            (
                vec![("distribute-cpus-across-numa", "true"), ("prefer-align-cpus-by-uncorecache", "true")],
                "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time",
            ),
        ] {
            assert_eq!(parse(&bad).unwrap_err(), expected);
        }
    }
}
