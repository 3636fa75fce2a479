//! Waiting on values: the only place of this suite that sleeps, and always between two looks.

use std::time::Duration;

/// How long anything may take that takes well under a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PERIOD: Duration = Duration::from_millis(25);

/// Seconds since boot, which containers see alike as the first word of `/proc/uptime`.
pub fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Looks until `look` has a value; its last refusal is what the panic tells.
pub fn until<T>(what: &str, patience: Duration, look: impl FnMut() -> Result<T, String>) -> T {
    every(PERIOD, what, patience, look)
}

/// The same with hardly a pause between two looks, for what is measured.
pub fn briefly<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    every(Duration::from_millis(1), what, PATIENCE, look)
}

fn every<T>(
    period: Duration,
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let limit = uptime() + patience.as_secs_f64();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if uptime() > limit => {
                panic!("waited {} s in vain: {what}; seen: {seen}", patience.as_secs())
            }
            Err(_) => pause(period),
        }
    }
}

/// Lets time pass: between two looks, or because time itself is the subject (an agent killed after 30 ms).
#[expect(clippy::disallowed_methods, reason = "this program has no async runtime to block")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks again and again for `time` and checks each time.
pub fn throughout(time: Duration, mut check: impl FnMut()) {
    let end = uptime() + time.as_secs_f64();
    while uptime() < end {
        check();
        pause(PERIOD);
    }
}
