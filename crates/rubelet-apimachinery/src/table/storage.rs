//! Volumes, claims on them and what makes them.

use serde_json::{Value, json};

use super::columns::{AGE, NAME, boolean, integer, string};
use super::{Printer, age, cell, cell_or, flag, is_being_deleted, name, or};
use crate::strategy::value::{at, has, items, text, texts};

pub(super) static VOLUMES: Printer = Printer {
    columns: &[
        NAME,
        string("Capacity", "How large it is."),
        string("Access Modes", "Who may mount it at the same time."),
        string("Reclaim Policy", "What becomes of it after its claim."),
        string("Status", "Whether it is free."),
        string("Claim", "The claim it belongs to."),
        string("StorageClass", "The class it is of."),
        string("VolumeAttributesClass", "The class of its attributes."),
        string("Reason", "Why its status is what it is."),
        AGE,
        string("VolumeMode", "A file system or a block device.").wide(),
    ],
    cells: |volume, now| {
        let claim = match at(volume, &["spec", "claimRef"]) {
            claim @ Value::Object(_) => format!("{}/{}", text(claim, &["namespace"]), text(claim, &["name"])),
            _ => String::new(),
        };
        vec![
            name(volume),
            cell_or(volume, &["spec", "capacity", "storage"], "0"),
            json!(access_modes(volume, &["spec", "accessModes"])),
            cell(volume, &["spec", "persistentVolumeReclaimPolicy"]),
            phase(volume),
            json!(claim),
            class(volume),
            unless_unset(volume, &["spec", "volumeAttributesClassName"]),
            cell(volume, &["status", "reason"]),
            age(volume, now),
            unless_unset(volume, &["spec", "volumeMode"]),
        ]
    },
};

pub(super) static CLAIMS: Printer = Printer {
    columns: &[
        NAME,
        string("Status", "Whether there is a volume for it."),
        string("Volume", "Its volume."),
        string("Capacity", "How large the volume is."),
        string("Access Modes", "Who may mount it at the same time."),
        string("StorageClass", "The class it asks for."),
        string("VolumeAttributesClass", "The class of attributes it asks for."),
        AGE,
        string("VolumeMode", "A file system or a block device.").wide(),
    ],
    cells: |claim, now| {
        let volume = text(claim, &["spec", "volumeName"]);
        let (capacity, modes) = match volume {
            "" => (json!(""), String::new()),
            _ => (
                cell_or(claim, &["status", "capacity", "storage"], "0"),
                access_modes(claim, &["status", "accessModes"]),
            ),
        };
        vec![
            name(claim),
            phase(claim),
            json!(volume),
            capacity,
            json!(modes),
            class(claim),
            unless_unset(claim, &["spec", "volumeAttributesClassName"]),
            age(claim, now),
            unless_unset(claim, &["spec", "volumeMode"]),
        ]
    },
};

pub(super) static CLASSES: Printer = Printer {
    columns: &[
        NAME,
        string("Provisioner", "Who makes its volumes."),
        string("ReclaimPolicy", "What becomes of volumes after their claims."),
        string("VolumeBindingMode", "Whether claims wait for a pod."),
        string("AllowVolumeExpansion", "Whether volumes can grow."),
        AGE,
    ],
    cells: |class, now| {
        let standard = if is_default(class) { " (default)" } else { "" };
        vec![
            json!(format!("{}{standard}", text(class, &["metadata", "name"]))),
            cell(class, &["provisioner"]),
            cell_or(class, &["reclaimPolicy"], "Delete"),
            cell_or(class, &["volumeBindingMode"], "Immediate"),
            flag(class, &["allowVolumeExpansion"], false),
            age(class, now),
        ]
    },
};

pub(super) static ATTACHMENTS: Printer = Printer {
    columns: &[
        NAME,
        string("Attacher", "Who attaches it.").names(),
        string("PV", "The volume."),
        string("Node", "The node it is attached to."),
        boolean("Attached", "Whether it is attached."),
        AGE,
    ],
    cells: |attachment, now| {
        vec![
            name(attachment),
            cell(attachment, &["spec", "attacher"]),
            cell(attachment, &["spec", "source", "persistentVolumeName"]),
            cell(attachment, &["spec", "nodeName"]),
            flag(attachment, &["status", "attached"], false),
            age(attachment, now),
        ]
    },
};

pub(super) static CSI_NODES: Printer = Printer {
    columns: &[NAME, integer("Drivers", "How many drivers the node has."), AGE],
    cells: |node, now| vec![name(node), json!(items(node, &["spec", "drivers"]).len()), age(node, now)],
};

pub(super) static CSI_DRIVERS: Printer = Printer {
    columns: &[
        NAME,
        boolean("AttachRequired", "Whether its volumes are attached before they are mounted."),
        boolean("PodInfoOnMount", "Whether it is told of the pod."),
        boolean("StorageCapacity", "Whether it tells how much room is left."),
        string("TokenRequests", "For whom it wants tokens of the pod's account."),
        boolean("RequiresRepublish", "Whether it is called again while a volume is mounted."),
        string("Modes", "What kinds of volumes it serves."),
        AGE,
    ],
    cells: |driver, now| {
        let spec = |field: &'static str, absent| flag(driver, &["spec", field], absent);
        let requests = items(driver, &["spec", "tokenRequests"]);
        let audiences: Vec<&str> = requests.iter().map(|request| text(request, &["audience"])).collect();
        let modes: Vec<&str> = texts(driver, &["spec", "volumeLifecycleModes"]).collect();
        vec![
            name(driver),
            spec("attachRequired", true),
            spec("podInfoOnMount", false),
            spec("storageCapacity", false),
            json!(if requests.is_empty() { "<unset>".to_owned() } else { audiences.join(",") }),
            spec("requiresRepublish", false),
            json!(or(&modes.join(","), "<none>")),
            age(driver, now),
        ]
    },
};

fn phase(object: &Value) -> Value {
    if is_being_deleted(object) { json!("Terminating") } else { cell(object, &["status", "phase"]) }
}

/// The storage class, which an annotation names in old objects.
fn class(object: &Value) -> Value {
    let old = &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"];
    if has(object, old) { cell(object, old) } else { cell(object, &["spec", "storageClassName"]) }
}

fn unless_unset(object: &Value, path: &[&str]) -> Value {
    if has(object, path) { cell(object, path) } else { json!("<unset>") }
}

fn is_default(class: &Value) -> bool {
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|annotation| text(class, &["metadata", "annotations", annotation]) == "true")
}

/// Each mode once, in the order of upstream (`GetAccessModesAsString`).
fn access_modes(object: &Value, path: &[&str]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| texts(object, path).any(|m| m == mode);
    short.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}
