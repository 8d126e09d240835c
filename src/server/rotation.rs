//! The signing keys that the edge makes itself: follows the registry, rotates by schedule and
//! by command.

use std::sync::{Arc, Mutex, PoisonError};

use crate::admin::KeyControlFault;
use crate::clock::{Clock, UnixSeconds};
use crate::registry::{Actor, Change, KeyRow, Outcome, Registry};
use crate::token::{
    Algorithm, KeyRing, KeySecret, KeyStatus, NewKey, RotationFault, RotationSettings, SealedKey,
    SigningKeys,
};

/// One process' view of the keys that all nodes share.
pub struct Rotation {
    settings: RotationSettings,
    secret: KeySecret,
    registry: Arc<Registry>,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    rows: Arc<[KeyRow]>,
    ring: Arc<KeyRing>,
    /// Published with the ring's: the keys of the configuration's files.
    files: Option<Arc<SigningKeys>>,
    keys: Arc<SigningKeys>,
    /// When `keys` are to be made anew, though nothing has been written.
    until: Option<UnixSeconds>,
}

impl Rotation {
    pub fn new(
        settings: RotationSettings,
        secret: KeySecret,
        registry: Arc<Registry>,
        clock: Clock,
        files: Option<Arc<SigningKeys>>,
    ) -> Rotation {
        let rows = registry.signing_keys();
        let now = clock.now();
        let ring = ring(&rows, &secret, &settings, files.as_deref());
        let state = State {
            until: ring.next_change(now),
            keys: Arc::new(together(&ring, files.as_deref(), now)),
            ring: Arc::new(ring),
            files,
            rows,
        };
        Rotation { settings, secret, registry, clock, state: Mutex::new(state) }
    }

    /// The keys of this moment, together with those of the configuration's files; the same
    /// `Arc` until they change.
    pub fn keys(&self, files: Option<&Arc<SigningKeys>>) -> Arc<SigningKeys> {
        let rows = self.registry.signing_keys();
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let same_files = match (&state.files, files) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let same_rows = Arc::ptr_eq(&state.rows, &rows);
        if !same_rows || !same_files {
            let ring = ring(&rows, &self.secret, &self.settings, files.map(Arc::as_ref));
            state.ring = Arc::new(ring);
            state.rows = rows;
        }
        if !same_rows || !same_files || state.until.is_some_and(|until| until <= now) {
            let keys = together(&state.ring, files.map(Arc::as_ref), now);
            // Which of them signs, they know by the time: only another set is another value.
            if !same_rows || !same_files || keys.jwks() != state.keys.jwks() {
                state.keys = Arc::new(keys);
            }
            state.files = files.cloned();
            state.until = state.ring.next_change(now);
        }
        state.keys.clone()
    }

    /// Makes the keys that the schedule asks for, and deletes those whose time has ended.
    /// Making an RSA key takes a while: not for a thread that serves.
    /// `false`: something failed, and is better not tried again at once.
    pub async fn keep_schedule(&self) -> bool {
        let (ring, now) = (self.ring(), self.clock.now());
        let for_due = ring.clone();
        let due = tokio::task::spawn_blocking(move || for_due.due(now)).await;
        let mut well = true;
        match due {
            Ok(Ok(keys)) => {
                for key in keys {
                    if let Err(error) = self.publish(&Actor::edge(), key).await {
                        well = false;
                        tracing::error!(
                            target: "portcullis::keys",
                            %error,
                            "the schedule asks for a new signing key, and it cannot be published"
                        );
                    }
                }
            }
            Ok(Err(fault)) => {
                well = false;
                tracing::error!(
                    target: "portcullis::keys",
                    %fault,
                    "the schedule asks for a new signing key, and it cannot be made"
                );
            }
            // The runtime is ending.
            Err(_) => return false,
        }
        let kids = ring.expired(now);
        if !kids.is_empty() {
            let change = Change::DeleteSigningKeys { kids };
            if let Err(error) = self.registry.apply(&Actor::edge(), change).await {
                well = false;
                tracing::warn!(
                    target: "portcullis::keys",
                    %error,
                    "retired signing keys are not deleted yet"
                );
            }
        }
        well
    }

    fn ring(&self) -> Arc<KeyRing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ring.clone()
    }

    /// Publishes a new key of each of `algorithms`, out of turn.
    ///
    /// # Errors
    /// Where one cannot be made or written, or another node has published each of them a moment
    /// ago.
    pub async fn rotate(
        &self,
        actor: &Actor,
        algorithms: Vec<Algorithm>,
    ) -> Result<(), KeyControlFault> {
        let mut published = false;
        for algorithm in algorithms {
            let (ring, now) = (self.ring(), self.clock.now());
            let made = tokio::task::spawn_blocking(move || ring.rotate_now(algorithm, now)).await;
            let key = made.map_err(|_| KeyControlFault::Crypto)?.map_err(|fault| {
                tracing::error!(target: "portcullis::keys", %fault, "a key cannot be made");
                match fault {
                    RotationFault::Crypto(_) => KeyControlFault::Crypto,
                    fault => KeyControlFault::NotMade(fault.to_string()),
                }
            })?;
            published |= self.publish(actor, key).await?;
        }
        if published { Ok(()) } else { Err(KeyControlFault::JustRotated) }
    }

    pub async fn delete(&self, actor: &Actor, kid: &str) -> Result<(), KeyControlFault> {
        let change = Change::DeleteSigningKeys { kids: self.ring().with(kid, self.clock.now()) };
        match self.registry.apply(actor, change).await? {
            Outcome::Done => Ok(()),
            _ => Err(KeyControlFault::NotFound),
        }
    }

    pub fn algorithms(&self) -> &[Algorithm] {
        &self.settings.algorithms
    }

    /// As they are in the registry now.
    pub fn states(&self) -> Vec<KeyStatus> {
        let files = self.state.lock().unwrap_or_else(PoisonError::into_inner).files.clone();
        self.keys(files.as_ref());
        self.ring().states(self.clock.now())
    }

    /// `false`: another node has just published one.
    async fn publish(&self, actor: &Actor, key: NewKey) -> Result<bool, KeyControlFault> {
        if !key.usable(self.clock.now()) {
            return Err(KeyControlFault::Crypto);
        }
        let NewKey { row, unless_published_since } = key;
        let (kid, sign_from) = (row.kid.clone(), row.sign_from);
        let row = KeyRow {
            kid: row.kid,
            algorithm: row.algorithm,
            sealed: row.sealed,
            published_at: row.published_at,
            sign_from,
        };
        let change = Change::AddSigningKey { row, unless_published_since };
        match self.registry.apply(actor, change).await? {
            Outcome::Done => {
                tracing::info!(
                    target: "portcullis::keys",
                    kid,
                    sign_from,
                    actor = actor.name,
                    "a new signing key is published"
                );
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// Keys that do not open are told at each change of the keys, and not used.
fn ring(
    rows: &[KeyRow],
    secret: &KeySecret,
    settings: &RotationSettings,
    files: Option<&SigningKeys>,
) -> KeyRing {
    let rows: Vec<SealedKey> = rows
        .iter()
        .map(|row| SealedKey {
            kid: row.kid.clone(),
            algorithm: row.algorithm.clone(),
            sealed: row.sealed.clone(),
            published_at: row.published_at,
            sign_from: row.sign_from,
        })
        .collect();
    let (ring, faults) = KeyRing::build(&rows, secret, settings.clone());
    for fault in faults {
        tracing::error!(target: "portcullis::keys", %fault, "a signing key cannot be used");
    }
    ring.beside(
        files
            .map(|files| files.listed().map(|(_, algorithm, _)| algorithm).collect())
            .unwrap_or_default(),
    )
}

fn together(ring: &KeyRing, files: Option<&SigningKeys>, now: UnixSeconds) -> SigningKeys {
    let made = ring.signing_keys(now);
    match files {
        Some(files) => made.with(files),
        None => made,
    }
}
