//! How many connections and handshakes there may be: in all, and from one address.
//!
//! A newcomer past a cap is refused; those inside are not touched. IPv6 peers count by
//! their /64, which is what one subscriber is given (RFC 6177).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::Limits;
use crate::names::TenantId;

const SHARDS: usize = 16;

/// The counts of one process.
#[derive(Default)]
pub struct Caps {
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    addresses: [Mutex<HashMap<IpAddr, Usage>>; SHARDS],
    tenants: Mutex<HashMap<TenantId, Arc<AtomicUsize>>>,
}

#[derive(Default)]
struct Usage {
    connections: usize,
    handshakes: usize,
}

/// Which cap is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Connections,
    ConnectionsPerAddress,
    Handshakes,
    HandshakesPerAddress,
}

impl Full {
    pub fn reason(self) -> &'static str {
        match self {
            Full::Connections => "limits.connections is reached",
            Full::ConnectionsPerAddress => "limits.connections_per_address is reached",
            Full::Handshakes => "limits.handshakes is reached",
            Full::HandshakesPerAddress => "limits.handshakes_per_address is reached",
        }
    }
}

/// One connection's places; dropping it gives them back.
pub struct Place {
    caps: Arc<Caps>,
    address: Option<IpAddr>,
    handshaking: bool,
}

impl Caps {
    /// A place for a connection that starts with a handshake. `address`: the peer's, or
    /// `None` where it is not known yet (see [`Place::set_address`]).
    pub fn enter(
        self: &Arc<Caps>,
        address: Option<IpAddr>,
        limits: &Limits,
    ) -> Result<Place, Full> {
        if !add_below(&self.connections, limits.connections) {
            return Err(Full::Connections);
        }
        // From here on, dropping `place` undoes what was counted.
        let mut place = Place { caps: self.clone(), address: None, handshaking: false };
        if !add_below(&self.handshakes, limits.handshakes) {
            return Err(Full::Handshakes);
        }
        place.handshaking = true;
        if let Some(address) = address {
            place.set_address(address, limits)?;
        }
        Ok(place)
    }

    /// How many connections a tenant has; counted by the caller.
    pub fn tenant(&self, id: &TenantId) -> Arc<AtomicUsize> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        match tenants.get(id) {
            Some(count) => count.clone(),
            None => tenants.entry(id.clone()).or_default().clone(),
        }
    }

    fn shard(&self, address: &IpAddr) -> &Mutex<HashMap<IpAddr, Usage>> {
        let last = match address {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[7],
        };
        &self.addresses[usize::from(last) % SHARDS]
    }
}

impl Place {
    /// Counts the connection under its peer's address.
    pub fn set_address(&mut self, address: IpAddr, limits: &Limits) -> Result<(), Full> {
        let address = subscriber(address);
        let caps = self.caps.clone();
        let mut addresses = caps.shard(&address).lock().unwrap_or_else(PoisonError::into_inner);
        let usage = addresses.entry(address).or_default();
        if usage.connections >= limits.connections_per_address {
            return Err(Full::ConnectionsPerAddress);
        }
        if usage.handshakes >= limits.handshakes_per_address {
            return Err(Full::HandshakesPerAddress);
        }
        usage.connections += 1;
        usage.handshakes += usize::from(self.handshaking);
        self.address = Some(address);
        Ok(())
    }

    /// The handshake has ended; the connection stays.
    pub fn handshake_done(&mut self) {
        if std::mem::take(&mut self.handshaking) {
            self.caps.handshakes.fetch_sub(1, Ordering::AcqRel);
            self.leave_address(0);
        }
    }

    fn leave_address(&self, connections: usize) {
        let Some(address) = self.address else { return };
        let mut addresses =
            self.caps.shard(&address).lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = addresses.entry(address) {
            let usage = entry.get_mut();
            usage.connections = usage.connections.saturating_sub(connections);
            usage.handshakes = usage.handshakes.saturating_sub(1 - connections.min(1));
            if usage.connections == 0 {
                entry.remove();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshake_done();
        self.leave_address(1);
        self.caps.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Adds one where that keeps the count within `limit`.
pub fn add_below(count: &AtomicUsize, limit: usize) -> bool {
    count
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1))
        .is_ok()
}

/// What stands for one subscriber: an IPv4 address, or the /64 of an IPv6 one.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            connections: 3,
            connections_per_address: 2,
            handshakes: 2,
            handshakes_per_address: 1,
            ..Limits::default()
        }
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn a_full_edge_refuses_the_newcomer_and_frees_places_on_drop() {
        let (caps, limits) = (Arc::new(Caps::default()), limits());
        let mut first = caps.enter(address(1), &limits).unwrap();
        assert_eq!(caps.enter(address(1), &limits).err(), Some(Full::HandshakesPerAddress));
        first.handshake_done();
        let mut second = caps.enter(address(1), &limits).unwrap();
        second.handshake_done();
        assert_eq!(caps.enter(address(1), &limits).err(), Some(Full::ConnectionsPerAddress));
        let third = caps.enter(address(2), &limits).unwrap();
        assert_eq!(caps.enter(address(3), &limits).err(), Some(Full::Connections));
        drop((first, third));
        let fourth = caps.enter(address(4), &limits).unwrap();
        let fifth = caps.enter(address(5), &limits);
        assert!(fifth.is_ok());
        drop((second, fourth, fifth));
        assert_eq!(caps.connections.load(Ordering::Acquire), 0);
        assert_eq!(caps.handshakes.load(Ordering::Acquire), 0);
        assert!(caps.addresses.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn ipv6_peers_count_by_their_64() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let other: IpAddr = "2001:db8::ffff:2".parse().unwrap();
        assert_eq!(subscriber(one), subscriber(other));
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(subscriber(mapped), IpAddr::from([192, 0, 2, 1]));
    }
}
