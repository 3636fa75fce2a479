//! Kernel settings that a node is run with: read at start, and set unless `protectKernelDefaults` forbids it.

use std::fs;
use std::path::Path;

use rubelet_core::resources::{KERNEL_DEFAULTS, KernelDefault};
use tracing::{info, warn};

/// Brings the settings below `/proc/sys` to their values, or with `protect` only looks. What cannot be read or set is
/// told and the node goes on: in a container the kernel is often somebody else's.
///
/// # Errors
/// With `protect`, every setting that has another value, in upstream's words.
pub fn settle(sysctls: &Path, protect: bool) -> Result<(), String> {
    let mut problems = vec![];
    for setting in KERNEL_DEFAULTS {
        let file = sysctls.join(setting.path);
        let actual = match fs::read_to_string(&file) {
            Ok(text) => text.trim().parse::<i64>().ok(),
            Err(error) => {
                warn!("the kernel setting {} cannot be read: {error}", setting.path);
                continue;
            }
        };
        let Some(problem) = problem(setting, actual) else { continue };
        if protect {
            problems.push(problem);
            continue;
        }
        match fs::write(&file, setting.value.to_string()) {
            Ok(()) => info!("the kernel setting {} is {} now", setting.path, setting.value),
            Err(error) => warn!("{problem}; it cannot be set: {error}"),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join(", ")) }
}

fn problem(setting: KernelDefault, actual: Option<i64>) -> Option<String> {
    match actual {
        Some(actual) => setting.problem(actual),
        None => Some(format!("invalid kernel flag: {}, its value is no number", setting.path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(values: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, value) in values {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, value).unwrap();
        }
        root
    }

    #[test]
    fn settings_are_set_unless_they_are_protected() {
        let root = machine(&[
            ("vm/overcommit_memory", "0\n"),
            ("kernel/panic", "10\n"),
            ("kernel/panic_on_oops", "x"),
        ]);
        assert_eq!(
            settle(root.path(), true).unwrap_err(),
            "invalid kernel flag: vm/overcommit_memory, expected value: 1, actual value: 0, \
             invalid kernel flag: kernel/panic_on_oops, its value is no number"
        );
        assert_eq!(fs::read_to_string(root.path().join("vm/overcommit_memory")).unwrap(), "0\n");
        settle(root.path(), false).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("vm/overcommit_memory")).unwrap(), "1");
        settle(root.path(), true).unwrap();
    }
}
