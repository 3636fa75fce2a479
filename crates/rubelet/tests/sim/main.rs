//! The simulation: the real agent against a scripted runtime on a paused clock, with seeded faults and crashes.
//! See docs/testing.md for what is checked and how a seed is replayed.

mod eviction;
mod exhaustive;
mod health;
#[path = "../in_process/mod.rs"]
mod in_process;
mod judge;
mod log;
mod probe_stories;
mod run;
mod scenario;
mod settled;
mod world;

use run::run_seed;

/// Seeds in all, unless `RUBELET_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 6_000;
/// Tests the seeds are split over, so that every core has work.
const PARTS: u64 = 4;
/// So many failures are told with their story; the others in one line each.
const TOLD: usize = 3;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("RUBELET_SIM_SEED and RUBELET_SIM_SEEDS are numbers"))
}

/// Runs one part of the seeds, or in the first part the one to replay.
fn part(part: u64) {
    if let Some(seed) = number("RUBELET_SIM_SEED") {
        let failure = (part == 0).then(|| run_seed(seed).err()).flatten();
        assert!(failure.is_none(), "{}", failure.map(|failure| failure.to_string()).unwrap_or_default());
        return;
    }
    let seeds = number("RUBELET_SIM_SEEDS").unwrap_or(SEEDS);
    let mut failed = Vec::new();
    for seed in (part..seeds).step_by(usize::try_from(PARTS).unwrap_or(1)) {
        if let Err(failure) = run_seed(seed) {
            if failed.len() < TOLD {
                println!("{failure}");
            } else {
                println!("{}", failure.headline());
            }
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
}

#[test]
fn seeds_part_0() {
    part(0);
}

#[test]
fn seeds_part_1() {
    part(1);
}

#[test]
fn seeds_part_2() {
    part(2);
}

#[test]
fn seeds_part_3() {
    part(3);
}

/// Replaying is only worth something when the same seed tells the same story.
#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in (0..100).filter(|seed| seed % 50 != 7) {
        let digest = |seed| run_seed(seed).map(|report| (report.calls, report.digest)).ok();
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
}
