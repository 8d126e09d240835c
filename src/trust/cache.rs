//! Remembers verdicts, so that a device that comes back costs a hash and a look-up.

use std::sync::Arc;
use std::time::Duration;

use boring::sha::Sha256;
use moka::sync::Cache;

use super::store::Epoch;
use super::verifier::Verdict;
use crate::clock::{Clock, UnixSeconds};
use crate::metrics::Metrics;
use crate::names::TenantId;
use crate::refusal::Refusal;

/// The longest life of a verdict that verified, in seconds.
const POSITIVE: UnixSeconds = 3_600;
/// The life of any other verdict, in seconds: enough to blunt a device that retries in a loop.
const NEGATIVE: UnixSeconds = 10;

/// A bounded memory of verdicts.
///
/// The key holds everything that a verdict follows from, except the time. So a change of trust
/// material needs no invalidation: the new epoch has no entries, and the old ones age out.
///
/// A verdict that verified holds the path's certificates: about 2 to 4 KiB an entry.
pub struct VerdictCache {
    entries: Cache<VerdictKey, Entry>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// Tenant, trust epoch and every certificate presented, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VerdictKey([u8; 32]);

#[derive(Clone)]
struct Entry {
    verdict: Verdict,
    /// The first second at which the entry no longer holds.
    end: UnixSeconds,
}

impl VerdictCache {
    /// `capacity`: entries.
    pub fn new(capacity: u64, clock: Clock, metrics: Arc<Metrics>) -> VerdictCache {
        let evictions = metrics.verdict_cache_evictions.clone();
        let entries = Cache::builder()
            .max_capacity(capacity)
            .time_to_live(Duration::from_secs(POSITIVE.unsigned_abs()))
            .eviction_listener(move |_, _, cause| {
                if cause.was_evicted() {
                    evictions.inc();
                }
            })
            .build();
        VerdictCache { entries, clock, metrics }
    }

    /// `chain` and `extra` as in [`TrustStore::verify`](super::TrustStore::verify). Chains of
    /// different order or length never share a key.
    pub fn key(tenant: &TenantId, epoch: &Epoch, chain: &[&[u8]], extra: &[&[u8]]) -> VerdictKey {
        let mut hash = Sha256::new();
        update(&mut hash, tenant.as_str().as_bytes());
        update(&mut hash, epoch.as_bytes());
        for list in [chain, extra] {
            hash.update(&(list.len() as u64).to_be_bytes());
            for der in list {
                update(&mut hash, der);
            }
        }
        VerdictKey(hash.finish())
    }

    /// The verdict, if it still holds. Counts a hit or a miss.
    pub fn get(&self, key: &VerdictKey) -> Option<Verdict> {
        if let Some(entry) = self.entries.get(key) {
            if self.clock.now() < entry.end {
                self.metrics.verdict_cache_hits.inc();
                return Some(entry.verdict);
            }
            self.entries.invalidate(key);
            self.metrics.verdict_cache_evictions.inc();
        }
        self.metrics.verdict_cache_misses.inc();
        None
    }

    /// Remembers a verdict: one that verified until it no longer holds, at most an hour;
    /// any other for ten seconds. One that says only that this machine was too slow is not
    /// remembered.
    pub fn insert(&self, key: VerdictKey, verdict: &Verdict) {
        let now = self.clock.now();
        let end = match verdict {
            Verdict::Verified(chain) => {
                chain.valid_until().saturating_add(1).min(now.saturating_add(POSITIVE))
            }
            Verdict::Refused(refused) if refused.refusal == Refusal::Overloaded => return,
            Verdict::Undecided(_) | Verdict::Refused(_) => now.saturating_add(NEGATIVE),
        };
        self.entries.insert(key, Entry { verdict: verdict.clone(), end });
    }

    /// Entries held, with those that were inserted or dropped a moment ago counted in.
    pub fn len(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.entry_count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn update(hash: &mut Sha256, part: &[u8]) {
    hash.update(&(part.len() as u64).to_be_bytes());
    hash.update(part);
}
