//! Reason codes of MQTT 5.0 (§2.4) and return codes of MQTT 3.1.1 (§3.2.2.3), and what each
//! end of a session is called in them.

use crate::refusal::{Refusal, Refused};

pub const MALFORMED_PACKET: u8 = 0x81;
pub const PROTOCOL_ERROR: u8 = 0x82;
pub const IMPLEMENTATION_SPECIFIC: u8 = 0x83;
pub const UNSUPPORTED_PROTOCOL_VERSION: u8 = 0x84;
pub const CLIENT_ID_NOT_VALID: u8 = 0x85;
pub const NOT_AUTHORIZED: u8 = 0x87;
pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
pub const PACKET_TOO_LARGE: u8 = 0x95;
pub const QUOTA_EXCEEDED: u8 = 0x97;
pub const SERVER_SHUTTING_DOWN: u8 = 0x8b;
pub const ADMINISTRATIVE_ACTION: u8 = 0x98;
pub const UNSPECIFIED: u8 = 0x80;
const SERVER_UNAVAILABLE: u8 = 0x88;

/// The version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V31,
    V311,
    V5,
}

impl Version {
    pub fn label(self) -> &'static str {
        match self {
            Version::V31 => "3.1",
            Version::V311 => "3.1.1",
            Version::V5 => "5.0",
        }
    }
}

/// A "no" with the code that says it best in MQTT 5.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub refused: Refused,
    /// Of a CONNACK or DISCONNECT.
    pub code: u8,
}

impl Denied {
    /// A packet that breaks the rules. `code` says how.
    pub fn packet(code: u8, reason: &'static str) -> Denied {
        let refusal = match code {
            PACKET_TOO_LARGE => Refusal::TooLarge,
            _ => Refusal::ProtocolError,
        };
        Denied { refused: Refused::new(refusal, reason), code }
    }
}

impl Denied {
    /// Ends a session that was let in: in the codes that a DISCONNECT has (§3.14.2.1).
    pub fn live(refused: Refused) -> Denied {
        let code = match refused.refusal {
            Refusal::DeviceBlocked | Refusal::DeviceUnknown | Refusal::Misdirected => {
                ADMINISTRATIVE_ACTION
            }
            // What only a CONNACK can say.
            other if other.mqtt_reason() == SERVER_UNAVAILABLE => UNSPECIFIED,
            other => other.mqtt_reason(),
        };
        Denied { refused, code }
    }
}

impl From<super::frame::BadLength> for Denied {
    fn from(_: super::frame::BadLength) -> Denied {
        Denied::packet(MALFORMED_PACKET, "a packet's length is malformed")
    }
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Denied {
        let code = refused.refusal.mqtt_reason();
        Denied { refused, code }
    }
}
