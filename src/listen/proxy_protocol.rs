//! The PROXY protocol header, versions 1 and 2, from load balancers that are named in the
//! configuration. Its address counts for caps and logs; it never authorises anything.

use std::io;
use std::net::SocketAddr;

use ppp::{HeaderResult, PartialResult, v1, v2};

use super::transport::Transport;

/// Longest header that is read: version 2 may announce 64 KiB of extensions, which no
/// balancer needs to tell an address.
const HEADER_BYTES: usize = 4096;

/// Why a connection that must start with a header is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderFault {
    #[error("the peer is configured to send a PROXY protocol header and sent something else")]
    Malformed,
    #[error("the PROXY protocol header is longer than {HEADER_BYTES} bytes")]
    TooLong,
    #[error("the connection ended before the PROXY protocol header did")]
    Io(#[source] io::Error),
}

/// Reads the header and returns the address that it gives: `None` where the balancer speaks
/// for itself (`LOCAL`, `UNKNOWN`). What follows the header stays for TLS.
pub async fn read(transport: &mut Transport) -> Result<Option<SocketAddr>, ProxyHeaderFault> {
    loop {
        let bytes = transport.receive(HEADER_BYTES).await.map_err(ProxyHeaderFault::Io)?;
        let header = HeaderResult::parse(bytes);
        if header.is_complete() {
            let (length, address) = match &header {
                HeaderResult::V1(Ok(header)) => {
                    (header.header.len(), address_v1(&header.addresses))
                }
                HeaderResult::V2(Ok(header)) => (header.len(), address_v2(header)),
                _ => return Err(ProxyHeaderFault::Malformed),
            };
            transport.consume(length);
            return Ok(address);
        }
        if bytes.len() >= HEADER_BYTES {
            return Err(ProxyHeaderFault::TooLong);
        }
    }
}

fn address_v1(addresses: &v1::Addresses) -> Option<SocketAddr> {
    match addresses {
        v1::Addresses::Tcp4(a) => Some((a.source_address, a.source_port).into()),
        v1::Addresses::Tcp6(a) => Some((a.source_address, a.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn address_v2(header: &v2::Header<'_>) -> Option<SocketAddr> {
    match (&header.command, &header.addresses) {
        (v2::Command::Local, _) => None,
        (_, v2::Addresses::IPv4(a)) => Some((a.source_address, a.source_port).into()),
        (_, v2::Addresses::IPv6(a)) => Some((a.source_address, a.source_port).into()),
        (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
    }
}
