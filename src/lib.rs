//! Portcullis: an edge that stands in front of an IoT platform.
//!
//! # The floors
//! A file imports only from floors below its own; siblings in one folder may import each
//! other without circles.
//!
//! | floor | room | what it does |
//! |---|---|---|
//! | 9 | `main.rs` | exit code only |
//! | 8 | [`cli`] | `run`, `check`, `demo`, `health`; the admin API's client |
//! | 7 | [`demo`] | throw-away PKI, a platform, a device's whole tour |
//! | 7 | [`signals`] | reload and drain, when the operator says so |
//! | 6 | [`server`] | wires the parts: bind, serve, reload, follow the registry, rotate keys, drain |
//! | 6 | [`log`] | where events go |
//! | 5 | [`config`] | YAML → every fault at once, or a `TenantDirectory` |
//! | 5 | [`admin`] | the admin API: anchors, devices, options, keys; metrics, health, readiness |
//! | 4 | [`listen`] | sockets and deadlines: TLS, HTTPS, MQTT |
//! | 3 | [`gate`] | identify → verify → authenticate → decide |
//! | 2 | [`tenant`] | a tenant, put together from its files and the registry, and the directory that finds it |
//! | 1 | [`trust`] | anchors, chains, CRLs, verdicts (BoringSSL's libpki behind a shim) |
//! | 1 | [`registry`] | devices, anchors, pins, revocations, options, keys: SQLite or PostgreSQL, and memory that follows it |
//! | 1 | [`token`] | claims, signing keys and their rotation, JWKS, the half-life rule, bearers |
//! | 1 | [`upstream`] | pools, health, the dialects of identity forwarding |
//! | 1 | [`server_certificate`] | certificates that the edge shows |
//! | 0 | [`names`] [`refusal`] [`clock`] [`limits`] [`ip_range`] [`metrics`] [`admin_settings`] | values |
//!
//! # The way of a connection
//! 1. `listen::accept` takes it, counts it under its caps, reads a PROXY header if one is due.
//! 2. `listen::tls` finds the tenant by SNI and puts the tenant's certificates and session
//!    context on the session; the chain's verdict comes from [`gate::Gate`], which asks
//!    [`trust`]. After a resumption the verdict is asked again.
//!    Without SNI a listener may let the chain name the tenant ([`gate::Gate::resolve`]).
//! 3. `listen::https` hands each request to `listen::decide`: the authority must be the
//!    tenant's, the token endpoints and the JWKS are answered here (a platform's own token is
//!    fetched by `listen::relay`), bearers are checked where the tenant says so, the rest is
//!    forwarded.
//!    `listen::mqtt` reads the CONNECT instead, holds the client id against the device, tells the
//!    broker who it is and lets both sides talk; what is about tokens is answered here.
//! 4. `listen::forward` drops what a device claims to be and writes what the edge knows.
//! 5. One event closes each request, each session and each failed connection; every "no" in it is one
//!    [`refusal::Refusal`].
//!
//! # The way of a change
//! 1. [`admin`] takes it from an operator, checks it and hands it to [`registry`], which makes
//!    it durable with its audit row and then changes its memory. Other nodes follow.
//! 2. Device statuses and pins are asked of that memory with each request. For anchors,
//!    revocations, options and keys `server` puts the tenants concerned together anew and
//!    swaps the generation; live connections are judged anew with their next request, and
//!    within a second where one is at the upstream.
//!
//! # Words
//! *Tenant*: one customer of the platform, found by *server name* (SNI). *Anchor*: a
//! certificate that a tenant trusts; a root, a self-signed CA or an intermediate. *Pin*: an
//! end-entity certificate that stands for one device, whoever issued it. *Chain*:
//! what a device presents. *Path*: what the verifier proved, leaf to anchor. *Verdict*: the
//! verifier's answer on a chain. *Trust epoch*: a hash of all that verdicts of a tenant
//! depend on. *Undecided*: a chain whose issuer was not found, and which a request may yet
//! complete. *Generation*: one state of the configuration, swapped whole. *Pool*: the servers
//! of one upstream. *Dialect*: the headers in which an upstream expects the identity. *Session*:
//! an MQTT connection, from its CONNECT on. *Packet*: one of MQTT's; a *message* is a PUBLISH.

pub mod admin;
pub mod admin_settings;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod gate;
pub mod ip_range;
pub mod limits;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod names;
pub mod refusal;
pub mod registry;
pub mod server;
pub mod server_certificate;
pub mod signals;
pub mod tenant;
pub mod token;
pub mod trust;
pub mod upstream;
