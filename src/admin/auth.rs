//! Who asks: bearer tokens and client certificates, and how often each may ask.
//!
//! A token is compared by its SHA-256, in constant time, with every token there is, so that
//! the time tells nothing about any of them. An address that has presented ten wrong tokens
//! in a minute is answered 429 to further ones for the rest of it, and makes no more lines of the
//! log. A right token passes all the same: whoever shares an address with the operator must not
//! shut the operator out. Nobody guesses one, since each has 32 characters or more
//! (`admin.token_file`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use boring::memcmp;
use boring::sha::sha256;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use crate::admin_settings::{Credential, CredentialSecret, Role};
use crate::clock::Clock;
use crate::listen::subscriber;
use crate::names::TenantId;
use crate::registry::Actor;

/// Wrong tokens of an address in a minute.
const FAILURES: u32 = 10;
/// Requests of a principal in a minute.
const REQUESTS: u64 = 6_000;
/// Bulk registrations of a principal at one time; fewer than there are places, so that no
/// principal alone takes them all.
const UPLOADS: usize = 2;
/// Addresses whose failures are remembered in one minute; those of further ones
/// are not counted.
const ADDRESSES: usize = 16_384;
/// Longer than any token.
const MAX_TOKEN: usize = 4_096;

/// The other end of a connection, as the port found it out.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub tls: bool,
    /// The one common name of the client certificate that TLS has verified.
    pub common_name: Option<Arc<str>>,
}

/// Somebody whose secret was right.
#[derive(Clone, Debug)]
pub struct Principal {
    name: Arc<str>,
    role: Role,
    tenant: Option<TenantId>,
    address: IpAddr,
    uploads: Arc<Semaphore>,
}

impl Principal {
    /// Whom the audit trail names.
    pub fn actor(&self) -> Actor {
        Actor { name: self.name.to_string(), peer: Some(self.address) }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The only tenant that this principal sees.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    pub fn sees(&self, tenant: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
    }

    /// # Errors
    /// 403 for a viewer.
    pub fn may_change(&self) -> Result<(), ApiError> {
        match self.role {
            Role::Operator => Ok(()),
            Role::Viewer => Err(ApiError::forbidden("A viewer changes nothing.")),
        }
    }

    /// A place among the bulk registrations of this principal.
    ///
    /// # Errors
    /// 429 where it has two.
    pub fn upload(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.uploads.clone().try_acquire_owned().map_err(|_| {
            ApiError::too_many(
                5,
                "Two bulk registrations of this principal are running; wait for one to end.",
            )
        })
    }

    /// # Errors
    /// 403 for a principal that is bound to a tenant.
    pub fn is_for_all_tenants(&self) -> Result<(), ApiError> {
        match self.tenant {
            None => Ok(()),
            Some(_) => {
                Err(ApiError::forbidden("This takes a credential that is not bound to one tenant."))
            }
        }
    }
}

/// Every principal, and the counts of this minute.
pub struct Authenticator {
    known: Vec<Known>,
    failures: Mutex<Failures>,
    clock: Clock,
}

struct Known {
    name: Arc<str>,
    secret: CredentialSecret,
    role: Role,
    tenant: Option<TenantId>,
    /// The minute in the upper 32 bits, its requests in the lower.
    requests: AtomicU64,
    uploads: Arc<Semaphore>,
}

#[derive(Default)]
struct Failures {
    minute: i64,
    by_address: HashMap<IpAddr, u32>,
}

impl Authenticator {
    pub fn new(credentials: Vec<Credential>, clock: Clock) -> Authenticator {
        let known = credentials.into_iter().map(|credential| Known {
            name: credential.name.into(),
            secret: credential.secret,
            role: credential.role,
            tenant: credential.tenant,
            requests: AtomicU64::new(0),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
        });
        Authenticator { known: known.collect(), failures: Mutex::default(), clock }
    }

    /// A bearer token counts where there is one; else the client certificate.
    ///
    /// # Errors
    /// 401, 403 where no credential is configured at all, 429 with the seconds to wait.
    pub fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<Principal, ApiError> {
        if self.known.is_empty() {
            return Err(ApiError::forbidden(
                "The admin API is off, because no credential is configured. Add one under \
                 admin.credentials in the configuration file, with a token file or the common name \
                 of a client certificate, and restart.",
            ));
        }
        let address = subscriber(peer.address.ip());
        let known = match bearer(headers) {
            Bearer::Token(token) => {
                self.by_token(token).ok_or_else(|| self.refuse(address, peer, "a wrong token"))
            }
            Bearer::Unusable => Err(self.refuse(address, peer, "an unusable Authorization header")),
            Bearer::Absent => match &peer.common_name {
                Some(name) => self
                    .by_common_name(name)
                    .ok_or_else(|| self.refuse(address, peer, "an unknown client certificate")),
                // Nothing was guessed, so nothing is counted.
                None => Err(ApiError::unauthorized("Send a token: `Authorization: Bearer …`.")),
            },
        }?;
        self.count_request(known)?;
        Ok(Principal {
            name: known.name.clone(),
            role: known.role,
            tenant: known.tenant.clone(),
            address: peer.address.ip().to_canonical(),
            uploads: known.uploads.clone(),
        })
    }

    fn by_token(&self, token: &[u8]) -> Option<&Known> {
        let digest = sha256(token);
        let mut found = None;
        for known in &self.known {
            // No early end: every token is compared.
            if let CredentialSecret::Token(right) = &known.secret
                && memcmp::eq(right, &digest)
            {
                found = Some(known);
            }
        }
        found
    }

    fn by_common_name(&self, name: &str) -> Option<&Known> {
        self.known.iter().find(
            |known| matches!(&known.secret, CredentialSecret::CommonName(right) if right == name),
        )
    }

    /// Counts a failure and logs it, as long as the address has not had its failures of this
    /// minute.
    fn refuse(&self, address: IpAddr, peer: &Peer, what: &'static str) -> ApiError {
        let now = self.clock.now();
        if !self.count_failure(address, now.div_euclid(60)) {
            return ApiError::too_many(
                rest_of_minute(now),
                "Too many failed authentications from this address, of which this is one; a \
                 credential that is known here passes all the same.",
            );
        }
        tracing::warn!(
            target: "portcullis::admin",
            peer = %peer.address,
            presented = what,
            "authentication refused"
        );
        ApiError::unauthorized("The credential is not known here.")
    }

    /// Whether the address had failures left.
    fn count_failure(&self, address: IpAddr, minute: i64) -> bool {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.minute != minute {
            *failures = Failures { minute, by_address: HashMap::new() };
        }
        let full = failures.by_address.len() >= ADDRESSES;
        match failures.by_address.get_mut(&address) {
            Some(count) if *count >= FAILURES => false,
            Some(count) => {
                *count += 1;
                true
            }
            None if full => true,
            None => {
                failures.by_address.insert(address, 1);
                true
            }
        }
    }

    fn count_request(&self, known: &Known) -> Result<(), ApiError> {
        let now = self.clock.now();
        let minute = u64::from(u32::try_from(now.div_euclid(60)).unwrap_or_default());
        let count = |counted: u64| match counted >> 32 == minute {
            true if counted & 0xffff_ffff >= REQUESTS => None,
            true => Some(counted + 1),
            false => Some(minute << 32 | 1),
        };
        let counted =
            known.requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, count).is_ok();
        if counted {
            return Ok(());
        }
        Err(ApiError::too_many(rest_of_minute(now), "Too many requests of this principal."))
    }
}

/// Seconds, from 1 to 60.
fn rest_of_minute(now: i64) -> u32 {
    u32::try_from(60 - now.rem_euclid(60)).unwrap_or(60)
}

enum Bearer<'h> {
    Absent,
    Token(&'h [u8]),
    Unusable,
}

fn bearer(headers: &HeaderMap) -> Bearer<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Bearer::Absent,
        (Some(value), None) => value.as_bytes(),
        _ => return Bearer::Unusable,
    };
    let Some((scheme, token)) = value.split_at_checked("Bearer ".len()) else {
        return Bearer::Unusable;
    };
    let token = token.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty() && token.len() <= MAX_TOKEN {
        Bearer::Token(token)
    } else {
        Bearer::Unusable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn credential(name: &str, token: &str) -> Credential {
        Credential {
            name: name.into(),
            secret: CredentialSecret::Token(sha256(token.as_bytes())),
            role: Role::Operator,
            tenant: None,
        }
    }

    fn peer(last: u8) -> Peer {
        Peer { address: SocketAddr::from(([192, 0, 2, last], 1)), tls: false, common_name: None }
    }

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    fn status(result: Result<Principal, ApiError>) -> u16 {
        result.map_or_else(|error| error.status().as_u16(), |_| 200)
    }

    #[test]
    fn a_token_is_known_whole_or_not_at_all() {
        let auth = Authenticator::new(
            vec![credential("one", "token-one"), credential("two", "token-two")],
            Clock::manual(600),
        );
        let ask = |value: &str| auth.authenticate(&headers(value), &peer(1));
        assert_eq!(ask("Bearer token-two").unwrap().name(), "two");
        assert_eq!(ask("bearer  token-one ").unwrap().name(), "one");
        for odd in ["Bearer token-on", "Bearer token-onee", "Bearer ", "Basic token-one", "Bearer"]
        {
            assert_eq!(status(ask(odd)), 401, "{odd}");
        }
        assert_eq!(status(auth.authenticate(&HeaderMap::new(), &peer(1))), 401);
        let mut twice = headers("Bearer token-one");
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer token-one"));
        assert_eq!(status(auth.authenticate(&twice, &peer(1))), 401);
    }

    #[test]
    fn ten_wrong_tokens_shut_the_wrong_ones_of_an_address_out_for_the_minute() {
        let clock = Clock::manual(615);
        let by_name = Credential {
            secret: CredentialSecret::CommonName("ops".into()),
            ..credential("ops-laptop", "")
        };
        let auth = Authenticator::new(vec![credential("one", "right"), by_name], clock.clone());
        let ask = |value: &str, last: u8| auth.authenticate(&headers(value), &peer(last));
        let named = |name: &str| {
            let peer = Peer { common_name: Some(name.into()), tls: true, ..peer(1) };
            auth.authenticate(&HeaderMap::new(), &peer)
        };
        for _ in 0..10 {
            assert_eq!(status(ask("Bearer wrong", 1)), 401);
        }
        for wrong in ["Bearer wrong", "Bearer another", "Basic right", "Bearer "] {
            let refused = ask(wrong, 1).unwrap_err();
            assert_eq!(refused.status(), 429, "{wrong}");
            assert_eq!(refused.header.unwrap().1, "45");
        }
        assert_eq!(status(named("stranger")), 429);
        // Nobody who knows a secret is shut out by those who do not.
        assert_eq!(status(ask("Bearer right", 1)), 200);
        assert_eq!(status(named("ops")), 200);
        assert_eq!(status(ask("Bearer wrong", 1)), 429);
        assert_eq!(status(ask("Bearer wrong", 2)), 401);
        clock.advance(45);
        assert_eq!(status(ask("Bearer wrong", 1)), 401);
    }

    #[test]
    fn requests_without_a_credential_shut_nobody_out() {
        let auth = Authenticator::new(vec![credential("one", "right")], Clock::manual(600));
        for _ in 0..100 {
            assert_eq!(status(auth.authenticate(&HeaderMap::new(), &peer(1))), 401);
        }
        assert_eq!(status(auth.authenticate(&headers("Bearer right"), &peer(1))), 200);
    }

    #[test]
    fn a_principal_has_its_requests_of_a_minute() {
        let clock = Clock::manual(600);
        let auth = Authenticator::new(
            vec![credential("one", "right"), credential("two", "other")],
            clock.clone(),
        );
        for _ in 0..REQUESTS {
            assert_eq!(status(auth.authenticate(&headers("Bearer right"), &peer(1))), 200);
        }
        assert_eq!(status(auth.authenticate(&headers("Bearer right"), &peer(2))), 429);
        assert_eq!(status(auth.authenticate(&headers("Bearer other"), &peer(1))), 200);
        clock.advance(60);
        assert_eq!(status(auth.authenticate(&headers("Bearer right"), &peer(1))), 200);
    }

    #[test]
    fn a_client_certificate_counts_by_its_common_name_and_a_wrong_token_beats_it() {
        let by_name = Credential {
            secret: CredentialSecret::CommonName("ops".into()),
            ..credential("ops-laptop", "")
        };
        let auth = Authenticator::new(vec![by_name], Clock::manual(600));
        let named = |name: &str| Peer { common_name: Some(name.into()), tls: true, ..peer(1) };
        let principal = auth.authenticate(&HeaderMap::new(), &named("ops")).unwrap();
        assert_eq!(principal.name(), "ops-laptop");
        assert_eq!(status(auth.authenticate(&HeaderMap::new(), &named("Ops"))), 401);
        assert_eq!(status(auth.authenticate(&headers("Bearer x"), &named("ops"))), 401);
    }

    #[test]
    fn without_credentials_the_answer_says_what_to_configure() {
        let auth = Authenticator::new(Vec::new(), Clock::manual(600));
        let refused = auth.authenticate(&headers("Bearer x"), &peer(1)).unwrap_err();
        assert_eq!(refused.status(), 403);
        assert!(refused.message().contains("admin.credentials"));
    }

    #[test]
    fn no_debug_shows_a_secret() {
        let credential = credential("one", "right");
        let text = format!("{credential:?}");
        let digest = sha256(b"right").map(|byte| byte.to_string());
        assert!(text.contains("one") && !text.contains(&digest.join(", ")), "{text}");
    }
}
