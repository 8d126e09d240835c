//! The TLS handshake of a device: tenant by SNI, credentials, chain, session ticket.
//!
//! One context serves every listener and tenant. What differs by tenant is set on each
//! session in the ClientHello callback, which runs before resumption is decided:
//!
//! 1. ClientHello: SNI → tenant (without SNI the listener's default tenant, or, where the
//!    listener says so, none yet: step 4 finds it by the chain); session id context, certificates, verify mode of the tenant
//! 2. server name callback: the one place where `unrecognized_name` can be sent
//! 3. ticket callback: a ticket opens only under the tenant's session context
//! 4. certificate verification: the gate's verdict; a long chain is verified off the worker
//! 5. after a resumption, which skips 4: the verdict is asked again

#![expect(unsafe_code, reason = "BoringSSL settings that boring does not wrap")]

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use boring::error::ErrorStack;
use boring::ex_data::Index;
use boring::sha::sha256;
use boring::ssl::{
    AlpnError, ClientHello, ErrorCode, ExtensionType, SniError, Ssl, SslAlert, SslContext,
    SslContextBuilder, SslMethod, SslRef, SslSessionCacheMode, SslSignatureAlgorithm, SslStream,
    SslVerifyError, SslVerifyMode, SslVersion, TicketKeyCallbackResult, select_next_proto,
};
use boring_sys as ffi;
use foreign_types_shared::ForeignTypeRef;

use crate::gate::{ClientIdentity, Resolved};
use crate::metrics::Protocol;
use crate::names::ServerName;
use crate::refusal::{Refusal, Refused};
use crate::server_certificate::ServerCertificate;
use crate::tenant::{ClientCertificateMode, Tenant, TenantEntry};

use super::peer_chain::PeerChain;
use super::sni::server_name;
use super::transport::Transport;
use super::verdict::{resolved, verdict_of};
use super::{Edge, Generation, Listener};

/// TLS 1.2 suites; 1.3 has its own. ECDHE and AEAD only (RFC 7525bis §4.2).
const CIPHERS_12: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
                          ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
                          ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384";
/// With what a device may sign its handshake: each kind of key that the trust profile admits.
/// BoringSSL's default has neither P-521 nor Ed25519, and has SHA-1.
const DEVICE_SIGNATURES: &[SslSignatureAlgorithm] = &[
    SslSignatureAlgorithm::ECDSA_SECP256R1_SHA256,
    SslSignatureAlgorithm::ED25519,
    SslSignatureAlgorithm::RSA_PSS_RSAE_SHA256,
    SslSignatureAlgorithm::RSA_PKCS1_SHA256,
    SslSignatureAlgorithm::ECDSA_SECP384R1_SHA384,
    SslSignatureAlgorithm::RSA_PSS_RSAE_SHA384,
    SslSignatureAlgorithm::RSA_PKCS1_SHA384,
    SslSignatureAlgorithm::ECDSA_SECP521R1_SHA512,
    SslSignatureAlgorithm::RSA_PSS_RSAE_SHA512,
    SslSignatureAlgorithm::RSA_PKCS1_SHA512,
];
const HTTPS_ALPN: &[u8] = b"\x02h2\x08http/1.1";
/// The registered name (IANA, from MQTT 5.0).
const MQTT_ALPN: &[u8] = b"\x04mqtt";
const ALERT_CERTIFICATE_UNKNOWN: u8 = 46;
/// The chain travels in the ticket and the ticket in the next ClientHello, of which BoringSSL
/// takes 16 KiB: a device with a longer chain gets no ticket, or it could not come back.
const TICKET_CHAIN_BYTES: usize = 8 * 1024;
/// Sessions of clients whose certificate names the tenant: their tickets open for each other
/// only, and the chain in the ticket is resolved again.
const BY_CERTIFICATE: &[u8; 32] = b"portcullis tenant by certificate";
/// BoringSSL's word for an extension that it cannot parse.
const ERROR_PARSING_EXTENSION: &str = "ERROR_PARSING_EXTENSION";

/// Makes TLS sessions for devices.
pub struct TlsServer {
    context: SslContext,
    slot: Slot,
}

/// Where a session keeps its handshake; empty once that has ended.
type Slot = Index<Ssl, Option<Box<Handshake>>>;

/// A handshake under way.
struct Handshake {
    edge: Arc<Edge>,
    generation: Arc<Generation>,
    listener: Arc<Listener>,
    server_name: Option<ServerName>,
    tenant: Option<Arc<Tenant>>,
    /// No SNI, no default tenant: the client certificate names the tenant.
    by_certificate: bool,
    session_context: [u8; 32],
    /// Of a chain that was judged off the worker, or at last.
    verdict: Option<Result<Resolved, Refused>>,
    refused: Option<Refused>,
}

/// A handshake that has ended well.
pub struct Accepted {
    pub stream: SslStream<Transport>,
    pub generation: Arc<Generation>,
    pub server_name: Option<ServerName>,
    pub tenant: Arc<Tenant>,
    pub identity: ClientIdentity,
    pub chain: PeerChain,
    pub resumed: bool,
}

impl Accepted {
    /// Ends the session with the refusal's alert.
    pub fn alert(&self, refusal: Refusal) {
        alert(&self.stream, refusal);
    }
}

fn alert(stream: &SslStream<Transport>, refusal: Refusal) {
    // SAFETY: the session is alive and its handshake is complete.
    unsafe { ffi::SSL_send_fatal_alert(stream.ssl().as_ptr(), refusal.tls_alert()) };
}

/// A handshake that has ended badly: the reason, and the stream to close once the alert in
/// it is sent.
pub struct Rejected {
    pub refused: Refused,
    pub tenant: Option<Arc<Tenant>>,
    /// SHA-256 of the end-entity certificate, where one came.
    pub leaf: Option<[u8; 32]>,
    pub stream: Option<SslStream<Transport>>,
}

impl TlsServer {
    /// # Errors
    /// Only where BoringSSL is out of memory.
    pub fn new() -> Result<TlsServer, ErrorStack> {
        let slot: Slot = Ssl::new_ex_index()?;
        // SAFETY: this method keeps certificates as buffers, never as X509 objects; no
        // function that needs those is called on this context or its sessions. The ticket
        // callback, which boring admits only on a context marked as X509, does not.
        let method = unsafe {
            let mut method = SslMethod::tls_with_buffer();
            method.assume_x509();
            method
        };
        let mut context = SslContextBuilder::new(method)?;
        context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        context.set_max_proto_version(Some(SslVersion::TLS1_3))?;
        context.set_cipher_list(CIPHERS_12)?;
        context.set_curves_list(GROUPS)?;
        context.set_verify_algorithm_prefs(DEVICE_SIGNATURES)?;
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        // SAFETY: the context is alive. One ticket a handshake: a device resumes one
        // connection at a time, and each resumption brings the next ticket. The pool lets
        // the intermediates of a fleet be held once; the context takes a reference of its own.
        unsafe {
            ffi::SSL_CTX_set_num_tickets(context.as_ptr(), 1);
            let pool = ffi::CRYPTO_BUFFER_POOL_new();
            ffi::SSL_CTX_set1_buffer_pool(context.as_ptr(), pool);
            ffi::CRYPTO_BUFFER_POOL_free(pool);
        }
        context.set_select_certificate_callback(move |hello| {
            choose_tenant(hello, slot);
            Ok(())
        });
        context.set_servername_callback(move |ssl, alert| name_verdict(ssl, alert, slot));
        // Whoever offers none speaks the listener's; whoever offers others is at the wrong door,
        // perhaps led there (RFC 7301 §3.2).
        context.set_alpn_select_callback(move |ssl, offered| {
            let handshake = ssl.ex_data(slot).and_then(Option::as_ref);
            let ours = match handshake.map(|handshake| handshake.listener.protocol) {
                Some(Protocol::Mqtts) => MQTT_ALPN,
                Some(Protocol::Https) | None => HTTPS_ALPN,
            };
            select_next_proto(ours, offered).ok_or(AlpnError::ALERT_FATAL)
        });
        // SAFETY: `TicketKeys` sets the name, the cipher and the MAC of every ticket it
        // answers `Success` for.
        unsafe {
            context.set_ticket_key_callback(move |ssl, name, iv, cipher, mac, sealing| {
                let Some(handshake) = ssl.ex_data(slot).and_then(Option::as_ref) else {
                    return TicketKeyCallbackResult::Noop;
                };
                let tickets = &handshake.edge.tickets;
                if sealing {
                    if PeerChain::of(ssl).bytes() > TICKET_CHAIN_BYTES {
                        return TicketKeyCallbackResult::Noop;
                    }
                    tickets.seal(&handshake.session_context, name, iv, cipher, mac)
                } else {
                    tickets.open(&handshake.session_context, name, iv, cipher, mac)
                }
            });
        }
        Ok(TlsServer { context: context.build(), slot })
    }

    /// Makes the handshake. The caller sets the deadline.
    pub async fn accept(
        &self,
        edge: &Arc<Edge>,
        listener: &Arc<Listener>,
        transport: Transport,
    ) -> Result<Accepted, Box<Rejected>> {
        let failed = |stream: Option<SslStream<Transport>>, tenant, refused| {
            let chain = stream.as_ref().map(|stream| PeerChain::of(stream.ssl()));
            let leaf = chain.and_then(|chain| chain.leaf().map(sha256));
            Box::new(Rejected { refused, tenant, leaf, stream })
        };
        let memory = |_| Refused::new(Refusal::Overloaded, "no memory for a TLS session");
        let mut ssl = Ssl::new(&self.context).map_err(|e| failed(None, None, memory(e)))?;
        // SAFETY: the session is alive.
        unsafe { ffi::SSL_set_accept_state(ssl.as_ptr()) };
        // SAFETY: the session is alive. What the handshake alone needs is freed at its end.
        unsafe { ffi::SSL_set_shed_handshake_config(ssl.as_ptr(), 1) };
        ssl.set_ex_data(
            self.slot,
            Some(Box::new(Handshake {
                edge: edge.clone(),
                generation: edge.generation(),
                listener: listener.clone(),
                server_name: None,
                tenant: None,
                by_certificate: false,
                session_context: [0; 32],
                verdict: None,
                refused: None,
            })),
        );
        let mut stream =
            SslStream::new(ssl, transport).map_err(|e| failed(None, None, memory(e)))?;
        let ended = self.handshake(edge, &mut stream).await;
        let Some(handshake) = stream.ssl_mut().ex_data_mut(self.slot).and_then(Option::take) else {
            let refused = Refused::new(Refusal::ProtocolError, "the handshake left no state");
            return Err(failed(Some(stream), None, refused));
        };
        let Handshake { generation, tenant, by_certificate, server_name, verdict, refused, .. } =
            *handshake;
        if let Err(error) = ended {
            let refused = refused.unwrap_or_else(|| match &tenant {
                None => before_tenant(error),
                Some(_) => error,
            });
            return Err(failed(Some(stream), tenant, refused));
        }
        let chain = PeerChain::of(stream.ssl());
        let resumed = stream.ssl().session_reused();
        let (tenant, verdict) = match (verdict, tenant) {
            (Some(Ok((tenant, verdict))), _) => (tenant, Some(verdict)),
            (Some(Err(refused)), tenant) => {
                alert(&stream, refused.refusal);
                return Err(failed(Some(stream), tenant, refused));
            }
            // A resumption runs no verification: the chain comes out of the ticket.
            (None, Some(tenant)) if !chain.is_empty() => {
                let verdict = verdict_of(edge, &tenant, &chain).await;
                (tenant, Some(verdict))
            }
            (None, None) if by_certificate => match resolved(edge, &generation, &chain).await {
                Ok((tenant, verdict)) => (tenant, Some(verdict)),
                Err(refused) => {
                    alert(&stream, refused.refusal);
                    return Err(failed(Some(stream), None, refused));
                }
            },
            (None, Some(tenant)) => (tenant, None),
            (None, None) => {
                let refused =
                    Refused::new(Refusal::ServerNameUnknown, "the handshake chose no tenant");
                return Err(failed(Some(stream), None, refused));
            }
        };
        let identity = match verdict {
            None if !listener.client_certificates => Ok(ClientIdentity::Anonymous),
            verdict => edge.gate.identify(&tenant, verdict),
        };
        match identity {
            Ok(identity) => {
                Ok(Accepted { stream, generation, server_name, tenant, identity, chain, resumed })
            }
            Err(refused) => {
                alert(&stream, refused.refusal);
                Err(failed(Some(stream), Some(tenant), refused))
            }
        }
    }

    async fn handshake(
        &self,
        edge: &Arc<Edge>,
        stream: &mut SslStream<Transport>,
    ) -> Result<(), Refused> {
        loop {
            match std::future::poll_fn(|cx| poll_handshake(stream, cx)).await? {
                Step::Done => return Ok(()),
                Step::Verify => {
                    let handshake = stream.ssl().ex_data(self.slot).and_then(Option::as_ref);
                    let Some(handshake) = handshake else {
                        return Err(Refused::new(
                            Refusal::ProtocolError,
                            "verification without a handshake",
                        ));
                    };
                    let (tenant, generation) =
                        (handshake.tenant.clone(), handshake.generation.clone());
                    let chain = PeerChain::of(stream.ssl());
                    let verdict = match tenant {
                        Some(tenant) => {
                            let verdict = verdict_of(edge, &tenant, &chain).await;
                            Ok((tenant, verdict))
                        }
                        None => resolved(edge, &generation, &chain).await,
                    };
                    if let Some(handshake) =
                        stream.ssl_mut().ex_data_mut(self.slot).and_then(Option::as_mut)
                    {
                        handshake.verdict = Some(verdict);
                    }
                }
            }
        }
    }
}

enum Step {
    Done,
    Verify,
}

fn poll_handshake(
    stream: &mut SslStream<Transport>,
    cx: &mut Context<'_>,
) -> Poll<Result<Step, Refused>> {
    stream.get_mut().poll_for(cx);
    let result = stream.do_handshake();
    // Whatever the outcome: what BoringSSL wrote (a flight, an alert) leaves before waiting.
    // After a success the tickets may ride with the first answer.
    match result {
        Ok(()) => Poll::Ready(Ok(Step::Done)),
        Err(error) => match error.code() {
            ErrorCode::WANT_CERTIFICATE_VERIFY => Poll::Ready(Ok(Step::Verify)),
            ErrorCode::WANT_READ => {
                let mut sent = 0;
                match stream.get_mut().poll_send(cx, &mut sent) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(broken(&error))),
                    // Sent or not: the read that BoringSSL wants has registered the task.
                    _ => Poll::Pending,
                }
            }
            _ => Poll::Ready(Err(handshake_fault(&error))),
        },
    }
}

fn broken(error: &io::Error) -> Refused {
    Refused::new(Refusal::ProtocolError, format!("the connection broke: {}", error.kind()))
}

/// The reason of a failed handshake, in BoringSSL's fixed words (no bytes of the peer's).
fn handshake_fault(error: &boring::ssl::Error) -> Refused {
    if let Some(error) = error.io_error() {
        return broken(error);
    }
    let reason = error.ssl_error().and_then(|stack| stack.errors().first()?.reason());
    match reason {
        Some("PEER_DID_NOT_RETURN_A_CERTIFICATE") => {
            Refused::new(Refusal::CertificateMissing, "the tenant requires a client certificate")
        }
        // BoringSSL reads the end-entity's key before anyone can verify the chain. The alert is
        // its own, decode_error.
        Some("KEY_USAGE_BIT_INCORRECT") => Refused::new(
            Refusal::CertificateUnsupported,
            "the end-entity certificate's key usage lacks digitalSignature",
        ),
        Some("UNSUPPORTED_ALGORITHM") => Refused::new(
            Refusal::CertificateUnsupported,
            "the end-entity certificate's key type is not on the list",
        ),
        Some(reason) => Refused::new(Refusal::ProtocolError, format!("TLS handshake: {reason}")),
        None => Refused::new(Refusal::ProtocolError, "the peer closed during the TLS handshake"),
    }
}

/// A fault from before callback 1. The one extension that BoringSSL parses that early is SNI:
/// it refuses one that is no list of one name, or whose name is empty, too long or holds NUL.
fn before_tenant(error: Refused) -> Refused {
    if error.reason.ends_with(ERROR_PARSING_EXTENSION) {
        return Refused::new(Refusal::ServerNameUnknown, "the SNI extension is malformed");
    }
    error
}

/// Callback 1. Never fails: a refusal is kept for callback 2, which can name it.
fn choose_tenant(mut hello: ClientHello<'_>, slot: Slot) {
    let server_name = server_name(hello.get_extension(ExtensionType::SERVER_NAME));
    let ssl = hello.ssl_mut();
    let Some(handshake) = ssl.ex_data_mut(slot).and_then(Option::as_mut) else { return };
    let asks = handshake.listener.client_certificates;
    let set_up = match find_tenant(handshake, server_name) {
        Ok(Some(tenant)) => {
            handshake.session_context = tenant.session_context();
            handshake.tenant = Some(tenant.clone());
            let mode = if asks { tenant.client_certificate } else { ClientCertificateMode::None };
            let context = handshake.session_context;
            set_up(ssl, &tenant.certificates, mode, context, asks, slot).inspect(|()| {
                if tenant.send_ca_names && mode != ClientCertificateMode::None {
                    send_ca_names(ssl, &tenant);
                }
            })
        }
        Ok(None) => {
            handshake.by_certificate = true;
            handshake.session_context = *BY_CERTIFICATE;
            let certificate = handshake.listener.tenant_by_certificate.clone();
            let mode = ClientCertificateMode::Required;
            set_up(ssl, certificate.as_slice(), mode, *BY_CERTIFICATE, asks, slot)
        }
        Err(refused) => {
            handshake.refused = Some(refused);
            return;
        }
    };
    if set_up.is_err()
        && let Some(handshake) = ssl.ex_data_mut(slot).and_then(Option::as_mut)
    {
        handshake.refused = Some(Refused::new(Refusal::Overloaded, "no memory for a TLS session"));
    }
}

/// The tenant that the ClientHello names; `None`: the client certificate is to name it.
fn find_tenant(
    handshake: &mut Handshake,
    server_name: Result<Option<ServerName>, &'static str>,
) -> Result<Option<Arc<Tenant>>, Refused> {
    let refuse = |reason: &'static str| Refused::new(Refusal::ServerNameUnknown, reason);
    let directory = &handshake.generation.directory;
    let name = server_name.map_err(refuse)?;
    let entry = match (&name, &handshake.listener.default_tenant) {
        (Some(name), _) => {
            directory.find(name).ok_or_else(|| refuse("no tenant has this server name"))?
        }
        (None, Some(id)) => {
            directory.by_id(id).ok_or_else(|| refuse("the default tenant is gone"))?
        }
        (None, None) if handshake.listener.tenant_by_certificate.is_some() => return Ok(None),
        (None, None) => return Err(refuse("no SNI, and the listener has no default tenant")),
    };
    let tenant = match entry {
        TenantEntry::Serviceable(tenant) => tenant.clone(),
        TenantEntry::Unavailable(_) => {
            return Err(Refused::new(
                Refusal::TenantUnavailable,
                "the tenant's configuration has faults; `portcullis check` lists them",
            ));
        }
    };
    handshake.server_name = name;
    Ok(Some(tenant))
}

/// Puts what differs by tenant on the session. `asks_for_certificate`: whether the listener
/// does.
fn set_up(
    ssl: &mut SslRef,
    certificates: &[Arc<ServerCertificate>],
    mode: ClientCertificateMode,
    session_context: [u8; 32],
    asks_for_certificate: bool,
    slot: Slot,
) -> Result<(), ErrorStack> {
    for certificate in certificates {
        ssl.add_credential(certificate.credential())?;
    }
    let mode_flags = match mode {
        ClientCertificateMode::Required => {
            SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT
        }
        ClientCertificateMode::Optional => SslVerifyMode::PEER,
        ClientCertificateMode::None => SslVerifyMode::NONE,
    };
    // `set_verify` would do for the mode, but it is for contexts that keep X509 objects.
    ssl.set_custom_verify_callback(mode_flags, move |ssl| chain_verdict(ssl, slot));
    // A listener that asks for no certificate must not share sessions with one that does.
    let mut bound = session_context;
    bound[0] ^= u8::from(!asks_for_certificate);
    // SAFETY: the session is alive; the context is copied.
    let done =
        unsafe { ffi::SSL_set_session_id_context(ssl.as_ptr(), bound.as_ptr(), bound.len()) };
    if done != 1 {
        return Err(ErrorStack::get());
    }
    Ok(())
}

/// Lists the anchors' subjects in CertificateRequest (RFC 8446 §4.2.4).
fn send_ca_names(ssl: &mut SslRef, tenant: &Tenant) {
    // SAFETY: every buffer's reference goes to the stack, and the stack to the session.
    unsafe {
        let stack = ffi::OPENSSL_sk_new_null();
        for anchor in tenant.trust.anchors() {
            let subject = &anchor.subject_der;
            let buffer =
                ffi::CRYPTO_BUFFER_new(subject.as_ptr(), subject.len(), std::ptr::null_mut());
            ffi::OPENSSL_sk_push(stack, buffer.cast());
        }
        ffi::SSL_set0_client_CAs(ssl.as_ptr(), stack.cast());
    }
}

/// Callback 2: says the refusal of callback 1 with the right alert.
fn name_verdict(ssl: &mut SslRef, alert: &mut SslAlert, slot: Slot) -> Result<(), SniError> {
    let handshake = ssl.ex_data(slot).and_then(Option::as_deref);
    let refusal = match handshake {
        Some(Handshake { refused: None, tenant: Some(_), .. })
        | Some(Handshake { refused: None, by_certificate: true, .. }) => return Ok(()),
        Some(Handshake { refused: Some(refused), .. }) => refused.refusal,
        _ => Refusal::ServerNameUnknown,
    };
    *alert = to_alert(refusal.tls_alert());
    Err(SniError::ALERT_FATAL)
}

/// Callback 4.
fn chain_verdict(ssl: &mut SslRef, slot: Slot) -> Result<(), SslVerifyError> {
    let chain = PeerChain::of(ssl);
    let Some(handshake) = ssl.ex_data_mut(slot).and_then(Option::as_mut) else {
        return Err(SslVerifyError::Invalid(to_alert(ALERT_CERTIFICATE_UNKNOWN)));
    };
    let gate = &handshake.edge.gate;
    let resolved = match (handshake.verdict.take(), &handshake.tenant) {
        (Some(resolved), _) => Some(resolved),
        (None, Some(tenant)) => gate
            .quick_verdict(tenant, &chain.ders(), &[])
            .map(|verdict| Ok((tenant.clone(), verdict))),
        (None, None) => gate.quick_resolve(&handshake.generation.directory, &chain.ders()),
    };
    let Some(resolved) = resolved else { return Err(SslVerifyError::Retry) };
    let judged = match &resolved {
        Ok((tenant, verdict)) => gate.identify(tenant, Some(verdict.clone())).map(drop),
        Err(refused) => Err(refused.clone()),
    };
    if let Ok((tenant, _)) = &resolved {
        handshake.tenant = Some(tenant.clone());
    }
    handshake.verdict = Some(resolved);
    judged.map_err(|refused| {
        let alert = to_alert(refused.refusal.tls_alert());
        handshake.refused = Some(refused);
        SslVerifyError::Invalid(alert)
    })
}

/// boring names alerts and takes no numbers; these are all that [`Refusal::tls_alert`] gives.
fn to_alert(alert: u8) -> SslAlert {
    match alert {
        42 => SslAlert::BAD_CERTIFICATE,
        43 => SslAlert::UNSUPPORTED_CERTIFICATE,
        44 => SslAlert::CERTIFICATE_REVOKED,
        45 => SslAlert::CERTIFICATE_EXPIRED,
        46 => SslAlert::CERTIFICATE_UNKNOWN,
        47 => SslAlert::ILLEGAL_PARAMETER,
        48 => SslAlert::UNKNOWN_CA,
        49 => SslAlert::ACCESS_DENIED,
        112 => SslAlert::UNRECOGNIZED_NAME,
        116 => SslAlert::CERTIFICATE_REQUIRED,
        _ => SslAlert::INTERNAL_ERROR,
    }
}
