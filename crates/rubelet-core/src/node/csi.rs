//! What the node says of its CSI drivers: the CSINode object, and the annotation and labels of the Node.
//!
//! Owns what a driver that registers changes in them and what one that leaves takes back (upstream `nodeinfomanager`).
//! Never talks to the API server; the shell's node agent reads, asks here and writes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

/// Says which kinds of volume go to drivers on this node (upstream `MigratedPluginsAnnotationKey`).
pub const MIGRATED_PLUGINS: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// Says by which name each driver knows the node (upstream `annotationKeyNodeID`).
pub const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// What Ready says until the CSINode is there (upstream `initializeCSINode`).
pub const NOT_INITIALIZED: &str = "CSINode is not yet initialized";

/// Every kind that upstream 1.36 hands to a driver, in the order of the annotation.
const MIGRATED: [&str; 7] = [
    "kubernetes.io/aws-ebs",
    "kubernetes.io/azure-disk",
    "kubernetes.io/azure-file",
    "kubernetes.io/cinder",
    "kubernetes.io/gce-pd",
    "kubernetes.io/portworx-volume",
    "kubernetes.io/vsphere-volume",
];

/// What a driver says of the node (`NodeGetInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverOnNode {
    /// The driver's name for the node.
    pub node_id: String,
    /// How many volumes can be published here; 0 is no limit.
    pub max_volumes: i64,
    /// Where the node is, in the driver's terms.
    pub topology: BTreeMap<String, String>,
}

/// Why a driver's word on the node cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsiNodeError {
    /// It has no name for the node.
    #[error("error adding CSI driver node info: driverNodeID must not be empty")]
    NoNodeId,
    /// A label of the Node says something else, which others rely on.
    #[error(
        "detected topology value collision: driver reported {key:?}:{reported:?} but existing label is {key:?}:{existing:?}"
    )]
    Topology {
        /// The label.
        key: String,
        /// What the driver says.
        reported: String,
        /// What the Node says.
        existing: String,
    },
    /// Nobody can read what the Node says.
    #[error("failed to parse node's {NODE_IDS:?} annotation value ({0:?})")]
    Annotation(String),
}

/// A CSINode without drivers, owned by the Node.
pub fn new_csi_node(node: &str, node_uid: &str) -> CSINode {
    CSINode {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            annotations: Some(BTreeMap::from([(MIGRATED_PLUGINS.to_owned(), MIGRATED.join(","))])),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.to_owned(),
                uid: node_uid.to_owned(),
                ..Default::default()
            }]),
            ..Default::default()
        },
        spec: CSINodeSpec::default(),
    }
}

/// Whether the object is that of this Node. One of an earlier Node of the same name is garbage and has to go.
pub fn is_owned(object: &CSINode, node: &str, node_uid: &str) -> bool {
    object
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.kind == "Node" && owner.name == node && owner.uid == node_uid)
}

/// Writes the annotation on migrated kinds. Returns whether that changed anything.
pub fn annotate(object: &mut CSINode) -> bool {
    let told = object.metadata.annotations.as_ref().and_then(|all| all.get(MIGRATED_PLUGINS));
    let mut told: Vec<&str> = told.map(|text| text.split(',').collect()).unwrap_or_default();
    told.sort_unstable();
    if told == MIGRATED {
        return false;
    }
    let annotations = object.metadata.annotations.get_or_insert_default();
    annotations.insert(MIGRATED_PLUGINS.to_owned(), MIGRATED.join(","));
    true
}

/// Writes what a driver says. Returns whether that changed anything.
pub fn install(object: &mut CSINode, driver: &str, info: &DriverOnNode) -> bool {
    let annotated = annotate(object);
    let entry = CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: (!info.topology.is_empty()).then(|| info.topology.keys().cloned().collect()),
        // A negative limit is the driver's mistake: as upstream, none is told.
        allocatable: (info.max_volumes > 0).then(|| VolumeNodeResources {
            count: Some(i32::try_from(info.max_volumes).unwrap_or(i32::MAX)),
        }),
    };
    let drivers = &mut object.spec.drivers;
    let at = drivers.iter().position(|known| known.name == driver);
    if at.is_some_and(|at| says_the_same(&drivers[at], &entry)) {
        return annotated;
    }
    drivers.retain(|known| known.name != driver);
    drivers.push(entry);
    true
}

fn says_the_same(known: &CSINodeDriver, new: &CSINodeDriver) -> bool {
    let keys = |driver: &CSINodeDriver| {
        let mut keys = driver.topology_keys.clone().unwrap_or_default();
        keys.sort_unstable();
        keys
    };
    let count =
        |driver: &CSINodeDriver| driver.allocatable.as_ref().and_then(|allocatable| allocatable.count);
    known.node_id == new.node_id && keys(known) == keys(new) && count(known) == count(new)
}

/// Takes a driver out. Returns whether that changed anything.
pub fn uninstall(object: &mut CSINode, driver: &str) -> bool {
    let before = object.spec.drivers.len();
    object.spec.drivers.retain(|known| known.name != driver);
    let annotated = annotate(object);
    before != object.spec.drivers.len() || annotated
}

/// The patch that has the Node say what a driver says: its name for the node, and topology as labels. `None` when the
/// Node says so already.
///
/// # Errors
/// A label of the Node contradicts the driver: the scheduler would place volumes where they cannot be reached.
pub fn node_patch(node: &Node, driver: &str, info: &DriverOnNode) -> Result<Option<Value>, CsiNodeError> {
    if info.node_id.is_empty() {
        return Err(CsiNodeError::NoNodeId);
    }
    let mut ids = node_ids(node)?;
    let mut metadata = serde_json::Map::new();
    if ids.insert(driver.to_owned(), info.node_id.clone()).as_ref() != Some(&info.node_id) {
        metadata.insert("annotations".to_owned(), json!({ NODE_IDS: json!(ids).to_string() }));
    }
    let labels = node.metadata.labels.as_ref();
    let mut missing = BTreeMap::new();
    for (key, reported) in &info.topology {
        match labels.and_then(|labels| labels.get(key)) {
            None => {
                missing.insert(key, reported);
            }
            Some(existing) if existing == reported => {}
            Some(existing) => {
                return Err(CsiNodeError::Topology {
                    key: key.clone(),
                    reported: reported.clone(),
                    existing: existing.clone(),
                });
            }
        }
    }
    if !missing.is_empty() {
        metadata.insert("labels".to_owned(), json!(missing));
    }
    Ok((!metadata.is_empty()).then(|| json!({ "metadata": metadata })))
}

/// The patch that takes a driver's name for the node out of the Node. Labels stay: volumes that were made for them do.
///
/// # Errors
/// The annotation is no JSON.
pub fn node_patch_without(node: &Node, driver: &str) -> Result<Option<Value>, CsiNodeError> {
    let mut ids = node_ids(node)?;
    if ids.remove(driver).is_none() {
        return Ok(None);
    }
    let value = if ids.is_empty() { Value::Null } else { json!(json!(ids).to_string()) };
    Ok(Some(json!({ "metadata": { "annotations": { NODE_IDS: value } } })))
}

fn node_ids(node: &Node) -> Result<BTreeMap<String, String>, CsiNodeError> {
    let text = node.metadata.annotations.as_ref().and_then(|all| all.get(NODE_IDS));
    match text.map(String::as_str) {
        None | Some("" | "null") => Ok(BTreeMap::new()),
        Some(text) => serde_json::from_str(text).map_err(|_| CsiNodeError::Annotation(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str, max_volumes: i64, topology: &[(&str, &str)]) -> DriverOnNode {
        let topology = topology.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        DriverOnNode { node_id: id.to_owned(), max_volumes, topology }
    }

    fn show(object: &CSINode) -> Vec<String> {
        let show = |driver: &CSINodeDriver| {
            let count = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count);
            let keys = driver.topology_keys.clone().unwrap_or_default();
            format!("{}={} {count:?} {}", driver.name, driver.node_id, keys.join(","))
        };
        object.spec.drivers.iter().map(show).collect()
    }

    #[test]
    fn drivers_come_change_and_go() {
        let mut object = new_csi_node("node-1", "u-1");
        assert!(is_owned(&object, "node-1", "u-1"));
        assert!(!is_owned(&object, "node-1", "u-2") && !is_owned(&object, "node-2", "u-1"));
        let mut check = |name: &str, said: &DriverOnNode, changes: bool, expected: &[&str]| {
            assert_eq!(install(&mut object, name, said), changes, "{name} {said:?}");
            assert_eq!(show(&object), expected);
        };
        check("a", &info("n", 0, &[("z", "1"), ("r", "2")]), true, &["a=n None r,z"]);
        check("b", &info("m", 5, &[]), true, &["a=n None r,z", "b=m Some(5) "]);
        check("a", &info("n", 0, &[("r", "3"), ("z", "1")]), false, &["a=n None r,z", "b=m Some(5) "]);
        check("a", &info("n", -4, &[("r", "3")]), true, &["b=m Some(5) ", "a=n None r"]);
        check("b", &info("m", i64::MAX, &[]), true, &["a=n None r", "b=m Some(2147483647) "]);
        assert!(uninstall(&mut object, "a") && !uninstall(&mut object, "a"));
        assert_eq!(show(&object), ["b=m Some(2147483647) "]);
    }

    #[test]
    fn migrated_kinds_are_told_in_any_order() {
        let mut object = new_csi_node("node-1", "u-1");
        let mut turned = MIGRATED;
        turned.reverse();
        let annotations = object.metadata.annotations.as_mut().unwrap();
        annotations.insert(MIGRATED_PLUGINS.to_owned(), turned.join(","));
        assert!(!annotate(&mut object));
        object.metadata.annotations = None;
        assert!(annotate(&mut object) && !annotate(&mut object));
    }

    #[test]
    fn the_node_says_names_and_topology() {
        let node = |ids: Option<&str>, labels: &[(&str, &str)]| {
            let mut node = Node::default();
            let own = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
            };
            node.metadata.labels = Some(own(labels));
            node.metadata.annotations = ids.map(|ids| own(&[(NODE_IDS, ids)]));
            node
        };
        let check = |node: &Node, said: &DriverOnNode, expected: Result<Option<Value>, &str>| {
            let got = node_patch(node, "d", said).map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned));
        };
        let ids = |text: &str| json!({ NODE_IDS: text });
        check(
            &node(None, &[]),
            &info("n", 0, &[("z", "1")]),
            Ok(Some(json!({"metadata": {"annotations": ids(r#"{"d":"n"}"#), "labels": {"z": "1"}}}))),
        );
        check(&node(Some(r#"{"d":"n"}"#), &[("z", "1")]), &info("n", 0, &[("z", "1")]), Ok(None));
        check(
            &node(Some(r#"{"c":"x","d":"old"}"#), &[]),
            &info("n", 0, &[]),
            Ok(Some(json!({"metadata": {"annotations": ids(r#"{"c":"x","d":"n"}"#)}}))),
        );
        check(
            &node(None, &[("z", "2")]),
            &info("n", 0, &[("z", "1")]),
            Err(
                "detected topology value collision: driver reported \"z\":\"1\" but existing label is \"z\":\"2\"",
            ),
        );
        check(
            &node(None, &[]),
            &info("", 0, &[]),
            Err("error adding CSI driver node info: driverNodeID must not be empty"),
        );
        check(
            &node(Some("nonsense"), &[]),
            &info("n", 0, &[]),
            Err("failed to parse node's \"csi.volume.kubernetes.io/nodeid\" annotation value (\"nonsense\")"),
        );
        let without = |ids: &str| node_patch_without(&node(Some(ids), &[]), "d").unwrap();
        assert_eq!(without(r#"{"d":"n"}"#), Some(json!({"metadata": {"annotations": ids_null()}})));
        assert_eq!(
            without(r#"{"c":"x","d":"n"}"#),
            Some(json!({"metadata": {"annotations": ids(r#"{"c":"x"}"#)}}))
        );
        assert_eq!(without(r#"{"c":"x"}"#), None);
    }

    fn ids_null() -> Value {
        json!({ NODE_IDS: null })
    }
}
