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
    /// remembered, nor one of a pinned certificate: the key does not know the pin.
    pub fn insert(&self, key: VerdictKey, verdict: &Verdict) {
        let now = self.clock.now();
        let end = match verdict {
            Verdict::Verified(chain) if chain.anchor().is_none() => return,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::DeviceId;
    use crate::refusal::Refused;
    use crate::trust::testing::{self, NOW, Pair};
    use crate::trust::{Anchor, StaleCrl, TrustMaterial, TrustStore};

    fn cache(clock: &Clock) -> (VerdictCache, Arc<Metrics>) {
        let metrics = Metrics::new().unwrap();
        (VerdictCache::new(100, clock.clone(), metrics.clone()), metrics)
    }

    fn store(pair: &Pair) -> TrustStore {
        testing::store(vec![Anchor { der: pair.root.clone(), ..Anchor::default() }])
    }

    fn refused() -> Verdict {
        Verdict::Refused(Refused::new(Refusal::IssuerUnknown, "no issuer"))
    }

    #[test]
    fn a_key_is_of_one_tenant_one_epoch_and_one_chain_in_its_order() {
        let (a, b) = (TenantId::parse("a").unwrap(), TenantId::parse("b").unwrap());
        let material = TrustMaterial::default;
        let strict = TrustStore::build(material()).unwrap();
        let accepting = TrustMaterial { stale_crl: StaleCrl::Accept, ..material() };
        let lenient = TrustStore::build(accepting).unwrap();
        let (one, two): (&[u8], &[u8]) = (b"one", b"two");
        let epoch = strict.epoch();
        let keys = [
            VerdictCache::key(&a, epoch, &[one], &[]),
            VerdictCache::key(&b, epoch, &[one], &[]),
            VerdictCache::key(&a, lenient.epoch(), &[one], &[]),
            VerdictCache::key(&a, epoch, &[two], &[]),
            VerdictCache::key(&a, epoch, &[one, two], &[]),
            VerdictCache::key(&a, epoch, &[two, one], &[]),
            VerdictCache::key(&a, epoch, &[one], &[two]),
            VerdictCache::key(&a, epoch, &[b"onetwo"], &[]),
            VerdictCache::key(&a, epoch, &[], &[one]),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{i}");
        }
        assert_eq!(keys[0], VerdictCache::key(&a, epoch, &[one], &[]));
    }

    #[test]
    fn a_verified_chain_is_remembered_until_its_first_certificate_ends() {
        let pair = Pair::mint("device-1", NOW + 100);
        let clock = Clock::manual(NOW);
        let (cache, metrics) = cache(&clock);
        let store = store(&pair);
        let verdict = store.verify(&[&pair.leaf], &[], NOW);
        assert!(matches!(verdict, Verdict::Verified(_)));
        let key =
            VerdictCache::key(&TenantId::parse("a").unwrap(), store.epoch(), &[&pair.leaf], &[]);
        cache.insert(key, &verdict);
        clock.advance(100);
        assert!(matches!(cache.get(&key), Some(Verdict::Verified(_))));
        clock.advance(1);
        assert!(cache.get(&key).is_none());
        assert!(cache.is_empty());
        assert_eq!(metrics.verdict_cache_hits.get(), 1);
        assert_eq!(metrics.verdict_cache_misses.get(), 1);
        assert_eq!(metrics.verdict_cache_evictions.get(), 1);
    }

    #[test]
    fn no_verdict_is_remembered_for_more_than_an_hour() {
        let pair = Pair::mint("device-1", NOW + 1_000_000);
        let clock = Clock::manual(NOW);
        let (cache, _) = cache(&clock);
        let store = store(&pair);
        let key = VerdictCache::key(&TenantId::parse("a").unwrap(), store.epoch(), &[], &[]);
        cache.insert(key, &store.verify(&[&pair.leaf], &[], NOW));
        clock.advance(POSITIVE - 1);
        assert!(cache.get(&key).is_some());
        clock.advance(1);
        assert!(cache.get(&key).is_none());
    }

    #[test]
    fn a_refusal_is_remembered_for_ten_seconds_and_overload_not_at_all() {
        let clock = Clock::manual(NOW);
        let (cache, _) = cache(&clock);
        let key = VerdictKey([1; 32]);
        cache.insert(key, &refused());
        clock.advance(NEGATIVE - 1);
        assert!(matches!(cache.get(&key), Some(Verdict::Refused(_))));
        clock.advance(1);
        assert!(cache.get(&key).is_none());

        cache.insert(key, &Verdict::Refused(Refused::new(Refusal::Overloaded, "slow")));
        assert!(cache.get(&key).is_none());
    }

    #[test]
    fn a_verdict_on_a_pinned_certificate_is_not_remembered() {
        let pair = Pair::mint("device-1", NOW + 100);
        let (cache, _) = cache(&Clock::manual(NOW));
        let device = DeviceId::parse("device-1").unwrap();
        let verdict = store(&pair).verify_pinned(&pair.leaf, &device, NOW);
        assert!(matches!(verdict, Verdict::Verified(_)));
        let key = VerdictKey([1; 32]);
        cache.insert(key, &verdict);
        assert!(cache.get(&key).is_none());
    }

    #[test]
    fn distinct_chains_without_end_fill_only_the_capacity() {
        let clock = Clock::manual(NOW);
        let (cache, metrics) = cache(&clock);
        for n in 0..100_000u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            cache.insert(VerdictKey(key), &refused());
        }
        assert!(cache.len() <= 100);
        assert!(metrics.verdict_cache_evictions.get() > 0);
    }
}
