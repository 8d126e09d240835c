//! OpenSSL's saved sessions, taken apart: which ticket is in one, and what a client does not
//! get from its library, a session with the ticket or the early data of another.

use openssl::ssl::SslSession;

use super::hello::Hello;
use crate::pki::tlv;
use crate::world::Client;

/// Tags of OpenSSL's SSL_SESSION (`ssl/ssl_asn1.c`).
const TICKET: u8 = 0xaa;
const TICKET_AGE_ADD: u8 = 0xae;
const MAX_EARLY_DATA: u8 = 0xaf;

pub fn ticket(session: &SslSession) -> Vec<u8> {
    let der = session.to_der().unwrap();
    let parts = elements(&elements(&der)[0].1);
    let (_, field) = parts.iter().find(|(tag, _)| *tag == TICKET).expect("a ticket");
    elements(field)[0].1.clone()
}

/// The session with another ticket in it.
pub fn with_ticket(session: &SslSession, ticket: &[u8]) -> SslSession {
    edited(session, |parts| {
        let field = parts.iter_mut().find(|(tag, _)| *tag == TICKET).expect("a ticket");
        field.1 = tlv(0x04, ticket);
    })
}

/// The session as if its server had allowed early data.
pub fn with_early_data(session: &SslSession) -> SslSession {
    assert_eq!(session.max_early_data(), 0);
    let session = edited(session, |parts| {
        let place = parts.iter().position(|(tag, _)| *tag > TICKET_AGE_ADD).unwrap_or(parts.len());
        parts.insert(place, (MAX_EARLY_DATA, tlv(0x02, &[0x40, 0x00])));
    });
    assert_eq!(session.max_early_data(), 0x4000);
    session
}

/// Resumes with the ticket, and makes sure that the hello carries it: a client that kept it
/// for itself would pass for an edge that refused it. A copy is used up: OpenSSL does not
/// offer a session of TLS 1.3 again.
#[track_caller]
pub fn offering(client: Client, session: &SslSession) -> Client {
    let client = client.resuming(&SslSession::from_der(&session.to_der().unwrap()).unwrap());
    let (hello, ticket) = (Hello::of(&client).message(), ticket(session));
    assert!(hello.windows(ticket.len()).any(|part| part == ticket), "the ticket is not offered");
    client
}

fn edited(session: &SslSession, edit: impl FnOnce(&mut Vec<(u8, Vec<u8>)>)) -> SslSession {
    let der = session.to_der().unwrap();
    let mut parts = elements(&elements(&der)[0].1);
    edit(&mut parts);
    let body: Vec<u8> = parts.iter().flat_map(|(tag, body)| tlv(*tag, body)).collect();
    SslSession::from_der(&tlv(0x30, &body)).unwrap()
}

/// Tag and content of each element of DER.
pub fn elements(mut der: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut elements = Vec::new();
    while let [tag, first, ..] = *der {
        let (head, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            long => {
                let octets = usize::from(long & 0x7f);
                let length = der[2..2 + octets].iter().fold(0, |n, b| n << 8 | usize::from(*b));
                (2 + octets, length)
            }
        };
        elements.push((tag, der[head..head + length].to_vec()));
        der = &der[head + length..];
    }
    elements
}
