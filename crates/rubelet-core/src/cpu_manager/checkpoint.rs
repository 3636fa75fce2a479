//! The text of `cpu_manager_state`: upstream's first, second and third form read, the second written.
//!
//! Owns the format and its checksum, which upstream takes from Go's dump of the object; judges no content against a
//! machine. Bytes of any kind are read or refused.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Assignments;
use crate::cpu_set::{CpuSet, CpuSetError};
use crate::hash::fnv1a32;

/// What a file said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the policy that wrote it.
    pub policy: String,
    /// CPUs by pod and container, or by container ID.
    pub entries: Entries,
    /// Whether pods share a pool of their own in it (alpha `PodLevelResourceManagers`, the third form).
    pub pod_pools: bool,
}

/// CPUs of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entries {
    /// First form: by container ID.
    ById(BTreeMap<String, CpuSet>),
    /// Second and third form: by pod UID and container name.
    ByName(Assignments),
}

/// A text that is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Not JSON.
    #[error("no JSON")]
    Json(#[from] serde_json::Error),
    /// JSON of another shape.
    #[error("{0} is missing or of another kind")]
    Shape(&'static str),
    /// The sum does not agree with the content.
    #[error("checkpoint is corrupted")]
    Checksum,
    /// No set of CPUs.
    #[error("bad set of CPUs")]
    Cpus(#[from] CpuSetError),
}

type ById = BTreeMap<String, String>;
type ByName = BTreeMap<String, BTreeMap<String, String>>;

enum Raw {
    ById(ById),
    ByName(ByName),
}

impl Checkpoint {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is not JSON of that shape, its sum is wrong or a set of CPUs cannot be read.
    pub fn parse(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let value: Value = serde_json::from_slice(bytes)?;
        let object = value.as_object().ok_or(CheckpointError::Shape("the object"))?;
        let text = |name| field(object, name).map_or(Some(""), Value::as_str);
        let policy = text("policyName").ok_or(CheckpointError::Shape("policyName"))?;
        let default = text("defaultCpuSet").ok_or(CheckpointError::Shape("defaultCpuSet"))?;
        let entries = raw_entries(object)?;
        let pods = raw_pods(object)?;
        let sum = field(object, "checksum").map_or(Some(0), Value::as_u64);
        let sum = sum.ok_or(CheckpointError::Shape("checksum"))?;
        // Upstream takes files of a very old version, which had no sum.
        if sum != 0 && !sums(policy, default, &entries, &pods).contains(&sum) {
            return Err(CheckpointError::Checksum);
        }
        let _shared: CpuSet = default.parse()?;
        let parsed = |texts: ById| {
            let sets = texts.into_iter().map(|(name, text)| Ok((name, text.parse::<CpuSet>()?)));
            sets.collect::<Result<BTreeMap<String, CpuSet>, CpuSetError>>()
        };
        let entries = match entries {
            Raw::ById(entries) => Entries::ById(parsed(entries)?),
            Raw::ByName(entries) => {
                let pods = entries.into_iter().map(|(uid, containers)| Ok((uid.into(), parsed(containers)?)));
                Entries::ByName(pods.collect::<Result<_, CpuSetError>>()?)
            }
        };
        Ok(Self { policy: policy.to_owned(), entries, pod_pools: !pods.is_empty() })
    }
}

/// The text of a file in upstream's second form, which upstream of any version reads.
pub fn written(policy: &str, shared: &CpuSet, assignments: &Assignments) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct File<'a> {
        policy_name: &'a str,
        default_cpu_set: String,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        entries: &'a ByName,
        checksum: u64,
    }
    let texts = |containers: &BTreeMap<String, CpuSet>| {
        containers.iter().map(|(name, cpus)| (name.clone(), cpus.to_string())).collect()
    };
    let entries: ByName =
        assignments.iter().map(|(uid, containers)| (uid.as_str().to_owned(), texts(containers))).collect();
    let default = shared.to_string();
    let dump = dump(policy, &default, BY_NAME, &by_name(&entries), "");
    let checksum = u64::from(fnv1a32(dump.as_bytes()));
    let file = File { policy_name: policy, default_cpu_set: default, entries: &entries, checksum };
    // Strings and numbers only: this cannot fail.
    serde_json::to_string(&file).unwrap_or_default()
}

/// A field by its name as Go's decoder finds it, whatever the case.
fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let found = object
        .get(name)
        .or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value));
    found.filter(|value| !value.is_null())
}

fn raw_entries(object: &Map<String, Value>) -> Result<Raw, CheckpointError> {
    let wrong = || CheckpointError::Shape("entries");
    let Some(entries) = field(object, "entries") else { return Ok(Raw::ByName(ByName::new())) };
    let entries = entries.as_object().ok_or_else(wrong)?;
    if entries.values().next().is_some_and(Value::is_string) {
        return Ok(Raw::ById(strings(entries).ok_or_else(wrong)?));
    }
    let pods = entries.iter().map(|(uid, containers)| Some((uid.clone(), strings(containers.as_object()?)?)));
    Ok(Raw::ByName(pods.collect::<Option<_>>().ok_or_else(wrong)?))
}

/// Pods with a pool of their own.
fn raw_pods(object: &Map<String, Value>) -> Result<BTreeMap<String, CpuSet>, CheckpointError> {
    let wrong = || CheckpointError::Shape("podEntries");
    let Some(pods) = field(object, "podEntries") else { return Ok(BTreeMap::new()) };
    let mut sets = BTreeMap::new();
    for (uid, pod) in pods.as_object().ok_or_else(wrong)? {
        let text = pod.as_object().and_then(|pod| field(pod, "cpuSet").map_or(Some(""), Value::as_str));
        sets.insert(uid.clone(), text.ok_or_else(wrong)?.parse()?);
    }
    Ok(sets)
}

fn strings(object: &Map<String, Value>) -> Option<ById> {
    object.iter().map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

const BY_NAME: &str = "map[string]map[string]string";
const BY_ID: &str = "map[string]string";

/// The sums that are right for such a content, one for each form it can be.
fn sums(policy: &str, default: &str, entries: &Raw, pods: &BTreeMap<String, CpuSet>) -> Vec<u64> {
    let with_pods = || {
        let dumped = pods.iter().map(|(uid, cpus)| {
            let cpus: Vec<String> = cpus.iter().map(|cpu| format!("{cpu}:{{}}")).collect();
            format!("{uid}:{{CPUSet:(cpuset.CPUSet){{elems:(map[int]struct {{}})map[{}]}}}}", cpus.join(" "))
        });
        format!(" PodEntries:(state.PodCPUAssignments)map[{}]", dumped.collect::<Vec<_>>().join(" "))
    };
    let dumps = match entries {
        Raw::ByName(entries) => {
            let named = by_name(entries);
            let mut dumps = vec![dump(policy, default, BY_NAME, &named, &with_pods())];
            if pods.is_empty() {
                dumps.push(dump(policy, default, BY_NAME, &named, ""));
            }
            if entries.is_empty() {
                dumps.push(dump(policy, default, BY_ID, "", ""));
            }
            dumps
        }
        Raw::ById(entries) => vec![dump(policy, default, BY_ID, &by_id(entries), "")],
    };
    dumps.iter().map(|dump| u64::from(fnv1a32(dump.as_bytes()))).collect()
}

/// Go's dump of the object, its sum still zero.
fn dump(policy: &str, default: &str, kind: &str, entries: &str, pods: &str) -> String {
    format!(
        "(*state.CPUManagerCheckpoint){{PolicyName:(string){policy} DefaultCPUSet:(string){default} \
         Entries:({kind})map[{entries}]{pods} Checksum:(checksum.Checksum)0}}"
    )
}

fn by_name(entries: &ByName) -> String {
    let pods = entries.iter().map(|(uid, containers)| format!("{uid}:map[{}]", by_id(containers)));
    pods.collect::<Vec<_>>().join(" ")
}

fn by_id(entries: &ById) -> String {
    entries.iter().map(|(name, cpus)| format!("{name}:{cpus}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &str), &str>) {
        let parsed = Checkpoint::parse(text.as_bytes()).map_err(|error| error.to_string());
        let parsed = parsed.map(|parsed| {
            let entries = match &parsed.entries {
                Entries::ById(entries) => {
                    entries.iter().map(|(id, cpus)| format!("{id}={cpus}")).collect::<Vec<_>>()
                }
                Entries::ByName(pods) => {
                    let named = pods.iter().flat_map(|(uid, containers)| {
                        containers.iter().map(move |(name, cpus)| format!("{uid}/{name}={cpus}"))
                    });
                    named.chain(parsed.pod_pools.then(|| "pools".to_owned())).collect()
                }
            };
            (parsed.policy, entries.join(" "))
        });
        let expected = expected.map(|(policy, entries)| (policy.to_owned(), entries.to_owned()));
        assert_eq!(parsed, expected.map_err(str::to_owned), "{text}");
    }

    /// Upstream's own vectors (`TestCheckpointStateRestore`).
    #[test]
    fn upstreams_files() {
        let start = r#"{"policyName": "none", "defaultCPUSet": "#;
        let of = |rest: &str| format!("{start}{rest}}}");
        check(&of(r#""4-6", "entries": {}, "checksum": 354655845"#), Ok(("none", "")));
        check(
            &of(
                r#""1-3", "entries": {"pod": {"container1": "4-6", "container2": "1-3"}}, "checksum": 3610638499"#,
            ),
            Ok(("none", "pod/container1=4-6 pod/container2=1-3")),
        );
        check(&of(r#""4-6", "entries": {}, "checksum": 1337"#), Err("checkpoint is corrupted"));
        check(&of(r#""1-3", "checksum": 1694838852"#), Ok(("none", "")));
        check(&of(r#""1.3", "entries": {}, "checksum": 3021697696"#), Err("bad set of CPUs"));
        check(
            &of(
                r#""1-3", "entries": {"containerID1": "4-6", "containerID2": "1-3"}, "checksum": 3680390589"#,
            ),
            Ok(("none", "containerID1=4-6 containerID2=1-3")),
        );
        check(
            &of(
                r#""1-3", "entries": {"pod": {"container1": "4-6", "container2": "1-3"}}, "podEntries": {"pod": {"cpuSet": "4-6"}}, "checksum": 2649431787"#,
            ),
            Ok(("none", "pod/container1=4-6 pod/container2=1-3 pools")),
        );
    }

    #[test]
    fn what_is_no_checkpoint() {
        for bad in ["", "{", "[]", "7"] {
            assert!(Checkpoint::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        check(r#"{"policyName": 7}"#, Err("policyName is missing or of another kind"));
        check(r#"{"entries": {"pod": "1", "b": {}}}"#, Err("entries is missing or of another kind"));
        check(r#"{"checksum": -1}"#, Err("checksum is missing or of another kind"));
        check(r#"{"podEntries": {"pod": 1}}"#, Err("podEntries is missing or of another kind"));
        check(r#"{"entries": {"pod": {"c": "4-"}}}"#, Err("bad set of CPUs"));
        // Without a sum, as a very old version wrote it.
        check(r#"{"policyName": "static", "entries": {"pod": {"c": "4"}}}"#, Ok(("static", "pod/c=4")));
    }

    /// What every upstream node with the policy none has on its disk.
    #[test]
    fn the_file_of_a_node_that_pins_nothing() {
        let file = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;
        assert_eq!(written("none", &CpuSet::new(), &Assignments::new()), file);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            entries in proptest::collection::btree_map("[a-z0-9-]{1,8}", proptest::collection::btree_map(
                "[a-z0-9-]{1,8}", proptest::collection::btree_set(0_u32..64, 1..6), 1..4), 0..4),
        ) {
            let assignments: Assignments = entries.into_iter().map(|(uid, containers)| {
                let containers = containers.into_iter().map(|(name, cpus)| (name, cpus.into_iter().collect()));
                (uid.into(), containers.collect())
            }).collect();
            let text = written("static", &CpuSet::from([0, 1]), &assignments);
            let read = Checkpoint::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(read.entries, Entries::ByName(assignments));
            prop_assert_eq!(read.policy, "static");
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Checkpoint::parse(&bytes);
        }
    }
}
