//! When a log is looked at next, from how fast it grows and how far it is from its limit.
//!
//! Time is the span since any fixed moment. A log that did not grow between two looks is not looked at again before it is
//! written. One that grows is looked at so often that, were it written from now on as fast as logs are ever written
//! ([`FASTEST`]), it would pass its limit by less than a second of that. A log that is written steadily is looked at
//! about when it reaches its limit.

use std::time::Duration;

use super::RotationSettings;

/// Bytes a second that are taken for possible at any moment: no runtime is known to write a log faster.
const FASTEST: u64 = 500_000_000;
/// How long a burst may go on past the limit before it is seen: two such files, the one rotated and the next, are to be
/// less than a second of data beyond their limits, a tenth of a second for either to be late included.
const BLIND: Duration = Duration::from_millis(400);
/// The least time between two looks.
const SHORTEST: Duration = Duration::from_millis(200);
/// The pause after the first rotation that failed; it doubles from there.
const RETRY: Duration = Duration::from_secs(1);
/// Rotations that follow each other faster than this leave compression for later: the files would be gone before it is
/// done.
const HURRY: Duration = Duration::from_secs(5);

/// The file that is written, at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Which file it is.
    pub inode: u64,
    /// Its length.
    pub bytes: u64,
}

/// What to do next about a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It does not grow: nothing, before it is written.
    AwaitWrite,
    /// Look again after this time.
    LookIn(Duration),
    /// Rotate it now.
    Rotate,
    /// Have the runtime open it anew: what it writes goes to a file that has another name, or none any more.
    Reopen,
    /// Empty it where it is, now: it is as large as all of its files may be together, and it cannot be rotated.
    Cut,
}

/// What is known of how one log is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pace {
    /// The last look, and when it was.
    seen: Option<(Duration, Seen)>,
    /// Bytes a second.
    rate: f64,
    /// When it was rotated last, and how long after the time before.
    rotated: Option<(Duration, Option<Duration>)>,
    /// Rotations that failed since one went well.
    failures: u32,
    /// No rotation before this time.
    retry_at: Duration,
}

impl Pace {
    /// Takes note of a look; says what to do.
    pub fn look(&mut self, now: Duration, seen: Seen, settings: &RotationSettings) -> Next {
        let before = self.seen.replace((now, seen));
        let grown = match before {
            None => 0,
            Some((_, last)) if last.inode != seen.inode || last.bytes > seen.bytes => seen.bytes,
            Some((_, last)) => seen.bytes - last.bytes,
        };
        let fresh = match before {
            Some((then, _)) => grown as f64 / now.saturating_sub(then).max(SHORTEST).as_secs_f64(),
            None => 0.0,
        };
        // A burst counts at once and is forgotten over a few looks.
        self.rate = fresh.max(self.rate / 2.0);
        if seen.bytes >= settings.max_size && seen.bytes > 0 {
            if now >= self.retry_at {
                return Next::Rotate;
            }
            if seen.bytes > settings.budget() {
                return Next::Cut;
            }
            return Next::LookIn(BLIND.min(self.retry_at - now).max(SHORTEST));
        }
        if grown == 0 {
            self.rate = 0.0;
            return Next::AwaitWrite;
        }
        Next::LookIn(self.interval(settings.max_size - seen.bytes, settings))
    }

    /// There is no file of that name, though the container runs: a rotation was not finished, or somebody removed it.
    pub fn missing(&mut self, now: Duration) -> Next {
        self.seen = None;
        match self.retry_at.checked_sub(now) {
            None | Some(Duration::ZERO) => Next::Reopen,
            Some(pause) => Next::LookIn(pause),
        }
    }

    /// A log that was left alone is written again. Returns when to look.
    pub fn woken(&mut self, now: Duration) -> Duration {
        if let Some((then, _)) = &mut self.seen {
            *then = now;
        }
        SHORTEST
    }

    /// The log was rotated: it begins anew. Returns when to look.
    pub fn rotated(&mut self, now: Duration, settings: &RotationSettings) -> Duration {
        (self.failures, self.retry_at) = (0, Duration::ZERO);
        self.rotated = Some((now, self.rotated.map(|(then, _)| now.saturating_sub(then))));
        if let Some((_, seen)) = self.seen {
            // Another file, though its number is not known yet.
            self.seen = Some((now, Seen { bytes: 0, ..seen }));
        }
        self.interval(settings.max_size, settings)
    }

    /// The log could not be rotated. Returns when to look.
    pub fn failed(&mut self, now: Duration, settings: &RotationSettings) -> Duration {
        let pause = RETRY.saturating_mul(1 << self.failures.min(16)).min(settings.monitor_interval);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + pause;
        BLIND.min(pause)
    }

    /// The log was emptied where it is. Returns when to look.
    pub fn cut(&mut self, now: Duration, settings: &RotationSettings) -> Duration {
        if let Some((_, seen)) = self.seen {
            self.seen = Some((now, Seen { bytes: 0, ..seen }));
        }
        self.interval(settings.max_size, settings)
    }

    /// Rotations that failed since one went well.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it grew between the last two looks.
    pub fn grows(&self) -> bool {
        self.rate > 0.0
    }

    /// Whether files are rotated away faster than compressing them would be worth.
    pub fn in_a_hurry(&self) -> bool {
        self.rotated.is_some_and(|(_, apart)| apart.is_some_and(|apart| apart < HURRY))
    }

    fn interval(&self, room: u64, settings: &RotationSettings) -> Duration {
        let safe = BLIND + seconds(room as f64 / FASTEST as f64);
        let reached = if self.rate > 0.0 { seconds(room as f64 / self.rate) } else { Duration::MAX };
        safe.min(reached).min(settings.monitor_interval).max(SHORTEST)
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const SETTINGS: RotationSettings =
        RotationSettings { max_size: 10 * MIB, max_files: 5, monitor_interval: Duration::from_secs(10) };

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn look(pace: &mut Pace, at: u64, bytes: u64) -> Next {
        pace.look(ms(at), Seen { inode: 1, bytes }, &SETTINGS)
    }

    #[test]
    fn a_log_that_does_not_grow_is_left_alone() {
        let mut pace = Pace::default();
        assert_eq!(look(&mut pace, 0, 5 * MIB), Next::AwaitWrite);
        assert_eq!(pace.woken(ms(60_000)), ms(200));
        // Ten bytes in 200 ms: no hurry, but it could be the start of a burst.
        let Next::LookIn(next) = look(&mut pace, 60_200, 5 * MIB + 10) else { panic!() };
        assert!((ms(400)..ms(420)).contains(&next), "{next:?}");
        assert_eq!(look(&mut pace, 60_700, 5 * MIB + 10), Next::AwaitWrite);
        assert_eq!(look(&mut Pace::default(), 0, 10 * MIB), Next::Rotate);
        assert_eq!(look(&mut Pace::default(), 0, 0), Next::AwaitWrite);
    }

    #[test]
    fn a_fast_log_is_looked_at_when_it_reaches_its_limit() {
        let mut pace = Pace::default();
        look(&mut pace, 0, 0);
        pace.woken(ms(1000));
        // 20 MiB/s, and 6 MiB to go.
        assert_eq!(look(&mut pace, 1200, 4 * MIB), Next::LookIn(ms(300)));
        assert_eq!(look(&mut pace, 1500, 10 * MIB), Next::Rotate);
        let next = pace.rotated(ms(1510), &SETTINGS);
        assert!((ms(400)..ms(430)).contains(&next), "{next:?}");
        // 200 MiB/s.
        assert_eq!(look(&mut pace, 2010, 100 * MIB), Next::Rotate);
        assert_eq!(pace.rotated(ms(2020), &SETTINGS), ms(200));
        assert!(pace.in_a_hurry());
        // A large limit leaves more time, and the monitor interval is the most.
        let large = RotationSettings { max_size: 100_000 * MIB, ..SETTINGS };
        assert_eq!(Pace::default().rotated(ms(0), &large), ms(10_000));
    }

    #[test]
    fn what_cannot_be_rotated_is_tried_again_and_cut_in_the_end() {
        let mut pace = Pace::default();
        let mut pauses = vec![];
        let mut at = 0;
        for _ in 0..6 {
            assert_eq!(look(&mut pace, at, 11 * MIB), Next::Rotate);
            assert_eq!(pace.failed(ms(at), &SETTINGS), ms(400));
            assert!(matches!(look(&mut pace, at + 500, 12 * MIB), Next::LookIn(_)));
            let pause = pace.retry_at - ms(at);
            pauses.push(pause.as_secs());
            at += u64::try_from(pause.as_millis()).unwrap();
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert_eq!(look(&mut pace, at - 1, 51 * MIB), Next::Cut);
        assert!(pace.cut(ms(at - 1), &SETTINGS) <= ms(520));
        assert_eq!(look(&mut pace, at, 10 * MIB), Next::Rotate);
        pace.rotated(ms(at), &SETTINGS);
        assert_eq!(pace.failures(), 0);
    }

    #[test]
    fn what_is_missing_is_asked_for_with_pauses() {
        let mut pace = Pace::default();
        assert_eq!(pace.missing(ms(0)), Next::Reopen);
        pace.failed(ms(0), &SETTINGS);
        assert_eq!(pace.missing(ms(400)), Next::LookIn(ms(600)));
        assert_eq!(pace.missing(ms(1000)), Next::Reopen);
        assert_eq!(look(&mut pace, 1200, 10), Next::AwaitWrite);
    }

    #[test]
    fn another_file_of_the_same_name_is_a_new_one() {
        let mut pace = Pace::default();
        look(&mut pace, 0, 9 * MIB);
        let next = pace.look(ms(500), Seen { inode: 2, bytes: 5 * MIB }, &SETTINGS);
        assert!(matches!(next, Next::LookIn(next) if next > ms(400)), "{next:?}");
    }

    proptest! {
        /// However a log is written: at no time is the file longer than its limit and a second at the fastest rate, and
        /// the one that is rotated away together with the new one no longer than both limits and that second.
        #[test]
        fn the_bound_holds(
            phases in proptest::collection::vec((1u64..3000, prop_oneof![Just(0u64), 1u64..5_000, Just(500_000u64), 0u64..500_001]), 1..30),
            late in 0u64..100,
            limit in prop_oneof![Just(MIB), Just(10 * MIB), Just(1000 * MIB)],
        ) {
            let settings = RotationSettings { max_size: limit, ..SETTINGS };
            let mut pace = Pace::default();
            let (mut size, mut before, mut inode) = (0u64, 0u64, 1u64);
            prop_assert_eq!(pace.look(ms(0), Seen { inode, bytes: 0 }, &settings), Next::AwaitWrite);
            let mut due: Option<u64> = None;
            let mut now = 0;
            // Bytes per millisecond.
            for (length, rate) in phases {
                for _ in 0..length {
                    now += 1;
                    size += rate;
                    if due.is_none() && rate > 0 {
                        due = Some(now + u64::try_from(pace.woken(ms(now)).as_millis()).unwrap() + late);
                    }
                    if due == Some(now) {
                        let next = match pace.look(ms(now), Seen { inode, bytes: size }, &settings) {
                            Next::Rotate => {
                                (before, size, inode) = (size, 0, inode + 1);
                                Some(pace.rotated(ms(now), &settings))
                            }
                            Next::LookIn(next) => Some(next),
                            Next::AwaitWrite => None,
                            Next::Cut | Next::Reopen => return Err(TestCaseError::fail("nothing failed")),
                        };
                        due = next.map(|next| now + u64::try_from(next.as_millis()).unwrap().max(1) + late);
                    }
                    prop_assert!(size <= limit + FASTEST, "{} at {}", size, now);
                    prop_assert!(size + before <= 2 * limit + FASTEST, "{} and {} at {}", size, before, now);
                }
            }
        }
    }
}
