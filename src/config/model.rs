//! The edge as its file describes it: decoded, each value in bounds, nothing opened yet.
//!
//! A field's default stands here and nowhere else; `conf/portcullis.yaml` explains each.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::Duration;

use super::admin_model::AdminModel;
use super::decode::Decoder;
use super::fault::Located;
use super::node::Node;
use super::registry_model::RegistryModel;
use super::tenant_model::TenantModel;
use super::token_model::{KeyModel, RotationModel, lifespan, rotation, signing_keys};
use super::upstream_model::{CertificateModel, UpstreamModel};
use super::values::{FileRef, is_auto, is_label};
use crate::ip_range::IpRange;
use crate::limits::Limits;
use crate::metrics::Protocol;
use crate::names::TenantId;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

pub struct EdgeModel {
    pub workers: usize,
    pub listeners: Vec<ListenerModel>,
    pub admin: AdminModel,
    pub registry: RegistryModel,
    pub tickets: TicketsModel,
    pub limits: LimitsModel,
    pub log: LogSettings,
    pub drain_timeout: Duration,
    pub tokens: Option<EdgeTokens>,
    pub upstreams: Vec<UpstreamModel>,
    /// Every name under `upstreams`, those of faulty ones included.
    pub upstream_names: Vec<String>,
    /// `None`: one that is faulty.
    pub tenants: Vec<Option<TenantModel>>,
    pub include: Option<Located<String>>,
}

pub struct ListenerModel {
    pub protocol: Protocol,
    pub bind: Located<SocketAddr>,
    pub default_tenant: Option<Located<TenantId>>,
    /// What clients without SNI are shown before their certificate names their tenant.
    pub tenant_by_certificate: Option<CertificateModel>,
    /// Empty: off.
    pub proxy_protocol: Vec<IpRange>,
    pub client_certificates: bool,
}

pub struct TicketsModel {
    pub secret_file: Option<FileRef>,
    pub rotate: Duration,
}

#[derive(Default)]
pub struct LimitsModel {
    pub limits: Limits,
    pub caches: CacheSizes,
}

/// Entries that are remembered, each bound for all tenants together.
#[derive(Clone, Copy)]
pub struct CacheSizes {
    pub verdicts: u64,
    pub tokens: u64,
    pub tenant_series: usize,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub format: LogFormat,
    pub level: tracing::Level,
    /// One line for each request; refusals are written in any case.
    pub requests: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// What tenants inherit for their tokens.
pub struct EdgeTokens {
    pub lifespan: u32,
    /// `None`: faulty.
    pub signing_keys: Option<Vec<KeyModel>>,
    /// `None`: absent or faulty.
    pub rotation: Option<RotationModel>,
    pub rotates: bool,
}

impl Default for CacheSizes {
    fn default() -> CacheSizes {
        CacheSizes { verdicts: 65_536, tokens: 65_536, tenant_series: 1_000 }
    }
}

impl Default for TicketsModel {
    fn default() -> TicketsModel {
        TicketsModel { secret_file: None, rotate: 12 * HOUR }
    }
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings { format: LogFormat::Json, level: tracing::Level::INFO, requests: true }
    }
}

impl EdgeModel {
    /// `None` where not even the outermost mapping is there; any other fault leaves its
    /// field at the default, so that the rest can be looked at.
    pub fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<EdgeModel> {
        let mut fields = d.mapping(node)?;
        let upstreams = fields.optional(d, "upstreams", upstreams).unwrap_or_default();
        let model = EdgeModel {
            workers: fields.or(d, "workers", default_workers(), workers),
            listeners: fields
                .required(
                    d,
                    "listeners",
                    "listeners: { https: [{ bind: \"0.0.0.0:8443\" }] }",
                    listeners,
                )
                .unwrap_or_default(),
            admin: fields.optional(d, "admin", AdminModel::decode).unwrap_or_default(),
            registry: fields.or(
                d,
                "registry",
                RegistryModel::default(node.at),
                RegistryModel::decode,
            ),
            tickets: fields.optional(d, "session_tickets", tickets).unwrap_or_default(),
            limits: fields.optional(d, "limits", limits).unwrap_or_default(),
            log: fields.or(d, "log", LogSettings::default(), log),
            drain_timeout: fields.or(d, "drain_timeout", 20 * SECOND, |d, node| {
                d.duration(node, Duration::ZERO..=HOUR)
            }),
            tokens: fields.optional(d, "tokens", tokens),
            upstream_names: upstreams.iter().map(|(name, _)| name.clone()).collect(),
            upstreams: upstreams.into_iter().filter_map(|(_, upstream)| upstream).collect(),
            tenants: fields
                .optional(d, "tenants", |d, node| {
                    d.list(node, |d, node| Some(TenantModel::decode(d, node)))
                })
                .unwrap_or_default(),
            include: fields.optional(d, "include", |d, node| {
                d.line(node, 4_096).map(|text| Located { value: text.to_owned(), at: node.at })
            }),
        };
        fields.finish(d);
        Some(model)
    }
}

fn default_workers() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

fn workers(d: &mut Decoder<'_>, node: &Node) -> Option<usize> {
    if is_auto(node) { Some(default_workers()) } else { d.count(node, 1..=1_024) }
}

fn listeners(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<ListenerModel>> {
    let mut fields = d.mapping(node)?;
    let https = fields.or_if_absent(d, "https", Vec::new(), |d, node| {
        let example = "[{ bind: \"0.0.0.0:8443\" }]";
        d.filled_list(node, example, |d, node| listener(d, node, Protocol::Https))
    });
    let mqtts = fields.or_if_absent(d, "mqtts", Vec::new(), |d, node| {
        let example = "[{ bind: \"0.0.0.0:8883\" }]";
        d.filled_list(node, example, |d, node| listener(d, node, Protocol::Mqtts))
    });
    fields.finish(d);
    let listeners: Vec<_> = https?.into_iter().chain(mqtts?).collect();
    if listeners.is_empty() {
        let help = "such as `https: [{ bind: \"0.0.0.0:8443\" }]` or `mqtts: [{ bind: \"0.0.0.0:8883\" }]`";
        d.fault(node.at, "there is no listener", help);
        return None;
    }
    Some(listeners)
}

fn listener(d: &mut Decoder<'_>, node: &Node, protocol: Protocol) -> Option<ListenerModel> {
    let mut fields = d.mapping(node)?;
    let example = match protocol {
        Protocol::Https => "bind: \"0.0.0.0:8443\"",
        Protocol::Mqtts => "bind: \"0.0.0.0:8883\"",
    };
    let bind = fields.required(d, "bind", example, |d, node| {
        d.socket_address(node).map(|value| Located { value, at: node.at })
    });
    let default_tenant = fields.optional(d, "default_tenant", |d, node| {
        let value = d.parsed(node, "the `id` of a tenant", TenantId::parse)?;
        Some(Located { value, at: node.at })
    });
    let tenant_by_certificate =
        fields.optional(d, "tenant_by_certificate", CertificateModel::decode);
    let proxy_protocol = fields.optional(d, "proxy_protocol", proxy_protocol).unwrap_or_default();
    let client_certificates = fields.or(d, "client_certificates", true, Decoder::boolean);
    fields.finish(d);
    Some(ListenerModel {
        protocol,
        bind: bind?,
        default_tenant,
        tenant_by_certificate,
        proxy_protocol,
        client_certificates,
    })
}

fn proxy_protocol(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<IpRange>> {
    let mut fields = d.mapping(node)?;
    // An empty list would turn it off, and let every peer in.
    let from = fields.required(d, "from", "from: [\"10.0.0.0/8\"]", |d, node| {
        d.filled_list(node, "[\"10.0.0.0/8\"]", Decoder::ip_range)
    });
    fields.finish(d);
    from
}

fn tickets(d: &mut Decoder<'_>, node: &Node) -> Option<TicketsModel> {
    let mut fields = d.mapping(node)?;
    let default = TicketsModel::default();
    let tickets = TicketsModel {
        secret_file: fields.optional(d, "secret_file", Decoder::file),
        rotate: fields.or(d, "rotate", default.rotate, |d, node| {
            d.duration(node, Duration::from_secs(60)..=7 * DAY)
        }),
    };
    fields.finish(d);
    Some(tickets)
}

fn limits(d: &mut Decoder<'_>, node: &Node) -> Option<LimitsModel> {
    let mut fields = d.mapping(node)?;
    let LimitsModel { limits: default, caches } = LimitsModel::default();
    let timeout = |d: &mut Decoder<'_>, node: &Node| d.duration(node, SECOND / 10..=HOUR);
    let many = |d: &mut Decoder<'_>, node: &Node| d.count(node, 1..=10_000_000);
    let entries = |d: &mut Decoder<'_>, node: &Node| d.integer(node, 0..=100_000_000);
    let limits = Limits {
        handshakes: fields.or(d, "handshakes", default.handshakes, many),
        handshakes_per_address: fields.or(
            d,
            "handshakes_per_address",
            default.handshakes_per_address,
            many,
        ),
        connections: fields.or(d, "connections", default.connections, many),
        connections_per_address: fields.or(
            d,
            "connections_per_address",
            default.connections_per_address,
            many,
        ),
        handshake_timeout: fields.or(d, "handshake_timeout", default.handshake_timeout, timeout),
        header_timeout: fields.or(d, "header_timeout", default.header_timeout, timeout),
        idle_timeout: fields.or(d, "idle_timeout", default.idle_timeout, timeout),
        body_timeout: fields.or(d, "body_timeout", default.body_timeout, |d, node| {
            d.duration(node, SECOND / 10..=DAY)
        }),
        header_count: fields
            .or(d, "header_count", default.header_count, |d, node| d.count(node, 8..=256)),
        header_bytes: fields.or(d, "header_bytes", default.header_bytes, |d, node| {
            let size = d.size(node, 4_096..=1 << 20)?;
            usize::try_from(size).ok()
        }),
        undecided_attempts_per_address: fields.or(
            d,
            "undecided_attempts_per_address",
            default.undecided_attempts_per_address,
            |d, node| d.integer(node, 0..=100_000).and_then(|count| u32::try_from(count).ok()),
        ),
        mqtt_connect_timeout: fields.or(
            d,
            "mqtt_connect_timeout",
            default.mqtt_connect_timeout,
            timeout,
        ),
        mqtt_connect_bytes: fields.or(
            d,
            "mqtt_connect_bytes",
            default.mqtt_connect_bytes,
            |d, node| usize::try_from(d.size(node, 1_024..=1 << 20)?).ok(),
        ),
        mqtt_packet_bytes: fields.or(
            d,
            "mqtt_packet_bytes",
            default.mqtt_packet_bytes,
            // The largest that the protocol has (MQTT 5.0 §1.5.5).
            |d, node| usize::try_from(d.size(node, 1_024..=256 << 20)?).ok(),
        ),
    };
    let caches = CacheSizes {
        verdicts: fields.or(d, "verdict_cache", caches.verdicts, entries),
        tokens: fields.or(d, "token_cache", caches.tokens, entries),
        tenant_series: fields
            .or(d, "tenant_series", caches.tenant_series, |d, node| d.count(node, 0..=100_000)),
    };
    fields.finish(d);
    Some(LimitsModel { limits, caches })
}

fn log(d: &mut Decoder<'_>, node: &Node) -> Option<LogSettings> {
    use tracing::Level;
    const FORMATS: [(&str, LogFormat); 2] = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    const LEVELS: [(&str, Level); 5] = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let mut fields = d.mapping(node)?;
    let default = LogSettings::default();
    let log = LogSettings {
        format: fields.or(d, "format", default.format, |d, node| d.choice(node, &FORMATS)),
        level: fields.or(d, "level", default.level, |d, node| d.choice(node, &LEVELS)),
        requests: fields.or(d, "requests", default.requests, Decoder::boolean),
    };
    fields.finish(d);
    Some(log)
}

fn tokens(d: &mut Decoder<'_>, node: &Node) -> Option<EdgeTokens> {
    let mut fields = d.mapping(node)?;
    let tokens = EdgeTokens {
        lifespan: fields.or(d, "lifespan", 3_600, lifespan),
        signing_keys: fields.or_if_absent(d, "signing_keys", Vec::new(), signing_keys),
        rotation: fields.optional(d, "rotation", rotation),
        rotates: fields.key("rotation").is_some(),
    };
    fields.finish(d);
    Some(tokens)
}

/// Each with its name, and `None` where it is faulty.
fn upstreams(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<(String, Option<UpstreamModel>)>> {
    let fields = d.mapping(node)?;
    let mut upstreams = Vec::new();
    for (key, node) in fields.named() {
        if !is_label(&key.text) {
            let help = "1 to 63 of `A-Z a-z 0-9 - _ .`: it becomes a metric label";
            d.fault(key.at, "not a name for an upstream", help);
        }
        let name = Located { value: key.text.to_string(), at: key.at };
        upstreams.push((key.text.to_string(), UpstreamModel::decode(d, name, node)));
    }
    Some(upstreams)
}
