//! Certificates, keys and CRLs for the tests of this room.

use boring::asn1::{Asn1Integer, Asn1Time};
use boring::bn::BigNum;
use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::rand::rand_bytes;
use boring::rsa::Rsa;
use boring::sign::Signer;
use boring::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use boring::x509::{X509, X509Builder, X509Name};

/// A CA of one test.
pub struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let key = new_key();
        let mut builder = builder(name, &key);
        builder.set_issuer_name(&distinguished(name)).unwrap();
        builder
            .append_extension(&BasicConstraints::new().critical().ca().build().unwrap())
            .unwrap();
        let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap();
        builder.append_extension(&usage).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Authority { certificate: builder.build(), key }
    }

    pub fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    pub fn der(&self) -> Vec<u8> {
        self.certificate.to_der().unwrap()
    }

    /// PEM chain and PEM key of a server certificate.
    pub fn issue(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        self.issue_for(name, &new_key())
    }

    pub fn issue_rsa(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        self.issue_for(name, &PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap())
    }

    fn issue_for(&self, name: &str, key: &PKey<Private>) -> (Vec<u8>, Vec<u8>) {
        let mut builder = builder(name, key);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let names = SubjectAlternativeName::new().dns(name).build(&context).unwrap();
        builder.append_extension(&names).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        (builder.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap())
    }

    /// An intermediate CA's certificate, PEM.
    pub fn intermediate(&self, name: &str) -> Vec<u8> {
        let key = new_key();
        let mut builder = builder(name, &key);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        builder
            .append_extension(&BasicConstraints::new().critical().ca().build().unwrap())
            .unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build().to_pem().unwrap()
    }

    /// A CRL that lists nothing (RFC 5280 §5.1), DER; valid for years.
    pub fn crl(&self) -> Vec<u8> {
        let ecdsa_with_sha256 = der(0x30, &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        let number = der(0x30, &[&[0x06, 3, 0x55, 0x1d, 0x14][..], &[4, 3, 2, 1, 1]].concat());
        let list = der(
            0x30,
            &[
                vec![2, 1, 1],
                ecdsa_with_sha256.clone(),
                self.certificate.subject_name().to_der().unwrap(),
                der(0x17, b"200101000000Z"),
                der(0x17, b"490101000000Z"),
                der(0xa0, &der(0x30, &number)),
            ]
            .concat(),
        );
        let mut signer = Signer::new(MessageDigest::sha256(), &self.key).unwrap();
        let signature = [vec![0], signer.sign_oneshot_to_vec(&list).unwrap()].concat();
        der(0x30, &[list, ecdsa_with_sha256, der(3, &signature)].concat())
    }
}

/// A private key alone, PEM.
pub fn key_pem() -> Vec<u8> {
    new_key().private_key_to_pem_pkcs8().unwrap()
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn builder(name: &str, key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = [0; 8];
    rand_bytes(&mut serial).unwrap();
    serial[0] = 1 + (serial[0] >> 2);
    let serial = Asn1Integer::from_bn(&BigNum::from_slice(&serial).unwrap()).unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&distinguished(name)).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(30).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
}

fn distinguished(name: &str) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    builder.build()
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match length {
        [0, short @ 0..0x80] => vec![tag, short],
        [0, long] => vec![tag, 0x81, long],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [header, content.to_vec()].concat()
}
