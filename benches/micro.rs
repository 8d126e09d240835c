//! What single steps of the data path cost. `make bench`; one group: `make bench` with
//! `BENCH=verdict`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot start is of no use")]

#[path = "../tests/it/pki.rs"]
#[expect(dead_code, reason = "the tests use what the benchmarks do not")]
mod pki;

use std::cell::{LazyCell, RefCell};
use std::fmt::Write;
use std::fs;
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis::clock::Clock;
use portcullis::config::Compiler;
use portcullis::metrics::Metrics;
use portcullis::names::{DeviceId, ServerName, TenantId};
use portcullis::registry::{
    Actor, AnchorRecord, AnchorStatus, Change, Outcome, Possession, RegisteredBy, Registration,
    Registry, RegistrySettings,
};
use portcullis::tenant::{Assembly, LIFESPAN_OPTION, TenantDirectory, TenantEntry};
use portcullis::token::{
    Algorithm, Bearers, KeyRing, KeySecret, ResponseType, RotationSettings, SigningKeys,
    TokenRequest, TokenService, TokenSettings,
};
use portcullis::trust::{Anchor, TrustMaterial, TrustStore, Verdict, VerdictCache, VerifiedChain};
use portcullis::upstream::{Dialect, ForwardSettings};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::pki::{Key, Minted, Template};

const NOW: i64 = 1_800_000_000;

struct Fleet {
    store: TrustStore,
    issuing: Minted,
    device: Minted,
}

fn fleet() -> Fleet {
    let root = Template::ca("Root").self_signed();
    let issuing = Template::ca("Issuing").signed_by(&root);
    let device = Template::device("device-1").signed_by(&issuing);
    let material = TrustMaterial {
        anchors: vec![Anchor { der: root.der, auto_registration: true, ..Anchor::default() }],
        ..TrustMaterial::default()
    };
    let store = TrustStore::build(material).ok().unwrap();
    Fleet { store, issuing, device }
}

fn verified(fleet: &Fleet) -> Arc<VerifiedChain> {
    match fleet.store.verify(&[&fleet.device.der, &fleet.issuing.der], &[], NOW) {
        Verdict::Verified(chain) => chain,
        _ => unreachable_verdict(),
    }
}

#[expect(clippy::panic, reason = "what is minted here must verify")]
fn unreachable_verdict() -> ! {
    panic!("the minted chain does not verify")
}

fn chain_validation(c: &mut Criterion) {
    let fleet = fleet();
    let mut group = c.benchmark_group("verdict");
    // Every device once: the issuing CA's signature is known, the leaf's is not.
    group.bench_function("new leaf under a known issuer", |b| {
        let mut n = 0;
        b.iter_batched(
            || {
                n += 1;
                Template::device(&format!("device-{n}")).signed_by(&fleet.issuing)
            },
            |device| fleet.store.verify(&[&device.der, &fleet.issuing.der], &[], NOW),
            BatchSize::SmallInput,
        );
    });
    let chain = [fleet.device.der.as_slice(), &fleet.issuing.der];
    group.bench_function("known leaf, no verdict cache", |b| {
        b.iter(|| fleet.store.verify(black_box(&chain), &[], NOW));
    });
    let cache = VerdictCache::new(1_000, Clock::manual(NOW), Metrics::new().unwrap());
    let tenant = TenantId::parse("acme").unwrap();
    let key = VerdictCache::key(&tenant, fleet.store.epoch(), &chain, &[]);
    cache.insert(key, &fleet.store.verify(&chain, &[], NOW));
    group.bench_function("from the verdict cache", |b| {
        b.iter(|| {
            let key = VerdictCache::key(&tenant, fleet.store.epoch(), black_box(&chain), &[]);
            cache.get(&key)
        });
    });
    group.finish();
}

fn header_building(c: &mut Criterion) {
    let fleet = fleet();
    let chain = verified(&fleet);
    let mut group = c.benchmark_group("identity headers");
    for (name, dialect) in [
        ("x-ssl-cert-chain", Dialect::XSslCertChain),
        ("client-cert", Dialect::Rfc9440),
        ("x-forwarded-client-cert", Dialect::Xfcc),
        ("aws-alb", Dialect::AwsAlb),
        ("traefik", Dialect::Traefik),
    ] {
        let forward = ForwardSettings {
            dialect,
            header_budget: 16 * 1024,
            extra_stripped: Vec::new(),
            trust_forwarded: false,
        };
        group.bench_function(name, |b| b.iter(|| forward.identity_headers(black_box(&chain))));
    }
    group.finish();
}

fn token_answer(c: &mut Criterion) {
    portcullis::token::install_crypto_provider();
    let fleet = fleet();
    let chain = verified(&fleet);
    let keys = SigningKeys::load(vec![("k1".into(), Key::p256().pem())]).ok().unwrap();
    let settings = TokenSettings {
        issuer: "acme.example.com".into(),
        audience: "acme.example.com".into(),
        lifespan: 3_600,
        algorithm: Algorithm::Es256,
        bind_certificate: false,
        response_type: ResponseType::Vendor,
        oauth_issuer: None,
    };
    let (tenant, service) =
        (TenantId::parse("acme").unwrap(), TokenService::new(1_000, Clock::manual(NOW)));
    let ask = |device: &DeviceId| {
        service.token(&TokenRequest {
            tenant: &tenant,
            device,
            leaf_sha256: chain.leaf_sha256(),
            epoch: fleet.store.epoch(),
            settings: &settings,
            keys: &keys,
        })
    };
    let mut group = c.benchmark_group("token");
    let device = DeviceId::parse("device-1").unwrap();
    group.bench_function("current one", |b| b.iter(|| ask(black_box(&device)).unwrap()));
    group.bench_function("new one, ES256", |b| {
        let mut n = 0;
        b.iter_batched(
            || {
                n += 1;
                DeviceId::parse(&format!("device-{n}")).unwrap()
            },
            |device| ask(&device).unwrap(),
            BatchSize::SmallInput,
        );
    });
    let bearer = ask(&device).unwrap();
    let bearer = bearer.token.jwt();
    let check = |bearers: &Bearers, bearer: &str| {
        bearers.check(black_box(bearer), &keys, &settings, &tenant, None, NOW)
    };
    group.bench_function("check of a new bearer, ES256", |b| {
        let fresh = Bearers::default;
        b.iter_batched_ref(fresh, |bearers| check(bearers, bearer), BatchSize::SmallInput);
    });
    let bearers = Bearers::default();
    group.bench_function("check of a known bearer", |b| {
        b.iter(|| check(&bearers, bearer));
    });
    group.bench_function("check of a foreign bearer", |b| {
        let (_, rest) = bearer.split_once('.').unwrap();
        // {"alg":"RS256","kid":"platform"}
        let foreign = format!("eyJhbGciOiJSUzI1NiIsImtpZCI6InBsYXRmb3JtIn0.{rest}");
        b.iter(|| check(&bearers, &foreign));
    });
    group.finish();
}

/// What each change of the registry's signing keys costs a node once.
fn key_ring(c: &mut Criterion) {
    let secret = KeySecret::from_bytes(b"0123456789abcdef0123456789abcdef").unwrap();
    let settings = |algorithm| RotationSettings {
        every: Duration::from_secs(30 * 86_400),
        publish_for: Duration::from_secs(600),
        algorithms: vec![algorithm],
        retain: Duration::from_secs(31 * 86_400),
    };
    let mut group = c.benchmark_group("key ring");
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        let mut rows = Vec::new();
        for n in 0..3 {
            let (ring, _) = KeyRing::build(&rows, &secret, settings(algorithm));
            rows.push(ring.rotate_now(algorithm, NOW + n).unwrap().row);
        }
        group.bench_function(BenchmarkId::new("of three keys", algorithm.name()), |b| {
            b.iter(|| {
                let (ring, _) = KeyRing::build(black_box(&rows), &secret, settings(algorithm));
                ring.signing_keys(NOW)
            });
        });
    }
    group.finish();
}

/// A configuration of many tenants behind one wildcard certificate, each with its own root
/// among a hundred.
fn configuration(tenants: usize) -> TempDir {
    let dir = TempDir::new().unwrap();
    let file = |name: &str| dir.path().join(name);
    let server_root = Template::ca("Server root").self_signed();
    let server = Template::server(&["*.example.com"]).signed_by(&server_root);
    fs::write(file("server.pem"), server.pem()).unwrap();
    for (name, key) in [("server.key", server.key.clone()), ("k1.key", Key::p256())] {
        fs::write(file(name), key.pem()).unwrap();
        fs::set_permissions(file(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    for n in 0..100 {
        let root = Template::ca(&format!("Root {n}")).self_signed();
        fs::write(file(&format!("root-{n}.pem")), root.pem()).unwrap();
    }
    let mut yaml = String::from(
        "listeners: { https: [{ bind: \"127.0.0.1:0\" }] }\n\
         tokens: { signing_keys: [{ kid: k1, file: k1.key }] }\n\
         upstreams: { platform: { http: [\"127.0.0.1:1\"] } }\ntenants:\n",
    );
    for n in 0..tenants {
        writeln!(
            yaml,
            "  - {{ id: t{n}, server_names: [t{n}.example.com], upstream: platform, \
             certificate: {{ chain: server.pem, key: server.key }}, \
             trusted_certificates: [{{ file: root-{}.pem }}] }}",
            n % 100
        )
        .unwrap();
    }
    fs::write(file("portcullis.yaml"), yaml).unwrap();
    dir
}

fn many_tenants(c: &mut Criterion) {
    let mut group = c.benchmark_group("configuration");
    group.sample_size(10);
    let dir = configuration(10_000);
    let file = dir.path().join("portcullis.yaml");
    group.bench_function("10,000 tenants, cold", |b| {
        b.iter(|| Compiler::new(Metrics::new().unwrap()).compile(&file).ok().unwrap());
    });
    let mut compiler = Compiler::new(Metrics::new().unwrap());
    let _running = compiler.compile(&file).ok().unwrap();
    group.bench_function("10,000 tenants, reload without a change", |b| {
        b.iter(|| compiler.compile(&file).ok().unwrap());
    });
    group.finish();

    let mut group = c.benchmark_group("server name");
    for count in [100, 100_000] {
        let mut directory = TenantDirectory::default();
        for n in 0..count {
            let id = TenantId::parse(&format!("t{n}")).unwrap();
            let name =
                portcullis::names::ServerPattern::parse_unicode(&format!("t{n}.example.com"));
            directory.add(TenantEntry::Unavailable(id), &[name.unwrap()]).unwrap();
        }
        let name = ServerName::parse(&format!("t{}.example.com", count / 2)).unwrap();
        let unknown = ServerName::parse("a.b.c.nobody.example.com").unwrap();
        group.bench_function(BenchmarkId::new("found among", count), |b| {
            b.iter(|| directory.find(black_box(&name)).is_some());
        });
        group.bench_function(BenchmarkId::new("not found among", count), |b| {
            b.iter(|| directory.find(black_box(&unknown)).is_some());
        });
    }
    group.finish();
}

/// Of one tenant, each with a pin.
const DEVICES: usize = 1_000_000;

/// Times the number of a device: the first half of its pin. The largest product is an i64.
const SPREAD: u64 = 9_223_372_036_854;

/// A registry in SQLite in a directory of its own.
struct Store {
    runtime: Runtime,
    registry: Arc<Registry>,
    _directory: TempDir,
}

impl Store {
    /// `fill` gets the file once it has its schema.
    fn with(fill: impl AsyncFnOnce(&mut SqliteConnection)) -> Store {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("registry.db");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let open = async || {
            let settings = RegistrySettings::new(format!("sqlite:{}", file.display()));
            let metrics = Metrics::new().unwrap();
            Registry::open(settings, Clock::manual(NOW), metrics).await.unwrap()
        };
        let registry = runtime.block_on(async {
            open().await.close().await;
            let options = SqliteConnectOptions::new().filename(&file);
            let mut connection = options.connect().await.unwrap();
            fill(&mut connection).await;
            connection.close().await.unwrap();
            open().await
        });
        Store { runtime, registry, _directory: directory }
    }

    fn of_a_million() -> Store {
        Store::with(async |connection| {
            let of_each = |sql: &str| {
                AssertSqlSafe(format!(
                    "WITH RECURSIVE numbers(n) AS
                         (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {DEVICES})
                     {sql} FROM numbers"
                ))
            };
            let devices = "INSERT INTO devices (tenant, device_id, status, registered_by,
                               registered_at, changed_at)
                           SELECT 'acme', 'device-' || n, 'active', 'bulk', 0, 0";
            // Digests are spread over their whole range, as those of certificates are.
            let pins = format!(
                "INSERT INTO pins (tenant, leaf_sha256, device_id, version)
                 SELECT 'acme', printf('%016x%048x', n * {SPREAD}, n), 'device-' || n, 0"
            );
            for sql in [devices, &pins] {
                connection.execute(sqlx::raw_sql(of_each(sql))).await.unwrap();
            }
        })
    }

    fn apply(&self, change: Change) -> Outcome {
        self.runtime.block_on(self.registry.apply(&Actor::edge(), change)).unwrap()
    }
}

/// The digest of a pin of [`Store::of_a_million`].
fn pin(n: u64) -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&n.wrapping_mul(SPREAD).to_be_bytes());
    digest[24..].copy_from_slice(&n.to_be_bytes());
    digest
}

/// What each request of a device asks of memory.
fn registry_lookups(c: &mut Criterion) {
    let store = LazyCell::new(Store::of_a_million);
    let tenant = TenantId::parse("acme").unwrap();
    let mut group = c.benchmark_group("registry of 1,000,000");
    for (name, prefix, there) in [("hit", "device-", true), ("miss", "stranger-", false)] {
        group.bench_function(BenchmarkId::new("status", name), |b| {
            let store = &*store;
            let devices: Vec<DeviceId> = (0..1_000)
                .map(|n| DeviceId::parse(&format!("{prefix}{}", n * 997)).unwrap())
                .collect();
            assert_eq!(store.registry.status(&tenant, &devices[0]).is_some(), there);
            let mut devices = devices.iter().cycle();
            b.iter(|| store.registry.status(&tenant, black_box(devices.next()?)));
        });
    }
    for (name, first, there) in [("hit", 0, true), ("miss", 1 << 40, false)] {
        group.bench_function(BenchmarkId::new("pin", name), |b| {
            let store = &*store;
            let pins: Vec<[u8; 32]> = (0..1_000).map(|n| pin(first + n * 997)).collect();
            assert_eq!(store.registry.pinned(&tenant, &pins[1]).is_some(), there);
            let mut pins = pins.iter().cycle();
            b.iter(|| store.registry.pinned(&tenant, black_box(pins.next()?)));
        });
    }
    group.finish();
}

/// Rows of a bulk registration, a thousand in a transaction, as the admin API hands them on.
fn registry_import(c: &mut Criterion) {
    const ROWS: usize = 1_000;
    let store = LazyCell::new(|| Store::with(async |_| {}));
    let tenant = TenantId::parse("acme").unwrap();
    let mut group = c.benchmark_group("registry import");
    group.sample_size(20).throughput(Throughput::Elements(ROWS.try_into().unwrap()));
    group.bench_function("1,000 new devices, SQLite", |b| {
        let store = &*store;
        let mut number = 0;
        let batch = || {
            let devices = (0..ROWS).map(|_| {
                number += 1;
                Registration {
                    tenant: tenant.clone(),
                    device: DeviceId::parse(&format!("device-{number}")).unwrap(),
                    registered_by: RegisteredBy::Bulk,
                    at: NOW,
                    leaf_sha256: None,
                    anchor_sha256: None,
                    device_type: None,
                    name: None,
                }
            });
            Change::RegisterDevices { tenant: tenant.clone(), devices: devices.collect() }
        };
        b.iter_batched(batch, |change| store.apply(change), BatchSize::PerIteration);
    });
    group.finish();
}

/// What one change of the registry costs a node of many tenants, once it has read it.
fn assembly(c: &mut Criterion) {
    let tenants = LazyCell::new(|| {
        let dir = configuration(10_000);
        let mut compiler = Compiler::new(Metrics::new().unwrap());
        let compiled = compiler.compile(&dir.path().join("portcullis.yaml")).ok().unwrap();
        let store = Store::with(async |_| {});
        let mut assembly = Assembly::default();
        assembly.assemble(&compiled.directory, &store.registry, None);
        (dir, compiled, store, RefCell::new(assembly))
    });
    let tenant = TenantId::parse("t5000").unwrap();
    let mut group = c.benchmark_group("assembly");
    group.sample_size(20);
    group.bench_function("no change among 10,000 tenants", |b| {
        let (_, compiled, store, assembly) = &*tenants;
        let mut assembly = assembly.borrow_mut();
        b.iter(|| assembly.assemble(&compiled.directory, &store.registry, None));
    });
    group.bench_function("an option of one among 10,000 tenants", |b| {
        let (_, compiled, store, assembly) = &*tenants;
        let mut assembly = assembly.borrow_mut();
        let mut seconds = 300;
        let change = || {
            seconds = 300 + (seconds + 1) % 1_000;
            let (category, key) = LIFESPAN_OPTION;
            store.apply(Change::SetOption {
                tenant: tenant.clone(),
                category: category.to_owned(),
                key: key.to_owned(),
                value: Some(seconds.to_string()),
            });
        };
        let assemble = |()| assembly.assemble(&compiled.directory, &store.registry, None);
        b.iter_batched(change, assemble, BatchSize::PerIteration);
    });
    group.bench_function("an anchor of one among 10,000 tenants", |b| {
        let (_, compiled, store, assembly) = &*tenants;
        let mut assembly = assembly.borrow_mut();
        let root = Template::ca("Uploaded root").self_signed();
        let sha256 = openssl::sha::sha256(&root.der);
        let anchor = AnchorRecord {
            sha256,
            der: root.der,
            name: "uploaded".to_owned(),
            status: AnchorStatus::Disabled,
            auto_registration: false,
            identity: "cn".to_owned(),
            added_at: NOW,
            changed_at: NOW,
            possession: Possession::default(),
        };
        store.apply(Change::AddAnchors { tenant: tenant.clone(), anchors: vec![anchor] });
        let mut enabled = false;
        let change = || {
            enabled = !enabled;
            let status = if enabled { AnchorStatus::Enabled } else { AnchorStatus::Disabled };
            store.apply(Change::UpdateAnchor {
                tenant: tenant.clone(),
                sha256,
                name: None,
                status: Some(status),
                auto_registration: None,
                identity: None,
            });
        };
        let assemble = |()| assembly.assemble(&compiled.directory, &store.registry, None);
        b.iter_batched(change, assemble, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(
    benches,
    chain_validation,
    header_building,
    token_answer,
    key_ring,
    many_tenants,
    registry_lookups,
    registry_import,
    assembly
);
criterion_main!(benches);
