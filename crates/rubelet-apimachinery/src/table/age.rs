//! Spans of time in two or three digits, such as `3d4h`.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How long ago this time was, for people; `<unknown>` if it is no time.
pub(super) fn since(time: &Value, now: Timestamp) -> String {
    instant(time).map_or_else(|| "<unknown>".to_owned(), |then| human(now.duration_since(then)))
}

/// A time as objects write it. None for absent ones and for Go's zero time.
pub(super) fn instant(time: &Value) -> Option<Timestamp> {
    time.as_str().filter(|text| *text != "0001-01-01T00:00:00Z")?.parse().ok()
}

/// A span as kubectl shows it (apimachinery's `duration.HumanDuration`): exact where it is short, and clocks may differ
/// by up to two seconds before a future time is called invalid.
pub(super) fn human(span: SignedDuration) -> String {
    let seconds = span.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

fn two(large: i64, unit: &str, small: i64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_are_as_exact_as_people_want() {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        const YEAR: i64 = 365 * DAY;
        for (seconds, shown) in [
            (-3, "<invalid>"),
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (59, "59s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (659, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 60, "3h1m"),
            (8 * HOUR - 1, "7h59m"),
            (8 * HOUR, "8h"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY - 1, "7d23h"),
            (8 * DAY, "8d"),
            (2 * YEAR - 1, "729d"),
            (2 * YEAR, "2y"),
            (2 * YEAR + DAY, "2y1d"),
            (8 * YEAR - 1, "7y364d"),
            (8 * YEAR, "8y"),
            (9999 * YEAR, "9999y"),
        ] {
            assert_eq!(human(SignedDuration::from_secs(seconds)), shown, "{seconds}");
        }
        assert_eq!(human(SignedDuration::from_millis(-1900)), "0s");
        assert_eq!(human(SignedDuration::from_millis(1900)), "1s");
    }

    #[test]
    fn what_is_no_time_is_unknown() {
        let now: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        for (time, shown) in [
            (json!("2025-12-31T23:59:00Z"), "60s"),
            (json!("2025-12-31T23:59:00.123456Z"), "60s"),
            (json!("2026-01-01T00:00:02Z"), "0s"),
            (json!("0001-01-01T00:00:00Z"), "<unknown>"),
            (json!(null), "<unknown>"),
            (json!(""), "<unknown>"),
            (json!("yesterday"), "<unknown>"),
            (json!(7), "<unknown>"),
        ] {
            assert_eq!(since(&time, now), shown, "{time}");
        }
    }
}
