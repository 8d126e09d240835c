//! What an end-entity certificate says: the facts that forwarding dialects pass on, beside the
//! device's identity.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::certificate::{parse, rfc4514, serial_hex, unparsable};
use super::identity::IdentityRule;
use crate::clock::UnixSeconds;
use crate::names::DeviceId;
use crate::refusal::Refused;

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

/// Identity and facts of a certificate that libpki has verified. `rule`: its anchor's.
pub(super) fn read(der: &[u8], rule: &IdentityRule) -> Result<(DeviceId, LeafInfo), Refused> {
    let certificate = parse(der)?;
    Ok((rule.device(&certificate)?, info(&certificate)?))
}

/// Facts alone, of a certificate that libpki has parsed.
pub(super) fn read_info(der: &[u8]) -> Result<LeafInfo, Refused> {
    info(&parse(der)?)
}

/// The identity alone.
pub(super) fn identity(der: &[u8], rule: &IdentityRule) -> Result<DeviceId, Refused> {
    rule.device(&parse(der)?)
}

fn info(certificate: &X509Certificate<'_>) -> Result<LeafInfo, Refused> {
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
    Ok(LeafInfo {
        subject: rfc4514(certificate.subject()),
        issuer: rfc4514(certificate.issuer()),
        serial_hex: serial_hex(certificate.raw_serial()),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        dns_names,
        uris,
    })
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}
