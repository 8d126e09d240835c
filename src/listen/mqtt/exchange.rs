//! The token exchange within a session, without I/O: what the device says on the edge's two
//! topics is taken out of its stream and answered, the rest flows on.
//!
//! Towards the broker, packets are seen by [`Exchange::upward`]; from it, by
//! [`Exchange::downward`], which puts the edge's own codes back into the broker's answers to
//! subscriptions that were for both.

mod alias;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::BytesMut;
use rmqtt_codec::{v3, v5};
use tokio_util::codec::Decoder;

use self::alias::Found;
use super::codes::{
    Denied, IMPLEMENTATION_SPECIFIC, MALFORMED_PACKET, NOT_AUTHORIZED, PACKET_TOO_LARGE,
    PROTOCOL_ERROR, QUOTA_EXCEEDED, RECEIVE_MAXIMUM_EXCEEDED, TOPIC_ALIAS_INVALID, Version,
};
use super::frame::{Header, Packets, Want};
use super::topics::{self, OwnTopic};
use super::wire::{self, Receipt};

/// Of a message on one of the edge's topics; a request is empty.
const OWN_MESSAGE_BYTES: usize = 4 * 1024;
/// Of a SUBSCRIBE, an UNSUBSCRIBE and their answers: each is held whole.
const SUBSCRIBE_BYTES: usize = 64 * 1024;
/// Requests of one session that wait for their token.
const REQUESTS: usize = 16;
/// QoS 2 requests whose second half is owed.
const RELEASES: usize = 32;
/// Topic aliases that stand for the edge's topics.
const ALIASES: usize = 16;
/// Subscriptions that are at the broker with a part of them answered here.
const PENDING: usize = 64;
/// Codes of all of these.
const PENDING_CODES: usize = 4 * 1024;
/// Subscriptions with an identifier that take answers.
const IDENTIFIERS: usize = 32;
/// Of a filter that is remembered.
const FILTER_BYTES: usize = 256;

const PUBLISH: u8 = 3;
const PUBREL: u8 = 6;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const DISCONNECT: u8 = 14;
const FAILURE: u8 = 0x80;
const NOT_OFFERED: &str = "tokens are off for the tenant, or the client has shown no certificate";
/// UNSUBACK of 5.0: no such subscription (§3.11.3).
const NO_SUBSCRIPTION: u8 = 0x11;

/// What a session knows of its token exchange.
pub struct Exchange {
    version: Version,
    /// Whether requests are answered: tokens are on for the tenant and the device has shown
    /// its certificate.
    offered: bool,
    /// AUTH packets are part of this session.
    authenticates: bool,
    /// Largest packet that the device may send.
    max_packet: usize,
    /// Receipts that are owed with the next tokens, in the order of the requests.
    requests: VecDeque<Option<Receipt>>,
    released: Vec<u16>,
    aliases: Vec<(u16, OwnTopic)>,
    pending: Vec<Pending>,
    identifiers: Vec<(Box<str>, u32)>,
    subscribed: Vec<Box<str>>,
    /// The device has sent DISCONNECT.
    pub device_done: bool,
    /// The broker has sent DISCONNECT.
    pub broker_done: bool,
    pub from_device: u64,
    pub from_broker: u64,
    /// Tokens that were given.
    pub answered: u64,
    /// Messages on the edge's topics, and subscriptions to them, that were not taken.
    pub refused: u64,
    /// Why the first of them was not: a client below 5.0, or one that sends with QoS 0, is not
    /// told.
    pub refused_first: Option<&'static str>,
}

/// A subscription, or the end of one, of which the broker answers only a part.
struct Pending {
    kind: u8,
    id: u16,
    /// The edge's codes; `None`: the broker's next one.
    codes: Vec<Option<u8>>,
}

/// Packets of the device.
pub struct Upward<'x> {
    exchange: &'x mut Exchange,
    /// What goes to the broker.
    out: &'x mut Vec<u8>,
    /// What the edge says to the device.
    replies: &'x mut Vec<u8>,
}

/// Packets of the broker.
pub struct Downward<'x> {
    exchange: &'x mut Exchange,
    /// What goes to the device.
    out: &'x mut Vec<u8>,
}

impl Exchange {
    pub fn new(
        version: Version,
        offered: bool,
        authenticates: bool,
        max_packet: usize,
    ) -> Exchange {
        Exchange {
            version,
            offered,
            authenticates,
            max_packet,
            requests: VecDeque::new(),
            released: Vec::new(),
            aliases: Vec::new(),
            pending: Vec::new(),
            identifiers: Vec::new(),
            subscribed: Vec::new(),
            device_done: false,
            broker_done: false,
            from_device: 0,
            from_broker: 0,
            answered: 0,
            refused: 0,
            refused_first: None,
        }
    }

    pub fn upward<'x>(&'x mut self, out: &'x mut Vec<u8>, replies: &'x mut Vec<u8>) -> Upward<'x> {
        Upward { exchange: self, out, replies }
    }

    pub fn downward<'x>(&'x mut self, out: &'x mut Vec<u8>) -> Downward<'x> {
        Downward { exchange: self, out }
    }

    /// Whether a token is owed.
    pub fn wants_token(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Answers the oldest request with its token. `max_packet`: the device's.
    pub fn answer(&mut self, token: &str, max_packet: usize, replies: &mut Vec<u8>) -> bool {
        let mut answer = Vec::new();
        let ids: Vec<u32> = self.identifiers.iter().map(|(_, id)| *id).collect();
        wire::answer(&mut answer, self.version, &ids, token);
        // A packet that is larger than the client takes must not be sent (MQTT 5.0 §3.1.2.11.4).
        if answer.len() > max_packet {
            self.refuse(IMPLEMENTATION_SPECIFIC, replies);
            return false;
        }
        let Some(receipt) = self.requests.pop_front() else { return false };
        if let Some(receipt) = receipt {
            wire::receipt(replies, self.version, receipt, 0);
        }
        replies.extend_from_slice(&answer);
        self.answered += 1;
        true
    }

    /// Answers the oldest request with a refusal, as far as the version can say one.
    pub fn refuse(&mut self, code: u8, replies: &mut Vec<u8>) {
        if let Some(Some(receipt)) = self.requests.pop_front() {
            self.give_receipt(receipt, code, replies);
        }
    }

    /// Something about the edge's topics that is not taken.
    fn not_taken(&mut self, reason: &'static str) {
        self.refused += 1;
        self.refused_first.get_or_insert(reason);
    }

    fn give_receipt(&mut self, receipt: Receipt, code: u8, replies: &mut Vec<u8>) {
        // After a refused PUBREC there is no second half (MQTT 5.0 §4.3.3).
        if let (Version::V5, Receipt::Pubrec(id), FAILURE..) = (self.version, receipt, code) {
            self.released.retain(|known| *known != id);
        }
        wire::receipt(replies, self.version, receipt, code);
    }
}

impl Packets for Upward<'_> {
    type Fault = Denied;

    fn want(&mut self, header: Header, body: &[u8]) -> Result<Want, Denied> {
        let x = &mut *self.exchange;
        if header.total() > x.max_packet {
            return Err(Denied::packet(PACKET_TOO_LARGE, "limits.mqtt_packet_bytes"));
        }
        let flags = match (x.version, header.kind()) {
            // 3.1 reserves none, and sets DUP on what is sent again (MQTT 3.1 §2.1).
            (Version::V31, PUBREL | SUBSCRIBE | UNSUBSCRIBE) => 2,
            (Version::V31, kind) if kind != PUBLISH => 0,
            _ => header.first & 0x0f,
        };
        match (header.kind(), flags) {
            (PUBLISH, _) => x.want_publish(header, body),
            (PUBREL, 2) if x.released.is_empty() => Ok(Want::Pass),
            (PUBREL, 2) if header.body > OWN_MESSAGE_BYTES => {
                Err(Denied::packet(PACKET_TOO_LARGE, "a PUBREL larger than 4 KiB"))
            }
            (PUBREL, 2) => Ok(Want::Whole),
            (SUBSCRIBE | UNSUBSCRIBE, 2) if header.body > SUBSCRIBE_BYTES => {
                Err(Denied::packet(PACKET_TOO_LARGE, "a subscription larger than 64 KiB"))
            }
            (SUBSCRIBE | UNSUBSCRIBE, 2) => Ok(Want::Whole),
            // PUBACK, PUBREC, PUBCOMP, PINGREQ.
            (4 | 5 | 7 | 12, 0) => Ok(Want::Pass),
            (DISCONNECT, 0) => {
                x.device_done = true;
                Ok(Want::Pass)
            }
            (15, 0) if x.authenticates => Ok(Want::Pass),
            (1, _) => Err(Denied::packet(PROTOCOL_ERROR, "a second CONNECT")),
            (15, 0) => Err(Denied::packet(PROTOCOL_ERROR, "AUTH without a method in the CONNECT")),
            (PUBREL | SUBSCRIBE | UNSUBSCRIBE | 4 | 5 | 7 | 12 | DISCONNECT | 15, _) => {
                Err(Denied::packet(MALFORMED_PACKET, "reserved flags of a packet are set"))
            }
            _ => Err(Denied::packet(PROTOCOL_ERROR, "a packet that no client sends")),
        }
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), Denied> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn packet(&mut self, header: Header, packet: &[u8]) -> Result<(), Denied> {
        match header.kind() {
            PUBLISH => self.own_message(packet),
            PUBREL => self.release(header, packet),
            SUBSCRIBE => self.subscribe(packet),
            _ => self.unsubscribe(packet),
        }
    }
}

impl Exchange {
    /// Looks at a message's topic: at its length alone, if that says enough.
    fn want_publish(&mut self, header: Header, body: &[u8]) -> Result<Want, Denied> {
        let malformed = |reason| Err(Denied::packet(MALFORMED_PACKET, reason));
        let qos = header.first >> 1 & 3;
        if qos == 3 {
            return malformed("a message with QoS 3");
        }
        let Some(length) = body.first_chunk::<2>().map(|l| usize::from(u16::from_be_bytes(*l)))
        else {
            return match header.body {
                0 | 1 => malformed("a message without a topic"),
                _ => Ok(Want::More(2)),
            };
        };
        let id = if qos > 0 { 2 } else { 0 };
        if 2 + length + id > header.body {
            return malformed("a topic longer than its packet");
        }
        let own = match length {
            0 if self.version != Version::V5 => {
                return Err(Denied::packet(PROTOCOL_ERROR, "a message with an empty topic"));
            }
            topics::LENGTH => match body.get(2..2 + topics::LENGTH) {
                None => return Ok(Want::More(2 + topics::LENGTH)),
                Some(topic) => OwnTopic::of(topic),
            },
            _ => None,
        };
        let own = own.is_some()
            || if self.aliases.is_empty() {
                false
            } else {
                match alias::find(body, length, id) {
                    Found::No => false,
                    Found::Bad => {
                        let reason = "properties of a message that no client sends";
                        return Err(Denied::packet(PROTOCOL_ERROR, reason));
                    }
                    Found::Alias(alias) if length > 0 => {
                        // From now on it stands for another topic, at the broker.
                        self.aliases.retain(|(known, _)| *known != alias);
                        false
                    }
                    Found::Alias(alias) => self.aliases.iter().any(|(known, _)| *known == alias),
                    Found::TooLarge => {
                        let reason = "more than 16 KiB of properties beside a topic alias";
                        return Err(Denied::packet(PACKET_TOO_LARGE, reason));
                    }
                    Found::More(bytes) if bytes <= header.body => return Ok(Want::More(bytes)),
                    Found::More(_) => return malformed("properties longer than their packet"),
                }
            };
        if !own {
            self.from_device += 1;
            return Ok(Want::Pass);
        }
        if header.body > OWN_MESSAGE_BYTES {
            let reason = "a message larger than 4 KiB on a topic of the token exchange";
            return Err(Denied::packet(PACKET_TOO_LARGE, reason));
        }
        Ok(Want::Whole)
    }
}

impl Upward<'_> {
    /// A message on one of the edge's topics.
    fn own_message(&mut self, packet: &[u8]) -> Result<(), Denied> {
        let x = &mut *self.exchange;
        let malformed = || Denied::packet(MALFORMED_PACKET, "a message that is malformed");
        let mut bytes = BytesMut::from(packet);
        let message = match x.version {
            Version::V5 => match v5::Codec::default().decode(&mut bytes) {
                Ok(Some((v5::Packet::Publish(message), _))) => message,
                _ => return Err(malformed()),
            },
            _ => match v3::Codec::default().decode(&mut bytes) {
                Ok(Some((v3::Packet::Publish(message), _))) => message,
                _ => return Err(malformed()),
            },
        };
        let alias = message.properties.as_ref().and_then(|properties| properties.topic_alias);
        let topic = match OwnTopic::of(message.topic.as_bytes()) {
            Some(topic) => topic,
            None => {
                let known = |a: u16| x.aliases.iter().find(|(known, _)| *known == a);
                let known = alias.and_then(|alias| known(alias.get()));
                known.map(|(_, topic)| *topic).ok_or_else(malformed)?
            }
        };
        if let Some(alias) = alias {
            x.aliases.retain(|(known, _)| *known != alias.get());
            if x.aliases.len() == ALIASES {
                let reason = "too many aliases for the topics of the token exchange";
                return Err(Denied::packet(TOPIC_ALIAS_INVALID, reason));
            }
            x.aliases.push((alias.get(), topic));
        }
        let id = message.packet_id.map_or(0, |id| id.get());
        let receipt = match u8::from(message.qos) {
            0 => None,
            1 => Some(Receipt::Puback(id)),
            _ if x.released.contains(&id) => {
                // The same message again: its receipt was lost, or is still to come.
                if !x.requests.contains(&Some(Receipt::Pubrec(id))) {
                    wire::receipt(self.replies, x.version, Receipt::Pubrec(id), 0);
                }
                return Ok(());
            }
            _ if x.released.len() == RELEASES => {
                let reason = "too many requests for a token whose second half is owed";
                return Err(Denied::packet(RECEIVE_MAXIMUM_EXCEEDED, reason));
            }
            _ => {
                x.released.push(id);
                Some(Receipt::Pubrec(id))
            }
        };
        let (refusal, reason) = match topic {
            OwnTopic::Request if x.offered && x.requests.len() < REQUESTS => {
                x.requests.push_back(receipt);
                return Ok(());
            }
            OwnTopic::Request if x.offered => {
                (QUOTA_EXCEEDED, "a request for a token while 16 wait for theirs")
            }
            OwnTopic::Request => (NOT_AUTHORIZED, NOT_OFFERED),
            OwnTopic::Answer => (NOT_AUTHORIZED, "a message on s/dat, where tokens are handed out"),
        };
        x.not_taken(reason);
        if let Some(receipt) = receipt {
            x.give_receipt(receipt, refusal, self.replies);
        }
        Ok(())
    }

    fn release(&mut self, header: Header, packet: &[u8]) -> Result<(), Denied> {
        let x = &mut *self.exchange;
        let id = packet.get(header.size..).and_then(|body| body.first_chunk::<2>());
        let Some(id) = id.map(|id| u16::from_be_bytes(*id)) else {
            return Err(Denied::packet(MALFORMED_PACKET, "a PUBREL without a packet id"));
        };
        let Some(index) = x.released.iter().position(|known| *known == id) else {
            self.out.extend_from_slice(packet);
            return Ok(());
        };
        x.released.swap_remove(index);
        wire::receipt(self.replies, x.version, Receipt::Pubcomp(id), 0);
        Ok(())
    }
}

impl Packets for Downward<'_> {
    type Fault = Denied;

    fn want(&mut self, header: Header, _: &[u8]) -> Result<Want, Denied> {
        let x = &mut *self.exchange;
        match header.kind() {
            PUBLISH => x.from_broker += 1,
            DISCONNECT => x.broker_done = true,
            SUBACK | UNSUBACK if !x.pending.is_empty() => {
                if header.body > SUBSCRIBE_BYTES {
                    let reason = "the broker's answer to a subscription is larger than 64 KiB";
                    return Err(Denied::packet(PACKET_TOO_LARGE, reason));
                }
                return Ok(Want::Whole);
            }
            _ => {}
        }
        Ok(Want::Pass)
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), Denied> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Puts the edge's codes where their filters stood.
    fn packet(&mut self, header: Header, packet: &[u8]) -> Result<(), Denied> {
        let x = &mut *self.exchange;
        let body = packet.get(header.size..).unwrap_or_default();
        let malformed = || Denied::packet(MALFORMED_PACKET, "the broker's answer is malformed");
        let ack = wire::ack(x.version, body).ok_or_else(malformed)?;
        let kind = header.kind();
        let index = x.pending.iter().position(|p| p.kind == kind && p.id == ack.id);
        let Some(index) = index else {
            self.out.extend_from_slice(packet);
            return Ok(());
        };
        let pending = x.pending.swap_remove(index);
        if kind == UNSUBACK && x.version != Version::V5 {
            self.out.extend_from_slice(packet);
            return Ok(());
        }
        let mut theirs = ack.codes.iter().copied();
        let codes: Option<Vec<u8>> =
            pending.codes.into_iter().map(|ours| ours.or_else(|| theirs.next())).collect();
        let codes = codes.filter(|_| theirs.next().is_none()).ok_or_else(malformed)?;
        match kind {
            SUBACK => wire::suback(self.out, ack.id, ack.properties, &codes),
            _ => wire::unsuback(self.out, ack.id, ack.properties, &codes),
        }
        Ok(())
    }
}
