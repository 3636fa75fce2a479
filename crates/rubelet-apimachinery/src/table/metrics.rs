//! What nodes and pods use, as metrics-server prints it: the use of all containers of a pod in one sum.

use jiff::Timestamp;
use rubelet_core::quantity::Amount;
use serde_json::json;

use super::columns::{NAME, string};
use super::{Printer, cell, name};
use crate::strategy::value::{items, text};

pub(super) static NODES: Printer = Printer {
    columns: &[
        NAME,
        string("cpu", "Cores in use.").quantities(),
        string("memory", "Memory of the working set.").quantities(),
        string("Window", "The time over which the use of CPU was measured.").durations(),
    ],
    cells: |node, _: Timestamp| {
        let used = |resource| cell(node, &["usage", resource]);
        vec![name(node), used("cpu"), used("memory"), cell(node, &["window"])]
    },
};

pub(super) static PODS: Printer = Printer {
    columns: NODES.columns,
    cells: |pod, _: Timestamp| {
        let used = |resource| {
            let amounts =
                items(pod, &["containers"]).iter().map(|container| text(container, &["usage", resource]));
            let sum =
                amounts.filter_map(|amount| Amount::parse(amount).ok()).fold(Amount::ZERO, Amount::plus);
            json!(sum.to_string())
        };
        vec![name(pod), used("cpu"), used("memory"), cell(pod, &["window"])]
    },
};
