//! How values stand in the database.

use super::{AnchorStatus, DeviceStatus, RegisteredBy, StoreFault};
use crate::names::{DeviceId, TenantId};

/// The values of an enum, each with its text.
macro_rules! texts {
    ($type:ident, $unknown:literal, { $($value:ident: $text:literal),* }) => {
        impl $type {
            /// As the database holds it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($type::$value => $text,)*
                }
            }

            pub(super) fn parse(text: &str) -> Result<$type, StoreFault> {
                match text {
                    $($text => Ok($type::$value),)*
                    _ => Err(StoreFault::Row($unknown)),
                }
            }
        }
    };
}

texts!(DeviceStatus, "an unknown status", { Active: "active", Blocked: "blocked" });
texts!(AnchorStatus, "an unknown status", { Enabled: "enabled", Disabled: "disabled" });
texts!(RegisteredBy, "an unknown way of registration", {
    Auto: "auto", Bulk: "bulk", Manual: "manual"
});

pub(super) fn tenant_id(text: &str) -> Result<TenantId, StoreFault> {
    TenantId::parse(text).map_err(|_| StoreFault::Row("an impossible tenant"))
}

pub(super) fn device_id(text: &str) -> Result<DeviceId, StoreFault> {
    DeviceId::parse(text).map_err(|_| StoreFault::Row("an impossible device id"))
}

pub(super) fn to_hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex(text: &str) -> Result<[u8; 32], StoreFault> {
    let mut digest = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != digest.len() || !rest.is_empty() {
        return Err(StoreFault::Row("a digest of another length"));
    }
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Ok(digest)
}

fn nibble(digit: u8) -> Result<u8, StoreFault> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(StoreFault::Row("a digest that is not hex")),
    }
}

/// Category and key of an option as one text. Neither holds a control character.
pub(super) fn option_name(category: &str, key: &str) -> String {
    format!("{category}{OPTION_SEPARATOR}{key}")
}

pub(super) const OPTION_SEPARATOR: char = '\u{1f}';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_hex_of_the_right_length_is_a_digest() {
        assert_eq!(from_hex(&to_hex(&[0xa5; 32])).unwrap(), [0xa5; 32]);
        for odd in ["", "a5", &"A5".repeat(32), &"g0".repeat(32), &"a".repeat(65), &"é".repeat(32)]
        {
            assert!(from_hex(odd).is_err(), "{odd}");
        }
    }
}
