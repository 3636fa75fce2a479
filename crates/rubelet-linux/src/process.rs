//! The agent's own process: its OOM score and its allocator.

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Sets the OOM score adjustment of this process.
///
/// # Errors
/// Lowering it needs CAP_SYS_RESOURCE.
pub fn set_oom_score_adj(score: i32) -> io::Result<()> {
    let path = "/proc/self/oom_score_adj";
    if fs::read_to_string(path)?.trim().parse() == Ok(score) {
        return Ok(());
    }
    fs::write(path, score.to_string())
}

/// A new random UUID, as the kernel makes them.
///
/// # Errors
/// When procfs is not there.
pub fn random_uuid() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

/// Lets this process have so many files and connections open, as far as it may: its own limit is raised up to the hard
/// one, which takes a privilege to pass. A limit that is higher already stays.
///
/// # Errors
/// When the system refuses.
pub fn allow_open_files(wanted: i64) -> io::Result<()> {
    let wanted = u64::try_from(wanted).unwrap_or(0);
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.map_or(wanted, |hard| hard.min(wanted));
    if limit.current.is_none_or(|current| current >= allowed) {
        return Ok(());
    }
    limit.current = Some(allowed);
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Limits glibc's allocator to two arenas: an agent of few threads would otherwise keep freed memory in many.
/// Elsewhere it does nothing.
#[allow(unsafe_code, reason = "mallopt has no safe form")]
pub fn limit_malloc_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets a parameter of the allocator; it is called before any thread is started.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives free memory of the heap back to the system. glibc keeps what a burst of work needed, for the next one; an
/// agent is at rest most of the time. Takes about a millisecond. Elsewhere it does nothing.
#[allow(unsafe_code, reason = "malloc_trim has no safe form")]
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and only releases pages that hold no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_score_can_always_be_set() {
        let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
        set_oom_score_adj(score).unwrap();
    }
}
