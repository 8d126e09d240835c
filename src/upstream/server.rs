//! One server of a pool: where it is, whether it is up, how much it has to do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pingora_core::upstreams::peer::HttpPeer;
use prometheus::IntGaugeVec;
use tracing::{info, warn};

use super::health::{Check, CheckFault};
use super::settings::HealthSettings;

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) peer: HttpPeer,
    /// Requests that hold a `Picked` of this server.
    pub(super) in_flight: AtomicUsize,
    check: Check,
    health: Health,
    /// Whether the last check passed, whatever requests have met since.
    check_passed: AtomicBool,
    pool: String,
    label: String,
    up: IntGaugeVec,
}

impl Server {
    /// A server starts as healthy: a restart of the edge must not wait for checks.
    pub(super) fn new(
        pool: &str,
        address: SocketAddr,
        peer: HttpPeer,
        check: Check,
        thresholds: &HealthSettings,
        up: IntGaugeVec,
    ) -> Server {
        let server = Server {
            address,
            peer,
            in_flight: AtomicUsize::new(0),
            check,
            health: Health::new(thresholds.unhealthy_after, thresholds.healthy_after),
            check_passed: AtomicBool::new(true),
            pool: pool.to_owned(),
            label: address.to_string(),
            up,
        };
        server.publish();
        server
    }

    pub(super) fn is_up(&self) -> bool {
        self.health.up.load(Ordering::Relaxed)
    }

    /// Whether only requests say that it is down: a burst of them can fail to connect for
    /// reasons that are not the server's.
    pub(super) fn passed_its_check(&self) -> bool {
        self.check_passed.load(Ordering::Relaxed)
    }

    /// Runs one health check and takes its outcome into account.
    pub(super) async fn check(&self) {
        let outcome = self.check.run().await;
        self.check_passed.store(outcome.is_ok(), Ordering::Relaxed);
        self.record(outcome);
    }

    pub(super) fn record(&self, outcome: Result<(), CheckFault>) {
        let turned = self.health.record(outcome.is_ok());
        self.publish();
        match outcome {
            Ok(()) if turned => {
                info!(upstream = self.pool, server = self.label, "upstream server is up");
            }
            Err(reason) if turned => {
                let (upstream, server) = (&self.pool, &self.label);
                warn!(upstream, server, %reason, "upstream server is down");
            }
            _ => {}
        }
    }

    /// Looks the series up anew each time: a pool that a reload has replaced takes the series
    /// of its servers along when it goes, and the next check of the new pool brings them back.
    fn publish(&self) {
        let series = self.up.with_label_values(&[&self.pool, &self.label]);
        series.set(i64::from(self.is_up()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only where the series is already gone.
        let _ = self.up.remove_label_values(&[&self.pool, &self.label]);
    }
}

/// Up or down, and for how many outcomes in a row the contrary has been seen.
struct Health {
    up: AtomicBool,
    contrary: Mutex<u32>,
    unhealthy_after: u32,
    healthy_after: u32,
}

impl Health {
    fn new(unhealthy_after: u32, healthy_after: u32) -> Health {
        let up = AtomicBool::new(true);
        Health { up, contrary: Mutex::new(0), unhealthy_after, healthy_after }
    }

    /// Whether this outcome turned the health. A threshold of 0 counts as 1.
    fn record(&self, passed: bool) -> bool {
        let mut contrary = self.contrary.lock().unwrap_or_else(PoisonError::into_inner);
        if passed == self.up.load(Ordering::Relaxed) {
            *contrary = 0;
            return false;
        }
        *contrary += 1;
        let needed = if passed { self.healthy_after } else { self.unhealthy_after };
        let turned = *contrary >= needed;
        if turned {
            *contrary = 0;
            self.up.store(passed, Ordering::Relaxed);
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_outcomes_in_a_row_turn_the_health() {
        let health = Health::new(3, 2);
        let record = |outcomes: &[bool]| outcomes.iter().map(|ok| health.record(*ok)).collect();
        let turned: Vec<bool> = record(&[false, false, true, false, false, false]);
        assert_eq!(turned, [false, false, false, false, false, true]);
        assert!(!health.up.load(Ordering::Relaxed));
        let turned: Vec<bool> = record(&[true, false, true, true, true]);
        assert_eq!(turned, [false, false, false, true, false]);
        assert!(health.up.load(Ordering::Relaxed));
    }

    #[test]
    fn a_threshold_of_zero_counts_as_one() {
        let health = Health::new(0, 0);
        assert!(!health.record(true));
        assert!(health.record(false));
        assert!(health.record(true));
    }
}
