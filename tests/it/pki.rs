//! Mints keys, certificates and CRLs while a test runs: good ones in one line, and broken
//! ones in every way that a builder library would not let through, since the DER is written
//! here and OpenSSL only makes the keys and the signatures.
//!
//! ```ignore
//! let root = Template::ca("Root").self_signed();
//! let issuing = Template::ca("Issuing").path_len(0).signed_by(&root);
//! let device = Template::device("device-1").signed_by(&issuing);
//! let crl = Crl::of(&issuing).revoke(&device).der();
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::dsa::Dsa;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use time::OffsetDateTime;

/// 2020-01-01 and 2049-01-01: what is minted is valid for tests on any clock.
pub const NOT_BEFORE: i64 = 1_577_836_800;
pub const NOT_AFTER: i64 = 2_493_072_000;

pub const COMMON_NAME: &str = "2.5.4.3";
pub const ORGANIZATION: &str = "2.5.4.10";
pub const BASIC_CONSTRAINTS: &str = "2.5.29.19";
pub const KEY_USAGE: &str = "2.5.29.15";
pub const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
pub const SUBJECT_ALT_NAME: &str = "2.5.29.17";
pub const NAME_CONSTRAINTS: &str = "2.5.29.30";
pub const SUBJECT_KEY_ID: &str = "2.5.29.14";
pub const AUTHORITY_KEY_ID: &str = "2.5.29.35";
pub const CRL_NUMBER: &str = "2.5.29.20";
pub const DELTA_CRL_INDICATOR: &str = "2.5.29.27";
pub const ISSUING_DISTRIBUTION_POINT: &str = "2.5.29.28";
pub const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
pub const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
pub const ANY_USAGE: &str = "2.5.29.37.0";

/// Bits of key usage, the first one highest.
pub const DIGITAL_SIGNATURE: u8 = 0x80;
pub const KEY_ENCIPHERMENT: u8 = 0x20;
pub const KEY_CERT_SIGN: u8 = 0x04;
pub const CRL_SIGN: u8 = 0x02;

/// A private key and the algorithm that it signs with.
#[derive(Clone)]
pub struct Key {
    pkey: PKey<Private>,
    digest: Option<MessageDigest>,
    /// AlgorithmIdentifier.
    algorithm: Vec<u8>,
}

impl Key {
    pub fn p256() -> Key {
        Key::ec(Nid::X9_62_PRIME256V1)
    }

    pub fn ec(curve: Nid) -> Key {
        let group = EcGroup::from_curve_name(curve).unwrap();
        let pkey = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        Key {
            pkey,
            digest: Some(MessageDigest::sha256()),
            algorithm: sequence(&[&oid("1.2.840.10045.4.3.2")]),
        }
    }

    pub fn rsa(bits: u32) -> Key {
        let pkey = PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
        Key {
            pkey,
            digest: Some(MessageDigest::sha256()),
            algorithm: sequence(&[&oid("1.2.840.113549.1.1.11"), &tlv(0x05, &[])]),
        }
    }

    pub fn ed25519() -> Key {
        let pkey = PKey::generate_ed25519().unwrap();
        Key { pkey, digest: None, algorithm: sequence(&[&oid("1.3.101.112")]) }
    }

    pub fn ed448() -> Key {
        let pkey = PKey::generate_ed448().unwrap();
        Key { pkey, digest: None, algorithm: sequence(&[&oid("1.3.101.113")]) }
    }

    pub fn dsa() -> Key {
        let pkey = PKey::from_dsa(Dsa::generate(2048).unwrap()).unwrap();
        Key {
            pkey,
            digest: Some(MessageDigest::sha256()),
            algorithm: sequence(&[&oid("2.16.840.1.101.3.4.3.2")]),
        }
    }

    /// The same ECDSA key, signing with SHA-1.
    pub fn with_sha1(mut self) -> Key {
        self.digest = Some(MessageDigest::sha1());
        self.algorithm = sequence(&[&oid("1.2.840.10045.4.1")]);
        self
    }

    /// The same key and signatures under another algorithm identifier.
    pub fn with_algorithm(mut self, id: &str, parameters: &[u8]) -> Key {
        self.algorithm = sequence(&[&oid(id), parameters]);
        self
    }

    /// PKCS#8 PEM, as a key file holds it.
    pub fn pem(&self) -> Vec<u8> {
        self.pkey.private_key_to_pem_pkcs8().unwrap()
    }

    /// SubjectPublicKeyInfo.
    pub fn spki(&self) -> Vec<u8> {
        self.pkey.public_key_to_der().unwrap()
    }

    /// The key identifier of RFC 7093 section 2 (1).
    fn id(&self) -> Vec<u8> {
        openssl::sha::sha256(&self.spki())[..20].to_vec()
    }

    /// A signature over data, with the digest that the key signs certificates with.
    pub fn sign(&self, data: &[u8]) -> Vec<u8> {
        let mut signer = match self.digest {
            Some(digest) => Signer::new(digest, &self.pkey).unwrap(),
            None => Signer::new_without_digest(&self.pkey).unwrap(),
        };
        signer.sign_oneshot_to_vec(data).unwrap()
    }
}

/// A minted certificate with its key, so that it can sign others.
#[derive(Clone)]
pub struct Minted {
    pub der: Vec<u8>,
    pub key: Key,
    subject: Vec<u8>,
    serial: Vec<u8>,
}

impl Minted {
    pub fn pem(&self) -> String {
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(&self.der).as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line).unwrap());
            pem.push('\n');
        }
        pem + "-----END CERTIFICATE-----\n"
    }
}

/// What a certificate is minted from. Every part can be replaced.
#[derive(Clone)]
pub struct Template {
    version: Option<u8>,
    serial: Vec<u8>,
    subject: Vec<u8>,
    validity: (i64, i64),
    key: Option<Key>,
    public_key: Option<Vec<u8>>,
    key_ids: bool,
    /// In order; OID, critical, value.
    extensions: Vec<(String, bool, Vec<u8>)>,
    break_signature: bool,
}

impl Template {
    /// A CA: CA:true, keyCertSign and cRLSign.
    pub fn ca(common_name: &str) -> Template {
        Template::blank(common_name)
            .basic_constraints(true, None)
            .key_usage(KEY_CERT_SIGN | CRL_SIGN)
    }

    /// A device's end-entity: digitalSignature, clientAuth.
    pub fn device(common_name: &str) -> Template {
        Template::blank(common_name).key_usage(DIGITAL_SIGNATURE).extended_key_usage(&[CLIENT_AUTH])
    }

    /// A TLS server's end-entity for these DNS names.
    pub fn server(dns_names: &[&str]) -> Template {
        Template::blank(dns_names[0])
            .key_usage(DIGITAL_SIGNATURE | KEY_ENCIPHERMENT)
            .extended_key_usage(&[SERVER_AUTH])
            .dns_names(dns_names)
    }

    /// X.509 v3 with a serial number of its own and no extension but the key identifiers.
    pub fn blank(common_name: &str) -> Template {
        static SERIAL: AtomicU64 = AtomicU64::new(0x0100_0000_0000_0000);
        Template {
            version: Some(2),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed).to_be_bytes().to_vec(),
            subject: name(&[(COMMON_NAME, 0x0c, common_name.as_bytes())]),
            validity: (NOT_BEFORE, NOT_AFTER),
            key: None,
            public_key: None,
            key_ids: true,
            extensions: Vec::new(),
            break_signature: false,
        }
    }

    /// X.509 v1, which has no extensions.
    pub fn v1(mut self) -> Template {
        self.version = None;
        self.key_ids = false;
        self.extensions.clear();
        self
    }

    /// The content octets of the INTEGER, unchecked.
    pub fn serial(mut self, octets: &[u8]) -> Template {
        self.serial = octets.to_vec();
        self
    }

    /// Attributes: type, string tag (0x0c UTF8String, 0x13 PrintableString, 0x16 IA5String,
    /// 0x1e BMPString, 0x14 TeletexString), octets.
    pub fn subject(mut self, attributes: &[(&str, u8, &[u8])]) -> Template {
        self.subject = name(attributes);
        self
    }

    pub fn validity(mut self, not_before: i64, not_after: i64) -> Template {
        self.validity = (not_before, not_after);
        self
    }

    pub fn key(mut self, key: &Key) -> Template {
        self.key = Some(key.clone());
        self
    }

    /// Replaces the SubjectPublicKeyInfo that goes into the certificate.
    pub fn public_key(mut self, spki: &[u8]) -> Template {
        self.public_key = Some(spki.to_vec());
        self
    }

    pub fn without_key_ids(mut self) -> Template {
        self.key_ids = false;
        self
    }

    pub fn path_len(self, length: u8) -> Template {
        self.basic_constraints(true, Some(length))
    }

    pub fn basic_constraints(self, ca: bool, path_len: Option<u8>) -> Template {
        let ca = if ca { tlv(0x01, &[0xff]) } else { Vec::new() };
        let path_len = path_len.map_or(Vec::new(), |n| tlv(0x02, &[n]));
        self.extension(BASIC_CONSTRAINTS, true, &sequence(&[&ca, &path_len]))
    }

    pub fn key_usage(self, bits: u8) -> Template {
        let unused = bits.trailing_zeros().min(7) as u8;
        self.extension(KEY_USAGE, true, &tlv(0x03, &[unused, bits]))
    }

    pub fn extended_key_usage(self, purposes: &[&str]) -> Template {
        let purposes: Vec<Vec<u8>> = purposes.iter().map(|p| oid(p)).collect();
        self.extension(EXTENDED_KEY_USAGE, false, &sequence(&slices(&purposes)))
    }

    pub fn dns_names(self, names: &[&str]) -> Template {
        let names: Vec<Vec<u8>> = names.iter().map(|n| tlv(0x82, n.as_bytes())).collect();
        self.extension(SUBJECT_ALT_NAME, false, &sequence(&slices(&names)))
    }

    /// Only DNS names at or below this one.
    pub fn permitted_dns(self, name: &str) -> Template {
        let subtree = sequence(&[&tlv(0x82, name.as_bytes())]);
        self.extension(NAME_CONSTRAINTS, true, &sequence(&[&tlv(0xa0, &subtree)]))
    }

    /// Adds an extension, or replaces the one of that OID.
    pub fn extension(mut self, id: &str, critical: bool, value: &[u8]) -> Template {
        let new = (id.to_owned(), critical, value.to_vec());
        match self.extensions.iter_mut().find(|(known, _, _)| known == id) {
            Some(old) => *old = new,
            None => self.extensions.push(new),
        }
        self
    }

    /// Adds an extension even if there is one of that OID.
    pub fn another_extension(mut self, id: &str, critical: bool, value: &[u8]) -> Template {
        self.extensions.push((id.to_owned(), critical, value.to_vec()));
        self
    }

    pub fn without_extension(mut self, id: &str) -> Template {
        self.extensions.retain(|(known, _, _)| known != id);
        self
    }

    pub fn with_broken_signature(mut self) -> Template {
        self.break_signature = true;
        self
    }

    pub fn self_signed(self) -> Minted {
        let key = self.key.clone().unwrap_or_else(Key::p256);
        let subject = self.subject.clone();
        self.key(&key).mint(&subject, &key)
    }

    pub fn signed_by(self, issuer: &Minted) -> Minted {
        self.mint(&issuer.subject, &issuer.key)
    }

    fn mint(self, issuer: &[u8], issuer_key: &Key) -> Minted {
        let key = self.key.clone().unwrap_or_else(Key::p256);
        let mut extensions = self.extensions.clone();
        if self.key_ids {
            let subject_id = tlv(0x04, &key.id());
            let authority_id = sequence(&[&tlv(0x80, &issuer_key.id())]);
            extensions.push((SUBJECT_KEY_ID.to_owned(), false, subject_id));
            extensions.push((AUTHORITY_KEY_ID.to_owned(), false, authority_id));
        }
        let version = self.version.map_or(Vec::new(), |v| tlv(0xa0, &tlv(0x02, &[v])));
        let tbs = sequence(&[
            &version,
            &tlv(0x02, &self.serial),
            &issuer_key.algorithm,
            issuer,
            &sequence(&[&date(self.validity.0), &date(self.validity.1)]),
            &self.subject,
            &self.public_key.unwrap_or_else(|| key.spki()),
            &explicit_extensions(0xa3, &extensions),
        ]);
        let der = signed(&tbs, issuer_key, self.break_signature);
        Minted { der, key, subject: self.subject, serial: self.serial }
    }
}

/// What a CRL is minted from.
pub struct Crl {
    issuer: Minted,
    key: Key,
    this_update: i64,
    next_update: Option<i64>,
    serials: Vec<Vec<u8>>,
    entry_extension: Option<(String, bool, Vec<u8>)>,
    extensions: Vec<(String, bool, Vec<u8>)>,
    break_signature: bool,
}

impl Crl {
    /// An empty CRL, current as long as minted certificates are valid.
    pub fn of(issuer: &Minted) -> Crl {
        Crl {
            issuer: issuer.clone(),
            key: issuer.key.clone(),
            this_update: NOT_BEFORE,
            next_update: Some(NOT_AFTER),
            serials: Vec::new(),
            entry_extension: None,
            extensions: vec![(CRL_NUMBER.to_owned(), false, tlv(0x02, &[1]))],
            break_signature: false,
        }
    }

    pub fn revoke(self, certificate: &Minted) -> Crl {
        let serial = certificate.serial.clone();
        self.revoke_serial(&serial)
    }

    pub fn revoke_serial(mut self, octets: &[u8]) -> Crl {
        self.serials.push(octets.to_vec());
        self
    }

    pub fn current(mut self, this_update: i64, next_update: i64) -> Crl {
        (self.this_update, self.next_update) = (this_update, Some(next_update));
        self
    }

    pub fn without_next_update(mut self) -> Crl {
        self.next_update = None;
        self
    }

    pub fn extension(mut self, id: &str, critical: bool, value: &[u8]) -> Crl {
        self.extensions.push((id.to_owned(), critical, value.to_vec()));
        self
    }

    /// An extension on every entry.
    pub fn entry_extension(mut self, id: &str, critical: bool, value: &[u8]) -> Crl {
        self.entry_extension = Some((id.to_owned(), critical, value.to_vec()));
        self
    }

    /// Signed by another key than the issuer's.
    pub fn key(mut self, key: &Key) -> Crl {
        self.key = key.clone();
        self
    }

    pub fn with_broken_signature(mut self) -> Crl {
        self.break_signature = true;
        self
    }

    pub fn der(self) -> Vec<u8> {
        let extension = self.entry_extension.map_or(Vec::new(), |e| extensions(&[e]));
        let entries: Vec<Vec<u8>> = self
            .serials
            .iter()
            .map(|serial| sequence(&[&tlv(0x02, serial), &date(self.this_update), &extension]))
            .collect();
        let revoked = if entries.is_empty() { Vec::new() } else { sequence(&slices(&entries)) };
        let tbs = sequence(&[
            &tlv(0x02, &[1]),
            &self.key.algorithm,
            &self.issuer.subject,
            &date(self.this_update),
            &self.next_update.map_or(Vec::new(), date),
            &revoked,
            &explicit_extensions(0xa0, &self.extensions),
        ]);
        signed(&tbs, &self.key, self.break_signature)
    }
}

fn signed(tbs: &[u8], key: &Key, broken: bool) -> Vec<u8> {
    let mut signature = key.sign(tbs);
    if broken && let Some(last) = signature.last_mut() {
        *last ^= 1;
    }
    let mut bits = vec![0];
    bits.extend(signature);
    sequence(&[tbs, &key.algorithm, &tlv(0x03, &bits)])
}

fn explicit_extensions(tag: u8, list: &[(String, bool, Vec<u8>)]) -> Vec<u8> {
    if list.is_empty() { Vec::new() } else { tlv(tag, &extensions(list)) }
}

fn extensions(list: &[(String, bool, Vec<u8>)]) -> Vec<u8> {
    let list: Vec<Vec<u8>> = list
        .iter()
        .map(|(id, critical, value)| {
            let critical = if *critical { tlv(0x01, &[0xff]) } else { Vec::new() };
            sequence(&[&oid(id), &critical, &tlv(0x04, value)])
        })
        .collect();
    sequence(&slices(&list))
}

fn name(attributes: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let rdns: Vec<Vec<u8>> = attributes
        .iter()
        .map(|(kind, tag, value)| tlv(0x31, &sequence(&[&oid(kind), &tlv(*tag, value)])))
        .collect();
    sequence(&slices(&rdns))
}

/// UTCTime through 2049, GeneralizedTime from then on (RFC 5280 section 4.1.2.5).
fn date(seconds: i64) -> Vec<u8> {
    let t = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    );
    match t.year() {
        1950..=2049 => tlv(0x17, format!("{:02}{rest}", t.year() % 100).as_bytes()),
        year => tlv(0x18, format!("{year:04}{rest}").as_bytes()),
    }
}

pub fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u64> = dotted.split('.').map(|arc| arc.parse().unwrap()).collect();
    let mut body = Vec::new();
    for arc in std::iter::once(arcs[0] * 40 + arcs[1]).chain(arcs[2..].iter().copied()) {
        let groups = (64 - arc.leading_zeros()).div_ceil(7).max(1);
        for group in (0..groups).rev() {
            let more = if group == 0 { 0 } else { 0x80 };
            body.push((arc >> (7 * group)) as u8 & 0x7f | more);
        }
    }
    tlv(0x06, &body)
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub fn tlv(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match body.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long => {
            let octets = long.to_be_bytes();
            let start = octets.iter().position(|b| *b != 0).unwrap();
            out.push(0x80 | (octets.len() - start) as u8);
            out.extend(&octets[start..]);
        }
    }
    out.extend(body);
    out
}

fn slices(list: &[Vec<u8>]) -> Vec<&[u8]> {
    list.iter().map(Vec::as_slice).collect()
}
