//! The Python client on a node of its own.

use std::process::Command;

use crate::local::LocalNode;
use crate::runtime::{output, xtask};

#[test]
fn the_python_client_does_what_its_users_do() {
    let node = LocalNode::start();
    let packages = output(xtask().arg("python-client"));
    let script = node.node().share("python_client.py");
    std::fs::write(&script, include_str!("python_client.py")).unwrap();
    let told = output(
        Command::new("timeout")
            .args(["240", "python3", "-B"])
            .arg(&script)
            .arg(&node.kubeconfig)
            .arg(node.node().filled_in("$IMAGE"))
            .env("PYTHONPATH", packages.trim()),
    );
    let themes = ["typed_objects", "patches", "lists_and_watches", "any_kind", "pods"];
    let wanted: String = themes.iter().map(|theme| format!("python: {theme}\n")).collect();
    assert_eq!(told, wanted);
}
