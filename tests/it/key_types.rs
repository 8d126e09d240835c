//! The keys that devices and their CAs may have: ECDSA P-256, P-384 and P-521, Ed25519, RSA
//! of 2048 to 8192 bits. Sizes and types beside the handshake are cases of `vectors::minted`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use openssl::nid::Nid;
use openssl::ssl::SslVersion;

use crate::pki::{Crl, Key, Minted, Template, oid, sequence, tlv};
use crate::world::{Failure, World, eventually};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_3, SslVersion::TLS1_2];

#[test]
fn devices_of_every_key_type_get_their_tokens() {
    let world = World::start();
    for (name, key) in [
        ("p-256", Key::p256()),
        ("p-384", Key::ec(Nid::SECP384R1)),
        ("p-521", Key::ec(Nid::SECP521R1)),
        ("ed25519", Key::ed25519()),
        ("rsa-2048", Key::rsa(2048)),
    ] {
        let device = Template::device(name).key(&key).signed_by(&world.acme.issuing);
        let client = world.acme_client().identity(&[&device, &world.acme.issuing]);
        for version in VERSIONS {
            let response = client.clone().tls(version).token();
            let response = response.unwrap_or_else(|e| panic!("{name}, {version:?}: {e:?}"));
            assert_eq!(response.access_token().split('.').count(), 3, "{name}, {version:?}");
        }
    }
}

#[test]
fn ed25519_holds_from_the_anchor_to_the_device() {
    let ed25519 = |name: &str| Template::ca(name).key(&Key::ed25519());
    let root = ed25519("Ed25519 root").self_signed();
    let issuing = ed25519("Ed25519 issuing").signed_by(&root);
    let device = |name: &str| Template::device(name).key(&Key::ed25519()).signed_by(&issuing);
    let (good, revoked) = (device("good"), device("revoked"));
    let crl = Crl::of(&issuing).revoke(&revoked).der();
    let world = World::with(|world, config| {
        world.write("acme-root.pem", root.pem());
        world.write("issuing.pem", issuing.pem());
        world.write("issuing.crl", &crl);
        config.acme("intermediates: [issuing.pem]\ncrls: { files: [issuing.crl] }");
    });
    for version in VERSIONS {
        let client = |device| world.acme_client().identity(&[device, &issuing]).tls(version);
        assert_eq!(client(&good).token().unwrap().status, 200);
        assert_eq!(client(&revoked).token().unwrap_err(), Failure::Alert(44));
        let forged = Template::device("forged").without_key_ids().with_broken_signature();
        let forged = forged.key(&Key::ed25519()).signed_by(&issuing);
        assert_eq!(client(&forged).token().unwrap_err(), Failure::Alert(42));
    }
}

#[test]
fn a_device_is_asked_for_signatures_of_these_keys_and_none_with_sha1() {
    let world = World::start();
    let off_the_list = Template::device("device-1").key(&Key::dsa()).self_signed();
    let (messages, _) = show(&world, &off_the_list);
    // CertificateRequest (RFC 5246 section 7.4.4): two certificate types, then the schemes.
    let mut rest = &messages[..];
    let request = loop {
        let (header, body) = rest.split_at(4);
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        if header[0] == 13 {
            break &body[..length];
        }
        rest = &body[length..];
    };
    let (types, schemes) = request.split_at(3);
    assert_eq!(types, [2, 1, 64]);
    let count = usize::from(u16::from_be_bytes([schemes[0], schemes[1]])) / 2;
    let schemes = schemes[2..].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let mut schemes: Vec<u16> = schemes.take(count).collect();
    schemes.sort_unstable();
    let rsa = [0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806];
    let mut expected = [&[0x0403, 0x0503, 0x0603, 0x0807], &rsa[..]].concat();
    expected.sort_unstable();
    assert_eq!(schemes, expected);
}

#[test]
fn devices_with_keys_off_the_list_are_refused() {
    let world = World::start();
    // What a client library makes of these keys: where the edge offers no signature scheme for
    // one, it sends no certificate. TLS 1.3 ties ECDSA to the curve, TLS 1.2 does not.
    // decode_error is BoringSSL's own word for a key that it cannot read.
    let (none_13, none_12, unreadable) = (116, 40, 50);
    for (name, key, alerts) in [
        ("rsa-1024", Key::rsa(1024), [43, 43]),
        ("p-224", Key::ec(Nid::SECP224R1), [none_13, unreadable]),
        ("secp256k1", Key::ec(Nid::SECP256K1), [none_13, unreadable]),
        ("ed448", Key::ed448(), [none_13, none_12]),
        ("dsa", Key::dsa(), [none_13, none_12]),
    ] {
        let device = Template::device(name).key(&key).signed_by(&world.acme.issuing);
        let client = world.acme_client().identity(&[&device, &world.acme.issuing]);
        for (version, alert) in VERSIONS.into_iter().zip(alerts) {
            let failure = client.clone().tls(version).token().unwrap_err();
            assert_eq!(failure, Failure::Alert(alert), "{name}, {version:?}");
        }
    }
    assert_eq!(world.acme_client().token().unwrap().status, 200);
}

#[test]
fn certificates_with_keys_off_the_list_are_refused_whoever_sends_them() {
    let world = World::start();
    let of = |key: Key| Template::device("device-1").key(&key);
    let raw = |spki: &[u8]| Template::device("device-1").public_key(spki);
    let unknown = sequence(&[&oid("1.3.6.1.4.1.99999.1")]);
    let unknown = sequence(&[&unknown, &tlv(0x03, &[0; 33])]);
    let mut off_the_curve = Key::p256().spki();
    *off_the_curve.last_mut().unwrap() ^= 1;
    let (unsupported, unreadable) = ("certificate_unsupported", "protocol_error");
    for (name, template, alert, reason) in [
        ("rsa-1024", of(Key::rsa(1024)), 43, unsupported),
        ("p-224", of(Key::ec(Nid::SECP224R1)), 50, unsupported),
        ("secp256k1", of(Key::ec(Nid::SECP256K1)), 50, unsupported),
        ("ed448", of(Key::ed448()), 50, unsupported),
        ("dsa", of(Key::dsa()), 50, unsupported),
        ("unknown", raw(&unknown), 50, unsupported),
        ("off the curve", raw(&off_the_curve), 50, unreadable),
    ] {
        let device = template.signed_by(&world.acme.issuing);
        let before = world.refusals(reason);
        assert_eq!(show(&world, &device).1, Some(alert), "{name}");
        eventually("the refusal is counted", || world.refusals(reason) == before + 1.0);
    }
    assert_eq!(world.acme_client().token().unwrap().status, 200);
}

/// Shows a certificate, whether or not a client library would: a ClientHello and a Certificate
/// of TLS 1.2, where both are in clear, and nothing after them. Returns the edge's handshake
/// messages and its alert.
fn show(world: &World, device: &Minted) -> (Vec<u8>, Option<u8>) {
    let mut tcp = TcpStream::connect(world.https()).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let list = with_length(3, &with_length(3, &device.der));
    tcp.write_all(&handshake_record(1, &client_hello("acme.example.com"))).unwrap();
    tcp.write_all(&handshake_record(11, &list)).unwrap();
    let mut messages = Vec::new();
    loop {
        let mut header = [0; 5];
        if tcp.read_exact(&mut header).is_err() {
            return (messages, None);
        }
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        tcp.read_exact(&mut body).unwrap();
        match header[0] {
            21 => return (messages, Some(body[1])),
            _ => messages.extend(body),
        }
    }
}

/// RFC 5246 section 7.4.1.2: ECDHE-ECDSA-AES128-GCM-SHA256, X25519, ECDSA with P-256 and
/// SHA-256.
fn client_hello(server_name: &str) -> Vec<u8> {
    let extension = |kind: u8, body: &[u8]| [&[0, kind], &*with_length(2, body)].concat();
    let host_name = [&[0], &*with_length(2, server_name.as_bytes())].concat();
    let extensions = [
        extension(0, &with_length(2, &host_name)),
        extension(10, &with_length(2, &[0x00, 0x1d, 0x00, 0x17])),
        extension(13, &with_length(2, &[0x04, 0x03])),
        extension(23, &[]),
    ];
    let session_id = [0];
    let suites = with_length(2, &[0xc0, 0x2b]);
    let compressions = with_length(1, &[0]);
    let extensions = with_length(2, &extensions.concat());
    [&[3, 3], &[7; 32][..], &session_id, &suites, &compressions, &extensions].concat()
}

fn handshake_record(kind: u8, message: &[u8]) -> Vec<u8> {
    let message = [&[kind], &*with_length(3, message)].concat();
    [&[22, 3, 3], &*with_length(2, &message)].concat()
}

/// After its length, in so many octets.
fn with_length(octets: usize, bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[8 - octets..], bytes].concat()
}
