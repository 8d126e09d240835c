//! Tokens that the platform made for a device, remembered by the half-life rule. No I/O here:
//! who relays asks [`RelayedTokens::get`], fetches under a [`Flight`] and puts.
//!
//! When a token ends is read out of it without a check of its signature: the platform, asked
//! over the operator's own connection, is trusted, and a wrong answer can do no more than
//! have a token fetched again too early or given too long, at most [`MAX_KEPT`].

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::{Kind, cache_key};
use crate::clock::UnixSeconds;
use crate::names::{DeviceId, TenantId};
use crate::trust::Epoch;

/// No answer is given again for longer, whatever its token says: 24 hours.
pub const MAX_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Longer answers are handed on and not remembered.
const MAX_ANSWER: usize = 64 * 1024;

/// What a remembered token may take, in bytes: an answer with a token of 2 KiB and all that is
/// kept beside it. Longer answers take the place of several.
const PLACE: usize = 3 * 1024;

/// Names of one tenant for which a device's tokens are remembered at a time: the platform may
/// put the name into its token's `iss` and `aud`. A device that asks by ever new ports or
/// names of a wildcard drops tokens of its own.
const MAX_AUTHORITIES: usize = 4;

/// Seconds for which an answer is given again even if its token is past its half-life: a
/// platform that gives its own current token again is not asked for each request.
const PAUSE: i64 = 30;

/// Bytes that an entry takes beside its texts, about.
const ENTRY: usize = 512;

/// Callers of one device that may wait for the same answer; more are a device's fault.
const MAX_WAITING: usize = 64;

/// One tenant's flights are at most all of them divided by this.
const TENANT_SHARE: usize = 4;

/// Remembers each device's relayed token.
pub struct RelayedTokens {
    /// By [`cache_key`]: the tokens of one device, the newest first, one for each authority.
    current: Cache<[u8; 32], Arc<[Arc<RelayedToken>]>>,
    fallback_lifespan: Duration,
    flights: Arc<Flights>,
}

/// A token of the platform, with the answer that carried it.
pub struct RelayedToken {
    body: Bytes,
    authority: Box<str>,
    leaf_sha256: [u8; 32],
    epoch: Epoch,
    obtained_at: UnixSeconds,
    refresh_at: UnixSeconds,
    expires_at: UnixSeconds,
}

/// What is remembered for a device.
#[derive(Clone, Debug)]
pub enum Relayed {
    /// Give it again.
    Fresh(Arc<RelayedToken>),
    /// Past its half-life and not expired: fetch a new one, and give this one where the
    /// platform cannot be reached.
    Stale(Arc<RelayedToken>),
    None,
}

impl RelayedTokens {
    /// `capacity`: how many tokens are remembered, each in a place of 3 KiB; beyond, the token
    /// that was asked for longest ago is dropped. So memory stays within `capacity` × 3 KiB,
    /// and fewer are remembered where answers are longer than that (at most 64 KiB).
    /// `fallback_lifespan`: of answers without a JWT that tells its end; at most [`MAX_KEPT`]
    /// counts. `flights`: fetches that run or wait at one time, those of one tenant a quarter
    /// of them at most: the others are served while its platform hangs.
    pub fn new(capacity: u64, fallback_lifespan: Duration, flights: usize) -> RelayedTokens {
        let current = Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, tokens: &Arc<[Arc<RelayedToken>]>| {
                tokens.iter().fold(0, |places: u32, token| places.saturating_add(token.places()))
            })
            // Memory of devices that never come back; validity is decided by the clock.
            .time_to_live(MAX_KEPT)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let flights = Arc::new(Flights { most: flights, queues: Mutex::default() });
        RelayedTokens { current, fallback_lifespan, flights }
    }

    /// The device's token, on the terms on which it was obtained: same authority, same leaf,
    /// same trust epoch. `authority`: by which the device asks, as the platform is told it.
    pub fn get(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        authority: &str,
        leaf_sha256: &[u8; 32],
        epoch: &Epoch,
        now: UnixSeconds,
    ) -> Relayed {
        let tokens = self.current.get(&cache_key(Kind::Relayed, tenant, device));
        let mut tokens = tokens.iter().flat_map(|tokens| tokens.iter());
        let Some(token) = tokens.find(|token| *token.authority == *authority).cloned() else {
            return Relayed::None;
        };
        let on_terms = token.leaf_sha256 == *leaf_sha256 && token.epoch == *epoch;
        // A clock that was set back no longer tells how old the token is.
        if !on_terms || now < token.obtained_at || now >= token.expires_at {
            Relayed::None
        } else if now < token.refresh_at {
            Relayed::Fresh(token)
        } else {
            Relayed::Stale(token)
        }
    }

    /// Remembers what the platform answered, in the place of what was there. `body`: the whole
    /// answer; `jwt`: the token in it, where the caller found one.
    ///
    /// What has expired, or is longer than 64 KiB, is not remembered, nor is what was there.
    #[expect(clippy::too_many_arguments, reason = "the terms of `get`, and what was obtained")]
    pub fn put(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        authority: &str,
        leaf_sha256: &[u8; 32],
        epoch: &Epoch,
        body: Bytes,
        jwt: Option<&str>,
        now: UnixSeconds,
    ) {
        let life = jwt.and_then(|jwt| stated_life(jwt, now)).unwrap_or_else(|| Life {
            issued_at: now,
            expires_at: now.saturating_add(seconds(self.fallback_lifespan)),
        });
        let expires_at = life.expires_at.min(now.saturating_add(seconds(MAX_KEPT)));
        let left = expires_at.saturating_sub(now).max(0);
        let token = Arc::new(RelayedToken {
            body,
            authority: authority.into(),
            leaf_sha256: *leaf_sha256,
            epoch: *epoch,
            obtained_at: now,
            refresh_at: life.half().min(expires_at).max(now.saturating_add(PAUSE.min(left / 2))),
            expires_at,
        });
        let fit = left > 0 && token.size() <= MAX_ANSWER;
        let entry = self.current.entry(cache_key(Kind::Relayed, tenant, device));
        entry.and_compute_with(|entry| {
            let before = entry.map(|entry| entry.into_value());
            let others = before.iter().flat_map(|tokens| tokens.iter());
            let others =
                others.filter(|other| *other.authority != *authority && now < other.expires_at);
            let kept = fit.then_some(&token).into_iter().chain(others).take(MAX_AUTHORITIES);
            let kept: Arc<[Arc<RelayedToken>]> = kept.cloned().collect();
            if kept.is_empty() { Op::Remove } else { Op::Put(kept) }
        });
    }

    /// A place in the queue of those who want a new token of this device; `None` where there
    /// are too many, of this device, of this tenant or of all: answer that the edge is busy. After
    /// [`Flight::start`] ask [`RelayedTokens::get`] again: who flew before may have put one.
    pub fn flight(&self, tenant: &TenantId, device: &DeviceId) -> Option<Flight> {
        Flights::join(&self.flights, tenant, cache_key(Kind::Relayed, tenant, device))
    }

    /// Drops the device's tokens.
    pub fn forget(&self, tenant: &TenantId, device: &DeviceId) {
        self.current.invalidate(&cache_key(Kind::Relayed, tenant, device));
    }
}

impl RelayedToken {
    /// The platform's answer as it came.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    fn size(&self) -> usize {
        self.body.len().saturating_add(self.authority.len())
    }

    fn places(&self) -> u32 {
        u32::try_from(self.size().saturating_add(ENTRY).div_ceil(PLACE)).unwrap_or(u32::MAX)
    }
}

/// A token is a credential: never shown.
impl fmt::Debug for RelayedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayedToken")
            .field("refresh_at", &self.refresh_at)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

struct Life {
    issued_at: UnixSeconds,
    expires_at: UnixSeconds,
}

impl Life {
    fn half(&self) -> UnixSeconds {
        self.issued_at.midpoint(self.expires_at)
    }
}

/// What the JWT says of itself; `None` where it says no end. Without a start, or with one
/// after its end, its life starts now.
fn stated_life(jwt: &str, now: UnixSeconds) -> Option<Life> {
    if jwt.len() > MAX_ANSWER {
        return None;
    }
    let mut parts = jwt.split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    // Numbers may have a fraction (RFC 7519 §2); a cast of a float stays within bounds.
    let time = |name| {
        let value = claims.get(name)?;
        value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
    };
    let expires_at = time("exp")?;
    let issued_at = time("iat").or_else(|| time("nbf")).filter(|at| *at <= expires_at);
    Some(Life { issued_at: issued_at.unwrap_or(now), expires_at })
}

/// Who fetches for which device.
struct Flights {
    most: usize,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    of_device: HashMap<[u8; 32], Queue>,
    /// Flights of each tenant that exist; none is 0.
    of_tenant: HashMap<TenantId, usize>,
    /// All flights that exist, running or waiting.
    count: usize,
}

#[derive(Default)]
struct Queue {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Flights of this device that exist: one runs, the others wait.
    count: usize,
}

impl Flights {
    fn join(this: &Arc<Flights>, tenant: &TenantId, device: [u8; 32]) -> Option<Flight> {
        let mut queues = this.queues();
        let of_tenant = queues.of_tenant.get(tenant).copied().unwrap_or_default();
        if queues.count >= this.most || of_tenant >= this.most.div_ceil(TENANT_SHARE) {
            return None;
        }
        let queue = queues.of_device.entry(device).or_default();
        if queue.count > MAX_WAITING {
            return None;
        }
        queue.count += 1;
        let lock = queue.turn.clone();
        queues.of_tenant.insert(tenant.clone(), of_tenant + 1);
        queues.count += 1;
        Some(Flight { flights: this.clone(), tenant: tenant.clone(), device, lock })
    }

    /// Nothing panics under this lock.
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One's place among those who want a new token of a device.
pub struct Flight {
    flights: Arc<Flights>,
    tenant: TenantId,
    device: [u8; 32],
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Flight {
    /// Waits until it is one's turn; of a device one flies at a time, in the order of asking.
    /// Has no deadline of its own. To drop it gives the place back.
    pub async fn start(self) -> FlightGuard {
        let turn = self.lock.clone().lock_owned().await;
        FlightGuard { _turn: turn, _flight: self }
    }
}

/// While it lives, nobody else fetches for the device.
#[must_use = "the turn ends when this is dropped"]
pub struct FlightGuard {
    // In this order: the turn ends before the place is given back.
    _turn: OwnedMutexGuard<()>,
    _flight: Flight,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut queues = self.flights.queues();
        queues.count -= 1;
        if let Some(count) = queues.of_tenant.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                queues.of_tenant.remove(&self.tenant);
            }
        }
        if let Entry::Occupied(mut queue) = queues.of_device.entry(self.device) {
            queue.get_mut().count -= 1;
            if queue.get().count == 0 {
                queue.remove();
            }
        }
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
