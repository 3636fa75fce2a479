//! When a trouble that lasts is told: when it begins, every few minutes while it lasts, and when it is over.
//!
//! Pure: its time is the age of the agent. Used for events that the node's health makes.

use std::time::Duration;

/// How often a trouble that lasts is told again, and how soon at the earliest one that comes back.
pub const AGAIN: Duration = Duration::from_secs(300);

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// It has begun, or goes on.
    Trouble,
    /// It is over; only after it was told that it was there. With how long it lasted.
    Over(Duration),
}

/// One trouble that comes and goes.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    since: Option<Duration>,
    /// When it was last told, this time or an earlier one.
    told: Option<Duration>,
    /// It was told since it began.
    known: bool,
}

impl Telling {
    /// Whether there is trouble at age `now`; says what is to be told of it.
    pub fn step(&mut self, trouble: bool, now: Duration) -> Option<Tell> {
        if !trouble {
            let since = self.since.take()?;
            return std::mem::take(&mut self.known).then(|| Tell::Over(now.saturating_sub(since)));
        }
        self.since.get_or_insert(now);
        if self.told.is_some_and(|told| now < told.saturating_add(AGAIN)) {
            return None;
        }
        (self.told, self.known) = (Some(now), true);
        Some(Tell::Trouble)
    }

    /// When it is to be told again if it lasts.
    pub fn next(&self) -> Option<Duration> {
        self.since?;
        self.told.map(|told| told.saturating_add(AGAIN))
    }

    /// Whether there is nothing to remember at age `now`.
    pub fn is_idle(&self, now: Duration) -> bool {
        self.since.is_none() && self.told.is_none_or(|told| now >= told.saturating_add(AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_at_its_begin_every_five_minutes_and_at_its_end() {
        let mut telling = Telling::default();
        let s = Duration::from_secs;
        let mut told = vec![];
        for second in 0..1000 {
            let trouble = (100..800).contains(&second);
            if let Some(tell) = telling.step(trouble, s(second)) {
                told.push((second, tell));
            }
        }
        let over = Tell::Over(s(700));
        assert_eq!(told, [(100, Tell::Trouble), (400, Tell::Trouble), (700, Tell::Trouble), (800, over)]);
        assert!(!telling.is_idle(s(999)) && telling.is_idle(s(1000)));
    }

    #[test]
    fn one_that_comes_and_goes_is_not_told_each_time() {
        let mut telling = Telling::default();
        let s = Duration::from_secs;
        let told = (0..600).filter(|second| telling.step(second % 2 == 0, s(*second)).is_some()).count();
        // Begin and end, and the same after five minutes.
        assert_eq!(told, 4);
        assert_eq!((telling.next(), telling.told), (None, Some(s(300))));
        // One that has just been told of is told again when its time has come.
        assert_eq!((telling.step(true, s(601)), telling.next()), (Some(Tell::Trouble), Some(s(901))));
    }
}
