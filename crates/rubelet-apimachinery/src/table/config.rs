//! What pods are given: config maps, secrets, service accounts.

use serde_json::{Value, json};

use super::columns::{AGE, NAME, string};
use super::{Printer, age, cell, name};
use crate::strategy::value::entries;

pub(super) static CONFIG_MAPS: Printer = Printer {
    columns: &[NAME, string("Data", "How many entries it has."), AGE],
    cells: |map, now| vec![name(map), json!(count(map, "data") + count(map, "binaryData")), age(map, now)],
};

pub(super) static SECRETS: Printer = Printer {
    columns: &[NAME, string("Type", "What it is for."), string("Data", "How many entries it has."), AGE],
    cells: |secret, now| {
        vec![name(secret), cell(secret, &["type"]), json!(count(secret, "data")), age(secret, now)]
    },
};

pub(super) static SERVICE_ACCOUNTS: Printer =
    Printer { columns: &[NAME, AGE], cells: |account, now| vec![name(account), age(account, now)] };

fn count(object: &Value, field: &str) -> usize {
    entries(object, &[field]).count()
}
