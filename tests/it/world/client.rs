//! A device: OpenSSL on one side of the wire, so that BoringSSL is never its own judge.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::pkey::PKey;
use openssl::ssl::{
    Ssl, SslContextBuilder, SslMethod, SslOptions, SslSession, SslSessionCacheMode, SslStream,
    SslVerifyMode, SslVersion,
};
use openssl::x509::X509;

use crate::pki::Minted;

use super::TOKEN_PATH;

const TIMEOUT: Duration = Duration::from_secs(20);

/// How a device connects.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    server_name: Option<String>,
    host: Option<String>,
    server_root: X509,
    chain: Vec<Minted>,
    version: Option<SslVersion>,
    alpn: Option<&'static [u8]>,
    groups: Option<&'static str>,
    ciphers: Option<&'static str>,
    signatures: Option<&'static str>,
    session: Option<SslSession>,
    prologue: Vec<u8>,
}

/// A device's open connection.
pub struct Connection {
    pub tls: SslStream<TcpStream>,
    host: String,
    tickets: Arc<Mutex<Option<SslSession>>>,
    unread: Vec<u8>,
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The edge sent this TLS alert.
    Alert(u8),
    /// The connection was closed or reset without one.
    Closed,
    Other(String),
}

#[derive(Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(address: SocketAddr, server_name: &str, server_root: &Minted) -> Client {
        Client {
            address,
            server_name: Some(server_name.into()),
            host: None,
            server_root: X509::from_der(&server_root.der).unwrap(),
            chain: Vec::new(),
            version: None,
            alpn: None,
            groups: None,
            ciphers: None,
            signatures: None,
            session: None,
            prologue: Vec::new(),
        }
    }

    /// What the device shows; the first one's key is used.
    pub fn identity(mut self, chain: &[&Minted]) -> Client {
        self.chain = chain.iter().map(|minted| (*minted).clone()).collect();
        self
    }

    pub fn anonymous(mut self) -> Client {
        self.chain.clear();
        self
    }

    pub fn at(mut self, address: SocketAddr) -> Client {
        self.address = address;
        self
    }

    pub fn server_name(mut self, name: &str) -> Client {
        self.server_name = Some(name.into());
        self
    }

    pub fn without_server_name(mut self) -> Client {
        self.server_name = None;
        self
    }

    /// The Host of its requests, where it is not the server name.
    pub fn host(mut self, host: &str) -> Client {
        self.host = Some(host.into());
        self
    }

    pub fn tls(mut self, version: SslVersion) -> Client {
        self.version = Some(version);
        self
    }

    pub fn tls12(self) -> Client {
        self.tls(SslVersion::TLS1_2)
    }

    /// In wire form: each protocol after a byte with its length.
    pub fn alpn(mut self, protocols: &'static [u8]) -> Client {
        self.alpn = Some(protocols);
        self
    }

    pub fn groups(mut self, groups: &'static str) -> Client {
        self.groups = Some(groups);
        self
    }

    /// Suites of TLS 1.2.
    pub fn ciphers(mut self, ciphers: &'static str) -> Client {
        self.ciphers = Some(ciphers);
        self
    }

    pub fn signatures(mut self, signatures: &'static str) -> Client {
        self.signatures = Some(signatures);
        self
    }

    pub fn resuming(mut self, session: &SslSession) -> Client {
        self.session = Some(session.clone());
        self
    }

    /// Bytes before the ClientHello: a PROXY header.
    pub fn prologue(mut self, bytes: &[u8]) -> Client {
        self.prologue = bytes.to_vec();
        self
    }

    /// Makes the TLS handshake as the client sees it: under TLS 1.3 a refusal of the client
    /// certificate comes with the first read after it.
    pub fn connect(&self) -> Result<Connection, Failure> {
        let mut tcp = TcpStream::connect(self.address).map_err(|e| Failure::from(&e))?;
        tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
        tcp.set_write_timeout(Some(TIMEOUT)).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.write_all(&self.prologue).map_err(|e| Failure::from(&e))?;
        let tickets: Arc<Mutex<Option<SslSession>>> = Arc::default();
        let ssl = self.ssl(&tickets);
        let tls = ssl.connect(tcp).map_err(|error| match error {
            openssl::ssl::HandshakeError::Failure(mid) => Failure::of_ssl(mid.error()),
            other => Failure::Other(other.to_string()),
        })?;
        let host = self.host.clone().or_else(|| self.server_name.clone());
        let host = host.unwrap_or_else(|| "acme.example.com".into());
        Ok(Connection { tls, host, tickets, unread: Vec::new() })
    }

    /// One connection, one GET.
    pub fn get(&self, path: &str) -> Result<Response, Failure> {
        self.connect()?.get(path)
    }

    /// One connection, one request for a token.
    pub fn token(&self) -> Result<Response, Failure> {
        self.connect()?.token("")
    }

    /// One connection, one request for a token with further header lines.
    pub fn token_with(&self, lines: &str) -> Result<Response, Failure> {
        self.connect()?.token(lines)
    }

    /// A ticket of a full connection.
    pub fn session(&self) -> SslSession {
        let mut connection = self.connect().unwrap();
        connection.get("/ticket").unwrap();
        connection.session().expect("a ticket came with the first answer")
    }

    /// A TLS session to be driven by hand.
    pub fn ssl(&self, tickets: &Arc<Mutex<Option<SslSession>>>) -> Ssl {
        let mut context = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
        context.cert_store_mut().add_cert(self.server_root.clone()).unwrap();
        context.set_verify(SslVerifyMode::PEER);
        // Tests break things that OpenSSL's defaults would refuse to send.
        context.set_security_level(0);
        context.set_options(SslOptions::ALLOW_UNSAFE_LEGACY_RENEGOTIATION);
        if let Some((leaf, rest)) = self.chain.split_first() {
            let key = PKey::private_key_from_pem(&leaf.key.pem()).unwrap();
            context.set_certificate(&X509::from_der(&leaf.der).unwrap()).unwrap();
            context.set_private_key(&key).unwrap();
            for minted in rest {
                context.add_extra_chain_cert(X509::from_der(&minted.der).unwrap()).unwrap();
            }
        }
        if let Some(version) = self.version {
            context.set_min_proto_version(Some(version)).unwrap();
            context.set_max_proto_version(Some(version)).unwrap();
        }
        if let Some(alpn) = self.alpn {
            context.set_alpn_protos(alpn).unwrap();
        }
        if let Some(groups) = self.groups {
            context.set_groups_list(groups).unwrap();
        }
        if let Some(ciphers) = self.ciphers {
            context.set_cipher_list(ciphers).unwrap();
        }
        if let Some(signatures) = self.signatures {
            context.set_sigalgs_list(signatures).unwrap();
        }
        context.set_session_cache_mode(SslSessionCacheMode::CLIENT);
        let slot = tickets.clone();
        context.set_new_session_callback(move |_, session| {
            *slot.lock().unwrap() = Some(session);
        });
        let context = context.build();
        let mut ssl = Ssl::new(&context).unwrap();
        if let Some(name) = &self.server_name {
            ssl.set_hostname(name).unwrap();
        }
        if let Some(session) = &self.session {
            // SAFETY: a context of the same settings made the session; OpenSSL checks what of
            // it the handshake may use.
            unsafe { ssl.set_session(session).unwrap() };
        }
        ssl
    }
}

impl Connection {
    pub fn get(&mut self, path: &str) -> Result<Response, Failure> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.exchange(request.as_bytes())
    }

    /// `lines`: further header lines, each with its CRLF.
    pub fn token(&mut self, lines: &str) -> Result<Response, Failure> {
        let host = &self.host;
        let request = format!(
            "POST {TOKEN_PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n{lines}\r\n"
        );
        self.exchange(request.as_bytes())
    }

    /// Sends bytes, reads one response.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Response, Failure> {
        self.send(request)?;
        self.response()
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.tls.write_all(bytes).map_err(|error| Failure::from(&error))
    }

    /// Reads one response with a Content-Length, a chunked body or none.
    pub fn response(&mut self) -> Result<Response, Failure> {
        let end = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end);
        let mut response = Response::parse(&head);
        if response.status == 101 || response.status == 204 || response.status < 200 {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some() {
            while find(&self.unread, b"0\r\n\r\n").is_none() {
                self.fill()?;
            }
            let end = find(&self.unread, b"0\r\n\r\n").unwrap() + 5;
            let mut chunks: Vec<u8> = self.unread.drain(..end).collect();
            while let Some(line) = find(&chunks, b"\r\n") {
                let size = std::str::from_utf8(&chunks[..line]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                chunks.drain(..line + 2);
                response.body.extend(chunks.drain(..size));
                chunks.drain(..2);
                if size == 0 {
                    break;
                }
            }
            return Ok(response);
        }
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length {
            self.fill()?;
        }
        response.body = self.unread.drain(..length).collect();
        Ok(response)
    }

    /// Reads whatever comes next, at least a byte.
    pub fn read_some(&mut self) -> Result<Vec<u8>, Failure> {
        if self.unread.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// How the edge ends the connection; what it says before is dropped.
    pub fn until_closed(&mut self) -> Failure {
        loop {
            match self.fill() {
                Ok(()) => self.unread.clear(),
                Err(failure) => return failure,
            }
        }
    }

    /// The latest ticket.
    pub fn session(&self) -> Option<SslSession> {
        self.tickets.lock().unwrap().clone()
    }

    pub fn resumed(&self) -> bool {
        self.tls.ssl().session_reused()
    }

    fn fill(&mut self) -> Result<(), Failure> {
        let mut chunk = [0; 16 * 1024];
        match self.tls.ssl_read(&mut chunk) {
            Ok(0) => Err(Failure::Closed),
            Ok(n) => {
                self.unread.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(error) => Err(Failure::of_ssl(&error)),
        }
    }
}

impl Failure {
    fn of_ssl(error: &openssl::ssl::Error) -> Failure {
        if let Some(stack) = error.ssl_error() {
            for error in stack.errors() {
                // OpenSSL numbers the alerts that it got from 1000 on.
                if let Ok(alert) = u8::try_from(error.reason_code() - 1000) {
                    return Failure::Alert(alert);
                }
            }
            // "unexpected eof while reading"
            if stack.errors().iter().any(|error| error.reason_code() == 294) {
                return Failure::Closed;
            }
            return Failure::Other(error.to_string());
        }
        match error.io_error() {
            Some(error) => Failure::from(error),
            None => Failure::Closed,
        }
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Failure {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<openssl::ssl::Error>());
        match (inner, error.kind()) {
            (Some(inner), _) => Failure::of_ssl(inner),
            (
                None,
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionAborted,
            ) => Failure::Closed,
            _ => Failure::Other(error.to_string()),
        }
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The token of a 200 answer.
    #[track_caller]
    pub fn access_token(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["accessToken"].as_str().unwrap().to_owned()
    }

    /// Of everything that a peer sent until it closed.
    pub fn whole(bytes: &[u8]) -> Response {
        let end = find(bytes, b"\r\n\r\n").unwrap() + 4;
        let mut response = Response::parse(&String::from_utf8_lossy(&bytes[..end]));
        response.body = bytes[end..].to_vec();
        response
    }

    fn parse(head: &str) -> Response {
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Response { status, headers, body: Vec::new() }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, self.text())
    }
}

/// GET without TLS, as a scraper does.
pub fn plain_get(address: SocketAddr, path: &str) -> Response {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    tcp.read_to_end(&mut bytes).unwrap();
    Response::whole(&bytes)
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
