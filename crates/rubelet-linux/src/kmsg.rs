//! The kernel's log as a stream of records. Owns the descriptor and when it is readable; what a record says is for
//! `rubelet_core::oom` to read. Called by the agent's OOM watch.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where the kernel shows its log.
pub const PATH: &str = "/dev/kmsg";
/// Longest record the kernel gives.
pub const RECORD_LIMIT: usize = 8192;

/// What a reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading<'a> {
    /// One record.
    Record(&'a [u8]),
    /// Records were overwritten before they were read; the next reading goes on after them.
    Lost,
    /// There is none at the moment.
    Nothing,
}

/// The open log. Every reader of it takes records away from the others.
#[derive(Debug)]
pub struct Kmsg {
    descriptor: AsyncFd<OwnedFd>,
}

impl Kmsg {
    /// Opens the log at the oldest record it still holds. Must be called inside a runtime.
    ///
    /// # Errors
    /// When there is no such log or it may not be read (it takes CAP_SYSLOG where `kernel.dmesg_restrict` is set).
    #[allow(unsafe_code, reason = "registering a descriptor promises that it stays open")]
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())?;
        // SAFETY: an OwnedFd always answers with the same descriptor, and the AsyncFd owns it, so that it stays open
        // until it is deregistered.
        let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? };
        Ok(Self { descriptor })
    }

    /// Reads the next record into `buffer`, which should hold [`RECORD_LIMIT`] bytes. Never blocks.
    ///
    /// # Errors
    /// What the kernel says; reading again will not help.
    pub fn read<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Reading<'a>> {
        loop {
            return match rustix::io::read(self.descriptor.get_ref(), &mut *buffer) {
                Ok(length) if length > 0 => Ok(Reading::Record(buffer.get(..length).unwrap_or_default())),
                Ok(_) | Err(Errno::AGAIN) => Ok(Reading::Nothing),
                // A record that is longer than the buffer is passed over as well.
                Err(Errno::PIPE | Errno::INVAL) => Ok(Reading::Lost),
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Waits until something was logged since this was last waited for; read until there is nothing then. Cancel-safe.
    ///
    /// # Errors
    /// When the runtime that it was opened in has ended.
    pub async fn logged(&self) -> io::Result<()> {
        // Readiness is taken back before anything is read: what comes from now on makes ready again.
        self.descriptor.readable().await?.clear_ready();
        Ok(())
    }
}

/// The time on the clock of the kernel's log, since boot: no clock that is ever set, and it stands still while the
/// machine sleeps.
#[allow(unsafe_code, reason = "the system call fills in a structure")]
pub fn log_clock() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a structure of the right type that lives for the call.
    let _this_clock_is_always_there = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &raw mut now) };
    let seconds = Duration::from_secs(now.tv_sec.try_into().unwrap_or_default());
    seconds + Duration::from_nanos(now.tv_nsec.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The real log, where the tests may read and write it.
    fn real() -> Option<(Kmsg, std::fs::File)> {
        let writer = std::fs::File::options().write(true).open(PATH).ok()?;
        Some((Kmsg::open(Path::new(PATH)).ok()?, writer))
    }

    #[tokio::test]
    async fn what_is_logged_later_is_waited_for_and_read() {
        let Some((log, mut writer)) = real() else { return };
        let mut buffer = [0; RECORD_LIMIT];
        while log.read(&mut buffer).unwrap() != Reading::Nothing {}
        let mark = format!("rubelet test {}", std::process::id());
        let waiting = async {
            loop {
                log.logged().await.unwrap();
                loop {
                    match log.read(&mut buffer).unwrap() {
                        Reading::Record(record) => {
                            let text = String::from_utf8_lossy(record).into_owned();
                            if text.contains(&mark) {
                                return text;
                            }
                        }
                        Reading::Lost => {}
                        Reading::Nothing => break,
                    }
                }
            }
        };
        let writing = async {
            // Lets the reader wait first.
            tokio::task::yield_now().await;
            writer.write_all(format!("<15>{mark}\n").as_bytes()).unwrap();
        };
        let (text, ()) =
            tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(waiting, writing) })
                .await
                .unwrap();
        let microseconds: u64 = text.split(',').nth(2).unwrap().parse().unwrap();
        let age = log_clock().abs_diff(Duration::from_micros(microseconds));
        assert!(age < Duration::from_secs(60), "{age:?}: the clock is that of the log");
    }

    #[tokio::test]
    async fn a_record_longer_than_the_buffer_is_passed_over() {
        let Some((log, _)) = real() else { return };
        assert!(matches!(log.read(&mut [0; 8]).unwrap(), Reading::Lost | Reading::Nothing));
    }

    #[tokio::test]
    async fn what_is_not_there_is_an_error() {
        assert_eq!(Kmsg::open(Path::new("/dev/none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
