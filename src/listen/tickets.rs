//! Session ticket keys: derived, never stored, rotated by time.
//!
//! One secret, which nodes may share, and the number of the current period give a period
//! key; that and a tenant's session context give the ticket key. A ticket therefore opens
//! only at the tenant, under the trust epoch and in the period (or the one after) of its
//! making, on any node that has the secret (RFC 5077 §4, RFC 8446 §4.6.1).

use std::time::Duration;

use boring::hash::{MessageDigest, hmac_sha256};
use boring::hmac::HmacCtxRef;
use boring::rand::rand_bytes;
use boring::ssl::TicketKeyCallbackResult;
use boring::symm::{Cipher, CipherCtxRef};

use crate::clock::Clock;

/// Makes ticket keys.
pub struct TicketKeys {
    secret: [u8; 32],
    period: i64,
    clock: Clock,
}

/// Name (public, 16 octets), AES-128 key, HMAC-SHA-256 key.
struct TicketKey {
    name: [u8; 16],
    cipher: [u8; 16],
    mac: [u8; 32],
}

impl TicketKeys {
    /// `secret`: of 256 bits of entropy. `period`: how long a key seals; it opens for two.
    pub fn new(secret: [u8; 32], period: Duration, clock: Clock) -> TicketKeys {
        let period = i64::try_from(period.as_secs()).unwrap_or(i64::MAX).max(1);
        TicketKeys { secret, period, clock }
    }

    /// A secret of this process alone.
    pub fn random_secret() -> Option<[u8; 32]> {
        let mut secret = [0; 32];
        rand_bytes(&mut secret).ok()?;
        Some(secret)
    }

    /// Sets up the sealing of a ticket bound to `context`.
    pub fn seal(
        &self,
        context: &[u8; 32],
        name: &mut [u8; 16],
        iv: &mut [u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut HmacCtxRef,
    ) -> TicketKeyCallbackResult {
        let mut sealed = || {
            let key = self.key(context, self.clock.now() / self.period)?;
            rand_bytes(iv).ok()?;
            *name = key.name;
            cipher.init_encrypt(&Cipher::aes_128_cbc(), &key.cipher, iv).ok()?;
            mac.init(&key.mac, &MessageDigest::sha256()).ok()
        };
        match sealed() {
            Some(()) => TicketKeyCallbackResult::Success,
            None => TicketKeyCallbackResult::Error,
        }
    }

    /// Sets up the opening of a ticket that must be bound to `context`; a ticket of another
    /// tenant, epoch or secret, or one too old, makes a full handshake.
    pub fn open(
        &self,
        context: &[u8; 32],
        name: &[u8; 16],
        iv: &[u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut HmacCtxRef,
    ) -> TicketKeyCallbackResult {
        let now = self.clock.now() / self.period;
        for (age, result) in [
            (0, TicketKeyCallbackResult::Success),
            (1, TicketKeyCallbackResult::DecryptSuccessRenew),
        ] {
            let Some(key) = self.key(context, now - age) else {
                return TicketKeyCallbackResult::Error;
            };
            if key.name != *name {
                continue;
            }
            let mut opened = || {
                cipher.init_decrypt(&Cipher::aes_128_cbc(), &key.cipher, iv).ok()?;
                mac.init(&key.mac, &MessageDigest::sha256()).ok()
            };
            return match opened() {
                Some(()) => result,
                None => TicketKeyCallbackResult::Error,
            };
        }
        TicketKeyCallbackResult::Noop
    }

    fn key(&self, context: &[u8; 32], period: i64) -> Option<TicketKey> {
        let period_key = hmac_sha256(&self.secret, &period.to_be_bytes()).ok()?;
        let part = |label: u8| {
            let mut input = [0; 33];
            input[..32].copy_from_slice(context);
            input[32] = label;
            hmac_sha256(&period_key, &input).ok()
        };
        let (first, mac) = (part(0)?, part(1)?);
        let (name, cipher) = first.split_at(16);
        Some(TicketKey { name: name.try_into().ok()?, cipher: cipher.try_into().ok()?, mac })
    }
}
