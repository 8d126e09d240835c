//! Throw-away certificates for the demo: a server certificate and, for each tenant, a root,
//! an intermediate and a device. Keys are made when the demo starts and die with its folder.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use boring::asn1::Asn1Time;
use boring::bn::{BigNum, MsbOption};
use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use boring::x509::{X509, X509NameBuilder};

const DAYS: u32 = 2;

/// A certificate and its key.
pub struct Identity {
    pub certificate: X509,
    pub key: PKey<Private>,
}

/// What a certificate is for.
pub enum Role<'r> {
    Authority,
    Server { names: &'r [&'r str] },
    Device,
}

/// Issues a certificate; without an issuer it signs itself.
pub fn issue(name: &str, role: Role<'_>, issuer: Option<&Identity>) -> anyhow::Result<Identity> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
    let subject = subject.build();
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    serial.add_word(1)?;

    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial.to_asn1_integer()?.as_ref())?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(issuer.map_or(&subject, |i| i.certificate.subject_name()))?;
    builder.set_pubkey(&key)?;
    builder.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
    builder.set_not_after(Asn1Time::days_from_now(DAYS)?.as_ref())?;
    let issuer_certificate = issuer.map(|i| i.certificate.as_ref());
    let identifier =
        SubjectKeyIdentifier::new().build(&builder.x509v3_context(issuer_certificate, None))?;
    builder.append_extension(identifier.as_ref())?;
    if issuer.is_some() {
        let authority = AuthorityKeyIdentifier::new()
            .keyid(true)
            .build(&builder.x509v3_context(issuer_certificate, None))?;
        builder.append_extension(authority.as_ref())?;
    }
    match role {
        Role::Authority => {
            builder.append_extension(BasicConstraints::new().critical().ca().build()?.as_ref())?;
            let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().build()?;
            builder.append_extension(usage.as_ref())?;
        }
        Role::Server { names } => {
            let mut alternatives = SubjectAlternativeName::new();
            for name in names {
                alternatives.dns(name);
            }
            let names = alternatives.build(&builder.x509v3_context(issuer_certificate, None))?;
            builder.append_extension(names.as_ref())?;
            let usage = ExtendedKeyUsage::new().server_auth().build()?;
            builder.append_extension(usage.as_ref())?;
        }
        Role::Device => {
            let usage = KeyUsage::new().critical().digital_signature().build()?;
            builder.append_extension(usage.as_ref())?;
            let usage = ExtendedKeyUsage::new().client_auth().build()?;
            builder.append_extension(usage.as_ref())?;
        }
    }
    builder.sign(issuer.map_or(&key, |i| &i.key), MessageDigest::sha256())?;
    Ok(Identity { certificate: builder.build(), key })
}

/// Writes certificates as one PEM file.
pub fn write_chain(path: &Path, chain: &[&Identity]) -> anyhow::Result<()> {
    let mut pem = Vec::new();
    for identity in chain {
        pem.extend(identity.certificate.to_pem()?);
    }
    fs::write(path, pem).with_context(|| path.display().to_string())
}

/// Writes a key that only this user can read.
pub fn write_key(path: &Path, key: &PKey<Private>) -> anyhow::Result<()> {
    write_secret(path, &key.private_key_to_pem_pkcs8()?)
}

/// Writes a file that only this user can read.
pub fn write_secret(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| path.display().to_string())?;
    file.write_all(content)?;
    Ok(())
}

/// 256 random bits as text.
pub fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    boring::rand::rand_bytes(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A key for signing tokens.
pub fn signing_key() -> anyhow::Result<PKey<Private>> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    Ok(PKey::from_ec_key(EcKey::generate(&group)?)?)
}
