//! Waiting for a process that is not a child of ours to end, through a pidfd: no polling, no thread.

use std::io;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits until the process has ended. Cancel-safe.
///
/// The caller must know that the process lives: a number that was reused in between names another process.
///
/// # Errors
/// `NotFound` when there is no such process (any more), or when it is in another PID namespace.
pub async fn process_exit(pid: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no process has that ID"))?;
    let descriptor = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Err(rustix::io::Errno::SRCH) => {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such process"));
        }
        descriptor => descriptor?,
    };
    pidfd_exit(descriptor).await
}

/// The same for a process that is known by its pidfd.
///
/// # Errors
/// When the descriptor cannot be waited for.
#[allow(unsafe_code, reason = "registering a descriptor promises that it stays open")]
pub async fn pidfd_exit(descriptor: OwnedFd) -> io::Result<()> {
    // SAFETY: an OwnedFd always answers with the same descriptor, and the AsyncFd owns it, so that it stays open
    // until it is deregistered.
    let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? };
    // A pidfd becomes readable when the process ends and stays so.
    let _ready = descriptor.readable().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_exit_is_noticed_and_a_missing_process_is_an_error() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let waiting = tokio::spawn(process_exit(pid));
        drop(child.stdin.take());
        waiting.await.unwrap().unwrap();
        child.wait().unwrap();
        assert_eq!(process_exit(pid).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
