//! Real mounts in a mount namespace of their own: an agent that is killed at every step of mounting and unmounting, and
//! a server that never answers beside other pods. Needs root; without it, nothing is tested.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what helpers of a test cannot do fails the test")]

mod driven;
mod hung;
mod kill;
mod node;

use std::env;
use std::process::Command;

/// Set for a test that has its mount namespace.
const INSIDE: &str = "RUBELET_TEST_OWN_MOUNTS";

/// Whether the test has a mount namespace of its own: then it goes on. Otherwise it is run again in one, which goes
/// with all its mounts when the test ends, however it ends.
fn has_own_mounts(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root may mount: nothing is tested");
        return false;
    }
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private"]).arg(env::current_exe().unwrap());
    inside.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    assert!(inside.status().unwrap().success(), "{test} failed, see above");
    false
}
