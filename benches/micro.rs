//! What single steps of the data path cost. `make bench`; one group: `make bench` with
//! `BENCH=verdict`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot start is of no use")]

#[path = "../tests/it/pki.rs"]
#[expect(dead_code, reason = "the tests use what the benchmarks do not")]
mod pki;

use std::fmt::Write;
use std::fs;
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use portcullis::clock::Clock;
use portcullis::config::Compiler;
use portcullis::metrics::Metrics;
use portcullis::names::{DeviceId, ServerName, TenantId};
use portcullis::tenant::{TenantDirectory, TenantEntry};
use portcullis::token::{
    Algorithm, KeyRing, KeySecret, ResponseType, RotationSettings, SigningKeys, TokenRequest,
    TokenService, TokenSettings, check_bearer,
};
use portcullis::trust::{Anchor, TrustMaterial, TrustStore, Verdict, VerdictCache, VerifiedChain};
use portcullis::upstream::{Dialect, ForwardSettings};
use tempfile::TempDir;

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
    group.bench_function("check of a bearer, ES256", |b| {
        b.iter(|| check_bearer(black_box(bearer), &keys, &settings, &tenant, None, NOW));
    });
    group.bench_function("check of a foreign bearer", |b| {
        let (_, rest) = bearer.split_once('.').unwrap();
        // {"alg":"RS256","kid":"platform"}
        let foreign = format!("eyJhbGciOiJSUzI1NiIsImtpZCI6InBsYXRmb3JtIn0.{rest}");
        b.iter(|| check_bearer(black_box(&foreign), &keys, &settings, &tenant, None, NOW));
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

criterion_group!(benches, chain_validation, header_building, token_answer, key_ring, many_tenants);
criterion_main!(benches);
