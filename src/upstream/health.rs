//! Active health checks: a TCP (and TLS) connection, or a GET that must be answered with 2xx.
//!
//! Checks go through Pingora's connectors with the same peer as requests, so that they see the
//! CA, the server name and the client certificate that requests see. (The `TcpHealthCheck` of
//! pingora-load-balancing can carry no client certificate, and each check there loads the
//! system's CAs into a TLS context of its own.)

use std::sync::LazyLock;
use std::time::Duration;

use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::Connector as HttpConnector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tokio::time;

use super::settings::{HealthSettings, PoolFault};

/// One server's health check.
pub(super) struct Check {
    peer: HttpPeer,
    request: Option<Box<RequestHeader>>,
    timeout: Duration,
}

/// Why a check failed, in words of ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckFault {
    #[error("no answer in time")]
    Timeout,
    #[error("answered with status {0}")]
    Status(u16),
    #[error("answered without a header")]
    NoHeader,
    #[error("a request could not connect")]
    RequestConnect,
    #[error("{}", .0.etype().as_str())]
    Exchange(#[source] Box<pingora_error::Error>),
}

impl Check {
    pub(super) fn new(peer: &HttpPeer, settings: &HealthSettings) -> Result<Check, PoolFault> {
        let mut peer = peer.clone();
        // One stream a connection: with more, Pingora would keep the connection for the next
        // check, which must connect anew to tell anything.
        peer.options.max_h2_streams = 1;
        let request = match &settings.path {
            Some(path) => Some(Box::new(get(path, &peer).ok_or(PoolFault::HealthPath)?)),
            None => None,
        };
        Ok(Check { peer, request, timeout: settings.timeout })
    }

    pub(super) async fn run(&self) -> Result<(), CheckFault> {
        match time::timeout(self.timeout, self.exchange()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CheckFault::Timeout),
        }
    }

    async fn exchange(&self) -> Result<(), CheckFault> {
        let Some(request) = &self.request else {
            return match TRANSPORT.new_stream(&self.peer).await {
                Ok(_) => Ok(()),
                Err(error) => Err(CheckFault::Exchange(error)),
            };
        };
        let status = status(&self.peer, request.clone()).await.map_err(CheckFault::Exchange)?;
        match status {
            Some(200..300) => Ok(()),
            Some(other) => Err(CheckFault::Status(other)),
            None => Err(CheckFault::NoHeader),
        }
    }
}

fn get(path: &str, peer: &HttpPeer) -> Option<RequestHeader> {
    let visible = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !path.starts_with('/') || !visible {
        return None;
    }
    let host = if peer.is_tls() { peer.sni.clone() } else { peer._address.to_string() };
    let mut request = RequestHeader::build("GET", path.as_bytes(), Some(2)).ok()?;
    request.insert_header(http::header::HOST, host).ok()?;
    request.insert_header(http::header::USER_AGENT, "portcullis-health").ok()?;
    Some(request)
}

/// The connection is closed when the header has come: the body says nothing more.
async fn status(
    peer: &HttpPeer,
    request: Box<RequestHeader>,
) -> pingora_error::Result<Option<u16>> {
    let (mut session, _) = HTTP.get_http_session(peer).await?;
    session.write_request_header(request).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    Ok(session.response_header().map(|header| header.status.as_u16()))
}

// Each connector loads the system's CAs, about a megabyte: one of each serves all pools. No
// connection ever goes back into them, so they hold no state.
static TRANSPORT: LazyLock<TransportConnector> = LazyLock::new(|| TransportConnector::new(None));
static HTTP: LazyLock<HttpConnector> = LazyLock::new(|| HttpConnector::new(None));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_paths_are_paths() {
        let peer = HttpPeer::new("127.0.0.1:80", false, String::new());
        for good in ["/", "/health", "/a/b?c=d&e=%20"] {
            assert!(get(good, &peer).is_some(), "{good}");
        }
        for bad in ["", "health", "http://a/", "/a b", "/a\r\nX: y", "/é", "/#a", "*"] {
            assert!(get(bad, &peer).is_none(), "{bad}");
        }
    }
}
