//! Pools of servers and the choice among them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::ErrorType;

use super::health::{Check, CheckFault};
use super::peer;
use super::server::Server;
use super::settings::{Balance, PoolFault, PoolSettings};
use crate::metrics::{Metrics, UpstreamMetrics};

/// The servers of one upstream.
pub struct Pool {
    settings: PoolSettings,
    servers: Vec<Arc<Server>>,
    turn: AtomicUsize,
    metrics: UpstreamMetrics,
    pub(super) watched: AtomicBool,
}

impl Pool {
    /// All servers start as healthy. Checks run once [`Pool::spawn_health`] has been called.
    ///
    /// # Errors
    /// Where a setting cannot be used; nothing is connected to yet.
    pub fn new(settings: PoolSettings, metrics: &Metrics) -> Result<Arc<Pool>, PoolFault> {
        settings.validate()?;
        let mut servers = Vec::with_capacity(settings.servers.len());
        for (address, peer) in settings.servers.iter().zip(peer::peers(&settings)?) {
            let check = Check::new(&peer, &settings.health)?;
            servers.push(Arc::new(Server::new(
                &settings.name,
                *address,
                peer,
                check,
                &settings.health,
                metrics.upstream_server_up.clone(),
            )));
        }
        let metrics = metrics.upstream(&settings.name);
        let (turn, watched) = (AtomicUsize::new(0), AtomicBool::new(false));
        Ok(Arc::new(Pool { settings, servers, turn, metrics, watched }))
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// A healthy server whose index is not in `tried`; where none is healthy, one that only
    /// requests found down while its checks pass. `None` where none of these is left. Takes no
    /// lock; health may turn at any time after.
    pub fn pick(&self, tried: &[usize]) -> Option<Picked> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let index = match self.settings.balance {
            Balance::RoundRobin => self.in_turn(turn, tried),
            Balance::LeastLoaded => self.least_loaded(turn, tried),
        };
        let index = index.or_else(|| self.last_resort(turn, tried))?;
        let server = Arc::clone(self.servers.get(index)?);
        server.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Picked { index, server })
    }

    pub(super) fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    fn eligible(&self, tried: &[usize]) -> impl Iterator<Item = (usize, &Server)> {
        let servers = self.servers.iter().map(Arc::as_ref).enumerate();
        servers.filter(|(index, server)| server.is_up() && !tried.contains(index))
    }

    /// Counting among the eligible, not among all: else the neighbour of a server that is down
    /// would get its share on top of its own.
    fn in_turn(&self, turn: usize, tried: &[usize]) -> Option<usize> {
        let place = turn.checked_rem(self.eligible(tried).count())?;
        // Where a server went down since the count, the last one stands in.
        self.eligible(tried).take(place + 1).last().map(|(index, _)| index)
    }

    fn last_resort(&self, turn: usize, tried: &[usize]) -> Option<usize> {
        let count = self.servers.len();
        let hopeful = |index: &usize| {
            !tried.contains(index)
                && self.servers.get(*index).is_some_and(|server| server.passed_its_check())
        };
        (0..count).map(|step| (turn + step) % count).find(hopeful)
    }

    fn least_loaded(&self, turn: usize, tried: &[usize]) -> Option<usize> {
        let count = self.servers.len();
        let start = turn.checked_rem(count)?;
        let order = |index: usize| (index + count - start) % count;
        self.eligible(tried)
            .min_by_key(|(index, server)| (server.in_flight.load(Ordering::Relaxed), order(*index)))
            .map(|(index, _)| index)
    }
}

/// A server that serves a request. While it is held, the request counts as in flight.
pub struct Picked {
    index: usize,
    server: Arc<Server>,
}

impl Picked {
    /// Place in the pool's list of servers, for `tried`.
    pub fn index(&self) -> usize {
        self.index
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub fn peer(&self) -> Box<HttpPeer> {
        Box::new(self.server.peer.clone())
    }

    /// Tells that the server could not be connected to, which counts like a failed health
    /// check. Not for answers, whatever their status, nor for connections that broke later.
    pub fn failed(&self) {
        self.server.record(Err(CheckFault::RequestConnect));
    }

    /// Tells why there was no connection: [`Picked::failed`], unless it was a fault of this
    /// machine (no descriptor, no port), which says nothing about the server.
    pub fn not_connected(&self, why: &ErrorType) {
        if matches!(
            why,
            ErrorType::ConnectTimedout
                | ErrorType::ConnectRefused
                | ErrorType::ConnectNoRoute
                | ErrorType::TLSHandshakeFailure
                | ErrorType::TLSHandshakeTimedout
                | ErrorType::InvalidCert
                | ErrorType::HandshakeError
        ) {
            self.failed();
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.server.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::mint::pool_settings;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    fn pool(balance: Balance, count: u16) -> Arc<Pool> {
        let settings = PoolSettings { balance, ..pool_settings(&addresses(count)) };
        Pool::new(settings, &Metrics::new().unwrap()).unwrap()
    }

    fn picks(pool: &Arc<Pool>, tried: &[usize], count: usize) -> Vec<usize> {
        (0..count).map(|_| pool.pick(tried).unwrap().index()).collect()
    }

    fn take_down(pool: &Arc<Pool>, index: usize) {
        let picked = (0..).find_map(|_| pool.pick(&[]).filter(|picked| picked.index() == index));
        let picked = picked.unwrap();
        picked.failed();
        picked.failed();
    }

    #[test]
    fn round_robin_takes_servers_one_after_the_other() {
        let pool = pool(Balance::RoundRobin, 3);
        assert_eq!(picks(&pool, &[], 7), [0, 1, 2, 0, 1, 2, 0]);
        let picked = pool.pick(&[]).unwrap();
        assert_eq!(picked.address(), addresses(3)[1]);
        assert_eq!(picked.peer()._address.as_inet(), Some(&addresses(3)[1]));
    }

    #[test]
    fn the_load_of_a_server_that_is_down_is_shared_evenly() {
        let pool = pool(Balance::RoundRobin, 3);
        take_down(&pool, 1);
        let picked = picks(&pool, &[], 10);
        for index in [0, 2] {
            assert_eq!(picked.iter().filter(|picked| **picked == index).count(), 5);
        }
    }

    #[test]
    fn the_least_loaded_server_is_picked_while_guards_are_held() {
        let pool = pool(Balance::LeastLoaded, 3);
        let mut held: Vec<Picked> = (0..3).map(|_| pool.pick(&[]).unwrap()).collect();
        let mut indexes: Vec<usize> = held.iter().map(Picked::index).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1, 2], "each idle server once");
        let freed = held.remove(1).index();
        assert_eq!(picks(&pool, &[], 4), [freed; 4], "each guard is dropped at once");
        held.push(pool.pick(&[]).unwrap());
        let busiest = pool.pick(&[]).unwrap();
        assert!(!picks(&pool, &[], 6).contains(&busiest.index()));
    }

    #[test]
    fn idle_servers_take_turns_under_least_loaded() {
        assert_eq!(picks(&pool(Balance::LeastLoaded, 3), &[], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn servers_that_were_tried_are_not_picked_again() {
        for balance in [Balance::RoundRobin, Balance::LeastLoaded] {
            let pool = pool(balance, 3);
            assert!(picks(&pool, &[0], 6).iter().all(|index| *index != 0));
            assert_eq!(picks(&pool, &[0, 2], 3), [1, 1, 1]);
            assert!(pool.pick(&[2, 1, 0]).is_none());
        }
    }

    #[test]
    fn failed_connects_count_like_failed_checks() {
        for balance in [Balance::RoundRobin, Balance::LeastLoaded] {
            let pool = pool(balance, 2);
            fail_twice(&pool, 0);
            assert_eq!(picks(&pool, &[], 4), [1, 1, 1, 1]);
        }
    }

    #[test]
    fn servers_that_only_requests_found_down_are_the_last_resort() {
        for balance in [Balance::RoundRobin, Balance::LeastLoaded] {
            let pool = pool(balance, 2);
            fail_twice(&pool, 0);
            fail_twice(&pool, 1);
            let first = pool.pick(&[]).unwrap().index();
            let second = pool.pick(&[first]).unwrap().index();
            assert_ne!(first, second);
            assert!(pool.pick(&[first, second]).is_none(), "nobody is left");
        }
    }

    fn fail_twice(pool: &Pool, index: usize) {
        let others: Vec<usize> = (0..pool.servers.len()).filter(|other| *other != index).collect();
        for _ in 0..2 {
            let picked = pool.pick(&others).unwrap();
            assert_eq!(picked.index(), index);
            picked.failed();
        }
    }

    #[test]
    fn guards_outlive_their_pool() {
        let pool = pool(Balance::LeastLoaded, 1);
        let picked = pool.pick(&[]).unwrap();
        drop(pool);
        picked.failed();
        assert!(!picked.peer().is_tls());
    }

    #[test]
    fn unusable_settings_are_refused_with_their_reason() {
        let metrics = Metrics::new().unwrap();
        let good = pool_settings(&addresses(2));
        let fault = |settings: PoolSettings| Pool::new(settings, &metrics).err().unwrap();
        let none = PoolSettings { servers: Vec::new(), ..good.clone() };
        assert!(matches!(fault(none), PoolFault::NoServers));
        let twice = PoolSettings { servers: vec![addresses(1)[0]; 2], ..good.clone() };
        assert!(matches!(fault(twice), PoolFault::ServerTwice(_)));
        let mut zero = good.clone();
        zero.health.interval = Duration::ZERO;
        assert!(matches!(fault(zero), PoolFault::ZeroDuration("health check's interval")));
        let mut path = good;
        path.health.path = Some("health".into());
        assert!(matches!(fault(path), PoolFault::HealthPath));
    }
}
