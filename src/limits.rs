//! The bounds that the edge sets to what peers may take of it: numbers in flight, total
//! deadlines, sizes. Every default is meant for one small machine (2 cores, 2 GiB).

use std::time::Duration;

/// Bounds of all listeners together, unless a field says otherwise.
///
/// Worst cases below are upper bounds by construction: an idle connection costs about
/// 14 KiB (measured over HTTP/1.1), and a handshake holds at most one 16 KiB ClientHello, one record and
/// BoringSSL's cap of 100 KiB on a peer's certificate list, about 140 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TLS handshakes in flight.
    ///
    /// Default 512; worst case about 70 MiB and 512 queued chain verifications. Too small:
    /// a fleet that returns after an outage is turned away in waves. Too large: slow peers
    /// hold more memory, and every handshake waits longer for a core.
    pub handshakes: usize,
    /// TLS handshakes in flight from one address (IPv6: one /64).
    ///
    /// Default 64; worst case about 9 MiB for each address. Too small: devices behind one
    /// carrier's NAT fail together. Too large: few addresses can fill `handshakes`.
    pub handshakes_per_address: usize,
    /// Open device connections, handshakes included.
    ///
    /// Default 16,384; worst case about 224 MiB while idle, plus `header_bytes` for each one
    /// that sends a request. It also takes two file descriptors for each connection with a
    /// request at the upstream. Too large: the kernel ends the process, not the edge the peer.
    pub connections: usize,
    /// Open device connections from one address (IPv6: one /64).
    ///
    /// Default 2,048; worst case about 28 MiB for each address. Too small: devices behind
    /// one carrier's NAT are refused. Too large: eight addresses can fill `connections`.
    pub connections_per_address: usize,
    /// From accepting a connection to the end of its TLS handshake, in total.
    ///
    /// Default 10 s. Too short: devices on slow radio links never finish. Too long: a stalled
    /// peer holds its place in `handshakes` as long.
    pub handshake_timeout: Duration,
    /// From the first byte of a request's header to its end, in total.
    ///
    /// Default 10 s. Too long: a peer that drips bytes holds a connection as long.
    pub header_timeout: Duration,
    /// Between requests, without a byte from the peer.
    ///
    /// Default 75 s. Too short: devices make more handshakes, each ten times as dear as
    /// a request. Too long: silent peers hold their 14 KiB as long.
    pub idle_timeout: Duration,
    /// From the end of a request's header to the end of its body, in total.
    ///
    /// Default 5 min. Too short: firmware and log uploads over slow links break off. Too
    /// long: a peer that drips a body holds an upstream connection as long.
    pub body_timeout: Duration,
    /// Fields in one request's header. Request trailers are dropped, whatever they are.
    ///
    /// Default 100; memory is bounded by `header_bytes`, this one bounds the work for each.
    pub header_count: usize,
    /// Bytes of one request's header: request line, names, values and separators.
    ///
    /// Default 32 KiB; worst case 512 MiB where every one of 16,384 connections sends one at
    /// the same time. A device's certificate chain travels here, so below 16 KiB chains of
    /// four or more certificates are refused.
    pub header_bytes: usize,
    /// Requests of one address (IPv6: one /64) in a minute that try to complete an undecided
    /// chain: one whose issuer is not known here and may still be named by a header.
    ///
    /// Default 10; 0 refuses each. Such a peer has proved nothing but that it holds some key.
    /// Too small: a new fleet behind one NAT that sends its chain by header waits. Too large:
    /// anybody with a self-signed certificate can have that many chains verified.
    pub undecided_attempts_per_address: u32,
    /// From the end of the TLS handshake to the end of the CONNECT, and from there to the
    /// broker's answer (registration, token and further brokers included), each in total.
    ///
    /// Default 10 s. Too short: devices on slow radio links never finish. Too long: a stalled
    /// peer holds its connection, and one at the broker, as long.
    pub mqtt_connect_timeout: Duration,
    /// Bytes of a CONNECT: client id, credentials, will.
    ///
    /// Default 64 KiB; held until the broker has it, so 1 GiB where every one of 16,384
    /// connections sends one at the same time. Too small: large wills are refused.
    pub mqtt_connect_bytes: usize,
    /// Bytes of one packet from a device, after its CONNECT.
    ///
    /// Default 1 MiB. Packets flow through and are not held: this bounds what one device may
    /// ask of the broker. Packets from the broker have no bound. Over WebSocket a message may
    /// have as many bytes, and a packet's header.
    pub mqtt_packet_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshakes: 512,
            handshakes_per_address: 64,
            connections: 16_384,
            connections_per_address: 2_048,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(5 * 60),
            header_count: 100,
            header_bytes: 32 * 1024,
            undecided_attempts_per_address: 10,
            mqtt_connect_timeout: Duration::from_secs(10),
            mqtt_connect_bytes: 64 * 1024,
            mqtt_packet_bytes: 1 << 20,
        }
    }
}
