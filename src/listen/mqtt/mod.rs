//! MQTT 3.1, 3.1.1 and 5.0 behind TLS, as it is or in a [`websocket`].
//!
//! The way of a session: in its [`opening`] [`connect`] reads the CONNECT and [`admit`] holds it
//! against the device and writes what the broker is told; [`session`] lets both sides talk. In it [`frame`] finds
//! where packets begin and end, and [`exchange`] takes out what is about tokens. [`wire`] writes
//! the edge's own packets, in the [`codes`] of the version.

mod admit;
mod codes;
mod connect;
mod end;
mod events;
mod exchange;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(all(test, not(fuzzing)))]
mod fuzzing;
mod opening;
mod session;
mod topics;
mod websocket;
mod wire;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use self::codes::{SERVER_SHUTTING_DOWN, UNSPECIFIED, Version};
use self::end::End;
use self::events::{Log, closed, opened};
use self::frame::MAX_HEADER;
use self::opening::{Opened, open};
use self::session::{Device, Session};
use self::websocket::WebSocket;
use super::Edge;
use super::connection::{Connection, Ending};
use super::stream::DeviceStream;

impl Device for DeviceStream {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        DeviceStream::poll_fill(self, cx, buf)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.encrypt(bytes)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        DeviceStream::poll_send(self, cx)
    }

    fn unsent(&self) -> usize {
        DeviceStream::unsent(self)
    }

    fn stream(&mut self) -> &mut DeviceStream {
        self
    }

    const TRANSPORT: &'static str = "tls";
}

/// Serves a connection that has become a WebSocket, from its opening to its end.
pub async fn serve_websocket(
    edge: &Arc<Edge>,
    connection: &Arc<Connection>,
    stream: Box<DeviceStream>,
) {
    let limits = edge.generation().limits;
    let message = limits.mqtt_packet_bytes.max(limits.mqtt_connect_bytes) + MAX_HEADER;
    let Some(upgrade) = connection.upgrade() else { return };
    serve(edge, connection, WebSocket::open(stream, upgrade, message)).await;
}

/// Serves a connection whose handshake is done, to its end.
pub async fn serve<D: Device>(edge: &Arc<Edge>, connection: &Arc<Connection>, device: D) {
    let mut device = device;
    let mut log = Log { transport: D::TRANSPORT, ..Log::default() };
    let started = Instant::now();
    let mut end = talk(edge, connection, &mut device, &mut log).await;
    if let (End::Device(_), Some(fault)) = (&end, device.fault()) {
        end = End::Denied(fault);
    }
    if log.accepted {
        edge.metrics.mqtt_sessions.dec();
    } else if let (Some(_), End::Denied(_), Some(judged)) = (log.version, &end, connection.judged())
    {
        judged.tenant.metrics.mqtt_connect(false);
    }
    closed(edge, connection, &log, &end, started);
    if log.device_ended {
        return;
    }
    device.end(&end);
    pingora_core::protocols::Shutdown::shutdown(device.stream()).await;
}

async fn talk<D: Device>(
    edge: &Arc<Edge>,
    connection: &Arc<Connection>,
    device: &mut D,
    log: &mut Log,
) -> End {
    // On the heap and gone by then: a session that lasts must not carry the room of its opening.
    let open = match Box::pin(open(edge, connection, device, log)).await {
        Ok(open) => open,
        Err(end) => return end,
    };
    let Opened { version, exchange, terms, metrics, broker, picked, device_max, room, .. } = open;
    let (early, first) = (open.early, open.first);
    metrics.mqtt_connect(true);
    edge.metrics.mqtt_sessions.inc();
    log.accepted = true;
    opened(edge, connection, log, picked.address());
    let _forwarding = connection.forward();
    connection.has_task(terms);
    let mut session =
        Session::new(edge, connection, metrics, &mut *device, broker, exchange, device_max);
    let end = session.run(early, first).await;
    session.tell(log);
    let say = match &end {
        End::Denied(denied) => Some((denied.code, denied.refused.refusal.mqtt_message())),
        End::Released(Ending::Moved) => Some((SERVER_SHUTTING_DOWN, "Connect again.")),
        End::Released(_) => Some((SERVER_SHUTTING_DOWN, "The server stops.")),
        End::Broker(false) => Some((UNSPECIFIED, "The platform closed the connection.")),
        End::Broker(true) | End::Device(_) => None,
    };
    let may_say = version == Version::V5 && session.may_insert();
    session.close();
    drop(picked);
    if let Some((code, reason)) = say.filter(|_| may_say) {
        let disconnect = |reason: Option<&str>| wire::disconnect(code, reason);
        let _ = device.put(&wire::fitting(room, reason, disconnect));
    }
    end
}
