//! Kernel settings that a node is run with (upstream `setupKernelTunables`).
//!
//! Owns the table; the shell reads and, unless `protectKernelDefaults` forbids it, writes.

/// A setting and the value it is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelDefault {
    /// Path below `/proc/sys`.
    pub path: &'static str,
    /// The value.
    pub value: i64,
}

/// The settings: memory may be promised beyond what there is, running out of it kills a process and not the machine, a
/// broken kernel restarts, and keys of containers do not run out.
pub const KERNEL_DEFAULTS: [KernelDefault; 6] = [
    KernelDefault { path: "vm/overcommit_memory", value: 1 },
    KernelDefault { path: "vm/panic_on_oom", value: 0 },
    KernelDefault { path: "kernel/panic", value: 10 },
    KernelDefault { path: "kernel/panic_on_oops", value: 1 },
    KernelDefault { path: "kernel/keys/root_maxkeys", value: 1_000_000 },
    KernelDefault { path: "kernel/keys/root_maxbytes", value: 25_000_000 },
];

impl KernelDefault {
    /// What is the matter with a setting that has another value, in upstream's words.
    pub fn problem(self, actual: i64) -> Option<String> {
        (actual != self.value).then(|| {
            format!(
                "invalid kernel flag: {}, expected value: {}, actual value: {actual}",
                self.path, self.value
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_values_are_a_problem() {
        let panic = KERNEL_DEFAULTS[2];
        assert_eq!(panic.problem(10), None);
        let told = "invalid kernel flag: kernel/panic, expected value: 10, actual value: 0";
        assert_eq!(panic.problem(0).as_deref(), Some(told));
    }
}
