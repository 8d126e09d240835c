//! How sessions end.

use super::super::connection::Ending;
use super::codes::Denied;

/// Why a session ended.
#[derive(Debug)]
pub enum End {
    /// The device closed its connection; `true`: after DISCONNECT.
    Device(bool),
    /// The broker closed its connection; `true`: after DISCONNECT.
    Broker(bool),
    /// The device broke the rules, or is refused now.
    Denied(Denied),
    /// The edge stops, or the tenant has other brokers.
    Released(Ending),
}
