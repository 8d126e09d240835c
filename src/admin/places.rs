//! Who may hold a connection to the port. There is always room for one more that comes to ask:
//! when all places are taken, the one that has been silent longest gives way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::listen::subscriber;

/// Connections at one time, each with one file descriptor and buffers of at most 16 KiB for
/// what is read.
const PLACES: usize = 256;
/// Of these from one address (IPv6: one /64). An address past it makes room among its own.
const PLACES_PER_ADDRESS: usize = 64;

/// All places.
pub struct Places {
    inner: Mutex<Inner>,
    limit: usize,
    per_address: usize,
}

#[derive(Default)]
struct Inner {
    taken: HashMap<u64, Holder>,
    /// Counts every sign of life: the lower a holder's, the longer it has been silent.
    beat: u64,
}

struct Holder {
    address: IpAddr,
    beat: u64,
    /// Has sent a whole request.
    proven: bool,
    /// A request is being answered: never gives way.
    busy: bool,
    cut: Arc<Notify>,
}

/// A connection's place; dropping it gives it back.
pub struct Place {
    places: Arc<Places>,
    id: u64,
    cut: Arc<Notify>,
}

impl Default for Places {
    fn default() -> Places {
        Places::new(PLACES, PLACES_PER_ADDRESS)
    }
}

impl Places {
    fn new(limit: usize, per_address: usize) -> Places {
        Places { inner: Mutex::default(), limit, per_address }
    }

    /// A place for a newcomer; `None` where every other connection is being answered.
    pub fn enter(self: &Arc<Places>, address: IpAddr) -> Option<Place> {
        let address = subscriber(address);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let own = inner.taken.values().filter(|holder| holder.address == address).count();
        if own >= self.per_address {
            inner.evict(Some(address))?;
        } else if inner.taken.len() >= self.limit {
            inner.evict(None)?;
        }
        inner.beat += 1;
        let (id, cut) = (inner.beat, Arc::new(Notify::new()));
        let holder = Holder { address, beat: id, proven: false, busy: false, cut: cut.clone() };
        inner.taken.insert(id, holder);
        Some(Place { places: self.clone(), id, cut })
    }
}

impl Inner {
    /// Takes a place away: of who has not sent a request before who has, of these from who has
    /// been silent longest.
    fn evict(&mut self, address: Option<IpAddr>) -> Option<()> {
        let idle = self.taken.iter().filter(|(_, holder)| {
            !holder.busy && address.is_none_or(|address| holder.address == address)
        });
        let (id, _) = idle.min_by_key(|(_, holder)| (holder.proven, holder.beat))?;
        let id = *id;
        self.taken.remove(&id)?.cut.notify_one();
        Some(())
    }
}

impl Place {
    /// Resolves when the place was given to another.
    pub async fn lost(&self) {
        self.cut.notified().await;
    }

    /// A request has begun, or has been answered.
    pub fn set_busy(&self, busy: bool) {
        let mut inner = self.places.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.beat += 1;
        let beat = inner.beat;
        if let Some(holder) = inner.taken.get_mut(&self.id) {
            holder.beat = beat;
            holder.proven = true;
            holder.busy = busy;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.places.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.taken.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Duration, timeout};

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    async fn is_lost(place: &Place) -> bool {
        timeout(Duration::from_millis(1), place.lost()).await.is_ok()
    }

    #[tokio::test]
    async fn a_newcomer_takes_the_place_of_who_has_been_silent_longest() {
        let places = Arc::new(Places::new(3, 3));
        let first = places.enter(address(1)).unwrap();
        let second = places.enter(address(2)).unwrap();
        let third = places.enter(address(3)).unwrap();
        first.set_busy(true);
        first.set_busy(false);
        let fourth = places.enter(address(4)).unwrap();
        assert!(is_lost(&second).await && !is_lost(&first).await && !is_lost(&third).await);
        let _fifth = places.enter(address(5)).unwrap();
        assert!(is_lost(&third).await && !is_lost(&first).await && !is_lost(&fourth).await);
    }

    #[tokio::test]
    async fn who_is_being_answered_keeps_its_place() {
        let places = Arc::new(Places::new(2, 2));
        let first = places.enter(address(1)).unwrap();
        let second = places.enter(address(2)).unwrap();
        first.set_busy(true);
        second.set_busy(true);
        assert!(places.enter(address(3)).is_none());
        second.set_busy(false);
        assert!(places.enter(address(3)).is_some());
        assert!(is_lost(&second).await && !is_lost(&first).await);
    }

    #[tokio::test]
    async fn an_address_past_its_share_makes_room_among_its_own() {
        let places = Arc::new(Places::new(8, 2));
        let other = places.enter(address(9)).unwrap();
        let first = places.enter(address(1)).unwrap();
        let _second = places.enter(address(1)).unwrap();
        let _third = places.enter(address(1)).unwrap();
        assert!(is_lost(&first).await && !is_lost(&other).await);
        assert_eq!(places.inner.lock().unwrap().taken.len(), 3);
    }

    #[test]
    fn places_come_back() {
        let places = Arc::new(Places::new(2, 2));
        drop(places.enter(address(1)));
        assert!(places.inner.lock().unwrap().taken.is_empty());
    }
}
