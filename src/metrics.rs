//! Every metric of the edge, with its closed labels.
//!
//! Labels are enums of ours or names from the configuration, never text from the wire, so
//! the number of series does not grow with what peers send. The tenant label stands on
//! counters only; a tenant's series come into being with their first event, and past
//! `max_tenant_series` tenants further ones count under `other`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::names::TenantId;
use crate::refusal::Refusal;

/// The protocol that a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Https,
    Mqtts,
}

impl Protocol {
    pub const ALL: [Protocol; 2] = [Protocol::Https, Protocol::Mqtts];

    pub fn label(self) -> &'static str {
        match self {
            Protocol::Https => "https",
            Protocol::Mqtts => "mqtts",
        }
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeResult {
    Full,
    Resumed,
    Failed,
}

impl HandshakeResult {
    const ALL: [&'static str; 3] = ["full", "resumed", "failed"];
}

/// How a token request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenResult {
    Issued,
    Reissued,
    Refused,
}

impl TokenResult {
    const ALL: [&'static str; 3] = ["issued", "reissued", "refused"];
}

/// Who answered a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The token endpoint.
    Token,
    /// The edge itself: JWKS, refusals.
    Edge,
    /// The upstream.
    Upstream,
}

impl Answered {
    const ALL: [&'static str; 3] = ["token", "edge", "upstream"];
}

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn status_class(status: u16) -> usize {
    usize::from((status / 100).clamp(1, 5)) - 1
}

const DEFAULT_TENANT_SERIES: usize = 1_000;

/// All metrics of one process. Counting takes no lock: every hot counter is resolved once.
pub struct Metrics {
    registry: Registry,
    max_tenant_series: AtomicUsize,
    tenants_seen: Mutex<HashSet<TenantId>>,

    handshakes: IntCounterVec,
    requests: IntCounterVec,
    tokens: IntCounterVec,
    devices_registered: IntCounterVec,
    /// By protocol, then by refusal.
    refusals: [Vec<IntCounter>; 2],
    request_duration: [Histogram; 3],
    upstream_responses: IntCounterVec,
    upstream_duration: HistogramVec,
    pub upstream_server_up: IntGaugeVec,
    handshake_duration: [Histogram; 2],
    pub verdict_cache_hits: IntCounter,
    pub verdict_cache_misses: IntCounter,
    pub verdict_cache_evictions: IntCounter,
    pub forward_headers_reduced: IntCounter,
    connections: [IntGauge; 2],
    handshakes_in_flight: [IntGauge; 2],
    mqtt_connects: IntCounterVec,
    mqtt_messages: IntCounterVec,
    mqtt_bytes: IntCounterVec,
    /// Sessions whose CONNECT the broker has accepted.
    pub mqtt_sessions: IntGauge,
    pub config_reloads_ok: IntCounter,
    pub config_reloads_failed: IntCounter,
    pub config_reload_successful: IntGauge,
    pub tenants_serviceable: IntGauge,
    pub tenants_refused: IntGauge,
    pub registry_up: IntGauge,
    certificate_expiry: IntGaugeVec,
    admin_requests: IntCounterVec,
}

impl Metrics {
    /// # Errors
    /// Only if two metrics had one name, which the tests rule out.
    pub fn new() -> Result<Arc<Metrics>, prometheus::Error> {
        let registry = Registry::new();
        let make = Maker(&registry);

        let refusals = make.counters(
            "portcullis_refusals_total",
            "Devices and requests refused, by protocol and reason.",
            &["protocol", "reason"],
        )?;
        let request_duration = make.histograms(
            "portcullis_request_duration_seconds",
            "Time from the end of a request's header to the end of its answer.",
            &["answered_by"],
        )?;
        let cache = make.counters(
            "portcullis_verdict_cache_lookups_total",
            "Lookups of chain verdicts, by result.",
            &["result"],
        )?;
        let reloads = make.counters(
            "portcullis_config_reloads_total",
            "Configuration reloads, by result.",
            &["result"],
        )?;
        let tenants =
            make.gauges("portcullis_tenants", "Configured tenants, by state.", &["state"])?;
        let build =
            make.gauges("portcullis_build_info", "Always 1; says the version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        let metrics = Metrics {
            handshakes: make.counters(
                "portcullis_handshakes_total",
                "TLS handshakes, by tenant, protocol and result; tenant `none` where none was found.",
                &["tenant", "protocol", "result"],
            )?,
            requests: make.counters(
                "portcullis_requests_total",
                "Requests, by tenant and class of the answer's status.",
                &["tenant", "status"],
            )?,
            tokens: make.counters(
                "portcullis_tokens_total",
                "Token requests: newly signed, current one given again, refused.",
                &["tenant", "result"],
            )?,
            devices_registered: make.counters(
                "portcullis_devices_registered_total",
                "Devices registered on their first call.",
                &["tenant"],
            )?,
            refusals: Protocol::ALL.map(|protocol| {
                let counter = |r: &Refusal| {
                    refusals.with_label_values(&[protocol.label(), r.label()])
                };
                Refusal::ALL.iter().map(counter).collect()
            }),
            request_duration: Answered::ALL.map(|a| request_duration.with_label_values(&[a])),
            upstream_responses: make.counters(
                "portcullis_upstream_responses_total",
                "Answers of upstream pools, by class of status; `none` where no answer came. Of MQTT brokers: 2xx a CONNECT that was taken, 4xx one that was refused.",
                &["upstream", "status"],
            )?,
            upstream_duration: make.histograms(
                "portcullis_upstream_response_duration_seconds",
                "Time from choosing an upstream server to the header of its answer.",
                &["upstream"],
            )?,
            upstream_server_up: make.gauges(
                "portcullis_upstream_server_up",
                "1 where the health check of an upstream server passes, else 0.",
                &["upstream", "server"],
            )?,
            handshake_duration: {
                let durations = make.histograms(
                    "portcullis_handshake_duration_seconds",
                    "Time from accepting a connection to the end of its TLS handshake.",
                    &["protocol"],
                )?;
                Protocol::ALL.map(|protocol| durations.with_label_values(&[protocol.label()]))
            },
            verdict_cache_hits: cache.with_label_values(&["hit"]),
            verdict_cache_misses: cache.with_label_values(&["miss"]),
            verdict_cache_evictions: make
                .counters(
                    "portcullis_verdict_cache_evictions_total",
                    "Chain verdicts dropped: expired or pushed out.",
                    &[],
                )?
                .with_label_values(&[] as &[&str]),
            forward_headers_reduced: make
                .counters(
                    "portcullis_forward_headers_reduced_total",
                    "Requests whose chain was over the header budget: leaf and fingerprint sent.",
                    &[],
                )?
                .with_label_values(&[] as &[&str]),
            connections: {
                let name = "portcullis_connections";
                let open = make.gauges(name, "Open device connections.", &["protocol"])?;
                Protocol::ALL.map(|protocol| open.with_label_values(&[protocol.label()]))
            },
            handshakes_in_flight: {
                let in_flight = make.gauges(
                    "portcullis_handshakes_in_flight",
                    "TLS handshakes that have not ended.",
                    &["protocol"],
                )?;
                Protocol::ALL.map(|protocol| in_flight.with_label_values(&[protocol.label()]))
            },
            mqtt_connects: make.counters(
                "portcullis_mqtt_connects_total",
                "CONNECT packets, by tenant and result.",
                &["tenant", "result"],
            )?,
            mqtt_messages: make.counters(
                "portcullis_mqtt_messages_total",
                "MQTT messages that went through, by tenant and direction.",
                &["tenant", "direction"],
            )?,
            mqtt_bytes: make.counters(
                "portcullis_mqtt_bytes_total",
                "Bytes of MQTT that went through, without TLS, by tenant and direction.",
                &["tenant", "direction"],
            )?,
            mqtt_sessions: make
                .gauges("portcullis_mqtt_sessions", "MQTT sessions that are open.", &[])?
                .with_label_values(&[] as &[&str]),
            config_reloads_ok: reloads.with_label_values(&["ok"]),
            config_reloads_failed: reloads.with_label_values(&["failed"]),
            config_reload_successful: make
                .gauges(
                    "portcullis_config_last_reload_successful",
                    "1 where the configuration on disk is the running one, 0 after a failed reload.",
                    &[],
                )?
                .with_label_values(&[] as &[&str]),
            tenants_serviceable: tenants.with_label_values(&["serviceable"]),
            tenants_refused: tenants.with_label_values(&["refused"]),
            registry_up: make
                .gauges("portcullis_registry_up", "1 where the device registry answers.", &[])?
                .with_label_values(&[] as &[&str]),
            certificate_expiry: make.gauges(
                "portcullis_certificate_expiry_timestamp_seconds",
                "End of validity of server certificates and trust anchors, soonest first.",
                &["kind", "fingerprint"],
            )?,
            admin_requests: make.counters(
                "portcullis_admin_requests_total",
                "Requests of the admin port, by the path's name and class of the answer's status.",
                &["route", "status"],
            )?,
            max_tenant_series: AtomicUsize::new(DEFAULT_TENANT_SERIES),
            tenants_seen: Mutex::default(),
            registry,
        };
        Ok(Arc::new(metrics))
    }

    /// How many tenants get series of their own; those that have them keep them.
    pub fn set_max_tenant_series(&self, tenants: usize) {
        self.max_tenant_series.store(tenants, Ordering::Relaxed);
    }

    /// Counts a refusal. The reason's text goes to the log, not here.
    pub fn refused(&self, protocol: Protocol, refusal: Refusal) {
        if let Some(counter) = self.refusals[protocol as usize].get(refusal as usize) {
            counter.inc();
        }
    }

    /// Counts a handshake that found no tenant.
    pub fn handshake_without_tenant(&self, protocol: Protocol) {
        self.handshakes.with_label_values(&["none", protocol.label(), "failed"]).inc();
    }

    /// Open device connections.
    pub fn connections(&self, protocol: Protocol) -> &IntGauge {
        &self.connections[protocol as usize]
    }

    /// TLS handshakes that have not ended.
    pub fn handshakes_in_flight(&self, protocol: Protocol) -> &IntGauge {
        &self.handshakes_in_flight[protocol as usize]
    }

    pub fn handshake_took(&self, protocol: Protocol, seconds: f64) {
        self.handshake_duration[protocol as usize].observe(seconds);
    }

    pub fn request_done(&self, by: Answered, seconds: f64) {
        self.request_duration[by as usize].observe(seconds);
    }

    /// Counts a request of the admin port. `route`: a name of ours, never the path as sent.
    pub fn admin_request(&self, route: &'static str, status: u16) {
        let class = STATUS_CLASSES.get(status_class(status)).copied().unwrap_or("5xx");
        self.admin_requests.with_label_values(&[route, class]).inc();
    }

    /// Counters of one upstream pool; resolve once and keep.
    pub fn upstream(&self, pool: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            by_class: STATUS_CLASSES
                .map(|class| self.upstream_responses.with_label_values(&[pool, class])),
            failed: self.upstream_responses.with_label_values(&[pool, "none"]),
            duration: self.upstream_duration.with_label_values(&[pool]),
        }
    }

    /// The expiry of certificates, replacing what was told before. At most 1,000 of each
    /// kind are shown, those that end soonest.
    pub fn set_certificate_expiry(&self, certificates: Vec<(CertificateKind, [u8; 32], i64)>) {
        let mut certificates = certificates;
        certificates.sort_by_key(|(_, _, not_after)| *not_after);
        self.certificate_expiry.reset();
        let mut shown = [0usize; 2];
        for (kind, sha256, not_after) in certificates {
            if shown[kind as usize] < 1_000 {
                shown[kind as usize] += 1;
                let fingerprint: String =
                    sha256.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                self.certificate_expiry
                    .with_label_values(&[kind.label(), &fingerprint])
                    .set(not_after);
            }
        }
    }

    /// The text exposition format of Prometheus, version 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        // Encoding into memory fails only on a metric without samples, which is left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    fn tenant_label<'t>(&self, tenant: &'t TenantId) -> &'t str {
        let mut seen = self.tenants_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(tenant) {
            return tenant.as_str();
        }
        if seen.len() >= self.max_tenant_series.load(Ordering::Relaxed) {
            return "other";
        }
        seen.insert(tenant.clone());
        tenant.as_str()
    }
}

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateKind {
    Server,
    Anchor,
}

impl CertificateKind {
    fn label(self) -> &'static str {
        match self {
            CertificateKind::Server => "server",
            CertificateKind::Anchor => "anchor",
        }
    }
}

/// Counters of one upstream pool.
#[derive(Clone)]
pub struct UpstreamMetrics {
    by_class: [IntCounter; 5],
    failed: IntCounter,
    duration: Histogram,
}

impl UpstreamMetrics {
    pub fn answered(&self, status: u16, seconds: f64) {
        self.by_class[status_class(status)].inc();
        self.duration.observe(seconds);
    }

    pub fn failed(&self) {
        self.failed.inc();
    }
}

/// One tenant's counters. Each comes into being with its first event and is then held, so
/// that counting costs one atomic addition.
pub struct TenantMetrics {
    metrics: Arc<Metrics>,
    tenant: TenantId,
    handshakes: [[OnceLock<IntCounter>; 3]; 2],
    requests: [OnceLock<IntCounter>; 5],
    tokens: [OnceLock<IntCounter>; 3],
    registered: OnceLock<IntCounter>,
    mqtt_connects: [OnceLock<IntCounter>; 2],
    mqtt_traffic: [OnceLock<(IntCounter, IntCounter)>; 2],
}

/// Where MQTT goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    FromDevice,
    ToDevice,
}

impl Direction {
    const ALL: [&'static str; 2] = ["from_device", "to_device"];
}

impl TenantMetrics {
    pub fn new(metrics: Arc<Metrics>, tenant: TenantId) -> TenantMetrics {
        TenantMetrics {
            metrics,
            tenant,
            handshakes: Default::default(),
            requests: Default::default(),
            tokens: Default::default(),
            registered: OnceLock::new(),
            mqtt_connects: Default::default(),
            mqtt_traffic: Default::default(),
        }
    }

    /// Counts a CONNECT: whether the broker was asked and took it. One that cannot be read is
    /// none.
    pub fn mqtt_connect(&self, accepted: bool) {
        self.mqtt_connects[usize::from(accepted)]
            .get_or_init(|| {
                let label = self.metrics.tenant_label(&self.tenant);
                let result = if accepted { "accepted" } else { "refused" };
                self.metrics.mqtt_connects.with_label_values(&[label, result])
            })
            .inc();
    }

    pub fn mqtt_traffic(&self, direction: Direction, messages: u64, bytes: usize) {
        let (all_messages, all_bytes) = self.mqtt_traffic[direction as usize].get_or_init(|| {
            let label = self.metrics.tenant_label(&self.tenant);
            let labels = [label, Direction::ALL[direction as usize]];
            (
                self.metrics.mqtt_messages.with_label_values(&labels),
                self.metrics.mqtt_bytes.with_label_values(&labels),
            )
        });
        all_messages.inc_by(messages);
        all_bytes.inc_by(bytes as u64);
    }

    pub fn handshake(&self, protocol: Protocol, result: HandshakeResult) {
        let index = result as usize;
        self.handshakes[protocol as usize][index]
            .get_or_init(|| {
                let label = self.metrics.tenant_label(&self.tenant);
                self.metrics.handshakes.with_label_values(&[
                    label,
                    protocol.label(),
                    HandshakeResult::ALL[index],
                ])
            })
            .inc();
    }

    pub fn request(&self, status: u16) {
        let class = status_class(status);
        self.requests[class]
            .get_or_init(|| {
                let label = self.metrics.tenant_label(&self.tenant);
                self.metrics.requests.with_label_values(&[label, STATUS_CLASSES[class]])
            })
            .inc();
    }

    pub fn token(&self, result: TokenResult) {
        let index = result as usize;
        self.tokens[index]
            .get_or_init(|| {
                let label = self.metrics.tenant_label(&self.tenant);
                self.metrics.tokens.with_label_values(&[label, TokenResult::ALL[index]])
            })
            .inc();
    }

    pub fn device_registered(&self) {
        self.registered
            .get_or_init(|| {
                let label = self.metrics.tenant_label(&self.tenant);
                self.metrics.devices_registered.with_label_values(&[label])
            })
            .inc();
    }
}

/// Makes metrics and registers them.
struct Maker<'r>(&'r Registry);

impl Maker<'_> {
    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(vec.clone()))?;
        Ok(vec)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(vec.clone()))?;
        Ok(vec)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        // 0.1 ms to 10 s: a token from the cache on one side, a stalled upstream on the other.
        let buckets = vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
            2.5, 5.0, 10.0,
        ];
        let vec = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
        self.0.register(Box::new(vec.clone()))?;
        Ok(vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_counter_of_its_own() {
        let metrics = Metrics::new().unwrap();
        for refusal in Refusal::ALL {
            metrics.refused(Protocol::Https, refusal);
        }
        let text = String::from_utf8(metrics.render()).unwrap();
        for refusal in Refusal::ALL {
            let line =
                format!("portcullis_refusals_total{{protocol=\"https\",reason=\"{refusal}\"}} 1");
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn tenants_past_the_cap_count_as_other() {
        let metrics = Metrics::new().unwrap();
        metrics.set_max_tenant_series(2);
        for n in 0..5 {
            let tenant = TenantId::parse(&format!("t{n}")).unwrap();
            let counters = TenantMetrics::new(metrics.clone(), tenant);
            counters.request(200);
            counters.handshake(Protocol::Https, HandshakeResult::Full);
        }
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains("portcullis_requests_total{status=\"2xx\",tenant=\"other\"} 3"));
        assert_eq!(text.matches("portcullis_requests_total{").count(), 3);
    }
}
