//! Times, digests and numbers as the API writes and reads them.

use serde::{Deserialize, Deserializer};
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime, Time};

use crate::clock::UnixSeconds;

/// RFC 3339, in UTC, to the second.
pub fn time(at: UnixSeconds) -> String {
    // Certificates end in year 9999 at the latest (RFC 5280 section 4.1.2.5).
    let at = OffsetDateTime::from_unix_timestamp(at).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// RFC 3339 with any offset, or a date alone: its first second in UTC. From 1970 to 9999, in
/// UTC: what can be written again.
pub fn parse_time(text: &str) -> Option<UnixSeconds> {
    let day = || {
        let day = Date::parse(text, time::macros::format_description!("[year]-[month]-[day]"));
        day.ok().map(|day| OffsetDateTime::new_utc(day, Time::MIDNIGHT))
    };
    let at = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(day)?;
    // An offset may move the last hours of 9999 into a year that has no text.
    let has_text = |at: &i64| *at >= 0 && OffsetDateTime::from_unix_timestamp(*at).is_ok();
    Some(at.unix_timestamp()).filter(has_text)
}

/// Lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A SHA-256 in hex of either case; colons between octets are dropped.
pub fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    if digits.len() != 64 || text.len() > 95 {
        return None;
    }
    let mut digest = [0; 32];
    for (octet, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.contains('+'))?;
        *octet = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(digest)
}

/// A serial number of a certificate as the registry keeps it: hex in upper case without
/// leading zeros. From hex of either case, with or without `0x`, colons and leading zeros; of
/// at most 20 octets (RFC 5280 section 4.1.2.2) and not zero.
pub fn parse_serial(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let digits = digits.trim_start_matches('0');
    let good = !digits.is_empty()
        && digits.len() <= 40
        && text.len() <= 64
        && digits.bytes().all(|b| b.is_ascii_hexdigit());
    good.then(|| digits.to_ascii_uppercase())
}

/// The decimal form of a number in hex, of any length; 0 for what is not hex.
pub fn decimal(hex: &str) -> String {
    // Groups of nine decimal digits, the lowest first.
    let mut groups: Vec<u64> = vec![0];
    for digit in hex.chars() {
        let mut carry = u64::from(digit.to_digit(16).unwrap_or_default());
        for group in &mut groups {
            let value = *group * 16 + carry;
            *group = value % 1_000_000_000;
            carry = value / 1_000_000_000;
        }
        if carry > 0 {
            groups.push(carry);
        }
    }
    let mut rest = groups.iter().rev();
    let mut text = rest.next().map(u64::to_string).unwrap_or_default();
    for group in rest {
        text.push_str(&format!("{group:09}"));
    }
    text
}

/// Keeps a name from breaking out of a log line or a table.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.chars().count() > MAX_NAME {
        return Err("has 1 to 256 characters");
    }
    if name.chars().any(|c| c.is_control() || is_layout(c)) {
        return Err("holds no control characters, not those of a text's direction or lines either");
    }
    Ok(())
}

/// Bidi_Control, and the separators of lines and paragraphs: a table shows another name with
/// them than the one that is stored.
fn is_layout(c: char) -> bool {
    matches!(
        c,
        '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

const MAX_NAME: usize = 256;

/// A field that the platform's object has and that nobody can set: taken back as it was given.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOnly;

impl<'de> Deserialize<'de> for ReadOnly {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ReadOnly, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| ReadOnly)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_decimal_at_any_length() {
        assert_eq!(decimal("0"), "0");
        assert_eq!(decimal("FF"), "255");
        assert_eq!(decimal("3B9ACA00"), "1000000000");
        assert_eq!(decimal("FFFFFFFFFFFFFFFF"), u64::MAX.to_string());
        assert_eq!(decimal("ffffffffffffffffffffffffffffffff"), u128::MAX.to_string());
        assert_eq!(
            decimal("7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"),
            "730750818665451459101842416358141509827966271487"
        );
    }

    #[test]
    fn serial_numbers_have_one_spelling() {
        for text in ["ab:cd", "0xABCD", "00abcd", " ABCD "] {
            assert_eq!(parse_serial(text).as_deref(), Some("ABCD"), "{text}");
        }
        assert_eq!(parse_serial(&"f".repeat(40)).unwrap().len(), 40);
        for odd in ["", "0", "0x", "00", "xyz", "-1", "+1", "1 2", &"f".repeat(41)] {
            assert_eq!(parse_serial(odd), None, "{odd}");
        }
    }

    #[test]
    fn times_are_rfc_3339_or_dates() {
        assert_eq!(parse_time("2027-01-15T08:00:00Z"), Some(1_800_000_000));
        assert_eq!(parse_time("2027-01-15T09:00:00.5+01:00"), Some(1_800_000_000));
        assert_eq!(parse_time("2027-01-15"), Some(1_799_971_200));
        assert_eq!(time(1_800_000_000), "2027-01-15T08:00:00Z");
        for odd in ["", "yesterday", "1969-12-31", "2027-02-30", "1800000000"] {
            assert_eq!(parse_time(odd), None, "{odd}");
        }
    }

    #[test]
    fn no_time_is_taken_that_cannot_be_given() {
        let last = parse_time("9999-12-31T23:59:59Z").unwrap();
        assert_eq!(time(last), "9999-12-31T23:59:59Z");
        assert_eq!(parse_time("9999-12-31T23:59:59-01:00"), None);
    }

    #[test]
    fn digests_are_sixty_four_hex_digits() {
        assert_eq!(parse_sha256(&"aB".repeat(32)), Some([0xab; 32]));
        assert_eq!(parse_sha256(&vec!["ab"; 32].join(":")), Some([0xab; 32]));
        for odd in ["", "ab", &"a".repeat(63), &"g".repeat(64), &"+a".repeat(32), &"a".repeat(65)] {
            assert_eq!(parse_sha256(odd), None, "{odd}");
        }
    }

    #[test]
    fn names_fit_in_one_log_line() {
        assert_eq!(check_name("Fabrik München"), Ok(()));
        assert!(
            check_name("").is_err()
                && check_name("a\nb").is_err()
                && check_name("\u{1b}[1m").is_err()
        );
        assert!(check_name(&"a".repeat(257)).is_err());
    }
}
