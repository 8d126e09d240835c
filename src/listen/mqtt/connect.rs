//! CONNECT: read by the codec, and written anew, so that the broker reads what was judged.

#[cfg(test)]
mod tests;

use bytes::BytesMut;
use bytestring::ByteString;
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::{v3, v5};
use tokio_util::codec::{Decoder, Encoder};

use super::codes::{
    CLIENT_ID_NOT_VALID, Denied, MALFORMED_PACKET, PROTOCOL_ERROR, QUOTA_EXCEEDED,
    UNSUPPORTED_PROTOCOL_VERSION, Version,
};
use super::frame::{Header, header};

/// What a client says first.
pub struct Connect {
    packet: Packet,
    version: Version,
}

enum Packet {
    V3(Box<v3::Connect>),
    V5(Box<v5::Connect>),
}

/// Why a CONNECT is none, and in which version that can be said; `None`: in none.
pub struct Unreadable {
    pub denied: Denied,
    pub answer_in: Option<Version>,
}

const CONNECT: u8 = 0x10;
/// The protocol's name in 3.1, with its length.
const MQISDP: &[u8] = b"\x00\x06MQIsdp";
/// In the flags of a CONNECT (§3.1.2.3): Clean Start.
const CLEAN_START: u8 = 0x02;
/// Of a CONNECT: read, each takes many times its smallest size.
const USER_PROPERTIES: usize = 128;
/// There is a will; its QoS; its QoS and RETAIN.
const WILL: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_OPTIONS: u8 = 0x38;

impl Connect {
    /// Reads a whole packet.
    pub fn read(header: Header, packet: &[u8]) -> Result<Connect, Unreadable> {
        if header.first != CONNECT {
            let denied = Denied::packet(PROTOCOL_ERROR, "the first packet is no CONNECT");
            return Err(Unreadable { denied, answer_in: None });
        }
        let body = packet.get(header.size..).unwrap_or_default();
        let (version, name) = version(body)?;
        let unreadable = |denied| Unreadable {
            denied,
            // 3.1.1 closes without a word (§3.1.4).
            answer_in: (version == Version::V5).then_some(version),
        };
        // The codec forgives these in 5.0 (§3.1.2.6, §3.1.2.7).
        let flags = body.get(name + 1).copied().unwrap_or_default();
        if flags & WILL_QOS == WILL_QOS || (flags & WILL == 0 && flags & WILL_OPTIONS != 0) {
            return Err(unreadable(malformed("the flags of the CONNECT contradict each other")));
        }
        let mut bytes = BytesMut::from(packet);
        let packet = match version {
            Version::V31 | Version::V311 => match v3::Codec::default().decode(&mut bytes) {
                Ok(Some((v3::Packet::Connect(connect), _))) => Packet::V3(connect),
                Err(DecodeError::InvalidClientId) => {
                    let reason = "an empty client id asks for a session that lasts";
                    let denied = Denied::packet(CLIENT_ID_NOT_VALID, reason);
                    return Err(Unreadable { denied, answer_in: Some(version) });
                }
                Ok(_) => return Err(unreadable(malformed("the CONNECT is malformed"))),
                Err(error) => return Err(unreadable(decode_fault(&error))),
            },
            Version::V5 => {
                // The codec takes no empty client id without Clean Start, which 5.0 does.
                let flags = bytes.get_mut(header.size + name + 1);
                let clean = flags.as_ref().is_some_and(|flags| **flags & CLEAN_START != 0);
                if let Some(flags) = flags {
                    *flags |= CLEAN_START;
                }
                match v5::Codec::default().decode(&mut bytes) {
                    Ok(Some((v5::Packet::Connect(mut connect), _))) => {
                        connect.clean_start = clean;
                        let will = connect.last_will.as_ref();
                        let wills = will.map_or(0, |will| will.user_properties.len());
                        if connect.user_properties.len() + wills > USER_PROPERTIES {
                            let reason = "more than 128 user properties in the CONNECT";
                            return Err(unreadable(Denied::packet(QUOTA_EXCEEDED, reason)));
                        }
                        if connect.auth_data.is_some() && connect.auth_method.is_none() {
                            let reason = "authentication data without a method";
                            return Err(unreadable(Denied::packet(PROTOCOL_ERROR, reason)));
                        }
                        Packet::V5(connect)
                    }
                    Ok(_) => return Err(unreadable(malformed("the CONNECT is malformed"))),
                    Err(error) => return Err(unreadable(decode_fault(&error))),
                }
            }
        };
        let connect = Connect { packet, version };
        if connect.texts().any(|text| text.contains('\0')) {
            return Err(unreadable(malformed("a string of the CONNECT holds NUL")));
        }
        Ok(connect)
    }

    /// Every string of the packet.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let properties = match &self.packet {
            Packet::V3(_) => None,
            Packet::V5(connect) => Some(connect),
        };
        let properties = properties.into_iter().flat_map(|connect| {
            let will = connect.last_will.as_ref();
            let others = [
                connect.auth_method.as_ref(),
                will.and_then(|will| will.content_type.as_ref()),
                will.and_then(|will| will.response_topic.as_ref()),
            ];
            let wills = will.into_iter().flat_map(|will| &will.user_properties);
            let named = connect.user_properties.iter().chain(wills);
            named.flat_map(|(name, value)| [name, value]).chain(others.into_iter().flatten())
        });
        let names = [Some(self.client_id()), self.user_name(), self.will_topic()];
        names.into_iter().flatten().chain(properties.map(|text| &**text))
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn client_id(&self) -> &str {
        match &self.packet {
            Packet::V3(connect) => &connect.client_id,
            Packet::V5(connect) => &connect.client_id,
        }
    }

    pub fn user_name(&self) -> Option<&str> {
        match &self.packet {
            Packet::V3(connect) => connect.username.as_deref(),
            Packet::V5(connect) => connect.username.as_deref(),
        }
    }

    pub fn password(&self) -> Option<&[u8]> {
        match &self.packet {
            Packet::V3(connect) => connect.password.as_deref(),
            Packet::V5(connect) => connect.password.as_deref(),
        }
    }

    pub fn will_topic(&self) -> Option<&str> {
        match &self.packet {
            Packet::V3(connect) => connect.last_will.as_ref().map(|will| &*will.topic),
            Packet::V5(connect) => connect.last_will.as_ref().map(|will| &*will.topic),
        }
    }

    /// Enhanced authentication (MQTT 5.0 §4.12): AUTH packets come before the CONNACK.
    pub fn authenticates(&self) -> bool {
        matches!(&self.packet, Packet::V5(connect) if connect.auth_method.is_some())
    }

    /// The largest packet that the client takes.
    pub fn max_packet(&self) -> usize {
        match &self.packet {
            Packet::V3(_) => usize::MAX,
            Packet::V5(connect) => {
                connect.max_packet_size.map_or(usize::MAX, |size| size.get() as usize)
            }
        }
    }

    /// Whether the client wants to read why it is refused (§3.1.2.11.7).
    pub fn wants_reasons(&self) -> bool {
        matches!(&self.packet, Packet::V5(connect) if connect.request_problem_info)
    }

    pub fn set_client_id(&mut self, id: String) {
        match &mut self.packet {
            Packet::V3(connect) => connect.client_id = id.into(),
            Packet::V5(connect) => connect.client_id = id.into(),
        }
    }

    pub fn set_credentials(&mut self, user_name: Option<String>, password: Option<Vec<u8>>) {
        let (user_name, password) = (user_name.map(ByteString::from), password.map(Into::into));
        match &mut self.packet {
            Packet::V3(connect) => {
                connect.username = user_name;
                connect.password = password;
            }
            Packet::V5(connect) => {
                connect.username = user_name;
                connect.password = password;
            }
        }
    }

    /// Drops the user properties of these names, and adds others: MQTT 5.0 only.
    pub fn set_user_properties(
        &mut self,
        ours: impl Fn(&str) -> bool,
        add: impl Iterator<Item = (String, String)>,
    ) {
        if let Packet::V5(connect) = &mut self.packet {
            connect.user_properties.retain(|(name, _)| !ours(name));
            connect.user_properties.extend(add.map(|(name, value)| (name.into(), value.into())));
        }
    }

    /// The packet as the broker gets it.
    ///
    /// # Errors
    /// Where a value is longer than a packet's string may be.
    pub fn write(self) -> Result<BytesMut, Denied> {
        let mut bytes = BytesMut::new();
        let written = match self.packet {
            Packet::V3(connect) => {
                v3::Codec::default().encode(v3::Packet::Connect(connect), &mut bytes)
            }
            Packet::V5(connect) => {
                v5::Codec::default().encode(v5::Packet::Connect(connect), &mut bytes)
            }
        };
        let unwritten = || malformed("the CONNECT cannot be written for the broker");
        written.map_err(|_| unwritten())?;
        if self.version == Version::V31 {
            // The codec writes 3.1.1's level under 3.1's name.
            let header = header(&bytes).ok().flatten().ok_or_else(unwritten)?;
            let level = bytes.get_mut(header.size + MQISDP.len()).ok_or_else(unwritten)?;
            *level = 3;
        }
        Ok(bytes)
    }
}

/// The version that the start of a CONNECT speaks, where that has come: one that is refused for
/// its length can be told so.
pub fn announced(bytes: &[u8]) -> Option<Version> {
    let header = header(bytes).ok()?.filter(|header| header.first == CONNECT)?;
    let (version, _) = version(bytes.get(header.size..)?).ok()?;
    Some(version)
}

/// The protocol's version, and how many bytes its name takes.
fn version(body: &[u8]) -> Result<(Version, usize), Unreadable> {
    let Some(name) = [b"\x00\x04MQTT", MQISDP].into_iter().find(|name| body.starts_with(name))
    else {
        let denied = Denied::packet(UNSUPPORTED_PROTOCOL_VERSION, "the protocol is not MQTT");
        return Err(Unreadable { denied, answer_in: None });
    };
    match (name.len(), body.get(name.len())) {
        (8, Some(3)) => Ok((Version::V31, 8)),
        (6, Some(4)) => Ok((Version::V311, 6)),
        (6, Some(5)) => Ok((Version::V5, 6)),
        (_, level) => {
            let reason = "the version of MQTT is not 3.1, 3.1.1 or 5.0";
            let later = level.is_some_and(|level| *level > 5 && *level < 0x80);
            let answer_in = Some(if later { Version::V5 } else { Version::V311 });
            let denied = Denied::packet(UNSUPPORTED_PROTOCOL_VERSION, reason);
            Err(Unreadable { denied, answer_in })
        }
    }
}

fn malformed(reason: &'static str) -> Denied {
    Denied::packet(MALFORMED_PACKET, reason)
}

fn decode_fault(error: &DecodeError) -> Denied {
    match error {
        // A property that stands twice, does not belong there, or is 0 where that is none.
        DecodeError::MalformedPacket => {
            Denied::packet(PROTOCOL_ERROR, "a property of the CONNECT breaks the rules")
        }
        DecodeError::Utf8Error => malformed("a string of the CONNECT is not UTF-8"),
        _ => malformed("the CONNECT is malformed"),
    }
}
