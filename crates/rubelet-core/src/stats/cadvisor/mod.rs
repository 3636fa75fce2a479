//! `/metrics/cadvisor`: every control group of the node in the words of cAdvisor, and the machine.
//!
//! Called by the server. Names, labels, types and which figure is told of which control group are cAdvisor's
//! (`PrometheusCollector`, `PrometheusMachineCollector`) with the sets the kubelet turns on; families come in the order
//! of their names. Each group of families has a table of its own. What is not known is left out; so are families that
//! upstream's kubelet only ever writes a constant for (see `catalogue.txt` beside this).

mod cpu;
mod io;
mod machine;
mod memory;
mod network;
mod process;
mod subjects;
#[cfg(test)]
mod tests;

use self::subjects::{Subject, subjects};
use super::exposition::{Exposition, Extra, Kind, Value};
use super::usage::NodeUsage;

/// Positions of labels between those that every sample has: container, id, image, name, namespace, pod.
mod between {
    /// Labels that sort after `container`.
    pub(super) const CONTAINER: usize = 1;
    /// Labels that sort after `image`.
    pub(super) const IMAGE: usize = 3;
    /// Labels that sort after `namespace`.
    pub(super) const NAMESPACE: usize = 5;
    /// Labels that sort after `pod`.
    pub(super) const POD: usize = 6;
}

/// A family, and how to tell it of a control group.
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    tell: Tell,
}

/// How a family is told of a control group.
enum Tell {
    /// One value, with the time of its reading.
    One(fn(&Subject<'_>) -> Option<Value>),
    /// One value that is no reading: without a time.
    Fact(fn(&Subject<'_>) -> Option<Value>),
    /// Any number of values, told apart by further labels.
    Each(fn(&Subject<'_>, &mut Samples<'_>)),
}

const fn counter(name: &'static str, help: &'static str, tell: Tell) -> Family {
    Family { name, kind: Kind::Counter, help, tell }
}

const fn gauge(name: &'static str, help: &'static str, tell: Tell) -> Family {
    Family { name, kind: Kind::Gauge, help, tell }
}

/// Where the samples of one family and one control group go.
struct Samples<'a> {
    document: &'a mut Exposition,
    subject: &'a Subject<'a>,
}

impl Samples<'_> {
    /// Writes a value with further labels, by position, at the time the group was read.
    fn push(&mut self, more: &[Extra<'_>], value: impl Into<Value>) {
        self.push_at(more, value, self.subject.at);
    }

    /// Writes a value that was read at another time.
    fn push_at(&mut self, more: &[Extra<'_>], value: impl Into<Value>, at: Option<i64>) {
        self.document.sample_of(&self.subject.labels, more, value, at);
    }
}

/// What is told of every control group.
const GENERAL: &[Family] = &[
    gauge(
        "container_health_state",
        "Result of the container's health check; -1 without one, which no container of a pod has",
        Tell::One(|_| Some(Value::Float(-1.0))),
    ),
    gauge(
        "container_last_seen",
        "When the container was last seen, in seconds since the epoch",
        Tell::One(|subject| subject.at.map(|at| Value::from(at.div_euclid(1000)))),
    ),
    gauge(
        "container_start_time_seconds",
        "When the container started, in seconds since the epoch",
        Tell::Fact(|subject| subject.started.map(Value::from)),
    ),
];

/// Writes the families in the order of their names.
pub fn write(usage: &NodeUsage, document: &mut Exposition) {
    machine::write_version(&usage.machine, document);
    let subjects = subjects(usage);
    let groups =
        [GENERAL, cpu::FAMILIES, memory::FAMILIES, io::FAMILIES, network::FAMILIES, process::FAMILIES];
    let mut families: Vec<&Family> = groups.into_iter().flatten().collect();
    families.sort_by_key(|family| family.name);
    // It is the one family of containers that belongs to none.
    let error = families.partition_point(|family| family.name < SCRAPE_ERROR);
    let (before, after) = families.split_at(error);
    write_families(before, &subjects, document);
    document.family(SCRAPE_ERROR, "1 when something could not be read, otherwise 0", Kind::Gauge);
    document.sample(SCRAPE_ERROR, &[], !usage.problems.is_empty(), None);
    write_families(after, &subjects, document);
    machine::write(usage, document);
}

const SCRAPE_ERROR: &str = "container_scrape_error";

fn write_families(families: &[&Family], subjects: &[Subject<'_>], document: &mut Exposition) {
    for family in families {
        document.family(family.name, family.help, family.kind);
        for subject in subjects {
            let (value, at) = match family.tell {
                Tell::One(value) => (value(subject), subject.at),
                Tell::Fact(value) => (value(subject), None),
                Tell::Each(tell) => {
                    tell(subject, &mut Samples { document, subject });
                    continue;
                }
            };
            if let Some(value) = value {
                document.sample_of(&subject.labels, &[], value, at);
            }
        }
    }
}
