//! What a certificate says of itself, for an operator who manages it. It proves nothing.

use boring::sha::sha256;
use x509_parser::oid_registry::Oid;

use super::certificate::{parse, plain_text, rfc4514, serial_hex};
use super::store::MAX_CERTIFICATE_OCTETS;
use crate::clock::UnixSeconds;

/// Facts of any certificate. Every text is printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Of the DER.
    pub sha256: [u8; 32],
    /// RFC 4514; everything but printable ASCII is escaped as `\XX`.
    pub subject: String,
    pub issuer: String,
    /// Upper-case hex, two digits an octet, without leading zero octets.
    pub serial_hex: String,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    /// 1 to 3.
    pub version: u32,
    /// The signature algorithm as Java names it (`SHA256withECDSA`), or its OID.
    pub algorithm_name: String,
    /// Where the subject has exactly one and it is printable ASCII in a plain string type.
    pub common_name: Option<String>,
    /// Whether its basic constraints say so.
    pub is_ca: bool,
}

/// Why a certificate has no facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactsFault {
    #[error("it has more than {} KiB", MAX_CERTIFICATE_OCTETS / 1024)]
    TooLarge,
    #[error("not a DER certificate as RFC 5280 section 4 has it")]
    Unparsable,
}

/// # Errors
/// Where the octets are not one certificate of at most 16 KiB.
pub fn certificate_facts(der: &[u8]) -> Result<CertificateFacts, FactsFault> {
    if der.len() > MAX_CERTIFICATE_OCTETS {
        return Err(FactsFault::TooLarge);
    }
    let certificate = parse(der).map_err(|_| FactsFault::Unparsable)?;
    let mut names = certificate.subject().iter_common_name();
    let common_name = match (names.next(), names.next()) {
        (Some(name), None) => plain_text(name.attr_value())
            .filter(|text| text.bytes().all(|byte| matches!(byte, b' '..=b'~'))),
        _ => None,
    };
    let constraints = certificate.basic_constraints().map_err(|_| FactsFault::Unparsable)?;
    Ok(CertificateFacts {
        sha256: sha256(der),
        subject: rfc4514(certificate.subject()),
        issuer: rfc4514(certificate.issuer()),
        serial_hex: serial_hex(certificate.raw_serial()),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        version: certificate.version().0.saturating_add(1),
        algorithm_name: algorithm_name(&certificate.signature_algorithm.algorithm),
        common_name: common_name.map(str::to_owned),
        is_ca: constraints.is_some_and(|constraints| constraints.value.ca),
    })
}

/// RFC 8017 appendix C, RFC 5758 section 3, RFC 8410 section 3.
fn algorithm_name(oid: &Oid<'_>) -> String {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let octets = oid.as_bytes();
    let name = match (octets.strip_prefix(RSA), octets.strip_prefix(ECDSA), octets) {
        (Some([4]), ..) => "MD5withRSA",
        (Some([5]), ..) => "SHA1withRSA",
        (Some([10]), ..) => "RSASSA-PSS",
        (Some([11]), ..) => "SHA256withRSA",
        (Some([12]), ..) => "SHA384withRSA",
        (Some([13]), ..) => "SHA512withRSA",
        (Some([14]), ..) => "SHA224withRSA",
        (_, Some([1]), _) => "SHA1withECDSA",
        (_, Some([3, 1]), _) => "SHA224withECDSA",
        (_, Some([3, 2]), _) => "SHA256withECDSA",
        (_, Some([3, 3]), _) => "SHA384withECDSA",
        (_, Some([3, 4]), _) => "SHA512withECDSA",
        (_, _, [0x2b, 0x65, 0x70]) => "Ed25519",
        _ => return oid.to_id_string(),
    };
    name.to_owned()
}

/// The issuers' DER Names of certificates, as far as they parse: input for a search, no proof.
pub fn issuers(chain: &[&[u8]]) -> Vec<Vec<u8>> {
    chain
        .iter()
        .filter_map(|der| {
            let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
            Some(certificate.issuer().as_raw().to_vec())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::testing::pki::{COMMON_NAME, Key, ORGANIZATION, Template};
    use crate::trust::testing::{NOT_AFTER, NOT_BEFORE};

    fn facts(template: Template) -> CertificateFacts {
        certificate_facts(&template.self_signed().der).unwrap()
    }

    #[test]
    fn facts_are_what_the_certificate_says() {
        let minted = Template::ca("Acme Root").serial(&[0, 0xAB, 0x0C]).self_signed();
        let expected = CertificateFacts {
            sha256: sha256(&minted.der),
            subject: "CN=Acme Root".into(),
            issuer: "CN=Acme Root".into(),
            serial_hex: "AB0C".into(),
            not_before: NOT_BEFORE,
            not_after: NOT_AFTER,
            version: 3,
            algorithm_name: "SHA256withECDSA".into(),
            common_name: Some("Acme Root".into()),
            is_ca: true,
        };
        assert_eq!(certificate_facts(&minted.der), Ok(expected));
        let leaf = certificate_facts(&Template::device("d").signed_by(&minted).der).unwrap();
        assert_eq!((leaf.subject.as_str(), leaf.issuer.as_str()), ("CN=d", "CN=Acme Root"));
        assert!(!leaf.is_ca);
        assert_eq!(facts(Template::blank("old").v1()).version, 1);
        assert!(!facts(Template::ca("no").basic_constraints(false, None)).is_ca);
    }

    #[test]
    fn algorithms_have_javas_names_and_unknown_ones_their_oid() {
        let sign = |key: Key| facts(Template::ca("a").key(&key)).algorithm_name;
        let named = |id: &str| sign(Key::p256().with_algorithm(id, &[]));
        assert_eq!(sign(Key::rsa(2048)), "SHA256withRSA");
        assert_eq!(sign(Key::ed25519()), "Ed25519");
        assert_eq!(sign(Key::p256().with_sha1()), "SHA1withECDSA");
        for (id, name) in [
            ("1.2.840.10045.4.3.1", "SHA224withECDSA"),
            ("1.2.840.10045.4.3.2", "SHA256withECDSA"),
            ("1.2.840.10045.4.3.3", "SHA384withECDSA"),
            ("1.2.840.10045.4.3.4", "SHA512withECDSA"),
            ("1.2.840.113549.1.1.4", "MD5withRSA"),
            ("1.2.840.113549.1.1.5", "SHA1withRSA"),
            ("1.2.840.113549.1.1.10", "RSASSA-PSS"),
            ("1.2.840.113549.1.1.12", "SHA384withRSA"),
            ("1.2.840.113549.1.1.13", "SHA512withRSA"),
            ("1.2.840.113549.1.1.14", "SHA224withRSA"),
            ("1.3.101.113", "1.3.101.113"),
            ("1.2.840.10045.4.3", "1.2.840.10045.4.3"),
        ] {
            assert_eq!(named(id), name);
        }
    }

    #[test]
    fn a_common_name_is_told_only_where_it_is_one_and_plain() {
        let of = |attributes: &[(&str, u8, &[u8])]| {
            facts(Template::ca("").subject(attributes)).common_name
        };
        assert_eq!(of(&[(COMMON_NAME, 0x13, b"Acme CA")]).as_deref(), Some("Acme CA"));
        for attributes in [
            &[(ORGANIZATION, 0x0c, &b"Acme"[..])][..],
            &[(COMMON_NAME, 0x0c, b"a"), (COMMON_NAME, 0x0c, b"b")],
            &[(COMMON_NAME, 0x1e, b"\0a\0b")],
            &[(COMMON_NAME, 0x0c, b"a\0b")],
            &[(COMMON_NAME, 0x0c, b"a\x1b[31mb")],
            &[(COMMON_NAME, 0x0c, "a\u{202e}b".as_bytes())],
        ] {
            assert_eq!(of(attributes), None, "{attributes:x?}");
        }
    }

    #[test]
    fn names_are_printable_whatever_they_hold() {
        let hostile = "a\r\n\0\u{1b}[2J\u{202e}\"<script>,+=\\".as_bytes();
        let facts = facts(Template::ca("").subject(&[(COMMON_NAME, 0x0c, hostile)]));
        assert!(facts.subject.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", facts.subject);
        assert_eq!(facts.subject, facts.issuer);
    }

    #[test]
    fn what_is_not_one_certificate_has_no_facts() {
        let good = Template::ca("a").self_signed().der;
        let twice = [good.clone(), good.clone()].concat();
        let cut = &good[..good.len() - 1];
        for der in [&[][..], b"rubbish", &[0x30, 0x80], cut, &twice] {
            assert_eq!(certificate_facts(der), Err(FactsFault::Unparsable));
        }
        let large = Template::ca("a").extension("1.3.6.1.4.1.99999.1", false, &[0; 16 * 1024]);
        assert_eq!(certificate_facts(&large.self_signed().der), Err(FactsFault::TooLarge));
    }
}
