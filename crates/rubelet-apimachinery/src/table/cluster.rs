//! What rules over pods and nodes: namespaces, leases, classes, budgets, requests.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, boolean, integer, string};
use super::{Printer, age, cell, cell_or, flag, is_being_deleted, name, number};
use crate::strategy::value::{at, has, items, text};

pub(super) static NAMESPACES: Printer = Printer {
    columns: &[NAME, string("Status", "Whether it is in use or going away."), AGE],
    cells: |space, now| vec![name(space), cell(space, &["status", "phase"]), age(space, now)],
};

pub(super) static LEASES: Printer = Printer {
    columns: &[NAME, string("Holder", "Who holds it."), AGE],
    cells: |lease, now| vec![name(lease), cell(lease, &["spec", "holderIdentity"]), age(lease, now)],
};

pub(super) static RUNTIME_CLASSES: Printer = Printer {
    columns: &[NAME, string("Handler", "What the container runtime calls it."), AGE],
    cells: |class, now| vec![name(class), cell(class, &["handler"]), age(class, now)],
};

pub(super) static PRIORITY_CLASSES: Printer = Printer {
    columns: &[
        NAME,
        integer("Value", "The priority of its pods; more goes first."),
        boolean("Global-Default", "Whether it is for pods that name no class."),
        AGE,
        string("PreemptionPolicy", "Whether its pods may push out others."),
    ],
    cells: |class, now| {
        vec![
            name(class),
            json!(number(class, &["value"])),
            flag(class, &["globalDefault"], false),
            age(class, now),
            cell(class, &["preemptionPolicy"]),
        ]
    },
};

pub(super) static DISRUPTION_BUDGETS: Printer = Printer {
    columns: &[
        NAME,
        string("Min Available", "How many pods must stay."),
        string("Max Unavailable", "How many pods may be missing."),
        integer("Allowed Disruptions", "How many pods may be evicted now."),
        AGE,
    ],
    cells: |budget, now| {
        vec![
            name(budget),
            amount(at(budget, &["spec", "minAvailable"])),
            amount(at(budget, &["spec", "maxUnavailable"])),
            json!(number(budget, &["status", "disruptionsAllowed"])),
            age(budget, now),
        ]
    },
};

pub(super) static SIGNING_REQUESTS: Printer = Printer {
    columns: &[
        NAME,
        AGE,
        string("SignerName", "Who is to sign."),
        string("Requestor", "Who asks."),
        string("RequestedDuration", "How long the certificate is to be good."),
        string("Condition", "What has become of the request."),
    ],
    cells: |request, now| {
        let duration = match at(request, &["spec", "expirationSeconds"]).as_i64() {
            Some(seconds) => super::age::human(SignedDuration::from_secs(seconds)),
            None => "<none>".to_owned(),
        };
        vec![
            name(request),
            age(request, now),
            cell_or(request, &["spec", "signerName"], "<none>"),
            cell(request, &["spec", "username"]),
            json!(duration),
            json!(request_state(request)),
        ]
    },
};

pub(super) static RESOURCE_CLAIMS: Printer = Printer {
    columns: &[NAME, string("State", "Whether devices were given, and to someone."), AGE],
    cells: |claim, now| vec![name(claim), json!(claim_state(claim)), age(claim, now)],
};

pub(super) static RESOURCE_SLICES: Printer = Printer {
    columns: &[
        NAME,
        string("Node", "The node that has the devices."),
        string("Driver", "Whose devices they are."),
        string("Pool", "The pool they are part of."),
        AGE,
    ],
    cells: |slice, now| {
        vec![
            name(slice),
            cell(slice, &["spec", "nodeName"]),
            cell(slice, &["spec", "driver"]),
            cell(slice, &["spec", "pool", "name"]),
            age(slice, now),
        ]
    },
};

/// A number or a share of pods.
fn amount(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.to_string()),
        Value::String(share) => json!(share),
        _ => json!("N/A"),
    }
}

fn request_state(request: &Value) -> String {
    let is = |kind: &str| items(request, &["status", "conditions"]).iter().any(|c| c["type"] == kind);
    let mut state = match (is("Denied"), is("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if is("Failed") {
        state.push_str(",Failed");
    }
    if !text(request, &["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    state
}

fn claim_state(claim: &Value) -> &'static str {
    let given = has(claim, &["status", "allocation"]);
    let reserved = !items(claim, &["status", "reservedFor"]).is_empty();
    match (is_being_deleted(claim), given, reserved) {
        (false, false, _) => "pending",
        (false, true, false) => "allocated",
        (false, true, true) => "allocated,reserved",
        (true, false, _) => "deleted",
        (true, true, false) => "deleted,allocated",
        (true, true, true) => "deleted,allocated,reserved",
    }
}
