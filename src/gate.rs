//! The one decision for every protocol: identify → verify → authenticate → decide.
//!
//! No sockets and no protocol here. The only thing that waits is the registry, when a
//! device is registered on its first call, and that has a deadline.

use std::sync::Arc;

use boring::sha::sha256;

use crate::clock::Clock;
use crate::metrics::{Metrics, TokenResult};
use crate::names::DeviceId;
use crate::refusal::{Refusal, Refused};
use crate::registry::{DeviceStatus, PinOwner, Registry};
use crate::tenant::{
    Candidates, ClientCertificateMode, ForeignBearers, Tenant, TenantDirectory, TenantEntry,
};
use crate::token::{Bearer, Bearers, Issued, IssuedAccess, TokenFault, TokenRequest, TokenService};
use crate::trust::{Verdict, VerdictCache, VerifiedChain, issuers};

/// Who is at the other end, as far as the handshake could tell.
#[derive(Clone)]
pub enum ClientIdentity {
    /// No certificate, where the tenant allows that.
    Anonymous,
    /// The leaf's own checks have passed; its issuer is not among what the device sent. A
    /// request may complete the chain; until then nothing is forwarded.
    Undecided,
    /// The chain leads to an anchor of the tenant, or its end-entity is pinned to a device.
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

    /// SHA-256 of the end-entity certificate.
    pub fn leaf_sha256(&self) -> &[u8; 32] {
        self.chain.leaf_sha256()
    }
}

/// A tenant that a chain has named, and the verdict on the chain there.
pub type Resolved = (Arc<Tenant>, Verdict);

/// Asks the trust store, the registry and the token service.
pub struct Gate {
    clock: Clock,
    verdicts: VerdictCache,
    registry: Arc<Registry>,
    tokens: TokenService,
    bearers: Bearers,
}

/// Chains up to this size are verified where they are met; longer ones cost more than a
/// worker may be held up for and belong on the blocking pool.
const INLINE_CERTIFICATES: usize = 4;
const INLINE_BYTES: usize = 8 * 1024;
/// Tenants that a chain without SNI is tried at where it is met.
const INLINE_CANDIDATES: usize = 2;

impl Gate {
    /// `verdicts`, `tokens`: how many entries the caches hold.
    pub fn new(
        clock: Clock,
        metrics: Arc<Metrics>,
        registry: Arc<Registry>,
        verdicts: u64,
        tokens: u64,
    ) -> Gate {
        Gate {
            verdicts: VerdictCache::new(verdicts, clock.clone(), metrics),
            tokens: TokenService::new(tokens, clock.clone()),
            bearers: Bearers::default(),
            clock,
            registry,
        }
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The verdict on a chain, if it is cached or cheap enough to be found here and now.
    /// `None`: call [`Gate::verdict`] where blocking is allowed.
    pub fn quick_verdict(
        &self,
        tenant: &Tenant,
        chain: &[&[u8]],
        extra: &[&[u8]],
    ) -> Option<Verdict> {
        if let Some(verdict) = self.pin_verdict(tenant, chain) {
            return Some(verdict);
        }
        let key = VerdictCache::key(&tenant.id, tenant.trust.epoch(), chain, extra);
        if let Some(verdict) = self.verdicts.get(&key) {
            return Some(verdict);
        }
        if !is_small(chain.iter().chain(extra)) {
            return None;
        }
        let verdict = tenant.trust.verify(chain, extra, self.clock.now());
        self.verdicts.insert(key, &verdict);
        Some(verdict)
    }

    /// The verdict on a chain. May take the verifier's whole budget of time.
    pub fn verdict(&self, tenant: &Tenant, chain: &[&[u8]], extra: &[&[u8]]) -> Verdict {
        if let Some(verdict) = self.pin_verdict(tenant, chain) {
            return verdict;
        }
        let key = VerdictCache::key(&tenant.id, tenant.trust.epoch(), chain, extra);
        if let Some(verdict) = self.verdicts.get(&key) {
            return verdict;
        }
        let verdict = tenant.trust.verify(chain, extra, self.clock.now());
        self.verdicts.insert(key, &verdict);
        verdict
    }

    /// The verdict where the end-entity certificate is pinned to a device of the tenant: a pin
    /// counts before any anchor. Never remembered, so that a pin that is taken back is gone.
    fn pin_verdict(&self, tenant: &Tenant, chain: &[&[u8]]) -> Option<Verdict> {
        if !self.registry.has_pins() {
            return None;
        }
        let leaf = chain.first()?;
        let device = self.registry.pinned(&tenant.id, &sha256(leaf))?;
        Some(tenant.trust.verify_pinned(leaf, &device, self.clock.now()))
    }

    /// [`Gate::resolve`], if that is cheap enough to be done here and now.
    pub fn quick_resolve(
        &self,
        directory: &TenantDirectory,
        chain: &[&[u8]],
    ) -> Option<Result<Resolved, Refused>> {
        if !is_small(chain.iter()) {
            return None;
        }
        let mut tried = 0;
        self.resolve_by(directory, chain, |tenant| {
            tried += 1;
            if tried <= INLINE_CANDIDATES { self.quick_verdict(tenant, chain, &[]) } else { None }
        })
    }

    /// Whether what verified by a pin is pinned to the same device still; of a chain that
    /// verified by an anchor there is nothing to ask.
    pub fn pin_stands(&self, tenant: &Tenant, chain: &VerifiedChain) -> bool {
        chain.anchor().is_some()
            || self.registry.pinned(&tenant.id, chain.leaf_sha256()).as_ref()
                == Some(chain.device())
    }

    /// Which tenant a device without SNI belongs to, and the verdict on its chain there. Only
    /// two things decide: a pin that no other tenant has, and anchors that name their tenant
    /// (their key's possession is proved). A certificate is public, so a pin beside another
    /// tenant's proved anchor decides nothing. A chain that could belong to several tenants belongs
    /// to none: one tenant could else capture another's devices by uploading its public CA.
    ///
    /// May take the verifier's whole budget for each candidate.
    ///
    /// # Errors
    /// `TenantAmbiguous`, or why the chain leads to no tenant.
    pub fn resolve(
        &self,
        directory: &TenantDirectory,
        chain: &[&[u8]],
    ) -> Result<Resolved, Refused> {
        let resolved =
            self.resolve_by(directory, chain, |tenant| Some(self.verdict(tenant, chain, &[])));
        resolved.unwrap_or_else(|| Err(Refused::new(Refusal::Overloaded, "no verdict")))
    }

    /// `None` as soon as `verdict` gives none.
    fn resolve_by(
        &self,
        directory: &TenantDirectory,
        chain: &[&[u8]],
        mut verdict: impl FnMut(&Arc<Tenant>) -> Option<Verdict>,
    ) -> Option<Result<Resolved, Refused>> {
        let ambiguous = |reason| Some(Err(Refused::new(Refusal::TenantAmbiguous, reason)));
        let Some(leaf) = chain.first() else {
            return Some(Err(Refused::new(
                Refusal::CertificateMissing,
                "without SNI the client certificate names the tenant",
            )));
        };
        let pinned_at = match self.registry.pin_owner(&sha256(leaf)) {
            PinOwner::Nobody => None,
            PinOwner::Several => {
                return ambiguous("no SNI, and several tenants have pinned the certificate");
            }
            PinOwner::One(id, _) => Some(id),
        };
        let names = issuers(chain);
        let candidates = match directory.candidates(names.iter().map(Vec::as_slice)) {
            Candidates::Few(candidates) => candidates,
            Candidates::TooMany => {
                return ambiguous(
                    "no SNI, and too many tenants have anchors of the issuers' names",
                );
            }
        };
        let mut found = None;
        let mut refused: Option<(Arc<Tenant>, Verdict)> = None;
        // Tenants that may know the chain and refuse it now.
        let mut doubtful = Vec::new();
        for tenant in candidates {
            match verdict(&tenant)? {
                Verdict::Verified(path) if path.names_tenant() => {
                    if found.is_some() {
                        return ambiguous(
                            "no SNI, and the chain leads to anchors of several tenants",
                        );
                    }
                    found = Some((tenant, Verdict::Verified(path)));
                }
                Verdict::Verified(_) | Verdict::Undecided(_) => {}
                // Undecided by time: another try may say otherwise.
                Verdict::Refused(reason) if reason.refusal == Refusal::Overloaded => {
                    return Some(Err(reason));
                }
                // Why the one tenant that knows the issuer refuses says more than that no
                // tenant takes the chain.
                Verdict::Refused(reason) => {
                    if matches!(
                        reason.refusal,
                        Refusal::CertificateRevoked
                            | Refusal::RevocationUnknown
                            | Refusal::CertificateExpired
                    ) {
                        doubtful.push(tenant.clone());
                    }
                    refused = Some((tenant, Verdict::Refused(reason)));
                }
            }
        }
        // A tenant that knows the chain by an anchor of its own and refuses it does not leave it
        // to another. An anchor that anybody may upload says nothing, also not against.
        let now = self.clock.now();
        if found.is_some() && doubtful.iter().any(|tenant| tenant.trust.disowns(chain, now)) {
            return ambiguous(
                "no SNI, one tenant takes the chain and another knows it and refuses it",
            );
        }
        if let Some(id) = pinned_at {
            // Whoever sees a certificate can pin it: a pin yields to nobody's proved anchor, and
            // takes no device from it.
            if found.is_some_and(|(tenant, _)| tenant.id != id) {
                return ambiguous(
                    "no SNI, one tenant has pinned the certificate and another has its CA",
                );
            }
            let Some(TenantEntry::Serviceable(tenant)) = directory.by_id(&id) else {
                return Some(Err(Refused::new(
                    Refusal::TenantUnavailable,
                    "the tenant that has pinned the certificate is not served",
                )));
            };
            return match verdict(tenant)? {
                Verdict::Verified(path) if path.anchor().is_some() => Some(Err(Refused::new(
                    Refusal::IssuerUnknown,
                    "no SNI, and the certificate is no longer pinned",
                ))),
                verdict => Some(Ok((tenant.clone(), verdict))),
            };
        }
        Some(found.or(refused).ok_or_else(|| {
            Refused::new(
                Refusal::IssuerUnknown,
                "no SNI, and the chain leads to no anchor that names its tenant (upload it and \
                 prove possession of its key, or have the device send SNI)",
            )
        }))
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
    /// `DeviceBlocked`, `DeviceUnknown`, `RegistryUnavailable`, `IssuerUnknown` where a pin was
    /// taken back, or `CertificateExpired` where the chain has outlived its validity on this
    /// connection.
    pub async fn authenticate(
        &self,
        tenant: &Tenant,
        chain: &Arc<VerifiedChain>,
    ) -> Result<AuthenticatedDevice, Refused> {
        self.check_fresh()?;
        if !self.is_registered(tenant, chain)?
            && self.register(tenant, chain).await? == DeviceStatus::Blocked
        {
            return Err(self.blocked(tenant, chain));
        }
        Ok(AuthenticatedDevice { chain: chain.clone() })
    }

    /// Whether a device whose request is under way would be let in now. Registers nobody, and
    /// goes by what is in memory, however old.
    ///
    /// # Errors
    /// As [`Gate::authenticate`], but for the registry's.
    pub fn still_admits(&self, tenant: &Tenant, chain: &VerifiedChain) -> Result<(), Refused> {
        self.is_registered(tenant, chain).map(drop)
    }

    /// Whether a device that is let in is registered, or is to be, by its anchor.
    fn is_registered(&self, tenant: &Tenant, chain: &VerifiedChain) -> Result<bool, Refused> {
        if self.clock.now() > chain.valid_until() {
            return Err(Refused::new(
                Refusal::CertificateExpired,
                "the chain's validity ended while the connection was open",
            ));
        }
        if !self.pin_stands(tenant, chain) {
            return Err(Refused::new(
                Refusal::IssuerUnknown,
                "the certificate is no longer pinned to the device",
            ));
        }
        match self.registry.status(&tenant.id, chain.device()) {
            Some(DeviceStatus::Blocked) => Err(self.blocked(tenant, chain)),
            Some(DeviceStatus::Active) => Ok(true),
            None if chain.auto_registration() => Ok(false),
            None => Err(Refused::new(
                Refusal::DeviceUnknown,
                "the device is not registered and its anchor has auto_registration off",
            )),
        }
    }

    fn blocked(&self, tenant: &Tenant, chain: &VerifiedChain) -> Refused {
        self.tokens.forget(&tenant.id, chain.device());
        Refused::new(Refusal::DeviceBlocked, "the device is blocked in the registry")
    }

    /// Whether the tenant has a device of this id, registered and blocked or not.
    ///
    /// # Errors
    /// `RegistryUnavailable` where what is known may no longer hold.
    pub fn knows(&self, tenant: &Tenant, device: &DeviceId) -> Result<bool, Refused> {
        self.check_fresh()?;
        Ok(self.registry.status(&tenant.id, device).is_some())
    }

    /// Whether a bearer token may go on to the platform: one of the edge's own only if it holds
    /// and its device is known and not blocked; another's by the tenant's rule. `leaf_sha256`:
    /// of the connection's verified client certificate.
    ///
    /// # Errors
    /// `TokenRefused`, `DeviceBlocked`, `RegistryUnavailable`.
    pub fn check_bearer(
        &self,
        tenant: &Tenant,
        token: &str,
        leaf_sha256: Option<&[u8; 32]>,
    ) -> Result<(), Refused> {
        let refuse = |reason| Err(Refused::new(Refusal::TokenRefused, reason));
        let Some(settings) = &tenant.tokens else { return self.foreign(tenant) };
        let now = self.clock.now();
        match self.bearers.check(token, &tenant.keys, settings, &tenant.id, leaf_sha256, now) {
            Bearer::Foreign => self.foreign(tenant),
            Bearer::Refused(reason) => Err(Refused::new(Refusal::TokenRefused, reason)),
            Bearer::Ours(bearer) => {
                self.check_fresh()?;
                match self.registry.status(&tenant.id, bearer.device()) {
                    Some(DeviceStatus::Active) => Ok(()),
                    Some(DeviceStatus::Blocked) => Err(Refused::new(
                        Refusal::DeviceBlocked,
                        "the bearer token is of a device that is blocked in the registry",
                    )),
                    None => refuse("the bearer token is of a device that is no longer registered"),
                }
            }
        }
    }

    fn foreign(&self, tenant: &Tenant) -> Result<(), Refused> {
        match tenant.bearers.foreign {
            ForeignBearers::Pass => Ok(()),
            ForeignBearers::Refuse => Err(Refused::new(
                Refusal::TokenRefused,
                "the bearer token is not of the edge's own (bearers.foreign: refuse)",
            )),
        }
    }

    fn check_fresh(&self) -> Result<(), Refused> {
        if self.registry.fresh() {
            return Ok(());
        }
        Err(Refused::new(
            Refusal::RegistryUnavailable,
            "the registry has not been read for registry.max_staleness: what is known of devices \
             may no longer hold",
        ))
    }

    /// The device's current token, or a new one by the half-life rule.
    ///
    /// # Errors
    /// `TenantUnavailable` where signing fails.
    pub fn token(&self, tenant: &Tenant, device: &AuthenticatedDevice) -> Result<Issued, Refused> {
        let issued = self.tokens.token(&token_request(tenant, device)?);
        let issued = issued.map_err(signing_failed)?;
        tenant.metrics.token(result(issued.fresh));
        Ok(issued)
    }

    /// The same as an OAuth 2.0 access token, bound to the device's certificate (RFC 8705).
    ///
    /// # Errors
    /// As [`Gate::token`].
    pub fn access_token(
        &self,
        tenant: &Tenant,
        device: &AuthenticatedDevice,
    ) -> Result<IssuedAccess, Refused> {
        let issued = self.tokens.access_token(&token_request(tenant, device)?);
        let issued = issued.map_err(signing_failed)?;
        tenant.metrics.token(result(issued.fresh));
        Ok(issued)
    }

    async fn register(
        &self,
        tenant: &Tenant,
        chain: &Arc<VerifiedChain>,
    ) -> Result<DeviceStatus, Refused> {
        let anchor = chain.anchor().ok_or_else(|| {
            Refused::new(Refusal::IssuerUnknown, "the anchor has left the trust store")
        })?;
        let registered =
            self.registry.register(&tenant.id, chain.device(), chain.leaf_sha256(), anchor).await;
        match registered {
            Ok(registered) => {
                if registered.created {
                    tenant.metrics.device_registered();
                }
                Ok(registered.status)
            }
            Err(error) => Err(Refused::new(Refusal::RegistryUnavailable, error.to_string())),
        }
    }
}

fn is_small<'c>(chain: impl Iterator<Item = &'c &'c [u8]>) -> bool {
    let (count, bytes) = chain.fold((0, 0), |(count, bytes), der| (count + 1, bytes + der.len()));
    count <= INLINE_CERTIFICATES && bytes <= INLINE_BYTES
}

fn token_request<'a>(
    tenant: &'a Tenant,
    device: &'a AuthenticatedDevice,
) -> Result<TokenRequest<'a>, Refused> {
    let settings = tenant.tokens.as_ref().ok_or_else(|| {
        Refused::new(Refusal::TenantUnavailable, "tokens are off for this tenant")
    })?;
    Ok(TokenRequest {
        tenant: &tenant.id,
        device: device.id(),
        leaf_sha256: device.chain.leaf_sha256(),
        epoch: tenant.trust.epoch(),
        settings,
        keys: &tenant.keys,
    })
}

fn signing_failed(fault: TokenFault) -> Refused {
    Refused::new(Refusal::TenantUnavailable, fault.to_string())
}

fn result(fresh: bool) -> TokenResult {
    if fresh { TokenResult::Issued } else { TokenResult::Reissued }
}
