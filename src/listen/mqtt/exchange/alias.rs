//! Topic aliases of messages (MQTT 5.0 §3.3.2.3.4), found without the rest of the packet.

use super::super::wire;

/// Whether a message has a topic alias.
pub enum Found {
    No,
    Alias(u16),
    /// This many bytes of the body are needed to say.
    More(usize),
    /// The properties are larger than [`MAX_PROPERTIES`].
    TooLarge,
    /// Properties that no client sends, or that cannot be read: a broker may read on where this
    /// cannot, and find an alias.
    Bad,
}

/// Of the properties in which an alias is looked for.
const MAX_PROPERTIES: usize = 16 * 1024;

/// Finds the topic alias of a message (MQTT 5.0 §3.3.2.3): `topic` and `id` are lengths.
pub fn find(body: &[u8], topic: usize, id: usize) -> Found {
    let start = 2 + topic + id;
    let Some(rest) = body.get(start..).filter(|rest| !rest.is_empty()) else {
        return Found::More(start + 1);
    };
    let Some((size, length)) = wire::variable(rest) else {
        return if rest.len() < 4 { Found::More(start + rest.len() + 1) } else { Found::Bad };
    };
    if length > MAX_PROPERTIES {
        return Found::TooLarge;
    }
    let Some(mut rest) = rest.get(size..size + length) else {
        return Found::More(start + size + length);
    };
    while let Some((kind, value)) = rest.split_first() {
        let skip = match kind {
            // Topic Alias.
            0x23 => {
                let Some(alias) = value.first_chunk::<2>() else { return Found::Bad };
                return Found::Alias(u16::from_be_bytes(*alias));
            }
            // Payload Format Indicator, Message Expiry Interval.
            0x01 => 1,
            0x02 => 4,
            // Content Type, Response Topic, Correlation Data.
            0x03 | 0x08 | 0x09 => match text(value) {
                Some(skip) => skip,
                None => return Found::Bad,
            },
            // User Property: two strings.
            0x26 => {
                let name = text(value);
                let both = name.and_then(|n| Some(n + text(value.get(n..)?)?));
                match both {
                    Some(skip) => skip,
                    None => return Found::Bad,
                }
            }
            // Subscription Identifier: none that a client sends.
            _ => return Found::Bad,
        };
        let Some(after) = value.get(skip..) else { return Found::Bad };
        rest = after;
    }
    Found::No
}

/// How many bytes a string takes.
fn text(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<2>().map(|length| 2 + usize::from(u16::from_be_bytes(*length)))
}
