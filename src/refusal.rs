//! Every "no" of the edge, and what each protocol says for it. This is the one home of
//! that table: RFC 8446 §6.2 and RFC 5246 §7.2.2 (alerts), RFC 9110 (status codes),
//! MQTT 5.0 §2.4 and MQTT 3.1.1 §3.2.2.3 (reason and return codes).

use std::borrow::Cow;
use std::fmt;

/// Why a device or a request is refused. Closed: it is a metric label and a log field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The tenant requires a client certificate and none was sent.
    CertificateMissing,
    /// A certificate of the chain has expired or is not yet valid.
    CertificateExpired,
    /// A certificate of the chain is on a CRL.
    CertificateRevoked,
    /// No current CRL covers a certificate of the chain.
    RevocationUnknown,
    /// No path leads from the end-entity certificate to an anchor of this tenant.
    IssuerUnknown,
    /// The same over HTTP, where the tenant lets a request complete the chain and this one
    /// does not.
    ChainIncomplete,
    /// A certificate does not parse, or a signature does not verify.
    CertificateMalformed,
    /// A certificate breaks the profile: version, key, extension, constraint or identity.
    CertificateUnsupported,
    /// The SNI names no tenant, is malformed, or is absent without a default tenant.
    ServerNameUnknown,
    /// No SNI, and the client certificate could belong to several tenants.
    TenantAmbiguous,
    /// The authority of a request belongs to another tenant, or to none.
    Misdirected,
    /// The device is not registered and its anchor does not register devices by itself.
    DeviceUnknown,
    /// The device is registered and blocked.
    DeviceBlocked,
    /// A bearer token that does not hold, or that the tenant does not take.
    TokenRefused,
    /// The tenant's trust store could not be loaded.
    TenantUnavailable,
    /// Too many attempts.
    RateLimited,
    /// A cap is reached: connections, handshakes in flight.
    Overloaded,
    /// The device registry does not answer.
    RegistryUnavailable,
    /// The platform, asked for a device's token, does not give one.
    PlatformRefused,
    /// No server of the upstream pool answers.
    UpstreamUnavailable,
    /// A server of the upstream pool did not answer in time.
    UpstreamTimeout,
    /// The peer broke the protocol: TLS, PROXY protocol or HTTP framing.
    ProtocolError,
    /// A deadline passed before the peer had sent what it owed.
    Timeout,
    /// The request is larger than the tenant allows.
    TooLarge,
}

impl Refusal {
    /// Every refusal, so that metrics exist before the first one happens.
    pub const ALL: [Refusal; 24] = [
        Refusal::CertificateMissing,
        Refusal::CertificateExpired,
        Refusal::CertificateRevoked,
        Refusal::RevocationUnknown,
        Refusal::IssuerUnknown,
        Refusal::ChainIncomplete,
        Refusal::CertificateMalformed,
        Refusal::CertificateUnsupported,
        Refusal::ServerNameUnknown,
        Refusal::TenantAmbiguous,
        Refusal::Misdirected,
        Refusal::DeviceUnknown,
        Refusal::DeviceBlocked,
        Refusal::TokenRefused,
        Refusal::TenantUnavailable,
        Refusal::RateLimited,
        Refusal::Overloaded,
        Refusal::RegistryUnavailable,
        Refusal::PlatformRefused,
        Refusal::UpstreamUnavailable,
        Refusal::UpstreamTimeout,
        Refusal::ProtocolError,
        Refusal::Timeout,
        Refusal::TooLarge,
    ];

    /// Metric label and log field.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::CertificateMissing => "certificate_missing",
            Refusal::CertificateExpired => "certificate_expired",
            Refusal::CertificateRevoked => "certificate_revoked",
            Refusal::RevocationUnknown => "revocation_unknown",
            Refusal::IssuerUnknown => "issuer_unknown",
            Refusal::ChainIncomplete => "chain_incomplete",
            Refusal::CertificateMalformed => "certificate_malformed",
            Refusal::CertificateUnsupported => "certificate_unsupported",
            Refusal::ServerNameUnknown => "server_name_unknown",
            Refusal::TenantAmbiguous => "tenant_ambiguous",
            Refusal::Misdirected => "misdirected",
            Refusal::DeviceUnknown => "device_unknown",
            Refusal::DeviceBlocked => "device_blocked",
            Refusal::TokenRefused => "token_refused",
            Refusal::TenantUnavailable => "tenant_unavailable",
            Refusal::RateLimited => "rate_limited",
            Refusal::Overloaded => "overloaded",
            Refusal::RegistryUnavailable => "registry_unavailable",
            Refusal::PlatformRefused => "platform_refused",
            Refusal::UpstreamUnavailable => "upstream_unavailable",
            Refusal::UpstreamTimeout => "upstream_timeout",
            Refusal::ProtocolError => "protocol_error",
            Refusal::Timeout => "timeout",
            Refusal::TooLarge => "too_large",
        }
    }

    /// The TLS alert that ends a handshake (RFC 8446 §6.2).
    pub fn tls_alert(self) -> u8 {
        match self {
            Refusal::CertificateMissing => 116,
            Refusal::CertificateExpired => 45,
            Refusal::CertificateRevoked => 44,
            // certificate_unknown: "some other (unspecified) issue … rendering it unacceptable"
            Refusal::RevocationUnknown => 46,
            Refusal::IssuerUnknown | Refusal::ChainIncomplete => 48,
            Refusal::CertificateMalformed => 42,
            Refusal::CertificateUnsupported => 43,
            // The device can help itself by sending SNI.
            Refusal::ServerNameUnknown | Refusal::TenantAmbiguous => 112,
            Refusal::DeviceUnknown | Refusal::DeviceBlocked => 49,
            Refusal::ProtocolError => 47,
            _ => 80,
        }
    }

    /// Status of an HTTP answer (RFC 9110 §15), as the platform's token API uses them.
    pub fn http_status(self) -> u16 {
        match self {
            Refusal::CertificateMissing
            | Refusal::CertificateExpired
            | Refusal::CertificateRevoked
            | Refusal::RevocationUnknown
            | Refusal::ChainIncomplete
            | Refusal::TokenRefused => 401,
            Refusal::IssuerUnknown => 422,
            Refusal::CertificateMalformed
            | Refusal::CertificateUnsupported
            | Refusal::ProtocolError => 400,
            Refusal::ServerNameUnknown | Refusal::TenantAmbiguous | Refusal::Misdirected => 421,
            Refusal::DeviceUnknown | Refusal::DeviceBlocked | Refusal::PlatformRefused => 403,
            Refusal::RateLimited => 429,
            Refusal::TenantUnavailable | Refusal::Overloaded | Refusal::RegistryUnavailable => 503,
            Refusal::UpstreamUnavailable => 502,
            Refusal::UpstreamTimeout => 504,
            Refusal::Timeout => 408,
            Refusal::TooLarge => 413,
        }
    }

    /// Reason code of an MQTT 5.0 CONNACK or DISCONNECT (§2.4).
    pub fn mqtt_reason(self) -> u8 {
        match self {
            Refusal::ProtocolError => 0x82,
            Refusal::ServerNameUnknown | Refusal::TenantAmbiguous | Refusal::Misdirected => 0x85,
            Refusal::TenantUnavailable
            | Refusal::RegistryUnavailable
            | Refusal::UpstreamUnavailable
            | Refusal::UpstreamTimeout => 0x88,
            Refusal::Overloaded => 0x89,
            Refusal::Timeout => 0x8d,
            Refusal::TooLarge => 0x95,
            Refusal::RateLimited => 0x9f,
            Refusal::CertificateMissing
            | Refusal::CertificateExpired
            | Refusal::CertificateRevoked
            | Refusal::RevocationUnknown
            | Refusal::IssuerUnknown
            | Refusal::ChainIncomplete
            | Refusal::CertificateMalformed
            | Refusal::CertificateUnsupported
            | Refusal::DeviceUnknown
            | Refusal::DeviceBlocked
            | Refusal::TokenRefused
            | Refusal::PlatformRefused => 0x87,
        }
    }

    /// Return code of an MQTT 3.1 or 3.1.1 CONNACK (§3.2.2.3). Never 4, which means a password.
    pub fn mqtt_return(self) -> u8 {
        match self.mqtt_reason() {
            // Server unavailable; there is no code for busy.
            0x88 | 0x89 | 0x9f => 3,
            _ => 5,
        }
    }

    /// What the peer may read. It never says anything about another device or tenant.
    pub fn public_message(self) -> &'static str {
        match self {
            Refusal::CertificateMissing => "A client certificate is required.",
            Refusal::CertificateExpired => {
                "The client certificate or one of its issuers is not valid now."
            }
            Refusal::CertificateRevoked => {
                "The client certificate or one of its issuers is revoked."
            }
            Refusal::RevocationUnknown => {
                "The revocation status of the client certificate is not known."
            }
            Refusal::IssuerUnknown => {
                "The certificate chain does not lead to a trusted certificate of this tenant."
            }
            Refusal::ChainIncomplete => {
                "The certificate chain is incomplete: send the intermediate certificates."
            }
            Refusal::CertificateMalformed => {
                "The certificate chain cannot be parsed or a signature is wrong."
            }
            Refusal::CertificateUnsupported => {
                "The client certificate does not meet the requirements of this platform."
            }
            Refusal::ServerNameUnknown => "This server name is not served here.",
            Refusal::TenantAmbiguous => "The client must send a server name (SNI).",
            Refusal::Misdirected => "This connection does not serve the requested host.",
            Refusal::DeviceUnknown => "The device is not registered for certificates.",
            Refusal::DeviceBlocked => "The device is blocked.",
            Refusal::TokenRefused => "The access token is not valid.",
            Refusal::TenantUnavailable => "This tenant cannot be served now.",
            Refusal::RateLimited => "Too many requests.",
            Refusal::Overloaded => "The server is at its limit.",
            Refusal::RegistryUnavailable => "The device registry is not available.",
            Refusal::PlatformRefused => "The platform issues no token for this device.",
            Refusal::UpstreamUnavailable => "The platform gave no usable answer.",
            Refusal::UpstreamTimeout => "The platform did not answer in time.",
            Refusal::ProtocolError => "The request is malformed.",
            Refusal::Timeout => "The request took too long.",
            Refusal::TooLarge => "The request is too large.",
        }
    }

    /// The same in an MQTT 5.0 reason string, where there are no requests and no hosts.
    pub fn mqtt_message(self) -> &'static str {
        match self {
            Refusal::Misdirected => "This client identifier is not served on this connection.",
            Refusal::ProtocolError => "The packet breaks the rules of the protocol or this server.",
            Refusal::Timeout => "A packet took too long.",
            Refusal::TooLarge => "The packet is too large.",
            other => other.public_message(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A refusal with the operator's reason. The reason goes to the log and nowhere else; it
/// holds only text of ours and numbers, never bytes from the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{refusal}: {reason}")]
pub struct Refused {
    pub refusal: Refusal,
    pub reason: Cow<'static, str>,
}

impl Refused {
    pub fn new(refusal: Refusal, reason: impl Into<Cow<'static, str>>) -> Refused {
        Refused { refusal, reason: reason.into() }
    }
}
