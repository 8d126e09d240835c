//! Certificates and settings for the tests of this room, made when they run.

use std::net::SocketAddr;
use std::time::Duration;

use boring::asn1::{Asn1Integer, Asn1Time};
use boring::bn::BigNum;
use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::x509::extension::{BasicConstraints, SubjectAlternativeName};
use boring::x509::{X509, X509Builder, X509Name};

use super::{Balance, HealthSettings, PoolSettings, Timeouts};

/// A CA of one test.
pub(super) struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Authority {
        let key = new_key();
        let mut builder = builder(name, 1, &key);
        builder.set_issuer_name(&distinguished(name)).unwrap();
        let ca = BasicConstraints::new().critical().ca().build().unwrap();
        builder.append_extension(&ca).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Authority { certificate: builder.build(), key }
    }

    pub(super) fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    /// PEM chain and PEM key of an end-entity certificate whose DNS name is its name.
    pub(super) fn issue(&self, name: &str, serial: u32) -> (Vec<u8>, Vec<u8>) {
        let key = new_key();
        let mut builder = builder(name, serial, &key);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        let names = SubjectAlternativeName::new()
            .dns(name)
            .build(&builder.x509v3_context(Some(&self.certificate), None))
            .unwrap();
        builder.append_extension(&names).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        (builder.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap())
    }
}

/// Two failed checks or one passed one turn a server's health; checks follow each other fast.
pub(super) fn pool_settings(servers: &[SocketAddr]) -> PoolSettings {
    PoolSettings {
        name: "platform".into(),
        servers: servers.to_vec(),
        balance: Balance::RoundRobin,
        tls: None,
        http2_cleartext: false,
        timeouts: Timeouts {
            connect: Duration::from_secs(2),
            read: Duration::from_secs(60),
            write: Duration::from_secs(30),
            idle: Duration::from_secs(50),
        },
        retries: 1,
        health: HealthSettings {
            path: None,
            interval: Duration::from_millis(1),
            timeout: Duration::from_secs(5),
            unhealthy_after: 2,
            healthy_after: 1,
        },
    }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn builder(name: &str, serial: u32, key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = Asn1Integer::from_bn(&BigNum::from_u32(serial).unwrap()).unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&distinguished(name)).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
}

fn distinguished(name: &str) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    builder.build()
}
