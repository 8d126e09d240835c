//! TLS as a device meets it: versions, groups, certificates, ALPN, and the alert of each
//! refusal. Server names, floods and the PROXY protocol are rooms of their own.

mod floods;
pub mod hello;
mod proxy_protocol;
mod records;
mod server_names;
pub mod sessions;

use std::process::{Command, Stdio};

use openssl::nid::Nid;
use openssl::pkey::Id;
use openssl::ssl::SslVersion;

use crate::pki::{Crl, Key, Minted, NOT_AFTER, NOT_BEFORE, SERVER_AUTH, Template};
use crate::world::{Client, Config, Failure, NOW, TOKEN_PATH, World};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];
const JWKS_PATH: &str = "/.well-known/jwks.json";
const TRUSTS_ACME: &str =
    "trusted_certificates: [{ file: acme-root.pem, auto_registration: true }]";

/// A device of this certificate under acme's issuing CA is refused with this alert, in both
/// versions, and counted under this reason; the next device is served.
#[track_caller]
fn refused(world: &World, leaf: &Minted, alert: u8, reason: &str) {
    let before = world.refusals(reason);
    for version in VERSIONS {
        let client = world.acme_client().identity(&[leaf, &world.acme.issuing]).tls(version);
        assert_eq!(client.get("/").unwrap_err(), Failure::Alert(alert), "{version:?}");
    }
    assert_eq!(world.refusals(reason), before + 2.0);
    assert!(world.upstream.requests().is_empty());
    assert_eq!(world.acme_client().get("/").unwrap().status, 200);
}

#[test]
fn an_expired_certificate_is_refused_with_its_alert() {
    let world = World::start();
    let leaf = Template::device("old").validity(NOT_BEFORE, NOW - 1);
    refused(&world, &leaf.signed_by(&world.acme.issuing), 45, "certificate_expired");
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_refused_as_an_expired_one() {
    let world = World::start();
    let leaf = Template::device("early").validity(NOW + 1, NOT_AFTER);
    refused(&world, &leaf.signed_by(&world.acme.issuing), 45, "certificate_expired");
}

#[test]
fn a_revoked_certificate_is_refused_with_its_alert() {
    let mut revoked = None;
    let world = World::with(|world, config| {
        let leaf = world.acme.another("revoked");
        world.write("acme.crl", Crl::of(&world.acme.issuing).revoke(&leaf).der());
        world.write("acme-issuing.pem", world.acme.issuing.pem());
        config.acme("intermediates: [acme-issuing.pem]");
        config.acme("crls: { files: [acme.crl] }");
        revoked = Some(leaf);
    });
    refused(&world, &revoked.unwrap(), 44, "certificate_revoked");
}

#[test]
fn a_certificate_of_an_unknown_ca_is_refused_with_its_alert() {
    let world = World::start();
    let stranger = Template::ca("Stranger").self_signed();
    let leaf = Template::device("acme-device-1").signed_by(&stranger);
    refused(&world, &leaf, 48, "issuer_unknown");
    refused_with_alert_48(&world, &[&leaf, &stranger]);
    let own = Template::device("acme-device-1").self_signed();
    refused_with_alert_48(&world, &[&own]);
}

#[track_caller]
fn refused_with_alert_48(world: &World, chain: &[&Minted]) {
    for version in VERSIONS {
        let client = world.acme_client().identity(chain).tls(version);
        assert_eq!(client.get("/").unwrap_err(), Failure::Alert(48), "{version:?}");
    }
}

#[test]
fn a_certificate_with_a_broken_signature_is_refused_as_malformed() {
    let world = World::start();
    let leaf = Template::device("forged").with_broken_signature();
    refused(&world, &leaf.signed_by(&world.acme.issuing), 42, "certificate_malformed");
}

#[test]
fn a_certificate_against_the_profile_is_refused_as_unsupported() {
    let world = World::start();
    let leaf = Template::device("web").extended_key_usage(&[SERVER_AUTH]);
    refused(&world, &leaf.signed_by(&world.acme.issuing), 43, "certificate_unsupported");
}

#[test]
fn a_missing_certificate_is_refused_with_the_alert_of_the_version() {
    let world = World::start();
    let anonymous = world.client("acme.example.com");
    for (version, alert) in [(SslVersion::TLS1_3, 116), (SslVersion::TLS1_2, 40)] {
        let refused = anonymous.clone().tls(version).get("/").unwrap_err();
        assert_eq!(refused, Failure::Alert(alert));
    }
    assert_eq!(world.refusals("certificate_missing"), 2.0);
}

#[test]
fn a_certificate_without_its_key_proves_nothing() {
    let world = World::start();
    // A thief that holds some certificate of the fleet shows the victim's in its place.
    let thief = world.acme.another("thief");
    let (victim, issuing) = (world.acme.device.der.clone(), world.acme.issuing.der.clone());
    let shown = move |_, record: Vec<u8>| {
        let message = &record[5..];
        // Certificate (RFC 5246 section 7.4.2), which TLS 1.2 sends in clear.
        let is_certificate = record[0] == hello::HANDSHAKE && message[0] == 11;
        Some(if is_certificate { hello::certificate_record(&[&victim, &issuing]) } else { record })
    };
    let relay = hello::Relay::start(world.https(), "127.0.0.1".parse().unwrap(), shown);
    let thief = world.acme_client().identity(&[&thief, &world.acme.issuing]).tls12();
    assert_eq!(thief.get("/").unwrap().status, 200);
    assert_eq!(thief.at(relay.address()).get("/").unwrap_err(), Failure::Alert(51));
    assert_eq!(world.upstream.requests().len(), 1);
}

#[test]
fn versions_before_tls12_are_refused() {
    let world = World::start();
    for version in [SslVersion::TLS1, SslVersion::TLS1_1] {
        let refused = world.acme_client().tls(version).get("/").unwrap_err();
        assert_eq!(refused, Failure::Alert(70), "{version:?}");
    }
    for version in VERSIONS {
        let mut connection = world.acme_client().tls(version).connect().unwrap();
        assert_eq!(connection.tls.ssl().version2(), Some(version));
        assert_eq!(connection.get("/").unwrap().status, 200);
    }
}

#[test]
fn every_offered_group_is_negotiated_and_others_are_not() {
    let world = World::start();
    for group in ["X25519MLKEM768", "X25519", "P-256", "P-384"] {
        let client = world.acme_client().tls(SslVersion::TLS1_3).groups(group);
        assert_eq!(client.get("/").unwrap().status, 200, "{group}");
    }
    // With an RSA certificate: an ECDSA one must itself be on a curve that the client has.
    let rsa = two_certificates();
    for group in ["X25519", "P-256", "P-384"] {
        let client = rsa.acme_client().server_name("initech.example.com").tls12();
        let client = client.ciphers("ECDHE-RSA-AES128-GCM-SHA256").groups(group);
        assert_eq!(client.get("/").unwrap().status, 200, "{group} in TLS 1.2");
    }
    for group in ["P-521", "X448", "MLKEM768"] {
        let refused = world.acme_client().tls(SslVersion::TLS1_3).groups(group).get("/");
        assert_eq!(refused.unwrap_err(), Failure::Alert(40), "{group}");
    }
}

#[test]
fn a_client_of_today_gets_the_post_quantum_group() {
    let world = World::start();
    let relay = hello::Relay::plain("127.0.0.1".parse().unwrap(), world.https());
    assert_eq!(world.acme_client().at(relay.address()).get("/").unwrap().status, 200);
    let server_hello = &hello::records(&relay.sent_back())[0].1;
    // key_share (RFC 8446 section 4.2.8) of X25519MLKEM768 with its 1,120 octets.
    let share = [0, 0x33, 4, 0x64, 0x11, 0xec, 4, 0x60];
    assert!(server_hello.windows(8).any(|part| part == share), "{server_hello:02x?}");
}

/// Beside acme a tenant that trusts the same CA and has two certificates, ECDSA and RSA.
fn two_certificates() -> World {
    World::with(|world, config| {
        for (name, key) in [("ecdsa", Key::ec(Nid::SECP384R1)), ("rsa", Key::rsa(2_048))] {
            let server = Template::server(&["initech.example.com"]).key(&key);
            world.write(&format!("{name}.pem"), server.signed_by(&world.server_root).pem());
            world.write_key(&format!("{name}.key"), &key);
        }
        config.tenants = format!(
            "- id: initech\n  server_names: [initech.example.com]\n  upstream: platform\n  \
             certificate: [{{ chain: rsa.pem, key: rsa.key }}, {{ chain: ecdsa.pem, key: ecdsa.key }}]\n  \
             {TRUSTS_ACME}"
        );
    })
}

#[test]
fn the_client_chooses_among_an_ecdsa_and_an_rsa_certificate() {
    let world = two_certificates();
    let client = world.acme_client().server_name("initech.example.com");
    let shown = |client: Client| {
        let mut connection = client.connect().unwrap();
        let certificate = connection.tls.ssl().peer_certificate().unwrap();
        assert_eq!(connection.get("/").unwrap().status, 200);
        certificate.public_key().unwrap().id()
    };
    for (signatures, id) in [
        ("rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256", Id::RSA),
        ("ecdsa_secp384r1_sha384:ecdsa_secp256r1_sha256", Id::EC),
    ] {
        assert_eq!(shown(client.clone().tls(SslVersion::TLS1_3).signatures(signatures)), id);
    }
    for (ciphers, id) in
        [("ECDHE-RSA-AES128-GCM-SHA256", Id::RSA), ("ECDHE-ECDSA-AES128-GCM-SHA256", Id::EC)]
    {
        assert_eq!(shown(client.clone().tls12().ciphers(ciphers)), id);
    }
}

#[test]
fn a_client_that_can_verify_no_certificate_of_the_tenant_is_refused() {
    let world = World::start();
    let client = world.acme_client().tls(SslVersion::TLS1_3).signatures("rsa_pss_rsae_sha256");
    let anonymous = client.anonymous();
    assert_eq!(anonymous.get("/").unwrap_err(), Failure::Alert(40));
    let client = world.acme_client().tls12().ciphers("ECDHE-RSA-AES128-GCM-SHA256");
    assert_eq!(client.get("/").unwrap_err(), Failure::Alert(40));
}

#[test]
fn suites_without_forward_secrecy_or_aead_are_refused() {
    let world = two_certificates();
    let client = world.acme_client().server_name("initech.example.com").tls12();
    for ciphers in [
        "AES128-GCM-SHA256",
        "AES128-SHA",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "DHE-RSA-AES128-GCM-SHA256",
    ] {
        let refused = client.clone().ciphers(ciphers).get("/").unwrap_err();
        assert_eq!(refused, Failure::Alert(40), "{ciphers}");
    }
}

#[test]
fn alpn_takes_h2_and_http11_and_nothing_else() {
    let world = World::start();
    let client = world.acme_client();
    let chosen = |client: &Client| {
        let connection = client.connect().unwrap();
        connection.tls.ssl().selected_alpn_protocol().map(<[u8]>::to_vec)
    };
    assert_eq!(chosen(&client.clone().alpn(b"\x08http/1.1\x02h2")), Some(b"h2".to_vec()));
    let http1 = client.clone().alpn(b"\x03foo\x08http/1.1");
    assert_eq!(chosen(&http1), Some(b"http/1.1".to_vec()));
    assert_eq!(http1.get("/").unwrap().status, 200);
    assert_eq!(chosen(&client), None);
    assert_eq!(client.get("/").unwrap().status, 200);
    for unknown in [&b"\x03foo"[..], b"\x08http/1.0", b"\x04mqtt", b"\x02H2"] {
        assert_eq!(client.clone().alpn(unknown).get("/").unwrap_err(), Failure::Alert(120));
    }
}

#[test]
fn an_optional_certificate_may_be_absent_but_not_wrong() {
    let world = World::with(|_, config| {
        config.acme = format!("{TRUSTS_ACME}\nclient_certificate: optional")
    });
    for version in VERSIONS {
        let anonymous = world.client("acme.example.com").tls(version);
        assert_eq!(anonymous.get("/").unwrap().status, 200);
        assert_eq!(anonymous.token().unwrap().status, 401);
        let seen = world.upstream.requests().pop().unwrap();
        assert!(seen.header("x-ssl-cert-chain").is_empty());
        let device = world.acme_client().tls(version);
        assert_eq!(device.get("/").unwrap().status, 200);
        let seen = world.upstream.requests().pop().unwrap();
        assert_eq!(seen.header("x-ssl-cert-chain").len(), 1);
        let other = world.globex_client().server_name("acme.example.com").tls(version);
        assert_eq!(other.get("/").unwrap_err(), Failure::Alert(48));
    }
}

#[test]
fn a_tenant_without_client_certificates_asks_for_none_and_believes_none() {
    let world = World::with(|_, config| config.acme = "client_certificate: none".into());
    for version in VERSIONS {
        assert_eq!(world.client("acme.example.com").tls(version).get("/").unwrap().status, 200);
        let device = world.acme_client().tls(version);
        assert_eq!(device.get("/").unwrap().status, 200);
        assert_eq!(device.token().unwrap().status, 401);
    }
    for request in world.upstream.requests() {
        assert!(request.header("x-ssl-cert-chain").is_empty());
    }
    assert_eq!(asked_for(&world), "nothing");
}

#[test]
fn ca_names_are_sent_only_where_the_tenant_says_so() {
    for version in ["-tls1_2", "-tls1_3"] {
        let world = World::start();
        let quiet = s_client(&world, &[version]);
        assert!(quiet.contains("No client certificate CA names sent"), "{quiet}");
        let world = World::with(|_, config| config.acme("send_ca_names: true"));
        let told = s_client(&world, &[version]);
        let (_, names) = told.split_once("Acceptable client certificate CA names\n").unwrap();
        assert_eq!(names.lines().next(), Some("CN = acme root"), "{told}");
        assert_eq!(names.lines().filter(|line| line.starts_with("CN = ")).count(), 1);
        assert_eq!(world.acme_client().get("/").unwrap().status, 200);
    }
}

/// What CertificateRequest there is, by the words of `openssl s_client`.
fn asked_for(world: &World) -> &'static str {
    let said = s_client(world, &["-tls1_3"]);
    if said.contains("Requested Signature Algorithms") { "a certificate" } else { "nothing" }
}

fn s_client(world: &World, options: &[&str]) -> String {
    let address = world.https().to_string();
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", "acme.example.com"])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_listener_without_client_certificates_gives_a_requiring_tenants_keys_and_nothing_else() {
    let world = World::with(|_, config| {
        config.listeners = "- { bind: \"127.0.0.1:0\", client_certificates: false }".into();
    });
    let address = world.server().https_addresses()[1];
    for version in VERSIONS {
        for client in [world.client("acme.example.com"), world.acme_client()] {
            let client = client.at(address).tls(version);
            let keys = client.get(JWKS_PATH).unwrap();
            assert_eq!(keys.status, 200);
            assert_eq!(keys.json()["keys"][0]["kid"], "k1");
            assert_eq!(client.get("/").unwrap().status, 401);
            assert_eq!(client.get(TOKEN_PATH).unwrap().status, 405);
            assert_eq!(client.token().unwrap().status, 401);
        }
    }
    assert!(world.upstream.requests().is_empty());
    // The listener beside it still asks.
    let refused = world.client("acme.example.com").get(JWKS_PATH).unwrap_err();
    assert_eq!(refused, Failure::Alert(116));
}

#[test]
fn a_listener_without_client_certificates_serves_tenants_that_do_not_require_them() {
    let world = World::with(|_, config| {
        config.listener = "client_certificates: false".into();
        config.acme = format!("{TRUSTS_ACME}\nclient_certificate: optional");
    });
    let device = world.acme_client();
    assert_eq!(device.get("/").unwrap().status, 200);
    assert!(world.upstream.only_request().header("x-ssl-cert-chain").is_empty());
    assert_eq!(device.token().unwrap().status, 401);
}

#[test]
fn a_default_tenant_serves_who_names_nobody_and_no_one_else() {
    let world = World::with(|_, config| config.listener = "default_tenant: acme".into());
    for version in VERSIONS {
        let nameless = world.acme_client().without_server_name().tls(version);
        assert_eq!(nameless.get("/").unwrap().status, 200);
        let pki = &world.globex;
        let globex = nameless.identity(&[&pki.device, &pki.issuing]);
        assert_eq!(globex.get("/").unwrap_err(), Failure::Alert(48));
        let unknown = world.acme_client().server_name("unknown.example.org").tls(version);
        assert_eq!(unknown.get("/").unwrap_err(), Failure::Alert(112));
        assert_eq!(world.globex_client().tls(version).get("/").unwrap().status, 200);
    }
}

#[test]
fn an_ipv6_listener_serves_and_forwards_its_peers_address() {
    let world = World::with(|_, config| config.listeners = "- { bind: \"[::1]:0\" }".into());
    let address = world.server().https_addresses()[1];
    assert!(address.is_ipv6());
    assert_eq!(world.acme_client().at(address).get("/").unwrap().status, 200);
    assert_eq!(world.upstream.only_request().header("x-forwarded-for"), ["::1"]);
    let by_address = world.acme_client().at(address);
    let mut connection = by_address.connect().unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
    assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 421);
}

#[test]
fn a_configuration_without_tenants_that_serve_still_says_why() {
    let faults = World::try_with(|_, config: &mut Config| {
        config.acme = TRUSTS_ACME.replace("acme-root.pem", "none.pem");
        config.globex = config.acme.clone();
    });
    let world = faults.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(world.admin("/readyz").status, 503);
    assert_eq!(world.admin("/healthz").status, 200);
    assert_eq!(world.acme_client().get("/").unwrap_err(), Failure::Alert(80));
}
