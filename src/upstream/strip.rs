//! Which request headers could pass for an identity and are taken off every request.
//!
//! Upstreams fold header names: CGI and WSGI turn `-` into `_` and forget the case, some turn
//! every character that is neither letter nor digit into `_`. So names are compared folded:
//! lower case, everything else than letters and digits as `-`.

use http::HeaderName;

/// A header of the configuration's that is stripped besides the built-in ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StrippedName {
    folded: Box<[u8]>,
    prefix: bool,
}

/// Why a text cannot be a stripped name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrippedNameFault {
    #[error("a header name has 1 to 128 letters, digits or '-', '_', '.', and may end with '*'")]
    NotAName,
    #[error("this would strip '{0}', without which no request can be forwarded")]
    Needed(&'static str),
}

impl StrippedName {
    /// A header name, or with a `*` at its end every name that starts so.
    pub fn parse(text: &str) -> Result<StrippedName, StrippedNameFault> {
        let (stem, prefix) = match text.strip_suffix('*') {
            Some(stem) => (stem, true),
            None => (text, false),
        };
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if stem.is_empty() || stem.len() > 128 || !stem.bytes().all(fits) {
            return Err(StrippedNameFault::NotAName);
        }
        let name = StrippedName { folded: stem.bytes().map(fold).collect(), prefix };
        match NEEDED.iter().copied().find(|needed| name.matches(needed.as_bytes())) {
            Some(needed) => Err(StrippedNameFault::Needed(needed)),
            None => Ok(name),
        }
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        (self.prefix || name.len() == self.folded.len()) && starts_folded(name, &self.folded)
    }
}

/// Whether a header of this name means an identity in any of the dialects, whichever of them
/// is on. It is asked for every header of every request: most names are done with after
/// their first letters, and nothing is allocated.
pub(super) fn means_identity(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    match name.first() {
        Some(b'x') => X_PREFIXES.iter().any(|prefix| starts_folded(name, prefix)),
        Some(b'c') => {
            CLIENT_CERT.iter().any(|exact| name.len() == exact.len() && starts_folded(name, exact))
        }
        Some(b's') => starts_folded(name, b"ssl-client-"),
        _ => false,
    }
}

/// `X-Ssl-Cert-Chain`, `-Sha256` and plain `X-Ssl-Cert`; `X-SSL-Client-Cert`, `-Verify`,
/// `-S-DN` and their like; Envoy; Traefik with `-Info`; AWS with every `-Clientcert-*`.
const X_PREFIXES: [&[u8]; 5] = [
    b"x-ssl-cert",
    b"x-ssl-client",
    b"x-forwarded-client-cert",
    b"x-forwarded-tls-client-cert",
    b"x-amzn-mtls-",
];

/// RFC 9440.
const CLIENT_CERT: [&[u8]; 2] = [b"client-cert", b"client-cert-chain"];

/// Names that carry the message itself (RFC 9110 §7, RFC 9112 §6).
const NEEDED: [&str; 8] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
];

/// Whether an upstream that folds names takes `name` for `folded`, which is lower case with `-`.
pub fn same_folded(name: &HeaderName, folded: &str) -> bool {
    let name = name.as_str().as_bytes();
    name.len() == folded.len() && starts_folded(name, folded.as_bytes())
}

fn starts_folded(name: &[u8], folded: &[u8]) -> bool {
    name.len() >= folded.len() && name.iter().zip(folded).all(|(byte, want)| fold(*byte) == *want)
}

fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HeaderName {
        HeaderName::from_bytes(text.as_bytes()).unwrap()
    }

    #[test]
    fn every_dialect_is_stripped_in_every_spelling() {
        for canonical in [
            "X-Ssl-Cert-Chain",
            "X-Ssl-Cert-Sha256",
            "X-SSL-Cert",
            "X-SSL-Client-Cert",
            "X-SSL-Client-Verify",
            "X-SSL-Client-S-DN",
            "SSL-Client-Cert",
            "Client-Cert",
            "Client-Cert-Chain",
            "X-Forwarded-Client-Cert",
            "X-Forwarded-Tls-Client-Cert",
            "X-Forwarded-Tls-Client-Cert-Info",
            "X-Amzn-Mtls-Clientcert",
            "X-Amzn-Mtls-Clientcert-Leaf",
            "X-Amzn-Mtls-Clientcert-Serial-Number",
            "X-Amzn-Mtls-Clientcert-Not-Yet-Invented",
        ] {
            let upper = canonical.to_ascii_uppercase();
            assert!(means_identity(&name(canonical)), "{canonical}");
            assert!(means_identity(&name(&upper)), "{upper}");
            for odd in "_.!#$%&'*+^`|~".chars() {
                let spelled = canonical.replace('-', &odd.to_string());
                assert!(means_identity(&name(&spelled)), "{spelled}");
                let mixed = canonical.replacen('-', &odd.to_string(), 1);
                assert!(means_identity(&name(&mixed)), "{mixed}");
            }
        }
    }

    #[test]
    fn other_headers_are_left_alone() {
        for other in [
            "host",
            "accept",
            "authorization",
            "cookie",
            "content-type",
            "content-length",
            "connection",
            "x",
            "x-",
            "x-request-id",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-client",
            "x-tenant",
            "x-ssl",
            "client",
            "client-certificate-info",
            "client-cert-chain-x",
            "ssl-clients",
            "server",
            "s",
        ] {
            assert!(!means_identity(&name(other)), "{other}");
        }
    }

    #[test]
    fn configured_names_match_in_every_spelling_and_prefixes_match_what_follows() {
        let exact = StrippedName::parse("X-My_Identity").unwrap();
        assert_eq!(exact, StrippedName::parse("x.my-identity").unwrap());
        assert!(exact.matches(b"x_my_identity"));
        assert!(!exact.matches(b"x-my-identity-2"));
        let prefix = StrippedName::parse("X-My-*").unwrap();
        assert!(prefix.matches(b"x_my_identity"));
        assert!(!prefix.matches(b"x-mine"));
    }

    #[test]
    fn configured_names_that_break_forwarding_are_refused() {
        let long = "a".repeat(129);
        for bad in ["", "*", "a b", "a:b", "a*b", "a**", "é", "a\r\nb", &long] {
            assert_eq!(StrippedName::parse(bad), Err(StrippedNameFault::NotAName), "{bad:?}");
        }
        assert_eq!(StrippedName::parse("Host"), Err(StrippedNameFault::Needed("host")));
        assert_eq!(
            StrippedName::parse("Content_Length"),
            Err(StrippedNameFault::Needed("content-length"))
        );
        assert_eq!(StrippedName::parse("h*"), Err(StrippedNameFault::Needed("host")));
    }
}
