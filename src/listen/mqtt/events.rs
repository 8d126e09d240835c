//! What the log is told of sessions.

use std::net::SocketAddr;
use std::time::Instant;

use crate::gate::ClientIdentity;
use crate::refusal::{Refusal, Refused};

use super::super::Edge;
use super::super::connection::{Connection, Cut, Ending};
use super::super::request_id::Printable;
use super::codes::Version;
use super::end::End;

/// Characters of a client id that are shown.
const SHOWN: usize = 256;

/// What is known of a session for its closing event.
#[derive(Default)]
pub struct Log {
    pub transport: &'static str,
    pub version: Option<Version>,
    /// Cut to what is shown.
    pub client_id: String,
    /// The device has closed its side: nobody reads what would be said last.
    pub device_ended: bool,
    /// The broker took the CONNECT.
    pub accepted: bool,
    pub messages_from_device: u64,
    pub messages_to_device: u64,
    pub tokens: u64,
    pub messages_not_taken: u64,
    pub bytes_from_device: u64,
    pub bytes_to_device: u64,
}

impl Log {
    pub fn set_client_id(&mut self, id: &str) {
        self.client_id = id.chars().take(SHOWN).collect();
    }
}

/// The one event of a session, or of what did not become one.
pub fn closed(edge: &Edge, connection: &Connection, log: &Log, end: &End, started: Instant) {
    let late = match connection.cut() {
        Cut::ReadDeadline => Some(Refused::new(Refusal::Timeout, "limits.mqtt_connect_timeout")),
        Cut::WriteDeadline => {
            let reason = "the device did not take what was sent to it";
            Some(Refused::new(Refusal::Timeout, reason))
        }
        _ => None,
    };
    let refused = match (&late, end) {
        (Some(late), _) => Some(late),
        (None, End::Denied(denied)) => Some(&denied.refused),
        _ => None,
    };
    if let Some(refused) = refused {
        edge.metrics.refused(connection.protocol(), refused.refusal);
    }
    let closed_by = match end {
        End::Device(true) => "device",
        End::Device(false) => "device, without DISCONNECT",
        End::Broker(true) => "broker",
        End::Broker(false) => "broker, without DISCONNECT",
        End::Denied(_) => "edge",
        End::Released(Ending::Moved) => "edge, for other brokers",
        End::Released(_) => "edge, which stops",
    };
    let judged = connection.judged();
    let device = judged.as_ref().and_then(|judged| match &judged.identity {
        ClientIdentity::Verified(chain) => Some(chain.device().as_str().to_owned()),
        _ => None,
    });
    // As a text, which the log puts in quotes.
    let client_id = Printable(&log.client_id).to_string();
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: "portcullis::session",
                connection = connection.id(),
                peer = connection.peer().map(tracing::field::display),
                tenant = judged.as_ref().map(|judged| judged.tenant.id.as_str()),
                device,
                transport = log.transport,
                client_id = client_id.as_str(),
                version = log.version.map(Version::label),
                accepted = log.accepted,
                closed_by,
                messages_from_device = log.messages_from_device,
                messages_to_device = log.messages_to_device,
                tokens = log.tokens,
                messages_not_taken = log.messages_not_taken,
                bytes_from_device = log.bytes_from_device,
                bytes_to_device = log.bytes_to_device,
                refusal = refused.map(|refused| refused.refusal.label()),
                reason = refused.map(|refused| refused.reason.as_ref()),
                duration_ms = started.elapsed().as_secs_f64() * 1e3,
                "session"
            )
        };
    }
    match refused {
        Some(_) => event!(warn),
        None if edge.generation().log_requests => event!(info),
        None => {}
    }
}

/// A session that the broker has taken.
pub fn opened(edge: &Edge, connection: &Connection, log: &Log, broker: SocketAddr) {
    if !edge.generation().log_requests {
        return;
    }
    let judged = connection.judged();
    let client_id = Printable(&log.client_id).to_string();
    tracing::info!(
        target: "portcullis::session",
        connection = connection.id(),
        peer = connection.peer().map(tracing::field::display),
        tenant = judged.as_ref().map(|judged| judged.tenant.id.as_str()),
        client_id = client_id.as_str(),
        version = log.version.map(Version::label),
        transport = log.transport,
        broker = %broker,
        "session opened"
    );
}

/// A token that a device asked for and did not get.
pub fn token_refused(edge: &Edge, connection: &Connection, refused: &Refused) {
    edge.metrics.refused(connection.protocol(), refused.refusal);
    let judged = connection.judged();
    tracing::warn!(
        target: "portcullis::session",
        connection = connection.id(),
        peer = connection.peer().map(tracing::field::display),
        tenant = judged.as_ref().map(|judged| judged.tenant.id.as_str()),
        refusal = refused.refusal.label(),
        reason = refused.reason.as_ref(),
        "token refused"
    );
}

/// The first message of a session on a topic of the token exchange that was not taken. The
/// others are counted, so that a device that goes on does not fill the log.
pub fn not_taken(connection: &Connection, reason: &'static str) {
    let judged = connection.judged();
    tracing::warn!(
        target: "portcullis::session",
        connection = connection.id(),
        peer = connection.peer().map(tracing::field::display),
        tenant = judged.as_ref().map(|judged| judged.tenant.id.as_str()),
        reason,
        "message not taken"
    );
}
