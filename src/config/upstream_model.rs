//! An upstream pool as the file describes it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use boring::sha::Sha256;

use super::decode::Decoder;
use super::fault::Located;
use super::node::Node;
use super::values::FileRef;
use crate::upstream::{Balance, HealthSettings, Timeouts};

/// Servers in one pool.
const MAX_SERVERS: usize = 1_000;

pub struct UpstreamModel {
    pub name: Located<String>,
    /// Of the mapping, without the files that it names.
    pub digest: [u8; 32],
    pub servers: Vec<SocketAddr>,
    /// MQTT brokers; empty: none.
    pub brokers: Vec<SocketAddr>,
    pub balance: Balance,
    pub tls: Option<TlsModel>,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 §3.3).
    pub http2: bool,
    pub timeouts: Timeouts,
    pub retries: usize,
    pub health: HealthSettings,
}

pub struct TlsModel {
    pub server_name: String,
    pub ca_file: Option<FileRef>,
    pub certificate: Option<CertificateModel>,
    pub verify: bool,
    pub http2: bool,
}

/// A certificate chain and its key.
pub struct CertificateModel {
    pub chain: FileRef,
    pub key: FileRef,
}

impl UpstreamModel {
    pub fn decode(
        d: &mut Decoder<'_>,
        name: Located<String>,
        node: &Node,
    ) -> Option<UpstreamModel> {
        let mut fields = d.mapping(node)?;
        let mut hash = Sha256::new();
        node.digest(&mut hash);
        let brokers = fields.or_if_absent(d, "mqtt", Vec::new(), servers);
        let servers = fields.required(d, "http", "http: [\"127.0.0.1:8080\"]", servers);
        let balance = fields.or(d, "balance", Balance::RoundRobin, |d, node| {
            let choices =
                [("round_robin", Balance::RoundRobin), ("least_loaded", Balance::LeastLoaded)];
            d.choice(node, &choices)
        });
        // A pool whose `tls` is faulty is not a pool without TLS.
        let tls = fields.or_if_absent(d, "tls", None, |d, node| tls(d, node).map(Some));
        let http2 = fields.or(d, "http2", false, Decoder::boolean);
        let timeouts = fields.or(d, "timeouts", default_timeouts(), timeouts);
        let retries = fields.or(d, "retries", 1, |d, node| d.count(node, 0..=10));
        let health = fields.or(d, "health", default_health(), health);
        let http2_at = fields.key("http2");
        fields.finish(d);
        if let (true, Some(Some(_)), Some(at)) = (http2, &tls, http2_at) {
            d.fault(
                at,
                "this is HTTP/2 without TLS, and `tls` is on",
                "write `tls: { http2: true }`",
            );
            return None;
        }
        Some(UpstreamModel {
            name,
            digest: hash.finish(),
            servers: servers?,
            brokers: brokers?,
            balance,
            tls: tls?,
            http2,
            timeouts,
            retries,
            health,
        })
    }
}

impl CertificateModel {
    pub fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<CertificateModel> {
        let mut fields = d.mapping(node)?;
        let chain = fields.required(d, "chain", "chain: acme.pem", Decoder::file);
        let key = fields.required(d, "key", "key: acme.key", Decoder::file);
        fields.finish(d);
        Some(CertificateModel { chain: chain?, key: key? })
    }
}

fn servers(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<SocketAddr>> {
    let mut seen = HashSet::new();
    let servers = d.filled_list(node, "[\"127.0.0.1:8080\"]", |d, node| {
        let server = d.socket_address(node)?;
        if !seen.insert(server) {
            d.fault(node.at, "this server stands in the list twice", "keep one of the two");
            return None;
        }
        Some(server)
    })?;
    if servers.len() > MAX_SERVERS {
        d.fault(node.at, "too many servers in one pool", format!("at most {MAX_SERVERS}"));
        return None;
    }
    Some(servers)
}

fn tls(d: &mut Decoder<'_>, node: &Node) -> Option<TlsModel> {
    let mut fields = d.mapping(node)?;
    let server_name =
        fields.required(d, "server_name", "server_name: platform.internal", |d, node| {
            let help = "the name that the upstream's certificate is for";
            d.parsed(node, help, crate::names::ServerName::parse_unicode)
        });
    let ca_file = fields.optional(d, "ca_file", Decoder::file);
    let certificate = fields.optional(d, "certificate", CertificateModel::decode);
    let verify = fields.or(d, "verify", true, Decoder::boolean);
    let http2 = fields.or(d, "http2", false, Decoder::boolean);
    fields.finish(d);
    let server_name = server_name?.as_str().to_owned();
    Some(TlsModel { server_name, ca_file, certificate, verify, http2 })
}

fn default_timeouts() -> Timeouts {
    let minute = Duration::from_secs(60);
    Timeouts { connect: Duration::from_secs(2), read: minute, write: minute, idle: minute }
}

fn timeouts(d: &mut Decoder<'_>, node: &Node) -> Option<Timeouts> {
    let mut fields = d.mapping(node)?;
    let default = default_timeouts();
    let timeout = |d: &mut Decoder<'_>, node: &Node| {
        d.duration(node, Duration::from_millis(10)..=Duration::from_secs(86_400))
    };
    let timeouts = Timeouts {
        connect: fields.or(d, "connect", default.connect, timeout),
        read: fields.or(d, "read", default.read, timeout),
        write: fields.or(d, "write", default.write, timeout),
        idle: fields.or(d, "idle", default.idle, timeout),
    };
    fields.finish(d);
    Some(timeouts)
}

fn default_health() -> HealthSettings {
    HealthSettings {
        path: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        unhealthy_after: 2,
        healthy_after: 1,
    }
}

fn health(d: &mut Decoder<'_>, node: &Node) -> Option<HealthSettings> {
    let mut fields = d.mapping(node)?;
    let default = default_health();
    let time = |d: &mut Decoder<'_>, node: &Node| {
        d.duration(node, Duration::from_millis(10)..=Duration::from_secs(3_600))
    };
    let times = |d: &mut Decoder<'_>, node: &Node| {
        d.count(node, 1..=100).and_then(|times| u32::try_from(times).ok())
    };
    let health = HealthSettings {
        path: fields.optional(d, "path", path),
        interval: fields.or(d, "interval", default.interval, time),
        timeout: fields.or(d, "timeout", default.timeout, time),
        unhealthy_after: fields.or(d, "unhealthy_after", default.unhealthy_after, times),
        healthy_after: fields.or(d, "healthy_after", default.healthy_after, times),
    };
    fields.finish(d);
    Some(health)
}

/// The path and query of a request (RFC 9112 §3.2.1).
fn path(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.text(node)?;
    if text.starts_with('/') && text.len() <= 2_048 && text.parse::<http::Uri>().is_ok() {
        return Some(text.to_owned());
    }
    d.fault(node.at, "not the path of a request", "such as `/health`");
    None
}
