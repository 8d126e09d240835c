//! What names a request in the log, and text from the wire that may stand there.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that names a request in the log, in error bodies and to the upstream.
#[derive(Clone, Copy)]
pub struct RequestId(u64);

impl RequestId {
    /// Distinct within a process, and with near certainty among processes; no secret.
    pub fn new() -> RequestId {
        static START: LazyLock<u64> = LazyLock::new(|| {
            let mut seed = [0; 8];
            // Without randomness the ids of two processes could meet, which harms nobody.
            let _ = boring::rand::rand_bytes(&mut seed);
            u64::from_ne_bytes(seed)
        });
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // An odd multiplier makes neighbours look unlike each other and keeps them distinct.
        RequestId(START.wrapping_add(n).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub fn text(self) -> Hex {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 16];
        for (index, digit) in hex.iter_mut().enumerate() {
            *digit = DIGITS[(self.0 >> (60 - 4 * index)) as usize & 15];
        }
        Hex(hex)
    }
}

/// Sixteen hexadecimal digits.
pub struct Hex([u8; 16]);

impl Hex {
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Text from the wire, made fit for one log line: at most 256 characters, everything that is
/// not printable ASCII escaped.
pub struct Printable<'t>(pub &'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(256) {
            match character {
                ' '..='~' if character != '"' && character != '\\' => write!(f, "{character}")?,
                _ => write!(f, "{}", character.escape_default())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_distinct_hex() {
        let (a, b) = (RequestId::new().text(), RequestId::new().text());
        assert_ne!(a.as_str(), b.as_str());
        assert_eq!(a.as_str().len(), 16);
    }

    #[test]
    fn wire_text_is_one_escaped_line() {
        assert_eq!(Printable("/a\r\n\u{1b}[31mé\"").to_string(), r#"/a\r\n\u{1b}[31m\u{e9}\""#);
    }
}
