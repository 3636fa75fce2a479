//! What drivers tell of the health of their devices. What was not told again for the time that it is good for is unknown.
//! Time comes in as a value. Bounded by what drivers told last.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

/// How long a report is good for when the driver does not say (upstream `DefaultHealthTimeout`).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest message, in bytes (upstream `ResourceHealthMessageMaxLength`).
const LONGEST_MESSAGE: usize = 1024;
/// Longest time that a report is good for: a year is for ever.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Health of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Healthy,
    /// It does not.
    Unhealthy,
    /// Nobody knows.
    #[default]
    Unknown,
}

impl Health {
    /// The API's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a driver tells of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub device: String,
    /// How it is.
    pub health: Health,
    /// The driver's words; shortened to what the API takes.
    pub message: String,
    /// How many seconds this is good for; the default when it is not positive.
    pub timeout_seconds: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    health: Health,
    message: String,
    until: Timestamp,
}

/// Pool and name of a device.
pub type DeviceName = (String, String);

/// What is known of all devices.
#[derive(Clone, Debug, Default)]
pub struct HealthBook {
    drivers: BTreeMap<String, BTreeMap<DeviceName, Known>>,
}

impl HealthBook {
    /// A driver's report of its devices. What it does not name stays until its time is up.
    /// Gives the devices of which something else is to be told now.
    pub fn report(&mut self, driver: &str, reports: Vec<Report>, now: Timestamp) -> BTreeSet<DeviceName> {
        let known = self.drivers.entry(driver.to_owned()).or_default();
        let mut changed = BTreeSet::new();
        for report in reports {
            let name = (report.pool, report.device);
            let timeout = match u64::try_from(report.timeout_seconds) {
                Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(LONGEST_TIMEOUT),
                _ => DEFAULT_TIMEOUT,
            };
            let message = shortened(report.message);
            let until = now.checked_add(timeout).unwrap_or(Timestamp::MAX);
            let fresh = Known { health: report.health, message, until };
            let before = known.insert(name.clone(), fresh.clone());
            let same = before.is_some_and(|before| {
                before.until >= now && (before.health, &before.message) == (fresh.health, &fresh.message)
            });
            if !same {
                changed.insert(name);
            }
        }
        changed.extend(expire(known, now));
        changed
    }

    /// Forgets what is too old; gives the devices of which that was.
    pub fn expire(&mut self, now: Timestamp) -> BTreeMap<String, BTreeSet<DeviceName>> {
        let expired = self.drivers.iter_mut().map(|(driver, known)| (driver.clone(), expire(known, now)));
        expired.filter(|(_, devices)| !devices.is_empty()).collect()
    }

    /// Forgets all of a driver; gives the devices of which something was known.
    pub fn clear(&mut self, driver: &str) -> BTreeSet<DeviceName> {
        self.drivers.remove(driver).unwrap_or_default().into_keys().collect()
    }

    /// When something becomes too old next.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.drivers.values().flat_map(|known| known.values().map(|known| known.until)).min()
    }

    /// How a device is, and the driver's words; empty when there are none.
    pub fn get(&self, driver: &str, pool: &str, device: &str, now: Timestamp) -> (Health, &str) {
        let known = self.drivers.get(driver);
        let known = known.and_then(|known| known.get(&(pool.to_owned(), device.to_owned())));
        match known.filter(|known| known.until >= now) {
            Some(known) => (known.health, &known.message),
            None => (Health::Unknown, ""),
        }
    }
}

fn expire(known: &mut BTreeMap<DeviceName, Known>, now: Timestamp) -> BTreeSet<DeviceName> {
    let old: BTreeSet<_> =
        known.iter().filter(|(_, known)| known.until < now).map(|(name, _)| name.clone()).collect();
    known.retain(|name, _| !old.contains(name));
    old
}

fn shortened(mut message: String) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message;
    }
    let mut end = LONGEST_MESSAGE - 3;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    message + "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn report(device: &str, health: Health, message: &str, timeout: i64) -> Report {
        Report {
            pool: "p".to_owned(),
            device: device.to_owned(),
            health,
            message: message.to_owned(),
            timeout_seconds: timeout,
        }
    }

    fn names(devices: &BTreeSet<DeviceName>) -> Vec<&str> {
        devices.iter().map(|(_, device)| device.as_str()).collect()
    }

    #[test]
    fn only_changes_are_news_and_silence_makes_unknown() {
        let mut book = HealthBook::default();
        let both = || vec![report("a", Health::Healthy, "", 0), report("b", Health::Unhealthy, "hot", 5)];
        assert_eq!(names(&book.report("d", both(), at(0))), ["a", "b"]);
        assert_eq!(names(&book.report("d", both(), at(1))), Vec::<&str>::new());
        assert_eq!(book.get("d", "p", "b", at(6)), (Health::Unhealthy, "hot"));
        assert_eq!(book.get("d", "p", "b", at(7)), (Health::Unknown, ""));
        assert_eq!(book.next_expiry(), Some(at(6)));
        assert_eq!(names(&book.report("d", vec![report("a", Health::Healthy, "", 0)], at(7))), ["b"]);
        assert!(book.expire(at(37)).is_empty());
        assert_eq!(names(&book.expire(at(38))["d"]), ["a"]);
        assert_eq!((book.next_expiry(), book.get("d", "p", "a", at(0))), (None, (Health::Unknown, "")));
        // The same words after a silence are news.
        assert_eq!(names(&book.report("d", vec![report("a", Health::Healthy, "", 0)], at(50))), ["a"]);
        assert_eq!(names(&book.clear("d")), ["a"]);
        assert!(book.clear("d").is_empty());
    }

    #[test]
    fn nonsense_of_drivers_is_bounded() {
        let mut book = HealthBook::default();
        let long = "ä".repeat(2000);
        let reports =
            vec![report("a", Health::Healthy, &long, i64::MAX), report("b", Health::Healthy, "", -5)];
        book.report("d", reports, at(0));
        let (_, message) = book.get("d", "p", "a", at(1_000_000));
        assert!(message.len() <= LONGEST_MESSAGE && message.ends_with("ä..."), "{}", message.len());
        assert_eq!(book.get("d", "p", "b", at(31)).0, Health::Unknown);
    }
}
