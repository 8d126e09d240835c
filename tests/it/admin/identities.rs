//! Which part of a certificate is the device: from the file and from the API, down to the token,
//! the headers and the registry.

use openssl::x509::X509;
use serde_json::json;

use super::{ACME, claims, serial};
use crate::pki::{COMMON_NAME, Minted, ORGANIZATION, SUBJECT_ALT_NAME, Template, sequence, tlv};
use crate::world::{Client, Failure, World, anchors};

const UNSUPPORTED: Failure = Failure::Alert(43);

const SPIFFE: &str = "san_uri:spiffe://acme\\.example/device/([a-z0-9-]+)";
const URN: &str = "san_uri:urn:dev:(.*)";
const DOMAIN: &str = "cn:(.*)\\.devices\\.acme\\.example";

/// Values of a subjectAltName: tag 0x86 is a URI, 0x82 a DNS name.
fn with_names(names: &[(u8, &[u8])]) -> Template {
    let names: Vec<Vec<u8>> = names.iter().map(|(tag, name)| tlv(*tag, name)).collect();
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    Template::device("not-this-one").extension(SUBJECT_ALT_NAME, false, &sequence(&names))
}

fn with_uri(uri: &str) -> Template {
    with_names(&[(0x86, uri.as_bytes())])
}

/// An acme whose one anchor, acme's root, has this rule: by its file, or by the API.
fn world_with(rule: &str, by_file: bool) -> World {
    let world = World::with(|_, config| {
        let quoted = rule.replace('\'', "''");
        config.acme = match by_file {
            true => format!(
                "trusted_certificates: [{{ file: acme-root.pem, auto_registration: true, \
                 device_identity: '{quoted}' }}]"
            ),
            false => String::new(),
        };
    });
    if !by_file {
        let anchor = json!({
            "autoRegistrationEnabled": true,
            "certInPemFormat": world.acme.root.pem(),
            "deviceIdentity": rule,
        });
        let created = world.api("POST", &anchors("acme"), anchor);
        assert_eq!((created.status, created.json()["deviceIdentity"].clone()), (201, rule.into()));
    }
    world
}

fn client(world: &World, device: &Minted) -> Client {
    world.acme_client().identity(&[device, &world.acme.issuing])
}

/// Token, headers and registry all know the device under this id.
#[track_caller]
fn is_known_as(world: &World, device: &Minted, id: &str) {
    let client = client(world, device);
    let token = client.token().unwrap().access_token();
    assert_eq!(claims(&token)["sub"], format!("device_{id}"));
    assert_eq!(client.get("/").unwrap().status, 200);
    let seen = world.upstream.requests().pop().unwrap();
    let chain =
        seen.header("x-ssl-cert-chain")[0].replace("CERTIFICATE-----", "CERTIFICATE-----\n");
    let leaf = chain.split("-----END").next().unwrap().replace(' ', "\n");
    let leaf = leaf.replace("-----BEGIN\nCERTIFICATE", "-----BEGIN CERTIFICATE")
        + "-----END CERTIFICATE-----\n";
    assert_eq!(X509::from_pem(leaf.as_bytes()).unwrap().to_der().unwrap(), device.der);
    let devices = world.operator().get(&format!("{ACME}/devices")).json();
    let ids: Vec<&str> =
        devices["devices"].as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [id]);
    assert_eq!(world.operator().get(&format!("{ACME}/devices/{id}")).status, 200);
}

#[test]
fn the_rule_of_the_anchor_names_the_device_everywhere() {
    for by_file in [true, false] {
        for (rule, template, id) in [
            ("cn", Template::device("plain"), "plain"),
            (SPIFFE, with_uri("spiffe://acme.example/device/pump-7"), "pump-7"),
            ("san_dns", with_names(&[(0x82, b"pump.acme.example")]), "pump.acme.example"),
            ("san_dns:([^.]+)\\..*", with_names(&[(0x82, b"pump.acme.example")]), "pump"),
            ("cn:(?:sn|id)=([0-9]+)", Template::device("sn=0042"), "0042"),
            (DOMAIN, Template::device("pump.devices.acme.example"), "pump"),
            // Of several values the one that matches counts, and one that stands twice is one.
            (
                SPIFFE,
                with_names(&[
                    (0x86, b"https://acme.example/pump-8"),
                    (0x86, b"spiffe://acme.example/device/pump-8"),
                    (0x86, b"spiffe://acme.example/device/pump-8"),
                ]),
                "pump-8",
            ),
        ] {
            let world = world_with(rule, by_file);
            is_known_as(&world, &template.signed_by(&world.acme.issuing), id);
        }
        let world = world_with("serial", by_file);
        let device = world.acme.another("no matter which");
        is_known_as(&world, &device, &serial(&device));
    }
}

#[test]
fn a_certificate_that_names_no_device_or_two_is_refused() {
    for by_file in [true, false] {
        for (rule, templates) in [
            (
                SPIFFE,
                vec![
                    Template::device("pump-7"),
                    with_uri("spiffe://acme.example/device/"),
                    with_uri("spiffe://globex.example/device/pump-7"),
                    with_uri("xspiffe://acme.example/device/pump-7"),
                    with_uri("spiffe://acme.example/device/pump-7/x"),
                    with_names(&[
                        (0x86, b"spiffe://acme.example/device/pump-7"),
                        (0x86, b"spiffe://acme.example/device/pump-8"),
                    ]),
                    with_names(&[(0x82, b"spiffe://acme.example/device/pump-7")]),
                ],
            ),
            (
                DOMAIN,
                vec![
                    Template::device("pump.devices.acme.example.evil.example"),
                    Template::device("pumpXdevices.acme.example"),
                    Template::device(".devices.acme.example"),
                    Template::device("pump.devices.acme.example").subject(&[
                        (COMMON_NAME, 0x0c, b"pump.devices.acme.example"),
                        (COMMON_NAME, 0x0c, b"fan.devices.acme.example"),
                    ]),
                    Template::device("x").subject(&[(
                        ORGANIZATION,
                        0x0c,
                        b"pump.devices.acme.example",
                    )]),
                ],
            ),
        ] {
            let world = world_with(rule, by_file);
            for (index, template) in templates.into_iter().enumerate() {
                let device = template.signed_by(&world.acme.issuing);
                let refused = client(&world, &device).get("/");
                assert_eq!(refused.unwrap_err(), UNSUPPORTED, "{rule}: {index}");
            }
            assert!(world.upstream.requests().is_empty());
        }
    }
}

#[test]
fn a_name_with_characters_that_break_out_becomes_no_device() {
    let long = "x".repeat(129);
    let odd = [
        "a b",
        "a/b",
        "../a",
        "a%2fb",
        "a%",
        "a_%",
        "a'",
        "'; DROP TABLE devices;--",
        "a\"",
        "a\\",
        "a\r\nX-Evil: 1",
        "a\n",
        "a\tb",
        "a\0b",
        "a\x1b[31m",
        "a;b",
        "a,b",
        "a+b",
        "a#",
        "a?b",
        "*",
        "$share",
        "{a}",
        "<a>",
        "",
        " ",
        &long,
        "büro",
        "a\u{202e}b",
    ];
    for (rule, prefix) in
        [("cn", ""), ("cn:(.*)", ""), ("cn:id=((?s:.*))", "id="), (URN, "urn:dev:")]
    {
        let world = world_with(rule, false);
        for name in odd {
            let text = format!("{prefix}{name}");
            let template = match rule {
                URN => with_uri(&text),
                _ => Template::device("x").subject(&[(COMMON_NAME, 0x0c, text.as_bytes())]),
            };
            let device = template.signed_by(&world.acme.issuing);
            // A URI is ASCII (RFC 5280 section 4.2.1.6): the certificate is none.
            let malformed = rule == URN && !name.is_ascii();
            let refused = if malformed { Failure::Alert(42) } else { UNSUPPORTED };
            for client in [client(&world, &device), client(&world, &device).tls12()] {
                assert_eq!(client.get("/").unwrap_err(), refused, "{rule}: {name:?}");
                assert_eq!(client.token().unwrap_err(), refused, "{rule}: {name:?}");
            }
        }
        assert!(world.upstream.requests().is_empty());
        let devices = world.operator().get(&format!("{ACME}/devices")).json();
        assert_eq!(devices["devices"], json!([]), "{rule}");
    }
}

#[test]
fn a_rule_that_changes_renames_the_device_of_an_open_connection() {
    let world = world_with("cn", false);
    let device = with_uri("spiffe://acme.example/device/pump-7").signed_by(&world.acme.issuing);
    let mut live = client(&world, &device).connect().unwrap();
    let sub = |token: String| claims(&token)["sub"].clone();
    assert_eq!(sub(live.token("").unwrap().access_token()), "device_not-this-one");
    let list = world.operator().get(&anchors("acme")).json();
    let fingerprint = list["certificates"][0]["fingerprint"].as_str().unwrap();
    let path = format!("{}/{fingerprint}", anchors("acme"));
    assert_eq!(world.api("PUT", &path, json!({ "deviceIdentity": SPIFFE })).status, 200);
    assert_eq!(sub(live.token("").unwrap().access_token()), "device_pump-7");
    for bad in ["", "san_uri", "cn:", "cn:(", "cn:x", "cn:(a)(b)", "email", "cn:((a)|(b))"] {
        let refused = world.api("PUT", &path, json!({ "deviceIdentity": bad }));
        assert_eq!(refused.status, 422, "{bad}");
    }
    let bomb = format!("cn:({})", "(?:a{1000}){1000}".repeat(3));
    assert_eq!(world.api("PUT", &path, json!({ "deviceIdentity": bomb })).status, 422);
    assert_eq!(sub(live.token("").unwrap().access_token()), "device_pump-7");
}
