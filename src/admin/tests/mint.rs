//! Certificates for the tests of the room, good and bad.

use boring::asn1::{Asn1Integer, Asn1Time};
use boring::bn::BigNum;
use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::rand::rand_bytes;
use boring::sign::Signer;
use boring::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use boring::x509::{X509, X509Builder, X509Name};

use super::NOW;

pub struct Authority {
    pub certificate: X509,
    pub key: PKey<Private>,
}

/// What is odd about a self-signed certificate.
#[derive(Clone, Copy, PartialEq)]
pub enum Odd {
    No,
    Version1,
    NotCa,
    Expired,
    WeakKey,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        Authority::odd(name, Odd::No)
    }

    pub fn odd(name: &str, odd: Odd) -> Authority {
        let key = match odd {
            Odd::WeakKey => PKey::from_rsa(boring::rsa::Rsa::generate(1024).unwrap()).unwrap(),
            _ => new_key(),
        };
        let mut builder = builder(name, &key);
        builder.set_issuer_name(&distinguished(name)).unwrap();
        if odd == Odd::Expired {
            builder.set_not_after(&Asn1Time::from_unix(NOW - 1).unwrap()).unwrap();
        }
        if odd == Odd::Version1 {
            builder.set_version(0).unwrap();
        } else {
            let mut constraints = BasicConstraints::new();
            constraints.critical();
            if odd != Odd::NotCa {
                constraints.ca();
            }
            builder.append_extension(&constraints.build().unwrap()).unwrap();
            let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap();
            builder.append_extension(&usage).unwrap();
        }
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Authority { certificate: builder.build(), key }
    }

    pub fn pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }

    pub fn der(&self) -> Vec<u8> {
        self.certificate.to_der().unwrap()
    }

    /// As `openssl dgst -sha256 -sign`.
    pub fn sign(&self, message: &str) -> Vec<u8> {
        let mut signer = Signer::new(MessageDigest::sha256(), &self.key).unwrap();
        signer.sign_oneshot_to_vec(message.as_bytes()).unwrap()
    }

    /// PEM chain and key of a server.
    pub fn server(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        self.issue(name, |builder, authority| {
            let context = builder.x509v3_context(Some(authority), None);
            let names = SubjectAlternativeName::new().dns(name).build(&context).unwrap();
            builder.append_extension(&names).unwrap();
        })
    }

    /// PEM chain and key of an operator; `for_clients`: with the extended key usage.
    pub fn client(&self, name: &str, for_clients: bool) -> (Vec<u8>, Vec<u8>) {
        self.issue(name, |builder, _| {
            if for_clients {
                let usage = ExtendedKeyUsage::new().client_auth().build().unwrap();
                builder.append_extension(&usage).unwrap();
            }
        })
    }

    /// As [`Authority::client`], valid until `not_after`.
    pub fn client_until(&self, name: &str, not_after: i64) -> (Vec<u8>, Vec<u8>) {
        self.issue(name, |builder, _| {
            builder.set_not_after(&Asn1Time::from_unix(not_after).unwrap()).unwrap();
            let usage = ExtendedKeyUsage::new().client_auth().build().unwrap();
            builder.append_extension(&usage).unwrap();
        })
    }

    fn issue(&self, name: &str, extend: impl Fn(&mut X509Builder, &X509)) -> (Vec<u8>, Vec<u8>) {
        let key = new_key();
        let mut builder = builder(name, &key);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        extend(&mut builder, &self.certificate);
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        (builder.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap())
    }
}

pub fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn builder(name: &str, key: &PKey<Private>) -> X509Builder {
    let mut serial = [0; 8];
    rand_bytes(&mut serial).unwrap();
    serial[0] = 0x11;
    let serial = Asn1Integer::from_bn(&BigNum::from_slice(&serial).unwrap()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&distinguished(name)).unwrap();
    // Valid by the clock of the tests and by that of the machine: BoringSSL asks the latter.
    builder.set_not_before(&Asn1Time::from_unix(1_500_000_000).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(NOW + 900_000_000).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
}

fn distinguished(name: &str) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    builder.build()
}
