//! What an upstream is told about a device, in the words that it understands.
//!
//! Only the validated path is said, leaf first, anchor last, never what the device presented.
//! All that stems from a certificate is base64, percent-encoded or hex-escaped, so nothing in
//! a certificate can end a value, a field or a header.

use http::{HeaderName, HeaderValue};

use super::encode;
use super::strip::{self, StrippedName};
use crate::trust::{LeafInfo, VerifiedChain};

/// How the identity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `X-Ssl-Cert-Chain`: PEM leaf … anchor, each line break one space.
    XSslCertChain,
    /// RFC 9440: `Client-Cert` and `Client-Cert-Chain`. The anchor is part of the chain: §2.3
    /// lets a proxy omit the root only where it knows that the origin has it.
    Rfc9440,
    /// `X-Forwarded-Client-Cert` as Envoy sets it, one element without `By`.
    Xfcc,
    /// The headers of AWS' Application Load Balancer: those of verify mode, and the chain of
    /// passthrough mode.
    AwsAlb,
    /// `X-Forwarded-Tls-Client-Cert` as Traefik 3 sets it, and `-Info` for the leaf. The names
    /// in `-Info` are RFC 4514 strings, whose order is the reverse of Traefik's.
    Traefik,
}

/// What one tenant's upstream is told, and what is kept from it.
#[derive(Clone, Debug)]
pub struct ForwardSettings {
    pub dialect: Dialect,
    /// Bytes of names and values. Over it, the issuers are left out; where the leaf alone is
    /// still over it, only the fingerprint is sent. Servers take 8 to 64 KiB for all headers
    /// of a request together; a chain of three has 2 to 5 KiB.
    pub header_budget: usize,
    /// Stripped besides the names of every dialect.
    pub extra_stripped: Vec<StrippedName>,
    /// Keep the `Forwarded` and `X-Forwarded-*` that a request brings. Without effect on
    /// [`ForwardSettings::strips`].
    pub trust_forwarded: bool,
}

/// Headers that say who the device is. Cloning a value copies no bytes: make them once for a
/// connection.
#[derive(Clone, Debug)]
pub struct IdentityHeaders {
    pub list: Vec<(HeaderName, HeaderValue)>,
    /// The chain was over the budget; what is sent says less.
    pub reduced: bool,
}

impl ForwardSettings {
    pub fn identity_headers(&self, chain: &VerifiedChain) -> IdentityHeaders {
        self.headers_of(&Device {
            path: chain.path(),
            leaf_sha256: chain.leaf_sha256(),
            leaf: chain.leaf_info(),
        })
    }

    /// Whether a request's header (or trailer) of this name is taken off before the request
    /// goes upstream: it could pass for an identity in some dialect, in any spelling that an
    /// upstream may fold.
    pub fn strips(&self, name: &HeaderName) -> bool {
        strip::means_identity(name)
            || self.extra_stripped.iter().any(|extra| extra.matches(name.as_str().as_bytes()))
    }

    fn headers_of(&self, device: &Device<'_>) -> IdentityHeaders {
        let whole = headers(self.dialect, device, Extent::Chain);
        if size(&whole) <= self.header_budget {
            return IdentityHeaders { list: whole, reduced: false };
        }
        let leaf = headers(self.dialect, device, Extent::Leaf);
        let list = if size(&leaf) <= self.header_budget {
            leaf
        } else {
            headers(self.dialect, device, Extent::Fingerprint)
        };
        IdentityHeaders { list, reduced: true }
    }
}

/// What the dialects need of a verified chain.
struct Device<'a> {
    path: &'a [Vec<u8>],
    leaf_sha256: &'a [u8; 32],
    leaf: &'a LeafInfo,
}

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Chain,
    /// The leaf and its fingerprint.
    Leaf,
    Fingerprint,
}

impl Device<'_> {
    fn certificates(&self, extent: Extent) -> &[Vec<u8>] {
        match extent {
            Extent::Chain => self.path,
            Extent::Leaf => self.path.get(..1).unwrap_or_default(),
            Extent::Fingerprint => &[],
        }
    }
}

fn headers(
    dialect: Dialect,
    device: &Device<'_>,
    extent: Extent,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Headers(Vec::with_capacity(7));
    match dialect {
        Dialect::XSslCertChain => x_ssl_cert_chain(&mut headers, device, extent),
        Dialect::Rfc9440 => rfc9440(&mut headers, device, extent),
        Dialect::Xfcc => xfcc(&mut headers, device, extent),
        Dialect::AwsAlb => aws_alb(&mut headers, device, extent),
        Dialect::Traefik => traefik(&mut headers, device, extent),
    }
    // Envoy's dialect has a field for the fingerprint; the others have none of their own.
    if dialect != Dialect::Xfcc && extent != Extent::Chain {
        headers.add("x-ssl-cert-sha256", encode::hex(device.leaf_sha256));
    }
    headers.0
}

fn x_ssl_cert_chain(headers: &mut Headers, device: &Device<'_>, extent: Extent) {
    let certificates = device.certificates(extent).iter();
    let pem: Vec<String> = certificates.map(|der| encode::pem(der, ' ')).collect();
    headers.add("x-ssl-cert-chain", pem.join(" "));
}

/// Structured fields (RFC 8941): a byte sequence, and a list of them.
fn rfc9440(headers: &mut Headers, device: &Device<'_>, extent: Extent) {
    let sequences = device.certificates(extent).iter();
    let mut sequences = sequences.map(|der| format!(":{}:", encode::base64(der)));
    headers.add("client-cert", sequences.next().unwrap_or_default());
    headers.add("client-cert-chain", sequences.collect::<Vec<_>>().join(", "));
}

/// One element; `,` and `;` occur in quotes only, quotes and backslashes are escaped there.
fn xfcc(headers: &mut Headers, device: &Device<'_>, extent: Extent) {
    let mut fields = vec![format!("Hash={}", encode::hex(device.leaf_sha256))];
    if let [leaf, ..] = device.certificates(extent) {
        fields.push(format!("Cert=\"{}\"", encode::percent(&pem_file(leaf), b"")));
        if extent == Extent::Chain {
            let chain: String = device.path.iter().map(|der| pem_file(der)).collect();
            fields.push(format!("Chain=\"{}\"", encode::percent(&chain, b"")));
        }
        let subject = encode::distinguished_name(&device.leaf.subject).replace('\\', r"\\");
        fields.push(format!("Subject=\"{subject}\""));
        for (key, names) in [("URI", &device.leaf.uris), ("DNS", &device.leaf.dns_names)] {
            for name in names {
                let name = encode::alternative_name(name);
                let quote = if name.contains('=') { "\"" } else { "" };
                fields.push(format!("{key}={quote}{name}{quote}"));
            }
        }
    }
    headers.add("x-forwarded-client-cert", fields.join(";"));
}

fn aws_alb(headers: &mut Headers, device: &Device<'_>, extent: Extent) {
    let [leaf, ..] = device.certificates(extent) else { return };
    let escaped = |pem: &str| encode::percent(pem, b"+=/");
    if extent == Extent::Chain {
        let chain: String = device.path.iter().map(|der| pem_file(der)).collect();
        headers.add("x-amzn-mtls-clientcert", escaped(&chain));
    }
    headers.add("x-amzn-mtls-clientcert-leaf", escaped(&pem_file(leaf)));
    headers.add("x-amzn-mtls-clientcert-serial-number", device.leaf.serial_hex.clone());
    let name = encode::distinguished_name;
    headers.add("x-amzn-mtls-clientcert-issuer", name(&device.leaf.issuer));
    headers.add("x-amzn-mtls-clientcert-subject", name(&device.leaf.subject));
    let not_before = encode::iso8601(device.leaf.not_before);
    if let Some((from, until)) = not_before.zip(encode::iso8601(device.leaf.not_after)) {
        let validity = format!("NotBefore={from};NotAfter={until}");
        headers.add("x-amzn-mtls-clientcert-validity", validity);
    }
}

/// The certificates as base64 without PEM lines, separated by commas and not escaped (as of
/// Traefik 3); the info as one string, escaped as a URL query.
fn traefik(headers: &mut Headers, device: &Device<'_>, extent: Extent) {
    let certificates = device.certificates(extent).iter();
    let base64: Vec<String> = certificates.map(|der| encode::base64(der)).collect();
    if base64.is_empty() {
        return;
    }
    headers.add("x-forwarded-tls-client-cert", base64.join(","));
    let leaf = device.leaf;
    let mut info = format!(
        "Subject=\"{}\";Issuer=\"{}\";NB=\"{}\";NA=\"{}\"",
        encode::distinguished_name(&leaf.subject),
        encode::distinguished_name(&leaf.issuer),
        leaf.not_before,
        leaf.not_after
    );
    let names = leaf.dns_names.iter().chain(&leaf.uris);
    let names: Vec<String> = names.map(|name| encode::alternative_name(name)).collect();
    if !names.is_empty() {
        info = format!("{info};SAN=\"{}\"", names.join(","));
    }
    headers.add("x-forwarded-tls-client-cert-info", encode::query(&info));
}

fn pem_file(der: &[u8]) -> String {
    encode::pem(der, '\n') + "\n"
}

struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// Adds a header, unless it says nothing. A value that is not printable ASCII is left out:
    /// the upstream then knows less, and never something forged.
    fn add(&mut self, name: &'static str, value: String) {
        let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if value.is_empty() || !printable {
            return;
        }
        if let Ok(value) = HeaderValue::try_from(value) {
            self.0.push((HeaderName::from_static(name), value));
        }
    }
}

fn size(headers: &[(HeaderName, HeaderValue)]) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

#[cfg(test)]
mod tests;
