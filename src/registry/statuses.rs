//! Every device's status, in memory.

use std::array;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use boring::sha::Sha256;

use super::DeviceStatus;
use crate::names::{DeviceId, TenantId};

/// Half of a SHA-256, whatever the length of the names: 17 bytes a device with its status,
/// 20 to 40 with the table's slack. To find two names that share one takes 2^64 attempts,
/// to find the other name of a given device 2^128.
pub type Key = [u8; 16];

/// Of each tenant: the status of its devices, `None` where one is gone.
pub type News = HashMap<TenantId, HashMap<Key, Option<DeviceStatus>>>;

/// Enough that readers seldom meet a writer; a writer holds a lock for one insertion.
const SHARDS: usize = 64;

pub(super) struct Statuses {
    shards: [RwLock<HashMap<Key, DeviceStatus>>; SHARDS],
    /// How many devices each tenant has.
    counts: RwLock<HashMap<TenantId, u64>>,
}

impl Default for Statuses {
    fn default() -> Statuses {
        Statuses { shards: array::from_fn(|_| RwLock::default()), counts: RwLock::default() }
    }
}

impl Statuses {
    pub(super) fn get(&self, tenant: &TenantId, device: &DeviceId) -> Option<DeviceStatus> {
        let key = key(tenant, device);
        self.shard(&key).read().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }

    pub(super) fn count(&self, tenant: &TenantId) -> u64 {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        counts.get(tenant).copied().unwrap_or_default()
    }

    pub(super) fn set(&self, tenant: &TenantId, device: &DeviceId, status: DeviceStatus) {
        let added = self.put(key(tenant, device), Some(status));
        self.add(tenant, added);
    }

    /// Takes in news: `None` where a device is gone. `whole`: what is not among them is gone
    /// too.
    pub(super) fn take(&self, news: News, whole: bool) {
        if !whole {
            for (tenant, devices) in news {
                let added = devices.into_iter().map(|(key, status)| self.put(key, status)).sum();
                self.add(&tenant, added);
            }
            return;
        }
        let mut shards: [HashMap<Key, DeviceStatus>; SHARDS] = array::from_fn(|_| HashMap::new());
        let mut counts: HashMap<TenantId, u64> = HashMap::new();
        for (tenant, devices) in news {
            let mut count = 0;
            for (key, status) in devices {
                if let Some(status) = status {
                    shards[shard_of(&key)].insert(key, status);
                    count += 1;
                }
            }
            counts.insert(tenant, count);
        }
        for (shard, anew) in self.shards.iter().zip(shards) {
            *shard.write().unwrap_or_else(PoisonError::into_inner) = anew;
        }
        *self.counts.write().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// Gives by how much the number of devices has changed.
    fn put(&self, key: Key, status: Option<DeviceStatus>) -> i64 {
        let mut shard = self.shard(&key).write().unwrap_or_else(PoisonError::into_inner);
        match status {
            Some(status) => i64::from(shard.insert(key, status).is_none()),
            None => -i64::from(shard.remove(&key).is_some()),
        }
    }

    fn add(&self, tenant: &TenantId, devices: i64) {
        if devices == 0 {
            return;
        }
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(tenant) {
            Some(count) => *count = count.saturating_add_signed(devices),
            None => drop(counts.insert(tenant.clone(), 0_u64.saturating_add_signed(devices))),
        }
    }

    fn shard(&self, key: &Key) -> &RwLock<HashMap<Key, DeviceStatus>> {
        &self.shards[shard_of(key)]
    }
}

fn shard_of(key: &Key) -> usize {
    let [first, ..] = *key;
    usize::from(first) % SHARDS
}

/// Over the length-prefixed names, so that no two pairs run together.
pub(super) fn key(tenant: &TenantId, device: &DeviceId) -> Key {
    let mut hash = Sha256::new();
    for name in [tenant.as_str(), device.as_str()] {
        hash.update(&(name.len() as u64).to_be_bytes());
        hash.update(name.as_bytes());
    }
    let digest = hash.finish();
    array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_devices_take_less_than_fifty_megabytes() {
        let statuses = Statuses::default();
        let tenant = TenantId::parse("acme").unwrap();
        for index in 0..1_000_000 {
            let device = DeviceId::parse(&format!("device-{index:0>100}")).unwrap();
            statuses.set(&tenant, &device, DeviceStatus::Active);
        }
        let held: usize = statuses.shards.iter().map(|shard| shard.read().unwrap().len()).sum();
        assert_eq!(held, 1_000_000);
        // A table has 8 buckets for 7 entries, each with a byte of control data.
        let bytes: usize = statuses
            .shards
            .iter()
            .map(|shard| shard.read().unwrap().capacity() / 7 * 8)
            .map(|buckets| buckets * (size_of::<(Key, DeviceStatus)>() + 1))
            .sum();
        assert!(bytes < 50_000_000, "{bytes}");
    }

    #[test]
    fn devices_are_counted_by_tenant_whatever_becomes_of_them() {
        let statuses = Statuses::default();
        let tenant = |text| TenantId::parse(text).unwrap();
        let (acme, other) = (tenant("acme"), tenant("umbrella"));
        let device = |text: &str| DeviceId::parse(text).unwrap();
        let news = |tenant: &TenantId, devices: &[(&str, Option<DeviceStatus>)]| {
            let devices = devices.iter().map(|(id, status)| (key(tenant, &device(id)), *status));
            News::from([(tenant.clone(), devices.collect())])
        };
        let (active, blocked) = (Some(DeviceStatus::Active), Some(DeviceStatus::Blocked));
        statuses.set(&acme, &device("a"), DeviceStatus::Active);
        statuses.set(&acme, &device("a"), DeviceStatus::Blocked);
        statuses.set(&other, &device("a"), DeviceStatus::Active);
        assert_eq!((statuses.count(&acme), statuses.count(&other)), (1, 1));
        statuses.take(news(&acme, &[("a", active), ("b", active), ("gone", None)]), false);
        assert_eq!((statuses.count(&acme), statuses.count(&other)), (2, 1));
        statuses.take(news(&acme, &[("a", None)]), false);
        assert_eq!(statuses.count(&acme), 1);
        statuses.take(news(&acme, &[("x", active), ("y", blocked), ("z", None)]), true);
        assert_eq!((statuses.count(&acme), statuses.count(&other)), (2, 0));
    }

    #[test]
    fn names_that_run_together_are_two_devices() {
        let statuses = Statuses::default();
        let tenant = |text| TenantId::parse(text).unwrap();
        let device = |text| DeviceId::parse(text).unwrap();
        statuses.set(&tenant("ab"), &device("c"), DeviceStatus::Blocked);
        assert_eq!(statuses.get(&tenant("a"), &device("bc")), None);
        assert_eq!(statuses.get(&tenant("ab"), &device("c")), Some(DeviceStatus::Blocked));
    }
}
