//! Encodings that the dialects share. Whatever goes in, printable ASCII comes out, and no
//! character that a dialect uses as a delimiter comes out of a name.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::clock::UnixSeconds;

/// PEM (RFC 7468 §3): base64 in blocks of 64, `line_break` before each block and before END.
pub(super) fn pem(der: &[u8], line_break: char) -> String {
    let base64 = base64(der);
    let mut pem = String::with_capacity(base64.len() / 64 + base64.len() + 56);
    pem.push_str("-----BEGIN CERTIFICATE-----");
    for (position, character) in base64.chars().enumerate() {
        if position.is_multiple_of(64) {
            pem.push(line_break);
        }
        pem.push(character);
    }
    pem.push(line_break);
    pem.push_str("-----END CERTIFICATE-----");
    pem
}

/// Base64 with padding (RFC 4648 §4).
pub(super) fn base64(der: &[u8]) -> String {
    STANDARD.encode(der)
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Percent-encoding (RFC 3986 §2.1) of everything but unreserved characters and `safe`.
pub(super) fn percent(text: &str, safe: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len() + text.len() / 8);
    for byte in text.bytes() {
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if unreserved || safe.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A value of a URL query: as [`percent`], a space as `+`.
pub(super) fn query(text: &str) -> String {
    percent(text, b" ").replace(' ', "+")
}

/// A DNS name or URI of a certificate. A URI keeps its characters (RFC 3986 §2) but for `,`
/// and `;`, which would split a list of ours; what no URI may hold is percent-encoded too.
pub(super) fn alternative_name(text: &str) -> String {
    percent(text, b":/?#[]@!$&'()*+=%")
}

/// A distinguished name of RFC 4514, the same name in a narrower spelling: each escaped
/// character, each quote and semicolon and everything outside printable ASCII is a backslash
/// and two hexadecimal digits (§2.4).
pub(super) fn distinguished_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (*first, tail) {
            (b'\\', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                name.extend(['\\', char::from(*high), char::from(*low)]);
                after
            }
            (b'\\', [escaped, after @ ..]) => {
                let _ = write!(name, "\\{escaped:02X}");
                after
            }
            (plain @ b' '..=b'~', after) if !b"\\\";".contains(&plain) => {
                name.push(char::from(plain));
                after
            }
            (other, after) => {
                let _ = write!(name, "\\{other:02X}");
                after
            }
        };
    }
    name
}

/// ISO 8601 in UTC, to the second; `None` past the year 9999.
pub(super) fn iso8601(seconds: UnixSeconds) -> Option<String> {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(format).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_blocks_of_64_and_no_empty_block() {
        let whole = pem(&[0; 96], ' ');
        let parts: Vec<&str> = whole.split(' ').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [10, 16, 64, 64, 8, 16]);
        assert!(pem(&[1, 2, 3, 4], '\n').lines().eq([
            "-----BEGIN CERTIFICATE-----",
            "AQIDBA==",
            "-----END CERTIFICATE-----",
        ]));
    }

    #[test]
    fn distinguished_names_hold_no_raw_delimiter() {
        for (name, encoded) in [
            ("CN=device-1,O=Acme", "CN=device-1,O=Acme"),
            (r"O=Acme\, Inc.", r"O=Acme\2C Inc."),
            (r#"O=a\";Hash=b"#, r"O=a\22\3BHash=b"),
            (r"O=a\\", r"O=a\5C"),
            (r"O=a\", r"O=a\5C"),
            (r"O=\0d\0A", r"O=\0d\0A"),
            ("O=Jörg\r\n", r"O=J\C3\B6rg\0D\0A"),
        ] {
            assert_eq!(distinguished_name(name), encoded);
        }
    }

    #[test]
    fn alternative_names_hold_no_raw_delimiter() {
        assert_eq!(alternative_name("spiffe://a.b/c?d=e#f"), "spiffe://a.b/c?d=e#f");
        assert_eq!(alternative_name("urn:a,b;c\"d\\e f\né"), "urn:a%2Cb%3Bc%22d%5Ce%20f%0A%C3%A9");
        assert_eq!(query("a b+c=\"d\""), "a+b%2Bc%3D%22d%22");
    }

    #[test]
    fn times_are_iso_8601() {
        assert_eq!(iso8601(1_695_261_017).as_deref(), Some("2023-09-21T01:50:17Z"));
        assert_eq!(iso8601(i64::MAX), None);
    }
}
