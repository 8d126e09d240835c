//! The one decision for every protocol: identify → verify → authenticate → decide.
//!
//! No sockets and no protocol here. The only thing that waits is the registry, when a
//! device is registered on its first call, and that has a deadline.

use std::sync::Arc;

use crate::clock::Clock;
use crate::metrics::{Metrics, TokenResult};
use crate::names::DeviceId;
use crate::refusal::{Refusal, Refused};
use crate::registry::{DeviceStatus, Devices};
use crate::tenant::{ClientCertificateMode, Tenant};
use crate::token::{Issued, TokenRequest, TokenService};
use crate::trust::{Verdict, VerdictCache, VerifiedChain};

/// Who is at the other end, as far as the handshake could tell.
#[derive(Clone)]
pub enum ClientIdentity {
    /// No certificate, where the tenant allows that.
    Anonymous,
    /// The leaf's own checks have passed; its issuer is not among what the device sent. A
    /// request may complete the chain; until then nothing is forwarded.
    Undecided,
    /// The chain leads to an anchor of the tenant.
    Verified(Arc<VerifiedChain>),
}

/// A device whose chain is verified and which the registry knows and does not block. Only
/// [`Gate::authenticate`] makes one.
pub struct AuthenticatedDevice {
    chain: Arc<VerifiedChain>,
}

impl AuthenticatedDevice {
    pub fn id(&self) -> &DeviceId {
        self.chain.device()
    }
}

/// Asks the trust store, the registry and the token service.
pub struct Gate {
    clock: Clock,
    verdicts: VerdictCache,
    devices: Arc<Devices>,
    tokens: TokenService,
}

/// Chains up to this size are verified where they are met; longer ones cost more than a
/// worker may be held up for and belong on the blocking pool.
const INLINE_CERTIFICATES: usize = 4;
const INLINE_BYTES: usize = 8 * 1024;

impl Gate {
    /// `verdicts`, `tokens`: how many entries the caches hold.
    pub fn new(
        clock: Clock,
        metrics: Arc<Metrics>,
        devices: Arc<Devices>,
        verdicts: u64,
        tokens: u64,
    ) -> Gate {
        Gate {
            verdicts: VerdictCache::new(verdicts, clock.clone(), metrics),
            tokens: TokenService::new(tokens, clock.clone()),
            clock,
            devices,
        }
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn devices(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// The verdict on a chain, if it is cached or cheap enough to be found here and now.
    /// `None`: call [`Gate::verdict`] where blocking is allowed.
    pub fn quick_verdict(
        &self,
        tenant: &Tenant,
        chain: &[&[u8]],
        extra: &[&[u8]],
    ) -> Option<Verdict> {
        let key = VerdictCache::key(&tenant.id, tenant.trust.epoch(), chain, extra);
        if let Some(verdict) = self.verdicts.get(&key) {
            return Some(verdict);
        }
        let parts = chain.iter().chain(extra);
        let bytes: usize = parts.map(|der| der.len()).sum();
        if chain.len() + extra.len() > INLINE_CERTIFICATES || bytes > INLINE_BYTES {
            return None;
        }
        let verdict = tenant.trust.verify(chain, extra, self.clock.now());
        self.verdicts.insert(key, &verdict);
        Some(verdict)
    }

    /// The verdict on a chain. May take the verifier's whole budget of time.
    pub fn verdict(&self, tenant: &Tenant, chain: &[&[u8]], extra: &[&[u8]]) -> Verdict {
        let key = VerdictCache::key(&tenant.id, tenant.trust.epoch(), chain, extra);
        if let Some(verdict) = self.verdicts.get(&key) {
            return verdict;
        }
        let verdict = tenant.trust.verify(chain, extra, self.clock.now());
        self.verdicts.insert(key, &verdict);
        verdict
    }

    /// What a verdict means at this tenant. `verdict`: `None` where a certificate was asked
    /// for and none was sent.
    ///
    /// # Errors
    /// Where the handshake, or the connection, must end.
    pub fn identify(
        &self,
        tenant: &Tenant,
        verdict: Option<Verdict>,
    ) -> Result<ClientIdentity, Refused> {
        match verdict {
            None if tenant.client_certificate == ClientCertificateMode::Required => {
                Err(Refused::new(
                    Refusal::CertificateMissing,
                    "the tenant requires a client certificate",
                ))
            }
            None => Ok(ClientIdentity::Anonymous),
            Some(Verdict::Verified(chain)) => Ok(ClientIdentity::Verified(chain)),
            Some(Verdict::Undecided(_)) if tenant.complete_chain_from_header => {
                Ok(ClientIdentity::Undecided)
            }
            Some(Verdict::Undecided(refused) | Verdict::Refused(refused)) => Err(refused),
        }
    }

    /// Asks the registry: the device is known and active, or its anchor registers it now.
    ///
    /// # Errors
    /// `DeviceBlocked`, `DeviceUnknown`, `RegistryUnavailable`, or `CertificateExpired` where
    /// the chain has outlived its validity on this connection.
    pub async fn authenticate(
        &self,
        tenant: &Tenant,
        chain: &Arc<VerifiedChain>,
    ) -> Result<AuthenticatedDevice, Refused> {
        if self.clock.now() > chain.valid_until() {
            return Err(Refused::new(
                Refusal::CertificateExpired,
                "the chain's validity ended while the connection was open",
            ));
        }
        let status = match self.devices.status(&tenant.id, chain.device()) {
            Some(status) => status,
            None if chain.auto_registration() => self.register(tenant, chain).await?,
            None => {
                return Err(Refused::new(
                    Refusal::DeviceUnknown,
                    "the device is not registered and its anchor has auto_registration off",
                ));
            }
        };
        match status {
            DeviceStatus::Active => Ok(AuthenticatedDevice { chain: chain.clone() }),
            DeviceStatus::Blocked => {
                Err(Refused::new(Refusal::DeviceBlocked, "the device is blocked in the registry"))
            }
        }
    }

    /// The device's current token, or a new one by the half-life rule.
    ///
    /// # Errors
    /// `TenantUnavailable` where signing fails.
    pub fn token(&self, tenant: &Tenant, device: &AuthenticatedDevice) -> Result<Issued, Refused> {
        let Some(settings) = &tenant.tokens else {
            return Err(Refused::new(Refusal::TenantUnavailable, "tokens are off for this tenant"));
        };
        let issued = self.tokens.token(&TokenRequest {
            tenant: &tenant.id,
            device: device.id(),
            leaf_sha256: device.chain.leaf_sha256(),
            epoch: tenant.trust.epoch(),
            settings,
            keys: &tenant.keys,
        });
        match issued {
            Ok(issued) => {
                let result = if issued.fresh { TokenResult::Issued } else { TokenResult::Reissued };
                tenant.metrics.token(result);
                Ok(issued)
            }
            Err(fault) => Err(Refused::new(Refusal::TenantUnavailable, fault.to_string())),
        }
    }

    async fn register(
        &self,
        tenant: &Tenant,
        chain: &Arc<VerifiedChain>,
    ) -> Result<DeviceStatus, Refused> {
        let anchor = tenant.trust.anchors().get(chain.anchor()).ok_or_else(|| {
            Refused::new(Refusal::IssuerUnknown, "the anchor has left the trust store")
        })?;
        let registered = self
            .devices
            .register(&tenant.id, chain.device(), chain.leaf_sha256(), &anchor.sha256)
            .await;
        match registered {
            Ok(status) => {
                tenant.metrics.device_registered();
                Ok(status)
            }
            Err(error) => Err(Refused::new(Refusal::RegistryUnavailable, error.to_string())),
        }
    }
}
