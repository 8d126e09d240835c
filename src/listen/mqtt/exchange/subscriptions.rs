//! SUBSCRIBE and UNSUBSCRIBE: what of them is the edge's is answered here, the rest is the
//! broker's.

use bytes::BytesMut;
use rmqtt_codec::{v3, v5};
use tokio_util::codec::{Decoder, Encoder};

use super::super::codes::{Denied, MALFORMED_PACKET, NOT_AUTHORIZED, QUOTA_EXCEEDED, Version};
use super::super::topics::{OwnTopic, takes_answers};
use super::super::wire;
use super::{
    Exchange, FAILURE, FILTER_BYTES, IDENTIFIERS, NO_SUBSCRIPTION, NOT_OFFERED, PENDING,
    PENDING_CODES, Pending, SUBACK, SUBSCRIBE, UNSUBACK, UNSUBSCRIBE, Upward,
};

impl Upward<'_> {
    /// Filters for the edge's topics are granted or refused here, the others by the broker.
    pub fn subscribe(&mut self, packet: &[u8]) -> Result<(), Denied> {
        let x = &mut *self.exchange;
        let malformed = || Denied::packet(MALFORMED_PACKET, "a SUBSCRIBE that is malformed");
        let mut bytes = without_dup(packet, SUBSCRIBE);
        let mut rest = BytesMut::new();
        let (id, codes) = match x.version {
            Version::V5 => {
                let Ok(Some((v5::Packet::Subscribe(mut subscribe), _))) =
                    v5::Codec::default().decode(&mut bytes)
                else {
                    return Err(malformed());
                };
                let identifier = subscribe.id.map(|id| id.get());
                for (filter, _) in &subscribe.topic_filters {
                    x.identify(filter, identifier);
                }
                let filters = subscribe.topic_filters.iter().map(|(filter, _)| &**filter);
                let codes = x.subscribed(filters);
                let id = subscribe.packet_id.get();
                let mut each = codes.iter();
                subscribe.topic_filters.retain(|_| each.next().is_some_and(Option::is_none));
                if !subscribe.topic_filters.is_empty() && codes.iter().any(Option::is_some) {
                    v5::Codec::default()
                        .encode(v5::Packet::Subscribe(subscribe), &mut rest)
                        .map_err(|_| malformed())?;
                }
                (id, codes)
            }
            _ => {
                let Ok(Some((v3::Packet::Subscribe { packet_id, topic_filters }, _))) =
                    v3::Codec::default().decode(&mut bytes)
                else {
                    return Err(malformed());
                };
                let codes = x.subscribed(topic_filters.iter().map(|(filter, _)| &**filter));
                let mut topic_filters = topic_filters;
                let mut each = codes.iter();
                topic_filters.retain(|_| each.next().is_some_and(Option::is_none));
                if !topic_filters.is_empty() && codes.iter().any(Option::is_some) {
                    v3::Codec::default()
                        .encode(v3::Packet::Subscribe { packet_id, topic_filters }, &mut rest)
                        .map_err(|_| malformed())?;
                }
                (packet_id.get(), codes)
            }
        };
        self.split(SUBACK, id, codes, packet, &rest)
    }

    pub fn unsubscribe(&mut self, packet: &[u8]) -> Result<(), Denied> {
        let x = &mut *self.exchange;
        let malformed = || Denied::packet(MALFORMED_PACKET, "an UNSUBSCRIBE that is malformed");
        let mut bytes = without_dup(packet, UNSUBSCRIBE);
        let mut rest = BytesMut::new();
        let (id, codes) = match x.version {
            Version::V5 => {
                let Ok(Some((v5::Packet::Unsubscribe(mut unsubscribe), _))) =
                    v5::Codec::default().decode(&mut bytes)
                else {
                    return Err(malformed());
                };
                let codes = x.unsubscribed(unsubscribe.topic_filters.iter().map(|f| &**f));
                let id = unsubscribe.packet_id.get();
                let mut each = codes.iter();
                unsubscribe.topic_filters.retain(|_| each.next().is_some_and(Option::is_none));
                if !unsubscribe.topic_filters.is_empty() && codes.iter().any(Option::is_some) {
                    v5::Codec::default()
                        .encode(v5::Packet::Unsubscribe(unsubscribe), &mut rest)
                        .map_err(|_| malformed())?;
                }
                (id, codes)
            }
            _ => {
                let Ok(Some((v3::Packet::Unsubscribe { packet_id, topic_filters }, _))) =
                    v3::Codec::default().decode(&mut bytes)
                else {
                    return Err(malformed());
                };
                let codes = x.unsubscribed(topic_filters.iter().map(|filter| &**filter));
                let mut topic_filters = topic_filters;
                let mut each = codes.iter();
                topic_filters.retain(|_| each.next().is_some_and(Option::is_none));
                if !topic_filters.is_empty() && codes.iter().any(Option::is_some) {
                    v3::Codec::default()
                        .encode(v3::Packet::Unsubscribe { packet_id, topic_filters }, &mut rest)
                        .map_err(|_| malformed())?;
                }
                (packet_id.get(), codes)
            }
        };
        self.split(UNSUBACK, id, codes, packet, &rest)
    }

    /// Sends on what is the broker's of a subscription: `packet` where all of it is, `rest`
    /// where a part is, and nothing where none is.
    fn split(
        &mut self,
        kind: u8,
        id: u16,
        codes: Vec<Option<u8>>,
        packet: &[u8],
        rest: &[u8],
    ) -> Result<(), Denied> {
        let x = &mut *self.exchange;
        if codes.iter().all(Option::is_none) {
            self.out.extend_from_slice(packet);
            return Ok(());
        }
        if codes.iter().any(Option::is_none) {
            let waiting: usize = x.pending.iter().map(|pending| pending.codes.len()).sum();
            if x.pending.len() == PENDING || waiting + codes.len() > PENDING_CODES {
                let reason = "too many subscriptions wait for the broker";
                return Err(Denied::packet(QUOTA_EXCEEDED, reason));
            }
            x.pending.push(Pending { kind, id, codes });
            self.out.extend_from_slice(rest);
            return Ok(());
        }
        let codes: Vec<u8> = codes.into_iter().flatten().collect();
        let properties: &[u8] = if x.version == Version::V5 { &[0] } else { &[] };
        match (kind, x.version) {
            (SUBACK, _) => wire::suback(self.replies, id, properties, &codes),
            (_, Version::V5) => wire::unsuback(self.replies, id, properties, &codes),
            _ => wire::unsuback(self.replies, id, &[], &[]),
        }
        Ok(())
    }
}

impl Exchange {
    /// The edge's code for each of its own filters; `None`: the broker's.
    fn subscribed<'f>(&mut self, filters: impl Iterator<Item = &'f str>) -> Vec<Option<u8>> {
        let refusal = match self.version {
            // 3.1 has no way to refuse.
            Version::V31 => 0,
            Version::V311 => FAILURE,
            Version::V5 => NOT_AUTHORIZED,
        };
        filters
            .map(|filter| match OwnTopic::of_filter(filter)? {
                OwnTopic::Answer if filter.len() > FILTER_BYTES => {
                    self.not_taken("a shared subscription to s/dat with a name beyond 240 bytes");
                    Some(refusal)
                }
                OwnTopic::Answer if self.offered => {
                    let known = self.subscribed.iter().any(|known| **known == *filter);
                    if !known && self.subscribed.len() < IDENTIFIERS {
                        self.subscribed.push(filter.into());
                    }
                    Some(0)
                }
                OwnTopic::Answer => {
                    self.not_taken(NOT_OFFERED);
                    Some(refusal)
                }
                OwnTopic::Request => {
                    self.not_taken("a subscription to s/uat, where tokens are asked for");
                    Some(refusal)
                }
            })
            .collect()
    }

    fn unsubscribed<'f>(&mut self, filters: impl Iterator<Item = &'f str>) -> Vec<Option<u8>> {
        filters
            .map(|filter| {
                self.identifiers.retain(|(known, _)| **known != *filter);
                OwnTopic::of_filter(filter)?;
                let before = self.subscribed.len();
                self.subscribed.retain(|known| **known != *filter);
                Some(if self.subscribed.len() < before { 0 } else { NO_SUBSCRIPTION })
            })
            .collect()
    }

    /// Remembers under which identifier a client wants messages of a subscription that takes
    /// answers; a subscription that is made again replaces the one before.
    fn identify(&mut self, filter: &str, identifier: Option<u32>) {
        if !self.offered || filter.len() > FILTER_BYTES || !takes_answers(filter) {
            return;
        }
        self.identifiers.retain(|(known, _)| **known != *filter);
        if let Some(identifier) = identifier
            && self.identifiers.len() < IDENTIFIERS
        {
            self.identifiers.push((filter.into(), identifier));
        }
    }
}

/// A packet as the codec takes it, where 3.1 has it with DUP.
fn without_dup(packet: &[u8], kind: u8) -> BytesMut {
    let mut bytes = BytesMut::from(packet);
    if let Some(first) = bytes.first_mut() {
        *first = kind << 4 | 2;
    }
    bytes
}
