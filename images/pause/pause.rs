//! The pause program: process 1 of every pod sandbox.
//!
//! It owns the sandbox's namespaces by staying alive in them, and reaps the orphans that land on it when a pod
//! shares its process namespace. It never opens a file, allocates or starts a process. The container runtime starts
//! it from the sandbox image that `cargo xtask images` builds; the agent never talks to it.
//!
//! # Why unsafe code here
//! The workspace allows `unsafe` in rubelet-linux only. This program is an island outside the workspace: with no
//! libc and no standard library to call, four system calls in assembly are all it consists of, and in exchange it is
//! a few kilobytes, has no dependency, and each paused pod costs a handful of memory pages. Nothing links to it.
//!
//! # How it waits
//! The signals it cares about stay blocked, and it takes them one at a time with `rt_sigtimedwait`. The kernel
//! discards a signal to process 1 that has no handler, but never one that is blocked, so no handler is needed.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
/// The kernel's `sigset_t` is 64 bits on both supported architectures.
const SIGSET_BYTES: usize = 8;

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
}

/// Makes one system call with up to four arguments and returns the kernel's raw answer.
///
/// # Safety
/// The arguments must be valid for system call `number`: every pointer among them must be valid for what that call
/// reads and writes.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let answer: isize;
    // SAFETY: the x86_64 system call convention: number in rax, arguments in rdi, rsi, rdx, r10; rcx and r11 are
    // overwritten by the instruction. The caller answers for the arguments.
    unsafe {
        asm!("syscall", inlateout("rax") number => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

/// Makes one system call with up to four arguments and returns the kernel's raw answer.
///
/// # Safety
/// The arguments must be valid for system call `number`: every pointer among them must be valid for what that call
/// reads and writes.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let answer: isize;
    // SAFETY: the aarch64 system call convention: number in x8, arguments in x0 to x3, answer in x0. The caller
    // answers for the arguments.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => answer, in("x1") b, in("x2") c, in("x3") d,
             options(nostack));
    }
    answer
}

/// Where the kernel enters the program. The stack is aligned as a call would leave it only after a call, so this
/// does nothing but call [`run`].
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("xor ebp, ebp", "call {run}", "ud2", run = sym run);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("mov x29, xzr", "mov x30, xzr", "bl {run}", "udf #0", run = sym run);
}

extern "C" fn run() -> ! {
    let wanted: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set = &raw const wanted as usize;
    // SAFETY: `set` points at SIGSET_BYTES readable bytes that outlive the call; no old mask is asked for.
    unsafe { syscall(nr::RT_SIGPROCMASK, SIG_BLOCK, set, 0, SIGSET_BYTES) };
    loop {
        // Children may have died before the signals were blocked, so look before the first wait.
        reap();
        // SAFETY: `set` as above; no siginfo is asked for, and no time-out is given.
        let signal = unsafe { syscall(nr::RT_SIGTIMEDWAIT, set, 0, 0, SIGSET_BYTES) };
        if signal == SIGINT as isize || signal == SIGTERM as isize {
            exit(0);
        }
    }
}

/// Collects every child that has died; several deaths may share one SIGCHLD.
fn reap() {
    // SAFETY: neither a status nor a resource usage is asked for, so no pointer is passed.
    while unsafe { syscall(nr::WAIT4, usize::MAX, 0, WNOHANG, 0) } > 0 {}
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: exit_group takes no pointer and does not return.
        unsafe { syscall(nr::EXIT_GROUP, code, 0, 0, 0) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(2)
}
