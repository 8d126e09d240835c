//! Names that have been checked: a value of one of these types holds nothing that could
//! break out of a log line, a header, a topic, a path or a query.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A tenant's id: 1 to 63 of `a-z 0-9 - _`, starting with a letter or digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

/// A device's id as its certificate gives it: 1 to 128 of `A-Z a-z 0-9 - _ . @ =`, starting
/// with a letter or digit. Everything else is refused: no colon (the platform's client ids
/// use it), no blank, no topic or path character, nothing outside ASCII.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

/// A DNS host name in its one canonical spelling: lower case, A-labels, no trailing dot,
/// at most 253 octets (RFC 1035 §2.3.1, RFC 5890). Never an IP address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Box<str>);

/// What a tenant listens to: one name, or every name with at least one more label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerPattern {
    Exact(ServerName),
    /// `*.example.com`, held as `example.com`.
    Wildcard(ServerName),
}

/// Why a text is not a name. The text is for an operator and never quotes the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameFault(&'static str);

impl TenantId {
    pub fn parse(text: &str) -> Result<TenantId, NameFault> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        match text.as_bytes() {
            [] => Err(NameFault("a tenant id is not empty")),
            bytes if bytes.len() > 63 => Err(NameFault("a tenant id has at most 63 characters")),
            [first, ..] if !first.is_ascii_lowercase() && !first.is_ascii_digit() => {
                Err(NameFault("a tenant id starts with a-z or 0-9"))
            }
            bytes if !bytes.iter().copied().all(inner) => {
                Err(NameFault("a tenant id holds only a-z, 0-9, '-' and '_'"))
            }
            _ => Ok(TenantId(text.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DeviceId {
    pub fn parse(text: &str) -> Result<DeviceId, NameFault> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.@=".contains(&b);
        match text.as_bytes() {
            [] => Err(NameFault("a device id is not empty")),
            bytes if bytes.len() > 128 => Err(NameFault("a device id has at most 128 characters")),
            [first, ..] if !first.is_ascii_alphanumeric() => {
                Err(NameFault("a device id starts with a letter or a digit"))
            }
            bytes if !bytes.iter().copied().all(inner) => {
                Err(NameFault("a device id holds only A-Z, a-z, 0-9 and '-', '_', '.', '@', '='"))
            }
            _ => Ok(DeviceId(text.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ServerName {
    /// A name from the wire (SNI, authority): ASCII in any case, no trailing dot.
    pub fn parse(text: &str) -> Result<ServerName, NameFault> {
        if text.is_empty() || text.len() > 253 {
            return Err(NameFault("a server name has 1 to 253 characters"));
        }
        let mut last_label = "";
        for label in text.split('.') {
            let bytes = label.as_bytes();
            if bytes.is_empty() || bytes.len() > 63 {
                return Err(NameFault("each label of a server name has 1 to 63 characters"));
            }
            if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') {
                return Err(NameFault("a server name holds only letters, digits, '-' and '.'"));
            }
            if bytes.starts_with(b"-") || bytes.ends_with(b"-") {
                return Err(NameFault("no label of a server name starts or ends with '-'"));
            }
            last_label = label;
        }
        if last_label.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NameFault("a server name is a host name, not an IP address"));
        }
        Ok(ServerName(text.to_ascii_lowercase().into()))
    }

    /// A name that a person wrote: U-labels become A-labels (UTS 46, strict).
    pub fn parse_unicode(text: &str) -> Result<ServerName, NameFault> {
        let ascii = idna::domain_to_ascii_strict(text)
            .map_err(|_| NameFault("not a valid host name (IDNA)"))?;
        ServerName::parse(&ascii)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ServerPattern {
    /// `name` or `*.name`; the star stands alone in the first label.
    pub fn parse_unicode(text: &str) -> Result<ServerPattern, NameFault> {
        match text.strip_prefix("*.") {
            Some(rest) => ServerName::parse_unicode(rest).map(ServerPattern::Wildcard),
            None if text.contains('*') => {
                Err(NameFault("a wildcard is '*.' followed by a name, nothing else"))
            }
            None => ServerName::parse_unicode(text).map(ServerPattern::Exact),
        }
    }
}

impl fmt::Display for ServerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerPattern::Exact(name) => f.write_str(name.as_str()),
            ServerPattern::Wildcard(name) => write!(f, "*.{name}"),
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}
as_text!(TenantId, DeviceId, ServerName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_have_one_spelling() {
        assert_eq!(ServerName::parse("A.Example.COM").unwrap().as_str(), "a.example.com");
        assert_eq!(
            ServerName::parse_unicode("bücher.example").unwrap().as_str(),
            "xn--bcher-kva.example"
        );
    }

    #[test]
    fn odd_server_names_are_refused() {
        let long_label = "a".repeat(64);
        let long_name = format!("{}.com", "a.".repeat(130));
        for odd in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "10.0.0.1",
            "1",
            "[::1]",
            "::1",
            "a b",
            "a\0b",
            "a/b",
            "-a.b",
            "a-.b",
            "a_b.c",
            "*.a",
            "bücher.example",
            "а.example",
            &long_label,
            &long_name,
        ] {
            assert!(ServerName::parse(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn wildcards_are_a_star_and_a_name() {
        assert!(matches!(ServerPattern::parse_unicode("*.a.b"), Ok(ServerPattern::Wildcard(_))));
        for odd in ["*", "*a.b", "a.*.b", "*.*.b", "*."] {
            assert!(ServerPattern::parse_unicode(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn device_ids_hold_nothing_that_breaks_out() {
        assert!(DeviceId::parse("device-001.acme@x=1").is_ok());
        let long = "a".repeat(129);
        for odd in [
            "",
            " ",
            "a b",
            "a:b",
            "a/b",
            "a+b",
            "a#b",
            "$a",
            "a\r\nb",
            "a\0",
            "../a",
            "a\"",
            "é",
            "a\u{202e}b",
            "-a",
            ".",
            &long,
        ] {
            assert!(DeviceId::parse(odd).is_err(), "{odd:?}");
        }
    }
}
