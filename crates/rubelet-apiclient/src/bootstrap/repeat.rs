//! Keeps a log readable while something goes wrong for hours: a line that repeats is said rarely.

use std::time::Duration;

use tokio::time::Instant;

/// How often the same line is said.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// What was said last, and when.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    last: Option<(String, Instant)>,
}

impl Repeats {
    /// Whether `text` should be said now: it is new, or was last said ten minutes ago.
    pub(crate) fn is_news(&mut self, text: &str, now: Instant) -> bool {
        if let Some((last, at)) = &self.last
            && last == text
            && now.duration_since(*at) < AGAIN_AFTER
        {
            return false;
        }
        self.last = Some((text.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_line_is_said_again_after_ten_minutes() {
        let (mut said, start) = (Repeats::default(), Instant::now());
        let mut check = |text: &str, second: u64, expected: bool| {
            assert_eq!(
                said.is_news(text, start + Duration::from_secs(second)),
                expected,
                "{text} at {second}"
            );
        };
        check("a", 0, true);
        check("a", 599, false);
        check("a", 600, true);
        check("b", 601, true);
        check("a", 602, true);
    }
}
