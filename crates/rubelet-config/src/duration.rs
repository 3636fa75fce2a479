//! Go's `time.Duration` as Kubernetes configuration writes it: `"1m30s"`, `"250ms"`, `"-1.5h"`.
//!
//! Owns parsing and printing with exactly Go's grammar, so that a value read from a file prints
//! as upstream prints it on `/configz`. It never reads a clock. Used by every duration field.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A signed duration in nanoseconds, with the text form of Go's `time.Duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// Nothing but an optional sign.
    #[error("a duration needs a number and a unit, such as \"30s\" or \"1h30m\"")]
    Empty,
    /// A number was expected and something else was found.
    #[error("expected a number at {0:?}")]
    NotANumber(String),
    /// A number without unit (only a plain 0 may go without).
    #[error("missing unit after {0:?}; units are ns, us, ms, s, m, h")]
    MissingUnit(String),
    /// A unit Go does not know.
    #[error("unknown unit {0:?}; units are ns, us, ms, s, m, h")]
    UnknownUnit(String),
    /// More than about 292 years.
    #[error("the duration does not fit in 64 bits of nanoseconds")]
    Overflow,
}

const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

impl GoDuration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A duration of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(MILLISECOND))
    }

    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(SECOND))
    }

    /// A duration of whole minutes.
    #[must_use]
    pub const fn from_mins(mins: i64) -> Self {
        Self(mins.saturating_mul(MINUTE))
    }

    /// A duration of nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The duration in nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whether this is exactly zero, which in most fields means "use the default".
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The duration for timers: negative values become zero, as they elapse at once.
    #[must_use]
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(ParseDurationError::Empty);
        }
        // i128 holds any i64 times an hour, so only the final sum needs a range check.
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(number_end);
            let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_end);
            total += part_nanos(number, unit, rest)?;
            if total > i128::from(i64::MAX) + 1 {
                return Err(ParseDurationError::Overflow);
            }
            rest = next;
        }
        let signed = if negative { -total } else { total };
        i64::try_from(signed).map(Self).map_err(|_| ParseDurationError::Overflow)
    }
}

/// One `number unit` part of a duration in nanoseconds.
fn part_nanos(number: &str, unit: &str, rest: &str) -> Result<i128, ParseDurationError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(ParseDurationError::NotANumber(rest.to_owned()));
    }
    let scale = match unit {
        "" => return Err(ParseDurationError::MissingUnit(number.to_owned())),
        "ns" => 1,
        "us" | "µs" | "μs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        other => return Err(ParseDurationError::UnknownUnit(other.to_owned())),
    };
    let mut whole_value: i128 = 0;
    for digit in whole.bytes() {
        whole_value = whole_value * 10 + i128::from(digit - b'0');
        if whole_value > i128::from(i64::MAX) + 1 {
            return Err(ParseDurationError::Overflow);
        }
    }
    // Eighteen digits are more than a nanosecond of an hour can show; the rest is dropped.
    let mut fraction_value: i128 = 0;
    let mut divisor: i128 = 1;
    for digit in fraction.bytes().take(18) {
        fraction_value = fraction_value * 10 + i128::from(digit - b'0');
        divisor *= 10;
    }
    Ok(whole_value * i128::from(scale) + fraction_value * i128::from(scale) / divisor)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let second = SECOND.unsigned_abs();
        if nanos < second {
            return match nanos {
                n if n < 1_000 => write!(f, "{n}ns"),
                n if n < 1_000_000 => write_fraction(f, n, 1_000, "µs"),
                n => write_fraction(f, n, 1_000_000, "ms"),
            };
        }
        let (minutes, rest) = (nanos / (60 * second), nanos % (60 * second));
        let (hours, minutes) = (minutes / 60, minutes % 60);
        if hours > 0 {
            write!(f, "{hours}h{minutes}m")?;
        } else if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write_fraction(f, rest, second, "s")
    }
}

/// Writes `value / unit` without trailing zeros, then the unit.
fn write_fraction(f: &mut fmt::Formatter<'_>, value: u64, unit: u64, name: &str) -> fmt::Result {
    write!(f, "{}", value / unit)?;
    let fraction = value % unit;
    if fraction > 0 {
        let width = unit.ilog10() as usize;
        let digits = format!("{fraction:0width$}");
        write!(f, ".{}", digits.trim_end_matches('0'))?;
    }
    f.write_str(name)
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A duration that may be written as text (`"5s"`) or as a number of nanoseconds, and is printed
/// back in the form it came in. Source: `TimeOrMetaDuration` of component-base logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFlushFrequency {
    /// The time between two flushes.
    pub duration: GoDuration,
    /// Whether it was written as text.
    pub as_text: bool,
}

impl Default for LogFlushFrequency {
    fn default() -> Self {
        Self { duration: GoDuration::ZERO, as_text: true }
    }
}

impl Serialize for LogFlushFrequency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.as_text {
            self.duration.serialize(serializer)
        } else {
            serializer.serialize_i64(self.duration.as_nanos())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let actual = match text.parse::<GoDuration>() {
            Ok(duration) => duration.to_string(),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(actual, expected, "{text}");
    }

    #[test]
    fn parses_and_prints_as_go() {
        check("0", "0s");
        check("0s", "0s");
        check("20s", "20s");
        check("1m", "1m0s");
        check("4h", "4h0m0s");
        check("1h30m", "1h30m0s");
        check("100ms", "100ms");
        check("1.5s", "1.5s");
        check(".5s", "500ms");
        check("5.s", "5s");
        check("250us", "250µs");
        check("3µs", "3µs");
        check("7ns", "7ns");
        check("-1.5h", "-1h30m0s");
        check("+5s", "5s");
        check("2540400h10m10.000000001s", "2540400h10m10.000000001s");
        check("1500ms", "1.5s");
    }

    #[test]
    fn says_what_is_wrong() {
        check("", "error: a duration needs a number and a unit, such as \"30s\" or \"1h30m\"");
        check("-", "error: a duration needs a number and a unit, such as \"30s\" or \"1h30m\"");
        check("10", "error: missing unit after \"10\"; units are ns, us, ms, s, m, h");
        check("1d", "error: unknown unit \"d\"; units are ns, us, ms, s, m, h");
        check("s", "error: expected a number at \"s\"");
        check("1.2.3s", "error: expected a number at \"1.2.3s\"");
        check(".s", "error: expected a number at \".s\"");
        check("1 s", "error: unknown unit \" s\"; units are ns, us, ms, s, m, h");
        check("9223372036854775808ns", "error: the duration does not fit in 64 bits of nanoseconds");
        check("99999999999h", "error: the duration does not fit in 64 bits of nanoseconds");
    }

    #[test]
    fn negative_is_no_wait() {
        assert_eq!(GoDuration::from_secs(-3).to_std(), Duration::ZERO);
        assert_eq!(GoDuration::from_millis(1500).to_std(), Duration::from_millis(1500));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(nanos in any::<i64>()) {
            let duration = GoDuration::from_nanos(nanos);
            prop_assert_eq!(duration.to_string().parse::<GoDuration>(), Ok(duration));
        }

        #[test]
        fn never_panics(text in "[-+]?[0-9.]{0,30}[a-zµ]{0,3}[0-9.]{0,5}[a-z]{0,2}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
