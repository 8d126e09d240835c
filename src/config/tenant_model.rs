//! A tenant as its file describes it.

use boring::sha::Sha256;

use super::decode::Decoder;
use super::fault::{Located, Place};
use super::mqtt_model::MqttModel;
use super::node::{Kind, Node};
use super::token_model::{ALGORITHMS, KeyModel, lifespan, signing_keys};
use super::upstream_model::CertificateModel;
use super::values::FileRef;
use crate::names::{ServerPattern, TenantId};
use crate::tenant::{Bearers, ClientCertificateMode, ForeignBearers, TenantLimits};
use crate::token::{Algorithm, ResponseType};
use crate::trust::IdentityRule;
use crate::upstream::{Dialect, ForwardSettings, StrippedName};

pub struct TenantModel {
    pub at: Place,
    pub id: Located<TenantId>,
    /// Of the mapping, without the files that it names.
    pub digest: [u8; 32],
    pub server_names: Vec<Located<ServerPattern>>,
    pub certificates: Vec<CertificateModel>,
    pub client_certificate: ClientCertificateMode,
    /// `None`: what the registry holds alone.
    pub trusted: Option<Vec<TrustedModel>>,
    pub intermediates: Vec<FileRef>,
    pub crls: Vec<FileRef>,
    pub accept_stale_crl: bool,
    pub complete_chain_from_header: bool,
    pub send_ca_names: bool,
    pub upstream: Located<String>,
    pub forward: ForwardSettings,
    pub mqtt: MqttModel,
    pub tokens: Option<TokensModel>,
    pub bearers: Bearers,
    pub limits: TenantLimits,
}

/// A file of trust anchors.
pub struct TrustedModel {
    pub file: FileRef,
    pub auto_registration: bool,
    pub device_identity: IdentityRule,
    /// A device without SNI may come to this tenant by these anchors.
    pub names_tenant: bool,
}

pub struct TokensModel {
    pub at: Place,
    pub enabled: Option<bool>,
    /// Fetch the platform's own tokens instead of signing.
    pub relay: bool,
    /// Serve `POST /oauth/token` and its metadata.
    pub oauth: bool,
    pub oauth_issuer: Option<Located<String>>,
    pub issuer: Option<Located<String>>,
    pub audience: Option<Located<String>>,
    pub lifespan: Option<u32>,
    pub algorithm: Located<Algorithm>,
    pub bind_certificate: bool,
    pub response_type: ResponseType,
    pub signing_keys: Option<Vec<KeyModel>>,
}

impl TenantModel {
    /// `None` where a required key is missing or faulty.
    pub fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<TenantModel> {
        let mut fields = d.mapping(node)?;
        let mut hash = Sha256::new();
        node.digest(&mut hash);
        let id = fields.required(d, "id", "id: acme", |d, node| {
            let value = d.parsed(node, "such as `acme-1`", TenantId::parse)?;
            Some(Located { value, at: node.at })
        });
        let server_names =
            fields.required(d, "server_names", "server_names: [acme.example.com]", server_names);
        let certificates = fields.required(
            d,
            "certificate",
            "certificate: { chain: acme.pem, key: acme.key }",
            certificates,
        );
        let client_certificate =
            fields.or(d, "client_certificate", ClientCertificateMode::Required, |d, node| {
                use ClientCertificateMode as Mode;
                d.choice(
                    node,
                    &[
                        ("required", Mode::Required),
                        ("optional", Mode::Optional),
                        ("none", Mode::None),
                    ],
                )
            });
        let trusted = fields.or_if_absent(d, "trusted_certificates", None, |d, node| {
            d.list(node, trusted).map(Some)
        });
        let intermediates =
            fields.optional(d, "intermediates", |d, node| d.list(node, Decoder::file));
        let (crls, accept_stale_crl) = fields.or(d, "crls", (Vec::new(), false), crls);
        let complete_chain_from_header =
            fields.or(d, "complete_chain_from_header", false, Decoder::boolean);
        let send_ca_names = fields.or(d, "send_ca_names", false, Decoder::boolean);
        let upstream = fields.required(d, "upstream", "upstream: platform", |d, node| {
            d.text(node).map(|name| Located { value: name.to_owned(), at: node.at })
        });
        let forward = fields.or(d, "forward", default_forward(), forward);
        let mqtt = fields.or_if_absent(d, "mqtt", MqttModel::default(node.at), MqttModel::decode);
        let tokens = fields.optional(d, "tokens", tokens);
        let bearers = fields.or(d, "bearers", Bearers::default(), bearers);
        let limits = fields.or(d, "limits", default_limits(), limits);
        fields.finish(d);
        Some(TenantModel {
            at: node.at,
            id: id?,
            digest: hash.finish(),
            server_names: server_names?,
            certificates: certificates?,
            client_certificate,
            trusted: trusted?,
            intermediates: intermediates.unwrap_or_default(),
            crls,
            accept_stale_crl,
            complete_chain_from_header,
            send_ca_names,
            upstream: upstream?,
            forward,
            mqtt: mqtt?,
            tokens,
            bearers,
            limits,
        })
    }
}

fn server_names(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<Located<ServerPattern>>> {
    d.filled_list(node, "[acme.example.com]", |d, node| {
        let help = "such as `acme.example.com` or \"*.acme.example.com\"";
        let value = d.parsed(node, help, ServerPattern::parse_unicode)?;
        Some(Located { value, at: node.at })
    })
}

/// One, or a list of two: which kinds they are shows when their keys are read.
fn certificates(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<CertificateModel>> {
    match &node.kind {
        Kind::List(items) if items.is_empty() || items.len() > 2 => {
            d.fault(
                node.at,
                "a tenant has one or two certificates",
                "one ECDSA, one RSA, or one of them",
            );
            None
        }
        Kind::List(_) => d.list(node, CertificateModel::decode),
        _ => CertificateModel::decode(d, node).map(|certificate| vec![certificate]),
    }
}

fn trusted(d: &mut Decoder<'_>, node: &Node) -> Option<TrustedModel> {
    let mut fields = d.mapping(node)?;
    let file = fields.required(d, "file", "file: acme-root.pem", Decoder::file);
    let auto_registration = fields.or(d, "auto_registration", false, Decoder::boolean);
    let device_identity = fields.or(d, "device_identity", IdentityRule::default(), |d, node| {
        let help = "such as `cn`, or \"san_uri:spiffe://acme\\.example/device/([a-z0-9-]+)\"";
        d.parsed(node, help, IdentityRule::parse)
    });
    let names_tenant = fields.or(d, "names_tenant", false, Decoder::boolean);
    fields.finish(d);
    Some(TrustedModel { file: file?, auto_registration, device_identity, names_tenant })
}

fn crls(d: &mut Decoder<'_>, node: &Node) -> Option<(Vec<FileRef>, bool)> {
    let mut fields = d.mapping(node)?;
    let files =
        fields.required(d, "files", "files: [acme.crl]", |d, node| d.list(node, Decoder::file));
    let accept_stale = fields
        .or(d, "stale", false, |d, node| d.choice(node, &[("refuse", false), ("accept", true)]));
    fields.finish(d);
    Some((files?, accept_stale))
}

fn default_forward() -> ForwardSettings {
    ForwardSettings {
        dialect: Dialect::XSslCertChain,
        header_budget: 16 * 1024,
        extra_stripped: Vec::new(),
        trust_forwarded: false,
    }
}

fn forward(d: &mut Decoder<'_>, node: &Node) -> Option<ForwardSettings> {
    let mut fields = d.mapping(node)?;
    let default = default_forward();
    let forward = ForwardSettings {
        dialect: fields.or(d, "chain", default.dialect, |d, node| {
            d.choice(
                node,
                &[
                    ("x-ssl-cert-chain", Dialect::XSslCertChain),
                    ("client-cert", Dialect::Rfc9440),
                    ("x-forwarded-client-cert", Dialect::Xfcc),
                    ("aws-alb", Dialect::AwsAlb),
                    ("traefik", Dialect::Traefik),
                ],
            )
        }),
        header_budget: fields.or(d, "header_budget", default.header_budget, |d, node| {
            let size = d.size(node, 1_024..=256 * 1024)?;
            usize::try_from(size).ok()
        }),
        extra_stripped: fields
            .optional(d, "strip", |d, node| {
                d.list(node, |d, node| {
                    d.parsed(node, "such as `X-My-Identity`", StrippedName::parse)
                })
            })
            .unwrap_or_default(),
        trust_forwarded: fields.or(d, "trust_forwarded", false, Decoder::boolean),
    };
    fields.finish(d);
    Some(forward)
}

fn tokens(d: &mut Decoder<'_>, node: &Node) -> Option<TokensModel> {
    let mut fields = d.mapping(node)?;
    let algorithm = Located { value: Algorithm::Es256, at: node.at };
    let tokens = TokensModel {
        at: node.at,
        enabled: fields.optional(d, "enabled", Decoder::boolean),
        relay: fields.or(d, "source", false, |d, node| {
            d.choice(node, &[("edge", false), ("platform", true)])
        }),
        oauth: fields.or(d, "oauth", false, Decoder::boolean),
        oauth_issuer: fields.optional(d, "oauth_issuer", oauth_issuer),
        issuer: fields.optional(d, "issuer", claim),
        audience: fields.optional(d, "audience", claim),
        lifespan: fields.optional(d, "lifespan", lifespan),
        algorithm: fields.or(d, "algorithm", algorithm, |d, node| {
            d.choice(node, &ALGORITHMS).map(|value| Located { value, at: node.at })
        }),
        bind_certificate: fields.or(d, "bind_certificate", false, Decoder::boolean),
        response_type: fields.or(d, "response_type", ResponseType::Vendor, |d, node| {
            d.choice(node, &[("vendor", ResponseType::Vendor), ("json", ResponseType::Json)])
        }),
        signing_keys: fields.optional(d, "signing_keys", signing_keys),
    };
    fields.finish(d);
    Some(tokens)
}

fn bearers(d: &mut Decoder<'_>, node: &Node) -> Option<Bearers> {
    let mut fields = d.mapping(node)?;
    let bearers = Bearers {
        verify: fields.or(d, "verify", false, Decoder::boolean),
        foreign: fields.or(d, "foreign", ForeignBearers::Pass, |d, node| {
            let choices = [("pass", ForeignBearers::Pass), ("refuse", ForeignBearers::Refuse)];
            d.choice(node, &choices)
        }),
    };
    let at = fields.key("foreign").unwrap_or(node.at);
    fields.finish(d);
    if bearers.foreign == ForeignBearers::Refuse && !bearers.verify {
        let help = "write `verify: true` beside it";
        d.fault(at, "foreign bearers can be told only where bearers are verified", help);
        return None;
    }
    Some(bearers)
}

fn claim(d: &mut Decoder<'_>, node: &Node) -> Option<Located<String>> {
    let text = d.line(node, 256)?;
    if text.replace("{server_name}", "").contains(['{', '}']) {
        let help = "the only placeholder is `{server_name}`";
        d.fault(node.at, "unknown placeholder", help);
        return None;
    }
    Some(Located { value: text.to_owned(), at: node.at })
}

/// RFC 8414 §2: an https URL without query and fragment.
fn oauth_issuer(d: &mut Decoder<'_>, node: &Node) -> Option<Located<String>> {
    let issuer = claim(d, node)?;
    let plain = issuer.value.replace("{server_name}", "host");
    let url = plain.parse::<http::Uri>().ok().filter(|url| {
        url.scheme_str() == Some("https")
            && url.host().is_some_and(|host| !host.is_empty())
            && !plain.contains(['?', '#', '@'])
            && url.authority().is_some_and(|authority| plain.ends_with(authority.as_str()))
    });
    if url.is_none() {
        let help = "such as \"https://{server_name}:8443\", without a path";
        d.fault(node.at, "not an issuer of RFC 8414: an https URL", help);
        return None;
    }
    Some(issuer)
}

fn default_limits() -> TenantLimits {
    TenantLimits { connections: 8_192, body_bytes: 16 << 20 }
}

fn limits(d: &mut Decoder<'_>, node: &Node) -> Option<TenantLimits> {
    let mut fields = d.mapping(node)?;
    let default = default_limits();
    let limits = TenantLimits {
        connections: fields
            .or(d, "connections", default.connections, |d, node| d.count(node, 1..=10_000_000)),
        body_bytes: fields
            .or(d, "body_bytes", default.body_bytes, |d, node| d.size(node, 0..=1 << 40)),
    };
    fields.finish(d);
    Some(limits)
}
