//! The agent's own process: its OOM score and its allocator.

use std::fs;
use std::io;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_score_can_always_be_set() {
        let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
        set_oom_score_adj(score).unwrap();
    }
}
