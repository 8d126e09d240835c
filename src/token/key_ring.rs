//! Managed signing keys: made by the edge, sealed in the registry, rotated by time alone.
//!
//! Every node has the same rows and reads the same states out of them and its clock. Nothing
//! is written for a key to move on:
//!
//! ```text
//!   published_at ──────► sign_from ─────────────► the next one's sign_from ──────► deleted
//!        │   publish_for     │     every (about)           │         retain
//!    Published            Signing                       Retired
//! ```
//!
//! All three are in the key set that verifiers fetch. A superseded key stays there for
//! `retain`, the life of the last token that it may have signed.
//!
//! # Why no verifier meets a key that it does not know
//! A row is in the registry at most half of [`ROTATION_SLACK`] after its `published_at`
//! ([`NewKey::usable`]). A node that has not read it by the registry's longest staleness after
//! that is stale and serves nobody. A verifier has dropped the key set that it fetched just
//! before at most [`JWKS_MAX_AGE`] later. The other half of the slack is for the differences
//! of the nodes' clocks. So where
//!
//! ```text
//!   publish_for ≥ staleness + JWKS_MAX_AGE + ROTATION_SLACK
//! ```
//!
//! ([`RotationSettings::check`]), every node publishes a key, and every verifier has dropped
//! key sets without it, before any node signs with it. The exception is the **first** key of
//! an algorithm: nothing could sign until then, so it signs at once, and a verifier that
//! fetched the key set before may refuse its tokens until it fetches again (at most
//! [`JWKS_MAX_AGE`]).
//!
//! # Where something is wrong
//! - A key never signs before its `sign_from`. A clock that is set back finds an older key to
//!   sign with, or none: tokens are then refused, never signed by a key of the future.
//! - Rows that do not open are reported and not used. Where the newest row of an algorithm
//!   does not open, no key of it is made here: a node with the wrong secret would else found a
//!   second set of keys, which the other nodes cannot publish, or make a key each time it
//!   looks, which the registry refuses each time because of that newer row.
//! - The key that signs is deleted by force only. An older one signs on, if there is one. If
//!   there is none, those that wait for their time are deleted too ([`KeyRing::with`]), so that
//!   a first one is due and signs at once: tokens are missing for a moment and not for
//!   `publish_for`. After a theft delete every key that may have been taken.
//! - A key that a node with a clock far ahead has made holds the schedule up until its time;
//!   its state shows a `published_at` to come. Delete it. Such a node also finds keys expired
//!   too early: no node may run without its clock being kept.

#[cfg(test)]
mod tests;
#[cfg(test)]
mod two_nodes_tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use boring::error::ErrorStack;

use super::keys::{JWKS_MAX_AGE, PublishedKey, SigningKeys};
use super::seal::{KeyRingFault, KeySecret, RowFault, SealedKey};
use super::{Algorithm, MIN_LIFESPAN};
use crate::clock::UnixSeconds;

/// How keys are rotated. The same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationSettings {
    /// For how long a key signs before the next one does.
    pub every: Duration,
    /// How long before it signs a key is published.
    pub publish_for: Duration,
    /// Of which algorithms there are keys. The last key of one that is taken out of the list
    /// stays as it is until it is deleted.
    pub algorithms: Vec<Algorithm>,
    /// For how long a superseded key stays published: at least the longest lifespan of any
    /// token that it may have signed, and the difference of the nodes' clocks. Where tenants
    /// may change their lifespan while the edge runs, that is
    /// [`MAX_LIFESPAN`](super::MAX_LIFESPAN) + [`ROTATION_SLACK`]: a shorter lifespan of
    /// today says nothing of tokens that were signed yesterday.
    pub retain: Duration,
}

/// What the bound on `publish_for` leaves: half for the making and writing of a key, half for
/// the differences of the nodes' clocks, which must be kept below that (NTP).
pub const ROTATION_SLACK: Duration = Duration::from_secs(60);

/// Rows that are used, at most; the newest ones. Bounds the key set that verifiers fetch.
pub const MAX_KEYS: usize = 64;

/// What is wrong with rotation settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationSettingsFault {
    #[error(
        "keys must be published for at least {} s before they sign: the registry's longest staleness, the {} s for which verifiers keep a key set, and {} s for the differences of clocks",
        .least.as_secs(), JWKS_MAX_AGE.as_secs(), ROTATION_SLACK.as_secs()
    )]
    PublishedTooShortly { least: Duration },
    #[error("a key must sign for longer than the {} s for which the next one is published", .publish_for.as_secs())]
    RotatedTooOften { publish_for: Duration },
    #[error(
        "a superseded key must stay published for at least {} s: the shortest lifespan of a token, and {} s for the differences of clocks",
        .least.as_secs(), ROTATION_SLACK.as_secs()
    )]
    RetainedTooShortly { least: Duration },
    #[error(
        "rotated this often, more than {} keys of an algorithm would be published at a time; a key must sign for at least {}h",
        .most, .least.as_secs().div_ceil(3_600)
    )]
    TooManyKeys { most: u32, least: Duration },
    #[error("name the algorithms to make keys for, each once")]
    Algorithms,
}

impl RotationSettings {
    /// `staleness`: how long ago a node may last have read the registry and still serve.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check(&self, staleness: Duration) -> Result<(), Vec<RotationSettingsFault>> {
        let mut faults = Vec::new();
        let least = staleness.saturating_add(JWKS_MAX_AGE).saturating_add(ROTATION_SLACK);
        if self.publish_for < least {
            faults.push(RotationSettingsFault::PublishedTooShortly { least });
        }
        if self.every <= self.publish_for {
            faults.push(RotationSettingsFault::RotatedTooOften { publish_for: self.publish_for });
        }
        let least = Duration::from_secs(MIN_LIFESPAN.into()).saturating_add(ROTATION_SLACK);
        if self.retain < least {
            faults.push(RotationSettingsFault::RetainedTooShortly { least });
        }
        let distinct: HashSet<Algorithm> = self.algorithms.iter().copied().collect();
        if distinct.is_empty() || distinct.len() < self.algorithms.len() {
            faults.push(RotationSettingsFault::Algorithms);
        }
        let most = SCHEDULED_KEYS;
        let least = self.retain / most;
        if self.every < least {
            faults.push(RotationSettingsFault::TooManyKeys { most, least });
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn publish_for(&self) -> i64 {
        seconds(self.publish_for)
    }
}

/// Retired keys of one algorithm that the schedule may leave published at a time. Both
/// algorithms, the keys that sign and some rotations by command still fit [`MAX_KEYS`].
const SCHEDULED_KEYS: u32 = 25;

/// What a key is for at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// In the key set, not signing yet.
    Published,
    Signing,
    /// Superseded; in the key set for the tokens that it has signed.
    Retired,
}

/// A key as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    pub kid: Arc<str>,
    pub algorithm: Algorithm,
    pub state: KeyState,
    pub published_at: UnixSeconds,
    pub sign_from: UnixSeconds,
    /// When the key leaves the key set; `None` while no newer key is there.
    pub retires_at: Option<UnixSeconds>,
}

/// The registry's signing keys as one node can use them; immutable, made anew when rows
/// change.
pub struct KeyRing {
    /// Newest first: by `sign_from`, then by kid, so that all nodes agree.
    keys: Vec<ManagedKey>,
    /// Algorithms with rows that do not open, and when the newest of these was published.
    closed: HashMap<Algorithm, UnixSeconds>,
    /// Algorithms that other keys sign for: even a first key then waits for its time.
    signed_elsewhere: Vec<Algorithm>,
    secret: KeySecret,
    settings: RotationSettings,
}

struct ManagedKey {
    published: PublishedKey,
    published_at: UnixSeconds,
    retires_at: Option<UnixSeconds>,
}

/// A key that has just been made and must yet be written.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub row: SealedKey,
    /// The row is written only where no key of its algorithm was published at or after this
    /// second: else another node has rotated in the meantime, and its key is the one.
    pub unless_published_since: UnixSeconds,
}

impl NewKey {
    /// Whether the key may still be written: half of [`ROTATION_SLACK`] after it was made it
    /// would be published for too short a time before it signs. Ask right before writing; drop the key where the
    /// answer is no, and ask the ring for another.
    pub fn usable(&self, now: UnixSeconds) -> bool {
        let age = now.saturating_sub(self.row.published_at);
        (0..=seconds(ROTATION_SLACK / 2)).contains(&age)
    }
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum RotationFault {
    #[error(
        "the registry holds {MAX_KEYS} signing keys already; wait until some have retired, or delete retired ones"
    )]
    TooManyKeys,
    #[error(
        "the newest {} key in the registry does not open here; give this node the secret of the others, or delete the key",
        .0.name()
    )]
    Closed(Algorithm),
    #[error("BoringSSL could not make or seal a signing key")]
    Crypto(#[from] ErrorStack),
}

impl KeyRing {
    /// `settings` are taken as [`RotationSettings::check`] found them good.
    ///
    /// Rows that cannot be used are left out and told; the ring is made of the rest.
    pub fn build(
        rows: &[SealedKey],
        secret: &KeySecret,
        settings: RotationSettings,
    ) -> (KeyRing, Vec<KeyRingFault>) {
        let mut order: Vec<&SealedKey> = rows.iter().collect();
        order.sort_by(|a, b| b.sign_from.cmp(&a.sign_from).then_with(|| a.kid.cmp(&b.kid)));
        let (mut keys, mut faults) = (Vec::<ManagedKey>::new(), Vec::new());
        let (mut kids, mut closed) = (HashSet::new(), HashMap::new());
        for row in order {
            let opened = if keys.len() >= MAX_KEYS {
                Err(RowFault::TooMany(MAX_KEYS))
            } else if !kids.insert(&row.kid) {
                Err(RowFault::DuplicateKid)
            } else {
                secret.open(row)
            };
            match opened {
                Ok(key) => {
                    let successor = keys.iter().rfind(|newer| newer.algorithm() == key.algorithm());
                    keys.push(ManagedKey {
                        retires_at: successor.map(|newer| {
                            newer.published.sign_from.saturating_add(seconds(settings.retain))
                        }),
                        published: PublishedKey { key: Arc::new(key), sign_from: row.sign_from },
                        published_at: row.published_at,
                    });
                }
                Err(reason) => {
                    if let Some(algorithm) = Algorithm::from_name(&row.algorithm) {
                        let newest = closed.entry(algorithm).or_insert(row.published_at);
                        *newest = row.published_at.max(*newest);
                    }
                    faults.push(KeyRingFault::of(row, reason));
                }
            }
        }
        let (secret, signed_elsewhere) = (secret.clone(), Vec::new());
        (KeyRing { keys, closed, signed_elsewhere, secret, settings }, faults)
    }

    /// Other keys, published beside these, sign for `algorithms` now: a first key of one of
    /// these takes over only after it was published for `publish_for`, like every other.
    pub fn beside(mut self, algorithms: Vec<Algorithm>) -> KeyRing {
        self.signed_elsewhere = algorithms;
        self
    }

    /// What signs and what is published. Keys that become due to sign later do so in the same
    /// set; only one that leaves the key set needs a new one ([`KeyRing::next_change`]).
    pub fn signing_keys(&self, now: UnixSeconds) -> SigningKeys {
        let kept = self.keys.iter().filter(|key| !key.gone(now));
        SigningKeys::of(kept.map(|key| key.published.clone()).collect())
    }

    /// Every key that is not gone, newest first.
    pub fn states(&self, now: UnixSeconds) -> Vec<KeyStatus> {
        let keys = self.keys.iter().filter(|key| !key.gone(now));
        keys.map(|key| KeyStatus {
            kid: key.published.key.kid().clone(),
            algorithm: key.algorithm(),
            state: self.state(key, now),
            published_at: key.published_at,
            sign_from: key.published.sign_from,
            retires_at: key.retires_at,
        })
        .collect()
    }

    fn state(&self, key: &ManagedKey, now: UnixSeconds) -> KeyState {
        if key.published.sign_from > now {
            return KeyState::Published;
        }
        let signs = self
            .of(key.algorithm())
            .find(|other| other.published.sign_from <= now)
            .is_some_and(|signing| Arc::ptr_eq(&signing.published.key, &key.published.key));
        if signs { KeyState::Signing } else { KeyState::Retired }
    }

    /// The next second after `now` at which [`KeyRing::states`], [`KeyRing::due`] or
    /// [`KeyRing::expired`] answer otherwise; `None` where only new rows can change them. What
    /// is due by now and could not be written is the caller's to try again.
    pub fn next_change(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        let of_keys = self
            .keys
            .iter()
            .flat_map(|key| [Some(key.published.sign_from), key.retires_at].into_iter().flatten());
        let open = self.settings.algorithms.iter().filter(|algorithm| !self.is_closed(**algorithm));
        let rotations = open.filter_map(|algorithm| {
            self.of(*algorithm).next().map(|newest| self.rotates_at(newest))
        });
        of_keys.chain(rotations).filter(|at| *at > now).min()
    }

    /// The keys that the schedule asks for by now, made and sealed. May take seconds where one
    /// is RS256: never call it where devices wait.
    ///
    /// # Errors
    /// Where one cannot be made. Algorithms whose newest row does not open are passed over in
    /// silence: [`KeyRing::build`] has told of it.
    pub fn due(&self, now: UnixSeconds) -> Result<Vec<NewKey>, RotationFault> {
        let mut made = Vec::new();
        for algorithm in &self.settings.algorithms {
            let newest = self.of(*algorithm).next();
            let due = newest.is_none_or(|newest| self.rotates_at(newest) <= now);
            if due && !self.is_closed(*algorithm) {
                made.push(self.rotate_now(*algorithm, now)?);
            }
        }
        Ok(made)
    }

    /// A new key out of turn; it signs after `publish_for` like every other, at once where it
    /// is the first of its algorithm. May take seconds for RS256: never call it where devices
    /// wait.
    ///
    /// # Errors
    /// Where there is no room for another key, where the algorithm's newest row does not open,
    /// and where BoringSSL fails.
    pub fn rotate_now(
        &self,
        algorithm: Algorithm,
        now: UnixSeconds,
    ) -> Result<NewKey, RotationFault> {
        if self.keys.len() >= MAX_KEYS {
            return Err(RotationFault::TooManyKeys);
        }
        if self.is_closed(algorithm) {
            return Err(RotationFault::Closed(algorithm));
        }
        let last_published = self.last_published(algorithm);
        let sign_from = match last_published {
            Some(_) => now.saturating_add(self.settings.publish_for()),
            None if self.signed_elsewhere.contains(&algorithm) => {
                now.saturating_add(self.settings.publish_for())
            }
            None => now,
        };
        Ok(NewKey {
            row: self.secret.new_key(algorithm, now, sign_from)?,
            unless_published_since: last_published.map_or(0, |last| last.saturating_add(1)),
        })
    }

    /// Kids of the keys that have left the key set: their rows can be deleted. Never the
    /// newest key of an algorithm, and never a row that does not open.
    pub fn expired(&self, now: UnixSeconds) -> Vec<String> {
        let gone = self.keys.iter().filter(|key| key.gone(now));
        gone.map(|key| key.published.key.kid().to_string()).collect()
    }

    /// The keys to delete together with one: itself, and where it signs and nothing else could
    /// then, those of its algorithm whose time is to come. These have signed nothing.
    pub fn with(&self, kid: &str, now: UnixSeconds) -> Vec<String> {
        let mut kids = vec![kid.to_owned()];
        let found = self.keys.iter().find(|key| **key.published.key.kid() == *kid);
        if let Some(key) = found
            && self.state(key, now) == KeyState::Signing
            && !self.signed_elsewhere.contains(&key.algorithm())
        {
            let others = || self.of(key.algorithm()).filter(|other| !std::ptr::eq(*other, key));
            if others().all(|other| other.published.sign_from > now) {
                kids.extend(others().map(|other| other.published.key.kid().to_string()));
            }
        }
        kids
    }

    /// Whether a row that does not open was published after every key that does. The registry
    /// takes no key of who has not seen its newest one ([`NewKey::unless_published_since`]).
    fn is_closed(&self, algorithm: Algorithm) -> bool {
        let open = self.last_published(algorithm);
        self.closed.get(&algorithm).is_some_and(|closed| open.is_none_or(|open| *closed > open))
    }

    fn last_published(&self, algorithm: Algorithm) -> Option<UnixSeconds> {
        self.of(algorithm).map(|key| key.published_at).max()
    }

    /// The keys of one algorithm, newest first.
    fn of(&self, algorithm: Algorithm) -> impl Iterator<Item = &ManagedKey> {
        self.keys.iter().filter(move |key| key.algorithm() == algorithm)
    }

    /// When the successor of the newest key must be published.
    fn rotates_at(&self, newest: &ManagedKey) -> UnixSeconds {
        let signs_until = newest.published.sign_from.saturating_add(seconds(self.settings.every));
        signs_until.saturating_sub(self.settings.publish_for())
    }
}

impl ManagedKey {
    fn algorithm(&self) -> Algorithm {
        self.published.key.algorithm()
    }

    fn gone(&self, now: UnixSeconds) -> bool {
        self.retires_at.is_some_and(|at| at <= now)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.published.key)).finish()
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
