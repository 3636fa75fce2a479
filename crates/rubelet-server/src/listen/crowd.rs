//! How many connections each address has.
//!
//! Only counts; the listener asks for every connection it accepts. IPv4 addresses in IPv6's form count as themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections by address. Addresses without one are not kept.
#[derive(Default)]
pub(super) struct Crowd(Mutex<BTreeMap<IpAddr, usize>>);

/// One connection, for as long as it is kept.
pub(super) struct Seat {
    crowd: Arc<Crowd>,
    from: IpAddr,
}

impl Crowd {
    /// A place for one more connection of this address, unless it has `most` already.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr, most: usize) -> Option<Seat> {
        let from = from.to_canonical();
        let mut crowd = self.lock();
        let has = crowd.entry(from).or_default();
        if *has >= most {
            return None;
        }
        *has += 1;
        Some(Seat { crowd: self.clone(), from })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut crowd = self.crowd.lock();
        if let Some(has) = crowd.get_mut(&self.from) {
            *has -= 1;
            if *has == 0 {
                crowd.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_share_and_gives_it_back() {
        let crowd = Arc::new(Crowd::default());
        let [one, same, other]: [IpAddr; 3] =
            ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let first = crowd.enter(one, 2).unwrap();
        let second = crowd.enter(same, 2).unwrap();
        assert!(crowd.enter(one, 2).is_none() && crowd.enter(same, 2).is_none());
        let third = crowd.enter(other, 2).unwrap();
        drop(first);
        let again = crowd.enter(one, 2).unwrap();
        drop((second, third, again));
        assert!(crowd.lock().is_empty(), "nothing is kept of who is gone");
    }
}
