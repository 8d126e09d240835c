//! Keeps asking a pool's servers how they are.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time;

use super::pool::Pool;
use super::server::Server;

impl Pool {
    /// Checks all servers, at once and then every interval, until the last strong reference to
    /// the pool is gone.
    pub fn spawn_health(self: &Arc<Self>, runtime: &Handle) -> JoinHandle<()> {
        runtime.spawn(watch(Arc::downgrade(self)))
    }

    /// The same, unless the checks already run: a pool that outlives a reload keeps its own.
    pub fn ensure_health(self: &Arc<Self>, runtime: &Handle) {
        if !self.watched.swap(true, Ordering::AcqRel) {
            drop(self.spawn_health(runtime));
        }
    }
}

/// Checks every server of the pool in rounds until the pool's last strong reference is gone.
pub(super) async fn watch(pool: Weak<Pool>) {
    while let Some(strong) = pool.upgrade() {
        check_all(strong.servers()).await;
        let pause = jittered(strong.settings().health.interval);
        drop(strong);
        time::sleep(pause).await;
    }
}

/// One check of each server, all at the same time.
pub(super) async fn check_all(servers: &[Arc<Server>]) {
    let mut checks = JoinSet::new();
    for server in servers {
        let server = server.clone();
        checks.spawn(async move { server.check().await });
    }
    // A check that panicked has told nothing; it must not end the checks that follow.
    while checks.join_next().await.is_some() {}
}

/// Many edges must not check a server in step.
fn jittered(interval: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    let thousandths = 900 + u32::try_from(random % 201).unwrap_or(100);
    interval.saturating_mul(thousandths) / 1_000
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
