//! What an end-entity certificate says: the device's identity, and the facts that forwarding
//! dialects pass on.

use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use crate::clock::UnixSeconds;
use crate::names::DeviceId;
use crate::refusal::{Refusal, Refused};

/// Facts of an end-entity certificate. Every text is printable ASCII.
#[derive(Clone, Debug)]
pub struct LeafInfo {
    /// RFC 4514; everything but printable ASCII is escaped as `\XX`.
    pub subject: String,
    pub issuer: String,
    /// Upper-case hex, two digits an octet, without leading zero octets.
    pub serial_hex: String,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    /// Subject alternative names; one that is not printable ASCII without blanks is left out.
    pub dns_names: Vec<String>,
    pub uris: Vec<String>,
}

/// Identity and facts of a certificate that libpki has verified.
pub(super) fn read(der: &[u8]) -> Result<(DeviceId, LeafInfo), Refused> {
    let certificate = parse(der)?;
    let device = common_name(&certificate)?;
    let mut dns_names = Vec::new();
    let mut uris = Vec::new();
    if let Some(names) = certificate.subject_alternative_name().map_err(|_| unparsable())? {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) if is_plain(name) => dns_names.push((*name).to_owned()),
                GeneralName::URI(uri) if is_plain(uri) => uris.push((*uri).to_owned()),
                _ => {}
            }
        }
    }
    let info = LeafInfo {
        subject: rfc4514(certificate.subject()),
        issuer: rfc4514(certificate.issuer()),
        serial_hex: serial_hex(certificate.raw_serial()),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        dns_names,
        uris,
    };
    Ok((device, info))
}

/// The identity alone.
pub(super) fn identity(der: &[u8]) -> Result<DeviceId, Refused> {
    common_name(&parse(der)?)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refused> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(unparsable()),
    }
}

fn unparsable() -> Refused {
    Refused::new(Refusal::CertificateMalformed, "the end-entity certificate: does not parse")
}

fn common_name(certificate: &X509Certificate<'_>) -> Result<DeviceId, Refused> {
    let refuse = |reason| Err(Refused::new(Refusal::CertificateUnsupported, reason));
    let mut names = certificate.subject().iter_common_name();
    let name = match (names.next(), names.next()) {
        (Some(name), None) => name.attr_value(),
        (None, _) => return refuse("the end-entity certificate: its subject has no common name"),
        _ => return refuse("the end-entity certificate: its subject has several common names"),
    };
    // BMPString, UniversalString and TeletexString have been read differently by different
    // software: not as an identity.
    let Some(text) = plain_text(name) else {
        return refuse(
            "the end-entity certificate: its common name is not a UTF8String, PrintableString \
             or IA5String",
        );
    };
    DeviceId::parse(text).map_err(|fault| {
        Refused::new(
            Refusal::CertificateUnsupported,
            format!("the end-entity certificate: its common name is no device id: {fault}"),
        )
    })
}

fn plain_text<'a>(value: &'a Any<'_>) -> Option<&'a str> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            std::str::from_utf8(value.data).ok()
        }
        _ => None,
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

fn serial_hex(raw: &[u8]) -> String {
    let start = raw.iter().position(|b| *b != 0).unwrap_or(raw.len().saturating_sub(1));
    raw.iter().skip(start).map(|b| format!("{b:02X}")).collect()
}

/// RFC 4514 section 2: last RDN first.
fn rfc4514(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let rdns: Vec<_> = name.iter_rdn().collect();
    for rdn in rdns.into_iter().rev() {
        let mut separator = if text.is_empty() { "" } else { "," };
        for attribute in rdn.iter() {
            text.push_str(separator);
            separator = "+";
            match (short_name(attribute.attr_type()), plain_text(attribute.attr_value())) {
                (Some(kind), Some(value)) => {
                    text.push_str(kind);
                    text.push('=');
                    escape(&mut text, value);
                }
                (kind, _) => {
                    match kind {
                        Some(kind) => text.push_str(kind),
                        None => text.push_str(&attribute.attr_type().to_id_string()),
                    }
                    text.push_str("=#");
                    push_der_hex(&mut text, attribute.attr_value());
                }
            }
        }
    }
    text
}

/// RFC 4514 section 3.
fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    match oid.as_bytes() {
        [0x55, 0x04, 3] => Some("CN"),
        [0x55, 0x04, 7] => Some("L"),
        [0x55, 0x04, 8] => Some("ST"),
        [0x55, 0x04, 10] => Some("O"),
        [0x55, 0x04, 11] => Some("OU"),
        [0x55, 0x04, 6] => Some("C"),
        [0x55, 0x04, 9] => Some("STREET"),
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19] => Some("DC"),
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01] => Some("UID"),
        _ => None,
    }
}

/// RFC 4514 section 2.4.
fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        let edge_blank = byte == b' ' && (index == 0 || index == last);
        if edge_blank || b"\"+,;<>\\".contains(&byte) || (byte == b'#' && index == 0) {
            text.push('\\');
            text.push(char::from(byte));
        } else if byte == b' ' || byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("\\{byte:02X}"));
        }
    }
}

/// The value's DER, for types that have no text form here.
fn push_der_hex(text: &mut String, value: &Any<'_>) {
    use x509_parser::der_parser::asn1_rs::ToDer;
    for byte in value.to_der_vec().unwrap_or_default() {
        text.push_str(&format!("{byte:02x}"));
    }
}
