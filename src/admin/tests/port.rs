//! The port over real sockets: half-open connections, deadlines, TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use boring::pkey::PKey;
use boring::ssl::{SslConnector, SslMethod, SslStream, SslVersion};
use boring::x509::X509;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::mint::Authority;
use super::{CONFIG, Keys, OPERATOR, World, credentials, settings_with};
use crate::admin::{AdminFault, AdminPort};
use crate::admin_settings::{AdminTls, Credential, CredentialSecret, Role};
use crate::clock::Clock;

/// A port on a runtime of its own, asked by blocking clients.
struct Port {
    _runtime: Runtime,
    _world: World,
    address: SocketAddr,
}

impl Port {
    fn open(tls: Option<AdminTls>, more: Vec<Credential>) -> Port {
        let runtime = Runtime::new().unwrap();
        let (world, address) = runtime.block_on(async {
            let world = World::with(credentials(), CONFIG).await;
            let settings = settings_with([credentials(), more].concat(), tls);
            let keys = Arc::new(Keys::default());
            let port = AdminPort::new(settings, world.edge.clone(), keys).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(port.serve(listener));
            (world, address)
        });
        Port { _runtime: runtime, _world: world, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn tls(
        &self,
        ca: &Authority,
        client: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Result<SslStream<TcpStream>, String> {
        let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
        connector.cert_store_mut().add_cert(&ca.certificate).unwrap();
        if let Some((chain, key)) = client {
            connector.set_certificate(&X509::from_pem(&chain).unwrap()).unwrap();
            connector.set_private_key(&PKey::private_key_from_pem(&key).unwrap()).unwrap();
        }
        let connector = connector.build();
        connector.connect("edge.example.com", self.connect()).map_err(|error| error.to_string())
    }
}

/// The status line and the rest of the answer; empty where the connection ended without one.
fn ask(stream: &mut (impl Read + Write), path: &str, token: Option<&str>) -> String {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}Connection: close\r\n\r\n");
    let mut answer = Vec::new();
    // In TLS 1.3 a refused client certificate is told when the client first reads.
    if stream.write_all(request.as_bytes()).is_ok() {
        let _ = stream.read_to_end(&mut answer);
    }
    String::from_utf8(answer).unwrap()
}

fn tls_settings(server: &Authority, client: Option<&Authority>) -> AdminTls {
    let (chain, key) = server.server("edge.example.com");
    AdminTls { chain, key, client_ca: client.map(|ca| ca.pem().into_bytes()) }
}

#[test]
fn half_open_connections_keep_nobody_out() {
    let port = Port::open(None, Vec::new());
    let mut held = Vec::new();
    for round in 0..8 {
        held.extend((0..100).map(|_| port.connect()));
        for stream in held.iter_mut().rev().take(20) {
            let _ = stream.write_all(b"GET /healthz HT");
        }
        let answer = ask(&mut port.connect(), "/healthz", None);
        assert!(answer.starts_with("HTTP/1.1 200"), "round {round}: {answer:?}");
        let answer = ask(&mut port.connect(), "/edge/tenants", Some(OPERATOR));
        assert!(answer.starts_with("HTTP/1.1 200"), "round {round}: {answer:?}");
    }
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    let port = Port::open(None, Vec::new());
    let mut silent = port.connect();
    let mut half = port.connect();
    half.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    for stream in [&mut silent, &mut half] {
        let mut answer = Vec::new();
        // An end or a reset; not a client that waits in vain.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
    }
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let port = Port::open(None, Vec::new());
    let mut stream = port.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn with_tls_there_is_nothing_in_cleartext() {
    let ca = Authority::new("Server CA");
    let port = Port::open(Some(tls_settings(&ca, None)), Vec::new());
    let mut stream = port.tls(&ca, None).unwrap();
    assert_eq!(stream.ssl().version2(), Some(SslVersion::TLS1_3));
    assert!(ask(&mut stream, "/healthz", None).starts_with("HTTP/1.1 200"));
    let mut stream = port.tls(&ca, None).unwrap();
    assert!(ask(&mut stream, "/edge/tenants", Some(OPERATOR)).starts_with("HTTP/1.1 200"));
    let mut stream = port.tls(&ca, None).unwrap();
    assert!(ask(&mut stream, "/edge/tenants", None).starts_with("HTTP/1.1 401"));
    let plain = ask(&mut port.connect(), "/healthz", None);
    assert!(!plain.contains("200"), "{plain:?}");
}

#[test]
fn a_client_certificate_of_the_ca_is_a_principal_by_its_common_name() {
    let (server, clients) = (Authority::new("Server CA"), Authority::new("Operators CA"));
    let known = Credential {
        name: "night-shift".to_owned(),
        secret: CredentialSecret::CommonName("ops-1".to_owned()),
        role: Role::Viewer,
        tenant: None,
    };
    let port = Port::open(Some(tls_settings(&server, Some(&clients))), vec![known]);
    let as_client = |certificate| {
        port.tls(&server, certificate)
            .map_or_else(|_| String::new(), |mut stream| ask(&mut stream, "/edge/tenants", None))
    };
    assert!(as_client(Some(clients.client("ops-1", true))).starts_with("HTTP/1.1 200"));
    assert!(as_client(Some(clients.client("ops-2", true))).starts_with("HTTP/1.1 401"));
    // None: a token is as good as ever, and the probes take neither.
    assert!(as_client(None).starts_with("HTTP/1.1 401"));
    let mut stream = port.tls(&server, None).unwrap();
    assert!(ask(&mut stream, "/edge/tenants", Some(OPERATOR)).starts_with("HTTP/1.1 200"));
    let mut stream = port.tls(&server, None).unwrap();
    assert!(ask(&mut stream, "/healthz", None).starts_with("HTTP/1.1 200"));
    // One of another CA (a device's, say), one that is not for clients.
    assert_eq!(as_client(Some(Authority::new("Operators CA").client("ops-1", true))), "");
    assert_eq!(as_client(Some(clients.client("ops-1", false))), "");
    // A token of another principal on top of a certificate: the token counts.
    let mut stream = port.tls(&server, Some(clients.client("ops-2", true))).unwrap();
    assert!(ask(&mut stream, "/edge/tenants", Some(OPERATOR)).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_connection_ends_with_its_client_certificate_whoever_asks() {
    let (server, clients) = (Authority::new("Server CA"), Authority::new("Operators CA"));
    let port = Port::open(Some(tls_settings(&server, Some(&clients))), Vec::new());
    let ends = Clock::system().now() + 4;
    let mut stream = port.tls(&server, Some(clients.client_until("ops-1", ends))).unwrap();
    let request = format!(
        "GET /edge/tenants HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {OPERATOR}\r\n\r\n"
    );
    // Each request of a known principal moves the end of the connection, but not past this.
    stream.get_ref().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let (mut answered, mut ended) = (0, false);
    while !ended && stream.write_all(request.as_bytes()).is_ok() {
        assert!(Clock::system().now() < ends + 3, "{answered} answers, and no end");
        // The answer, and the silence behind it.
        for _ in 0..2 {
            let mut answer = [0; 16 * 1024];
            match stream.read(&mut answer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => ended = true,
                Ok(_) => {
                    assert!(answer.starts_with(b"HTTP/1.1 200"));
                    answered += 1;
                }
            }
        }
    }
    assert!(answered > 0);
    let late = port.tls(&server, Some(clients.client_until("ops-1", ends)));
    let late = late.map_or_else(|_| String::new(), |mut stream| ask(&mut stream, "/healthz", None));
    assert_eq!(late, "");
}

#[tokio::test]
async fn tls_that_cannot_be_set_up_is_a_fault_at_the_start() {
    let world = World::new().await;
    let ca = Authority::new("Server CA");
    let fault = |tls| {
        let settings = settings_with(Vec::new(), Some(tls));
        AdminPort::new(settings, world.edge.clone(), world.keys.clone()).err().unwrap()
    };
    let good = tls_settings(&ca, None);
    let foreign = AdminTls { key: tls_settings(&ca, None).key, ..good.clone() };
    assert!(matches!(fault(foreign), AdminFault::Certificate(_)));
    let empty = AdminTls { client_ca: Some(Vec::new()), ..good.clone() };
    assert!(matches!(fault(empty), AdminFault::ClientCa));
    let nonsense = AdminTls { chain: b"nonsense".to_vec(), ..good };
    assert!(matches!(fault(nonsense), AdminFault::Certificate(_)));
}
