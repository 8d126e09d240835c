//! Requests that were let through and go on (a WebSocket, a long poll, a download) outlast what
//! they were judged by: they are judged again, and end where they would be refused now.

use std::sync::Arc;

use crate::gate::ClientIdentity;
use crate::refusal::{Refusal, Refused};

use super::Edge;
use super::connection::Connection;
use super::decide::judge;

/// Judges every connection that has a request at the upstream, and cuts those whose device is
/// refused. A connection that waits between requests is judged with its next one, so that the
/// device is told why.
pub async fn judge_forwarding(edge: &Arc<Edge>) {
    for connection in edge.connections.forwarding() {
        match still_admitted(edge, &connection).await {
            Ok(()) => {}
            // No verdict for want of time; the next round brings one.
            Err(refused) if refused.refusal == Refusal::Overloaded => {}
            Err(refused) => connection.end(refused),
        }
        // Deadlines are looked at between two of them.
        tokio::task::yield_now().await;
    }
}

async fn still_admitted(edge: &Arc<Edge>, connection: &Connection) -> Result<(), Refused> {
    let judged = judge(edge, connection).await?;
    match &judged.identity {
        ClientIdentity::Verified(chain) => edge.gate.still_admits(&judged.tenant, chain),
        ClientIdentity::Anonymous => Ok(()),
        // It was verified when its request went through, by certificates that came with it.
        ClientIdentity::Undecided => Err(Refused::new(
            Refusal::ChainIncomplete,
            "the trust changed, and the chain that a header had completed no longer counts",
        )),
    }
}
