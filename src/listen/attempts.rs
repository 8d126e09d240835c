//! How often an address may try something in a minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::clock::Clock;

use super::caps::subscriber;

/// Addresses that are remembered in one minute; past that, further ones are refused.
const ADDRESSES: usize = 65_536;

/// Counts attempts of the current minute by address (IPv6: by /64).
pub struct Attempts {
    clock: Clock,
    minute: Mutex<(i64, HashMap<IpAddr, u32>)>,
}

impl Attempts {
    pub fn new(clock: Clock) -> Attempts {
        Attempts { clock, minute: Mutex::default() }
    }

    /// Counts an attempt; false once `limit` of this minute are used up.
    pub fn allow(&self, address: IpAddr, limit: u32) -> bool {
        let now = self.clock.now() / 60;
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.0 != now {
            *minute = (now, HashMap::new());
        }
        let counts = &mut minute.1;
        let address = subscriber(address);
        if counts.len() >= ADDRESSES && !counts.contains_key(&address) {
            return false;
        }
        let count = counts.entry(address).or_default();
        *count = count.saturating_add(1);
        *count <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_by_address_and_minute() {
        let clock = Clock::manual(600);
        let attempts = Attempts::new(clock.clone());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert!(attempts.allow(one, 2) && attempts.allow(one, 2) && !attempts.allow(one, 2));
        assert!(attempts.allow(other, 2));
        clock.advance(60);
        assert!(attempts.allow(one, 2));
    }
}
