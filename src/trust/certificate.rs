//! Reads a certificate, and writes its names and numbers as text.

use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use crate::refusal::{Refusal, Refused};

/// One certificate and nothing behind it.
pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refused> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(unparsable()),
    }
}

pub(super) fn unparsable() -> Refused {
    Refused::new(Refusal::CertificateMalformed, "the end-entity certificate: does not parse")
}

/// A text in one of the string types that every reader reads alike. It may hold any character.
pub(super) fn plain_text<'a>(value: &'a Any<'_>) -> Option<&'a str> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            std::str::from_utf8(value.data).ok()
        }
        _ => None,
    }
}

/// Upper-case hex, two digits an octet, without leading zero octets.
pub(super) fn serial_hex(raw: &[u8]) -> String {
    let start = raw.iter().position(|b| *b != 0).unwrap_or(raw.len().saturating_sub(1));
    raw.iter().skip(start).map(|b| format!("{b:02X}")).collect()
}

/// RFC 4514 section 2: last RDN first.
pub(super) fn rfc4514(name: &X509Name<'_>) -> String {
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
