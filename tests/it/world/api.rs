//! The admin API as a script of an operator asks it: a request, a connection, an answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::{Client, Response};
use crate::pki::Minted;

/// The token of the operator that every world has.
pub const OPERATOR_TOKEN: &str = "operator-0123456789abcdef0123456789abcdef";

const TIMEOUT: Duration = Duration::from_secs(20);

/// A principal of the admin API, or nobody.
#[derive(Clone)]
pub struct Api {
    pub address: SocketAddr,
    pub token: Option<String>,
    /// Further header lines of every request, each with its CRLF; a `Host` among them
    /// replaces ours.
    pub lines: String,
    /// The address that connections come from, of 127.0.0.0/8.
    pub from: Ipv4Addr,
    /// Who makes the TLS handshake, where the port speaks TLS.
    pub tls: Option<Client>,
}

impl Api {
    pub fn new(address: SocketAddr, token: &str) -> Api {
        Api {
            address,
            token: Some(token.into()),
            lines: String::new(),
            from: Ipv4Addr::LOCALHOST,
            tls: None,
        }
    }

    /// The port of an edge with `admin.tls`, without a token.
    pub fn over_tls(client: Client, address: SocketAddr) -> Api {
        let tls = Some(client.at(address));
        Api { tls, token: None, ..Api::new(address, "") }
    }

    /// The same port, asked by somebody else.
    pub fn with_token(&self, token: &str) -> Api {
        Api { token: Some(token.into()), ..self.clone() }
    }

    pub fn anonymous(&self) -> Api {
        Api { token: None, ..self.clone() }
    }

    pub fn with_lines(&self, lines: &str) -> Api {
        Api { lines: lines.into(), ..self.clone() }
    }

    pub fn from(&self, address: Ipv4Addr) -> Api {
        Api { from: address, ..self.clone() }
    }

    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, Value::Null)
    }

    /// `Value::Null` is no body.
    pub fn ask(&self, method: &str, path: &str, json: Value) -> Response {
        match json {
            Value::Null => self.send(method, path, "", b""),
            json => self.send(method, path, "application/json", json.to_string().as_bytes()),
        }
    }

    /// A body of any type; `""` leaves the Content-Type out.
    pub fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Response {
        let mut bytes = self.head(method, path, content_type, body.len()).into_bytes();
        bytes.extend_from_slice(body);
        self.exchange(&bytes)
    }

    /// The head of a request as [`Api::send`] writes it.
    pub fn head(&self, method: &str, path: &str, content_type: &str, length: usize) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !self.lines.to_ascii_lowercase().contains("host:") {
            head.push_str(&format!("Host: {}\r\n", self.address));
        }
        if let Some(token) = &self.token {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if !content_type.is_empty() {
            head.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        head + &self.lines + &format!("Content-Length: {length}\r\n\r\n")
    }

    /// Sends bytes, reads until the port closes.
    pub fn exchange(&self, request: &[u8]) -> Response {
        if let Some(client) = &self.tls {
            return client.connect().unwrap().exchange(request).unwrap();
        }
        let mut tcp = self.connect();
        // A port that refuses a body answers before it has taken all of it.
        let _ = tcp.write_all(request);
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 * 1024];
        while let Ok(n @ 1..) = tcp.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..n]);
        }
        assert!(!bytes.is_empty(), "no answer to {}", String::from_utf8_lossy(request));
        Response::whole(&bytes)
    }

    /// A connection that has sent nothing yet.
    pub fn connect(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((self.from, 0)).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let tcp = TcpStream::from(socket);
        tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
        tcp.set_write_timeout(Some(TIMEOUT)).unwrap();
        tcp
    }

    /// Uploads a CA of a tenant, enabled, and tells its fingerprint.
    #[track_caller]
    pub fn trust(&self, tenant: &str, ca: &Minted, auto_registration: bool) -> String {
        let anchor = json!({
            "name": "uploaded",
            "status": "ENABLED",
            "autoRegistrationEnabled": auto_registration,
            "certInPemFormat": ca.pem(),
        });
        let response = self.ask("POST", &anchors(tenant), anchor);
        assert_eq!(response.status, 201, "{response:?}");
        response.json()["fingerprint"].as_str().unwrap().to_owned()
    }

    /// Pins a certificate to a device, which is registered by that where it is not.
    #[track_caller]
    pub fn pin(&self, tenant: &str, device: &str, leaf: &Minted) -> Response {
        let path = format!("/tenant/tenants/{tenant}/devices/{device}/pins");
        self.ask("POST", &path, json!({ "certInPemFormat": leaf.pem() }))
    }
}

/// The path of a tenant's trusted certificates.
pub fn anchors(tenant: &str) -> String {
    format!("/tenant/tenants/{tenant}/trusted-certificates")
}

/// SHA-256 of a certificate, as the API names it.
pub fn fingerprint(certificate: &Minted) -> String {
    openssl::sha::sha256(&certificate.der).iter().map(|byte| format!("{byte:02x}")).collect()
}
