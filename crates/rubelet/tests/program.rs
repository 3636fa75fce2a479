//! The program as a process, as far as that needs neither root nor a runtime.

use std::fs::File;
use std::process::{Command, Stdio};

/// A disk that is full, or a reader of the log that died, ends nothing and hides no exit code.
#[test]
fn a_log_that_nobody_takes_is_no_reason_to_panic() {
    let dir = tempfile::tempdir().expect("a directory of the test's own");
    let config = dir.path().join("config.yaml");
    let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nhealthzPort: 0\n";
    std::fs::write(&config, text).expect("a file of the test's own");
    let nowhere = dir.path().join("nowhere");
    for arguments in [["--config", "/nowhere"], ["--kubeconfig", "/nowhere"]] {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_rubelet"));
        if arguments[0] == "--kubeconfig" {
            agent.arg("--config").arg(&config);
        }
        let ended = agent
            .args(arguments)
            .arg("--root-dir")
            .arg(&nowhere)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().write(true).open("/dev/full").expect("Linux has it"))
            .status()
            .expect("the program is built");
        assert_eq!(ended.code(), Some(1), "{arguments:?}: it refuses to start, and does not panic");
    }
}
