//! Trust as it is loaded, changed and remembered: what a broken file does to its tenant and to
//! the others, what a verdict outlives, and what of a chain reaches the upstream.

use std::fs;

use openssl::ssl::SslVersion;
use portcullis::clock::Clock;
use portcullis::metrics::Metrics;
use portcullis::names::TenantId;
use portcullis::refusal::{Refusal, Refused};
use portcullis::trust::{TrustMaterial, TrustStore, Verdict, VerdictCache};

use crate::pki::{
    Crl, ISSUING_DISTRIBUTION_POINT, Key, Minted, NOT_AFTER, NOT_BEFORE, Template, sequence, tlv,
};
use crate::tls::sessions::elements;
use crate::world::{Client, Config, Failure, NOW, World, eventually};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];
const TENANT_UNAVAILABLE: Failure = Failure::Alert(80);

/// Ways in which a file of anchors can be no such thing.
fn broken_anchors(world: &World) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let pem = world.acme.root.pem();
    let (half, _) = pem.split_at(pem.len() / 2);
    let flipped = pem.replacen("MII", "MI!", 1);
    let der = &world.acme.root.der;
    vec![
        ("missing", None),
        ("empty", Some(Vec::new())),
        ("blank", Some(b"\n\n".to_vec())),
        ("text", Some(b"trust me\n".to_vec())),
        ("cut in two", Some(half.into())),
        ("not base64", Some(flipped.into())),
        ("one good, one broken", Some(format!("{pem}{half}").into())),
        ("half of the DER", Some(der[..der.len() / 2].to_vec())),
        ("DER with a tail", Some([der.as_slice(), b"\0"].concat())),
        ("a device's certificate", Some(world.acme.device.pem().into())),
        ("a CRL", Some(Crl::of(&world.acme.root).der())),
        ("a key", Some(world.acme.root.key.pem())),
    ]
}

/// Puts a state of the file in place.
fn put(world: &World, name: &str, content: Option<&[u8]>) {
    match content {
        Some(content) => world.write(name, content),
        None => fs::remove_file(world.dir.path().join(name)).unwrap(),
    }
}

/// acme is refused, whoever comes; globex and the operators are served.
#[track_caller]
fn acme_alone_is_refused(world: &World, what: &str) {
    for version in VERSIONS {
        for client in [world.acme_client(), world.client("acme.example.com"), world.globex_client()]
        {
            let client = client.server_name("dev.acme.example.com").tls(version);
            assert_eq!(client.get("/").unwrap_err(), TENANT_UNAVAILABLE, "{what}");
        }
    }
    assert_eq!(world.globex_client().get("/").unwrap().status, 200, "{what}");
    assert_eq!(world.admin("/readyz").status, 200, "{what}");
    assert_eq!(world.metric("portcullis_tenants{state=\"refused\"}"), 1.0, "{what}");
    assert_eq!(world.metric("portcullis_tenants{state=\"serviceable\"}"), 1.0, "{what}");
}

#[test]
fn a_tenant_whose_anchors_cannot_be_loaded_at_start_is_refused_alone() {
    let mut world = World::start();
    for (what, content) in broken_anchors(&world) {
        put(&world, "acme-root.pem", content.as_deref());
        world.restart();
        acme_alone_is_refused(&world, what);
        world.refused("tenant_unavailable", 6.0);
        world.write("acme-root.pem", world.acme.root.pem());
    }
    world.restart();
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
}

#[test]
fn a_reload_that_cannot_load_the_anchors_of_a_served_tenant_keeps_the_old_ones() {
    let world = World::start();
    for (what, content) in broken_anchors(&world) {
        let mut live = world.acme_client().connect().unwrap();
        assert_eq!(live.get("/").unwrap().status, 200, "{what}");
        put(&world, "acme-root.pem", content.as_deref());
        let faults = world.reload().expect_err(what).to_string();
        assert!(faults.contains("acme-root.pem"), "{what}: {faults}");
        assert_eq!(world.metric("portcullis_config_last_reload_successful"), 0.0, "{what}");
        assert_eq!(live.get("/").unwrap().status, 200, "{what}");
        assert_eq!(world.acme_client().get("/").unwrap().status, 200, "{what}");
        let stranger = world.globex_client().server_name("acme.example.com");
        assert_eq!(stranger.get("/").unwrap_err(), Failure::Alert(48), "{what}");
        world.write("acme-root.pem", world.acme.root.pem());
        world.reload().unwrap();
        assert_eq!(world.metric("portcullis_config_last_reload_successful"), 1.0, "{what}");
    }
}

#[test]
fn one_tenants_broken_file_does_not_hold_up_the_revocation_of_anothers_device() {
    let world = World::with(|world, config| {
        world.write("globex.crl", Crl::of(&world.globex.issuing).der());
        world.write("globex-issuing.pem", world.globex.issuing.pem());
        config.globex.push_str("\nintermediates: [globex-issuing.pem]");
        config.globex.push_str("\ncrls: { files: [globex.crl] }");
    });
    let mut live = world.globex_client().connect().unwrap();
    assert_eq!(live.get("/").unwrap().status, 200);
    world.write("acme-root.pem", "");
    world.write("globex.crl", Crl::of(&world.globex.issuing).revoke(&world.globex.device).der());
    assert!(world.reload().is_err());
    assert_eq!(world.globex_client().get("/").unwrap_err(), Failure::Alert(44));
    assert_eq!(live.get("/").unwrap().status, 401);
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
}

#[test]
fn a_tenant_that_was_never_served_holds_up_no_reload_and_stays_refused_until_it_is_whole() {
    let mut world = World::start();
    world.write("acme-root.pem", "");
    world.restart();
    acme_alone_is_refused(&world, "at start");
    let device = Template::device("new-1").signed_by(&world.acme.root);
    let globex = world.globex_client().identity(&[&device]);
    assert_eq!(globex.get("/").unwrap_err(), Failure::Alert(48));
    world.write("globex-root.pem", world.globex.root.pem() + &world.acme.root.pem());
    world.reload().unwrap();
    assert_eq!(globex.get("/").unwrap().status, 200);
    acme_alone_is_refused(&world, "after a reload of another");
    world.write("acme-root.pem", world.acme.root.pem());
    world.reload().unwrap();
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
}

#[test]
fn a_file_of_anchors_that_is_no_file_is_refused() {
    let mut world = World::start();
    let path = world.dir.path().join("acme-root.pem");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    world.restart();
    acme_alone_is_refused(&world, "a folder");
    fs::remove_dir(&path).unwrap();
    // Nobody writes to this pipe: whoever opened it to read would wait for ever.
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    world.restart();
    acme_alone_is_refused(&world, "a pipe");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("acme-root.pem", &path).unwrap();
    world.restart();
    acme_alone_is_refused(&world, "a link to itself");
}

#[test]
fn an_edge_that_can_serve_no_tenant_is_alive_but_not_ready() {
    let mut world = World::start();
    for name in ["acme-root.pem", "globex-root.pem"] {
        world.write(name, "");
    }
    world.restart();
    assert_eq!(world.admin("/readyz").status, 503);
    assert_eq!(world.admin("/healthz").status, 200);
    for client in [world.acme_client(), world.globex_client()] {
        assert_eq!(client.get("/").unwrap_err(), TENANT_UNAVAILABLE);
    }
    world.write("globex-root.pem", world.globex.root.pem());
    world.reload().unwrap();
    assert_eq!(world.admin("/readyz").status, 200);
}

#[test]
fn a_tenant_that_trusts_nobody_is_refused_and_not_open() {
    let trusted = "trusted_certificates: []";
    let world = World::with(|_, config| config.acme = trusted.into());
    acme_alone_is_refused(&world, trusted);

    // Without the key the registry brings the anchors; until then no certificate is valid.
    let world = World::with(|_, config| config.acme = "client_certificate: optional".into());
    assert_eq!(world.acme_client().get("/").unwrap_err(), Failure::Alert(48));
    assert_eq!(world.client("acme.example.com").get("/").unwrap().status, 200);
    assert_eq!(world.globex_client().get("/").unwrap().status, 200);
}

#[test]
fn crls_that_cannot_be_used_make_the_tenant_refused_alone() {
    let mut world = World::with(|world, config| {
        world.write("acme.crl", Crl::of(&world.acme.issuing).der());
        world.write("acme-issuing.pem", world.acme.issuing.pem());
        config.acme("intermediates: [acme-issuing.pem]");
        config.acme("crls: { files: [acme.crl] }");
    });
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
    let issuing = &world.acme.issuing.clone();
    let only_users = sequence(&[&tlv(0x81, &[0xff])]);
    let whole = Crl::of(issuing).der();
    let parts = elements(&elements(&whole)[0].1);
    // The signature as a BIT STRING without octets.
    let emptied = sequence(&[&tlv(0x30, &parts[0].1), &tlv(0x30, &parts[1].1), &[3, 0]]);
    for (what, crl) in [
        ("of a stranger", Crl::of(&Template::ca("Stranger").self_signed()).der()),
        ("signed by a stranger", Crl::of(issuing).key(&Key::p256()).der()),
        ("with a broken signature", Crl::of(issuing).with_broken_signature().der()),
        ("without nextUpdate", Crl::of(issuing).without_next_update().der()),
        (
            "of a part",
            Crl::of(issuing).extension(ISSUING_DISTRIBUTION_POINT, true, &only_users).der(),
        ),
        (
            "with an unknown critical extension",
            Crl::of(issuing).extension("1.2.3.4", true, b"\x05\0").der(),
        ),
        ("with an empty BIT STRING", emptied),
        ("empty", Vec::new()),
        ("cut in two", whole[..whole.len() / 2].to_vec()),
    ] {
        world.write("acme.crl", crl);
        world.restart();
        acme_alone_is_refused(&world, what);
    }
    world.write("acme.crl", Crl::of(issuing).der());
    world.reload().unwrap();
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
    world.write("acme.crl", &whole[..whole.len() / 2]);
    assert!(world.reload().is_err());
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
}

#[test]
fn a_reload_that_fails_keeps_the_running_trust() {
    let world = World::start();
    let mut live = world.acme_client().connect().unwrap();
    live.get("/").unwrap();
    world.write("acme-root.pem", world.globex.root.pem());
    let text = fs::read_to_string(world.file()).unwrap();
    world.write("portcullis.yaml", format!("{text}\nnonsense: true\n"));
    assert!(world.reload().is_err());
    assert_eq!(world.metric("portcullis_config_last_reload_successful"), 0.0);
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
    assert_eq!(live.get("/").unwrap().status, 200);
    world.write("portcullis.yaml", text);
    world.reload().unwrap();
    assert_eq!(world.acme_client().get("/").unwrap_err(), Failure::Alert(48));
}

#[test]
fn a_device_that_one_tenant_knows_is_a_stranger_at_the_next() {
    let world = World::start();
    let at_home = world.acme_client();
    let abroad = world.acme_client().server_name("globex.example.com");
    for _ in 0..3 {
        assert_eq!(at_home.get("/").unwrap().status, 200);
        assert_eq!(abroad.get("/").unwrap_err(), Failure::Alert(48));
    }
    // And refused first, it is still at home.
    let new = world.acme.another("acme-device-2");
    let chain = [&new, &world.acme.issuing];
    assert_eq!(abroad.identity(&chain).get("/").unwrap_err(), Failure::Alert(48));
    assert_eq!(at_home.identity(&chain).get("/").unwrap().status, 200);
}

#[test]
fn tenants_that_share_a_ca_lose_it_one_by_one() {
    let world = World::with(|world, config| {
        world.write("both.pem", format!("{}{}", world.globex.root.pem(), world.acme.root.pem()));
        config.globex = "trusted_certificates: [{ file: both.pem }]".into();
    });
    let (acme, globex) =
        (world.acme_client(), world.acme_client().server_name("globex.example.com"));
    assert_eq!(acme.get("/").unwrap().status, 200);
    assert_eq!(globex.get("/").unwrap().status, 200);
    world.write("both.pem", world.globex.root.pem());
    world.reload().unwrap();
    assert_eq!(acme.get("/").unwrap().status, 200);
    assert_eq!(globex.get("/").unwrap_err(), Failure::Alert(48));
}

#[test]
fn cas_of_one_name_are_told_apart_by_their_keys() {
    let world = World::start();
    let twin_root = Template::ca("acme root").self_signed();
    let twin_issuing = Template::ca("acme issuing").signed_by(&twin_root);
    let twin = Template::device("acme-device-1").signed_by(&twin_issuing);
    let cross = Template::device("acme-device-2").signed_by(&twin_issuing);
    let imposter = world.acme_client().identity(&[&twin, &twin_issuing]);
    let mixed = world.acme_client().identity(&[&cross, &world.acme.issuing]);
    let own = world.acme_client();
    assert_eq!(own.get("/").unwrap().status, 200);
    assert!(matches!(imposter.get("/"), Err(Failure::Alert(42 | 48))));
    assert!(matches!(mixed.get("/"), Err(Failure::Alert(42 | 48))));
    // The twin alone, then both.
    world.write("acme-root.pem", twin_root.pem());
    world.reload().unwrap();
    assert!(matches!(own.get("/"), Err(Failure::Alert(42 | 48))));
    assert_eq!(imposter.get("/").unwrap().status, 200);
    world.write("acme-root.pem", format!("{}{}", world.acme.root.pem(), twin_root.pem()));
    world.reload().unwrap();
    assert_eq!(own.get("/").unwrap().status, 200);
    assert_eq!(imposter.get("/").unwrap().status, 200);
    let chain = world.upstream.requests().pop().unwrap();
    assert_eq!(shown(&chain), [&twin, &twin_issuing, &twin_root].map(oneline));
}

#[test]
fn an_anchor_that_goes_and_comes_back_counts_at_once_each_time() {
    let world = World::start();
    let stranger = Template::ca("Stranger").self_signed().pem();
    for _ in 0..3 {
        assert_eq!(world.acme_client().get("/").unwrap().status, 200);
        world.write("acme-root.pem", &stranger);
        world.reload().unwrap();
        assert_eq!(world.acme_client().get("/").unwrap_err(), Failure::Alert(48));
        world.write("acme-root.pem", world.acme.root.pem());
        world.reload().unwrap();
    }
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
}

#[test]
fn a_refusal_does_not_outlive_the_trust_that_it_came_from() {
    let world = World::start();
    let new_root = Template::ca("New root").self_signed();
    let device = Template::device("new-1").signed_by(&new_root);
    let client = world.acme_client().identity(&[&device]);
    for _ in 0..3 {
        assert_eq!(client.get("/").unwrap_err(), Failure::Alert(48));
    }
    // The clock stands still, so only the new epoch can make the difference.
    world.write("acme-root.pem", format!("{}{}", world.acme.root.pem(), new_root.pem()));
    world.reload().unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
}

#[test]
fn a_device_whose_certificate_becomes_valid_is_let_in() {
    let world = World::start();
    let early = Template::device("early").validity(NOW + 60, NOT_AFTER);
    let early = early.signed_by(&world.acme.issuing);
    let client = world.acme_client().identity(&[&early, &world.acme.issuing]);
    assert_eq!(client.get("/").unwrap_err(), Failure::Alert(45));
    world.clock.advance(60);
    assert_eq!(client.get("/").unwrap().status, 200);
}

#[test]
fn many_distinct_devices_fill_only_the_verdict_caches_capacity() {
    let world = World::with(|_, config| config.limits = "verdict_cache: 4".into());
    for n in 0..40 {
        let device = world.acme.another(&format!("device-{n}"));
        let client = world.acme_client().identity(&[&device, &world.acme.issuing]);
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    eventually("what is too much is dropped", || {
        let evicted = world.metric("portcullis_verdict_cache_evictions_total");
        // Forwards to the eviction of what is pending.
        world.acme_client().get("/").unwrap();
        evicted >= 36.0
    });
}

#[test]
fn a_million_distinct_chains_keep_the_cache_at_its_bound() {
    let chains: u32 =
        if std::env::var_os("PORTCULLIS_LONG").is_some() { 1_000_000 } else { 50_000 };
    let metrics = Metrics::new().unwrap();
    let cache = VerdictCache::new(1_000, Clock::manual(NOW), metrics);
    let store = TrustStore::build(TrustMaterial::default()).unwrap();
    let tenant = TenantId::parse("acme").unwrap();
    let refused = Verdict::Refused(Refused::new(Refusal::IssuerUnknown, "no issuer"));
    for n in 0..chains {
        let key = VerdictCache::key(&tenant, store.epoch(), &[&n.to_be_bytes()], &[]);
        cache.insert(key, &refused);
    }
    assert!(cache.len() <= 1_000, "{}", cache.len());
    assert!(!cache.is_empty());
}

/// A certificate as it stands in the header.
fn oneline(certificate: &Minted) -> String {
    certificate.pem().trim_end().replace('\n', " ")
}

/// The certificates of the header that the upstream was sent.
fn shown(request: &crate::world::Recorded) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let header = request.header("x-ssl-cert-chain");
    assert_eq!(header.len(), 1);
    let parts = header[0].split_inclusive(END).map(|part| part.trim().to_owned());
    parts.filter(|part| !part.is_empty()).collect()
}

#[test]
fn of_a_stuffed_chain_only_the_verified_path_is_forwarded() {
    for version in VERSIONS {
        let world = World::start();
        let (acme, globex) = (&world.acme, &world.globex);
        let victim = acme.another("victim");
        let twin = Template::ca("acme issuing").signed_by(&Template::ca("acme root").self_signed());
        let path = [&acme.device, &acme.issuing, &acme.root].map(oneline);
        for stuffed in [
            &[&acme.device, &acme.issuing, &victim][..],
            &[&acme.device, &victim, &acme.issuing],
            &[
                &acme.device,
                &globex.device,
                &globex.issuing,
                &globex.root,
                &acme.issuing,
                &acme.root,
            ],
            &[&acme.device, &twin, &acme.issuing],
            &[&acme.device, &acme.issuing, &acme.issuing, &acme.device],
            &[&acme.device, &acme.root, &acme.issuing],
        ] {
            let client = world.acme_client().identity(stuffed).tls(version);
            let mut connection = client.connect().unwrap();
            assert_eq!(connection.get("/").unwrap().status, 200);
            assert_eq!(shown(&world.upstream.requests().pop().unwrap()), path);
            assert_eq!(subject(&client), "device_acme-device-1");
            let resuming = client.resuming(&connection.session().unwrap());
            let mut resumed = resuming.connect().unwrap();
            assert_eq!(resumed.get("/").unwrap().status, 200);
            assert!(resumed.resumed());
            assert_eq!(shown(&world.upstream.requests().pop().unwrap()), path);
            let token = resumed.token("").unwrap().access_token();
            assert_eq!(sub(&token), "device_acme-device-1");
        }
    }
}

fn subject(client: &Client) -> String {
    sub(&client.token().unwrap().access_token())
}

fn sub(token: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    claims["sub"].as_str().unwrap().to_owned()
}

#[test]
fn a_good_device_behind_a_strangers_leaf_is_nobody() {
    let world = World::start();
    let stranger = Template::device("acme-device-1").self_signed();
    let pki = &world.acme;
    for version in VERSIONS {
        let chain = [&stranger, &pki.device, &pki.issuing, &pki.root];
        let client = world.acme_client().identity(&chain).tls(version);
        assert_eq!(client.get("/").unwrap_err(), Failure::Alert(48));
    }
    assert!(world.upstream.requests().is_empty());
}

/// acme with CRLs of its root and of its issuing CA.
fn with_crls(policy: &str, crls: impl Fn(&World) -> [Crl; 2]) -> World {
    World::with(|world, config: &mut Config| {
        write_crls(world, crls(world));
        world.write("acme-issuing.pem", world.acme.issuing.pem());
        config.acme("intermediates: [acme-issuing.pem]");
        config.acme(&format!("crls: {{ files: [root.crl, issuing.crl]{policy} }}"));
    })
}

fn write_crls(world: &World, crls: [Crl; 2]) {
    for (name, crl) in ["root.crl", "issuing.crl"].into_iter().zip(crls) {
        world.write(name, crl.der());
    }
}

fn crls(world: &World) -> [Crl; 2] {
    [Crl::of(&world.acme.root), Crl::of(&world.acme.issuing)]
}

#[test]
fn revoked_leaves_and_intermediates_are_refused() {
    let world = with_crls("", crls);
    let client = world.acme_client();
    assert_eq!(client.get("/").unwrap().status, 200);
    let [root, issuing] = crls(&world);
    write_crls(&world, [root, issuing.revoke(&world.acme.device)]);
    world.reload().unwrap();
    assert_eq!(client.get("/").unwrap_err(), Failure::Alert(44));
    let other = world.acme.another("acme-device-2");
    let other = client.clone().identity(&[&other, &world.acme.issuing]);
    assert_eq!(other.get("/").unwrap().status, 200);
    let [root, issuing] = crls(&world);
    write_crls(&world, [root.revoke(&world.acme.issuing), issuing]);
    world.reload().unwrap();
    assert_eq!(client.get("/").unwrap_err(), Failure::Alert(44));
    assert_eq!(other.get("/").unwrap_err(), Failure::Alert(44));
    write_crls(&world, crls(&world));
    world.reload().unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
}

#[test]
fn a_serial_number_is_revoked_under_its_own_issuer_only() {
    let world = with_crls("", |world| {
        let [root, issuing] = crls(world);
        // The leaf's serial number, revoked by the root, which issued no such leaf.
        [root.revoke(&world.acme.device), issuing]
    });
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
}

#[test]
fn a_stale_crl_is_refused_or_accepted_as_the_tenant_says() {
    let short = |world: &World| {
        let [root, issuing] = crls(world);
        [root, issuing.current(NOT_BEFORE, NOW + 60)]
    };
    for (policy, stale) in
        [("", Err(46)), (", stale: refuse", Err(46)), (", stale: accept", Ok(200))]
    {
        let world = with_crls(policy, short);
        let client = world.acme_client();
        assert_eq!(client.get("/").unwrap().status, 200);
        world.clock.advance(61);
        let now = client.get("/").map(|response| response.status);
        assert_eq!(now, stale.map_err(Failure::Alert), "{policy}");
    }
}

#[test]
fn a_stale_crl_still_revokes_where_staleness_is_accepted() {
    let world = with_crls(", stale: accept", |world| {
        let [root, issuing] = crls(world);
        [root, issuing.revoke(&world.acme.device).current(NOT_BEFORE, NOW - 60)]
    });
    assert_eq!(world.acme_client().get("/").unwrap_err(), Failure::Alert(44));
}

#[test]
fn distribution_points_in_a_leaf_do_not_keep_it_from_being_revoked() {
    let point = |uri: &str| {
        let name = tlv(0xa0, &tlv(0xa0, &tlv(0x86, uri.as_bytes())));
        sequence(&[&name])
    };
    let points = sequence(&[&point("http://a.example/1.crl"), &point("http://b.example/2.crl")]);
    let leaf = Template::device("two-points").extension("2.5.29.31", false, &points);
    let world = with_crls("", crls);
    let leaf = leaf.signed_by(&world.acme.issuing);
    let client = world.acme_client().identity(&[&leaf, &world.acme.issuing]);
    assert_eq!(client.get("/").unwrap().status, 200);
    let [root, issuing] = crls(&world);
    write_crls(&world, [root, issuing.revoke(&leaf)]);
    world.reload().unwrap();
    assert_eq!(client.get("/").unwrap_err(), Failure::Alert(44));
}
