//! The files beside a log: what their names mean, which of them go, which are compressed.
//!
//! A rotated file is `<log>.<stamp>`, compressed `<log>.<stamp>.gz`; `<log>.<stamp>.tmp` is one that is being compressed.
//! Stamps sort as text by age. They are the time (UTC) as upstream writes it, with three more digits when one second has
//! several.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::RotationSettings;

/// A rotated file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotatedFile {
    /// When it was rotated, as its name says it.
    pub stamp: String,
    /// Whether it is compressed.
    pub compressed: bool,
    /// Its length.
    pub bytes: u64,
}

impl RotatedFile {
    /// Its name, beside a log of that name.
    pub fn name(&self, log: &str) -> String {
        format!("{log}.{}{}", self.stamp, if self.compressed { ".gz" } else { "" })
    }
}

/// What lies beside a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Rotated files, the oldest first, each stamp once.
    pub rotated: Vec<RotatedFile>,
    /// Names of what an interrupted compression left: unfinished results, and files whose result is whole.
    pub leftovers: Vec<String>,
}

impl Listing {
    /// Reads the names and lengths of a directory. What was not named by us or by upstream is left out: it is
    /// nobody's to remove.
    pub fn of<'a>(log: &str, entries: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let mut found = Self::default();
        for (name, bytes) in entries {
            let Some(rest) = name.strip_prefix(log).and_then(|rest| rest.strip_prefix('.')) else { continue };
            if let Some(stamp) = rest.strip_suffix(".tmp") {
                if is_stamp(stamp.strip_suffix(".gz").unwrap_or(stamp)) {
                    found.leftovers.push(name.to_owned());
                }
                continue;
            }
            let (stamp, compressed) = rest.strip_suffix(".gz").map_or((rest, false), |stamp| (stamp, true));
            if is_stamp(stamp) {
                found.rotated.push(RotatedFile { stamp: stamp.to_owned(), compressed, bytes });
            }
        }
        // The compressed one of a pair comes first and stays: it was given its name when it was whole.
        found.rotated.sort_by(|a, b| (&a.stamp, !a.compressed).cmp(&(&b.stamp, !b.compressed)));
        let leftovers = &mut found.leftovers;
        found.rotated.dedup_by(|later, earlier| {
            let same = later.stamp == earlier.stamp;
            if same {
                leftovers.push(later.name(log));
            }
            same
        });
        found.leftovers.sort_unstable();
        found
    }

    /// Names of the rotated files that go before a log of `current` bytes is rotated, the oldest first: with it and the
    /// one that is begun there are to be no more files than configured, and no more bytes than they may have together,
    /// the one that is rotated now in any case. When the disk is `tight`, all older ones go.
    pub fn excess(&self, log: &str, current: u64, settings: &RotationSettings, tight: bool) -> Vec<String> {
        let room = if tight { 0 } else { settings.max_files.saturating_sub(2) };
        let mut first = self.rotated.len().saturating_sub(room);
        let mut bytes: u64 =
            self.rotated[first..].iter().map(|file| file.bytes).fold(current, u64::saturating_add);
        while bytes > settings.budget() && first < self.rotated.len() {
            bytes -= self.rotated[first].bytes.min(bytes);
            first += 1;
        }
        self.rotated[..first].iter().map(|file| file.name(log)).collect()
    }

    /// The oldest rotated file, unless it is the only one: what goes when the disk is full.
    pub fn oldest(&self, log: &str) -> Option<String> {
        let [oldest, _, ..] = &self.rotated[..] else { return None };
        Some(oldest.name(log))
    }

    /// Names of the files to compress, the oldest first: all but the one that was rotated last, which collectors of logs
    /// may still read. Once the log has `settled` that one too if all of them are more than they may be.
    pub fn compressible(
        &self,
        log: &str,
        current: u64,
        settings: &RotationSettings,
        settled: bool,
    ) -> Vec<String> {
        let all: u64 = self.rotated.iter().map(|file| file.bytes).fold(current, u64::saturating_add);
        let spared = usize::from(!(settled && all > settings.budget()));
        let older = &self.rotated[..self.rotated.len().saturating_sub(spared)];
        older.iter().filter(|file| !file.compressed).map(|file| file.name(log)).collect()
    }

    /// The stamp of the file that was rotated last.
    pub fn latest(&self) -> Option<&str> {
        self.rotated.last().map(|file| file.stamp.as_str())
    }
}

/// `20060102-150405`, or with more digits.
fn is_stamp(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= 64 && text.split_once('-').is_some_and(|(day, time)| digits(day) && digits(time))
}

/// The stamp for a file that is rotated at `now`: later than `latest`, whatever the clock does.
pub fn next_stamp(latest: Option<&str>, now: Timestamp) -> String {
    let plain = now.to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
    let Some(latest) = latest.filter(|latest| *latest >= plain.as_str()) else { return plain };
    let (second, count) = latest.split_at_checked(plain.len()).unwrap_or((latest, ""));
    match count.parse::<u16>() {
        Ok(count @ ..=998) if latest.len() == plain.len() + 3 => format!("{second}{:03}", count + 1),
        // More than a thousand within a second, or no stamp of ours: whatever is longer comes later.
        _ => format!("{latest}001"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const SETTINGS: RotationSettings =
        RotationSettings { max_size: 100, max_files: 4, monitor_interval: Duration::from_secs(10) };

    fn listing(names: &[&str]) -> Listing {
        Listing::of("0.log", names.iter().map(|name| (*name, if name.ends_with(".gz") { 10 } else { 100 })))
    }

    #[test]
    fn names_are_told_apart_and_leftovers_found() {
        let found = listing(&[
            "0.log",
            "0.log.20260102-030405.gz",
            "0.log.20260102-030405",
            "0.log.20260103-030405",
            "0.log.20250102-030405.gz",
            "0.log.20260103-030405001",
            "0.log.20260104-030405.tmp",
            "0.log.20260104-030405.gz.tmp",
            "0.log.x-y",
            "0.log.notes.tmp",
            "0.log.",
            "10.log.20260104-030405",
        ]);
        let names: Vec<String> = found.rotated.iter().map(|file| file.name("0.log")).collect();
        assert_eq!(
            names,
            [
                "0.log.20250102-030405.gz",
                "0.log.20260102-030405.gz",
                "0.log.20260103-030405",
                "0.log.20260103-030405001"
            ]
        );
        assert_eq!(
            found.leftovers,
            ["0.log.20260102-030405", "0.log.20260104-030405.gz.tmp", "0.log.20260104-030405.tmp"]
        );
        assert_eq!(found.latest(), Some("20260103-030405001"));
    }

    fn check_excess(names: &[&str], current: u64, tight: bool, gone: usize) {
        let excess = listing(names).excess("0.log", current, &SETTINGS, tight);
        assert_eq!(excess, names[..gone], "{names:?}");
    }

    #[test]
    fn the_oldest_go_by_number_and_by_size() {
        let names = ["0.log.1-1", "0.log.1-2", "0.log.1-3", "0.log.1-4"];
        check_excess(&names, 100, false, 2);
        check_excess(&names[..2], 100, false, 0);
        check_excess(&names[..2], 120, false, 0);
        check_excess(&names[..2], 250, false, 1);
        check_excess(&names[..2], 10_000, false, 2);
        check_excess(&names[..2], u64::MAX, false, 2);
        check_excess(&names[..1], 1, true, 1);
        check_excess(&["0.log.1-1.gz", "0.log.1-2.gz", "0.log.1-3"], 200, false, 1);
        let two = RotationSettings { max_files: 2, ..SETTINGS };
        assert_eq!(listing(&names[..1]).excess("0.log", 1, &two, false), ["0.log.1-1"]);
        assert_eq!(listing(&names).oldest("0.log").as_deref(), Some("0.log.1-1"));
        assert_eq!(listing(&names[..1]).oldest("0.log"), None);
    }

    #[test]
    fn all_but_the_latest_are_compressed() {
        let all = |names: &[&str], current, settled| {
            listing(names).compressible("0.log", current, &SETTINGS, settled)
        };
        assert_eq!(all(&["0.log.1-1", "0.log.1-2.gz", "0.log.1-3"], 0, false), ["0.log.1-1"]);
        assert!(all(&["0.log.1-1"], 1000, false).is_empty());
        assert!(all(&["0.log.1-1"], 10, true).is_empty());
        assert_eq!(all(&["0.log.1-1"], 1000, true), ["0.log.1-1"]);
        assert!(all(&[], 1000, true).is_empty());
    }

    #[test]
    fn stamps_are_times_and_never_go_back() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let check = |latest, expected: &str| assert_eq!(next_stamp(latest, now), expected);
        check(None, "20260102-030405");
        check(Some("20260102-030404"), "20260102-030405");
        check(Some("20260102-030404999"), "20260102-030405");
        check(Some("20260102-030405"), "20260102-030405001");
        check(Some("20260102-030405001"), "20260102-030405002");
        check(Some("20260102-030405999"), "20260102-030405999001");
        check(Some("20270102-030405"), "20270102-030405001");
        check(Some("3-4"), "3-4001");
    }

    proptest! {
        #[test]
        fn stamps_grow_and_are_found_again(
            seconds in proptest::collection::vec(1_700_000_000i64..1_700_000_003, 1..40),
        ) {
            let mut latest: Option<String> = None;
            for second in seconds {
                let next = next_stamp(latest.as_deref(), Timestamp::from_second(second).unwrap());
                prop_assert!(latest.is_none_or(|latest| latest < next));
                prop_assert!(is_stamp(&next));
                latest = Some(next);
            }
        }

        #[test]
        fn any_names_are_sorted_each_once(names in proptest::collection::vec("[0.log\\-gztmp1]{0,14}", 0..20)) {
            let names: Vec<String> = names.into_iter().map(|name| format!("0.log.{name}")).collect();
            let found = Listing::of("0.log", names.iter().map(|name| (name.as_str(), 1)));
            prop_assert!(found.rotated.windows(2).all(|pair| pair[0].stamp < pair[1].stamp));
            for file in &found.rotated {
                prop_assert!(names.contains(&file.name("0.log")));
                prop_assert!(!found.leftovers.contains(&file.name("0.log")));
            }
        }

        #[test]
        fn what_stays_is_within_number_and_budget(
            sizes in proptest::collection::vec(0u64..300, 0..12), current in 0u64..1000, files in 2usize..7,
        ) {
            let settings = RotationSettings { max_files: files, ..SETTINGS };
            let names: Vec<String> = (0..sizes.len()).map(|at| format!("0.log.1-{at:02}")).collect();
            let listing = Listing::of("0.log", names.iter().map(String::as_str).zip(sizes.iter().copied()));
            let gone = listing.excess("0.log", current, &settings, false);
            prop_assert_eq!(&gone[..], &names[..gone.len()]);
            let left = &sizes[gone.len()..];
            prop_assert!(left.len() + 2 <= files);
            prop_assert!(left.is_empty() || left.iter().sum::<u64>() + current <= settings.budget());
        }
    }
}
