//! What the data path asks: all of the registry that it needs, as the store had it last.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::feed::{Feed, TenantFeed};
use super::pins::Pins;
use super::statuses::Statuses;
use super::{KeyRow, TenantState};
use crate::names::TenantId;

pub(super) struct Memory {
    pub(super) statuses: Statuses,
    pub(super) pins: Pins,
    tenants: RwLock<HashMap<TenantId, Arc<TenantState>>>,
    keys: RwLock<Arc<[KeyRow]>>,
    /// For every tenant that has nothing: always the same one.
    nothing: Arc<TenantState>,
    version: watch::Sender<u64>,
    taken: AtomicU64,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            statuses: Statuses::default(),
            pins: Pins::default(),
            tenants: RwLock::default(),
            keys: RwLock::new(Arc::from([])),
            nothing: Arc::default(),
            version: watch::Sender::new(0),
            taken: AtomicU64::new(0),
        }
    }
}

impl Memory {
    pub(super) fn tenant(&self, tenant: &TenantId) -> Arc<TenantState> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.get(tenant).unwrap_or(&self.nothing).clone()
    }

    pub(super) fn signing_keys(&self) -> Arc<[KeyRow]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Moves after anything of what is known may have changed, but for devices that this node
    /// has registered on their first call.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// Takes in what the store has told. Its version moves after everything else has.
    pub(super) fn take(&self, feed: Feed) {
        self.take_in(feed);
        self.taken.fetch_add(1, Ordering::Release);
    }

    fn take_in(&self, feed: Feed) {
        self.statuses.take(feed.devices, feed.whole);
        self.pins.take(feed.pins, feed.whole);
        let tenants = self.take_tenants(feed.tenants, feed.whole);
        let keys = self.take_keys(feed.keys, feed.whole);
        if tenants || keys {
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// Whether anything has changed. A tenant of whom nothing has keeps its `Arc`.
    fn take_tenants(&self, news: HashMap<TenantId, TenantFeed>, whole: bool) -> bool {
        if news.is_empty() && !whole {
            return false;
        }
        // Only the worker's thread writes, so that what is read here is still true below.
        let old = self.tenants.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut anew = if whole { HashMap::new() } else { old.clone() };
        for (tenant, news) in news {
            let before = old.get(&tenant).unwrap_or(&self.nothing);
            let base = if whole { &self.nothing } else { before };
            let after = merged(base, news);
            let after = if after == **before { before.clone() } else { Arc::new(after) };
            if after == self.nothing {
                anew.remove(&tenant);
            } else {
                anew.insert(tenant, after);
            }
        }
        let same = anew.len() == old.len()
            && anew.iter().all(|(tenant, state)| {
                old.get(tenant).is_some_and(|before| Arc::ptr_eq(before, state))
            });
        if !same {
            *self.tenants.write().unwrap_or_else(PoisonError::into_inner) = anew;
        }
        !same
    }

    fn take_keys(&self, news: BTreeMap<String, Option<KeyRow>>, whole: bool) -> bool {
        if news.is_empty() && !whole {
            return false;
        }
        let old = self.signing_keys();
        let mut keys: BTreeMap<String, KeyRow> = match whole {
            true => BTreeMap::new(),
            false => old.iter().map(|key| (key.kid.clone(), key.clone())).collect(),
        };
        for (kid, key) in news {
            match key {
                Some(key) => keys.insert(kid, key),
                None => keys.remove(&kid),
            };
        }
        let mut keys: Vec<KeyRow> = keys.into_values().collect();
        keys.sort_by(|a, b| (a.published_at, &a.kid).cmp(&(b.published_at, &b.kid)));
        if keys[..] == old[..] {
            return false;
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
        true
    }
}

fn merged(base: &TenantState, news: TenantFeed) -> TenantState {
    let mut state = base.clone();
    if !news.anchors.is_empty() {
        let mut anchors: BTreeMap<_, _> =
            state.anchors.into_iter().map(|anchor| (anchor.sha256, anchor)).collect();
        for (sha256, anchor) in news.anchors {
            match anchor {
                Some(anchor) => anchors.insert(sha256, anchor),
                None => anchors.remove(&sha256),
            };
        }
        state.anchors = anchors.into_values().collect();
    }
    if !news.revocations.is_empty() {
        Arc::make_mut(&mut state.revocations).extend(news.revocations);
    }
    for (option, value) in news.options {
        match value {
            Some(value) => state.options.insert(option, value),
            None => state.options.remove(&option),
        };
    }
    state
}
