//! Two TLS libraries in one program: BoringSSL serves HTTPS, OpenSSL will serve DTLS. They
//! define hundreds of symbols of the same names; this shows that none of them is shared.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::pki::{Minted, Template};

#[test]
fn each_library_is_the_one_that_it_says() {
    // SAFETY: the function takes a number and returns a string that lives for ever.
    let boring = unsafe { CStr::from_ptr(boring_sys::OpenSSL_version(0)) };
    assert_eq!(boring.to_str().unwrap(), "BoringSSL");
    let openssl = openssl::version::version();
    assert!(openssl.starts_with("OpenSSL 3."), "{openssl}");
}

#[test]
fn handshakes_of_both_libraries_run_at_the_same_time() {
    let pki = &Pki::mint();
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..10 {
                    if (thread + round) % 2 == 0 { tls13(pki) } else { dtls12(pki) }
                }
            });
        }
    });
}

struct Pki {
    root: Minted,
    server: Minted,
    device: Minted,
}

impl Pki {
    fn mint() -> Pki {
        let root = Template::ca("Link root").self_signed();
        Pki {
            server: Template::server(&["edge.example.com"]).signed_by(&root),
            device: Template::device("device-1").signed_by(&root),
            root,
        }
    }
}

/// BoringSSL on both sides: TLS 1.3, both certificates checked, a byte there and back.
fn tls13(pki: &Pki) {
    use boring::pkey::PKey;
    use boring::ssl::{
        SslAcceptor, SslConnector, SslContextBuilder, SslMethod, SslVerifyMode, SslVersion,
    };
    use boring::x509::X509;
    let identity = |context: &mut SslContextBuilder, own: &Minted| {
        context.set_certificate(&X509::from_der(&own.der).unwrap()).unwrap();
        context.set_private_key(&PKey::private_key_from_pem(&own.key.pem()).unwrap()).unwrap();
        context.cert_store_mut().add_cert(X509::from_der(&pki.root.der).unwrap()).unwrap();
        context.set_min_proto_version(Some(SslVersion::TLS1_3)).unwrap();
    };
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    identity(&mut acceptor, &pki.server);
    acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let acceptor = acceptor.build();
    let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
    identity(&mut connector, &pki.device);
    let connector = connector.build();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (tcp, _) = listener.accept().unwrap();
            let mut stream = acceptor.accept(tcp).unwrap();
            assert_eq!(stream.ssl().version_str(), "TLSv1.3");
            assert_eq!(stream.ssl().peer_certificate().unwrap().to_der().unwrap(), pki.device.der);
            echo(&mut stream);
        });
        let tcp = TcpStream::connect(address).unwrap();
        let mut stream = connector.connect("edge.example.com", tcp).unwrap();
        assert_eq!(stream.ssl().peer_certificate().unwrap().to_der().unwrap(), pki.server.der);
        ask(&mut stream);
        server.join().unwrap();
    });
}

/// OpenSSL on both sides: DTLS 1.2 over UDP, both certificates checked, a byte there and back.
fn dtls12(pki: &Pki) {
    use openssl::pkey::PKey;
    use openssl::ssl::{
        Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslVerifyMode, SslVersion,
    };
    use openssl::x509::X509;
    let context = |own: &Minted| -> SslContextBuilder {
        let mut context = SslContext::builder(SslMethod::dtls()).unwrap();
        context.set_certificate(&X509::from_der(&own.der).unwrap()).unwrap();
        context.set_private_key(&PKey::private_key_from_pem(&own.key.pem()).unwrap()).unwrap();
        context.cert_store_mut().add_cert(X509::from_der(&pki.root.der).unwrap()).unwrap();
        context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        context.set_min_proto_version(Some(SslVersion::DTLS1_2)).unwrap();
        context.set_options(SslOptions::NO_QUERY_MTU);
        context
    };
    let session = |context: SslContextBuilder| {
        let mut ssl = Ssl::new(&context.build()).unwrap();
        ssl.set_mtu(1_400).unwrap();
        ssl
    };
    let mut server = context(&pki.server);
    server.set_cookie_generate_cb(|_, cookie| {
        cookie[..16].copy_from_slice(&[7; 16]);
        Ok(16)
    });
    server.set_cookie_verify_cb(|_, cookie| cookie == [7; 16]);
    server.set_options(SslOptions::COOKIE_EXCHANGE);
    let (server, device) = (session(server), session(context(&pki.device)));

    let (at_server, at_device) = (udp(), udp());
    at_server.connect(at_device.local_addr().unwrap()).unwrap();
    at_device.connect(at_server.local_addr().unwrap()).unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let mut stream = server.accept(Datagrams(at_server)).unwrap();
            assert_eq!(stream.ssl().version_str(), "DTLSv1.2");
            assert_eq!(stream.ssl().peer_certificate().unwrap().to_der().unwrap(), pki.device.der);
            echo(&mut stream);
        });
        let mut stream = device.connect(Datagrams(at_device)).unwrap();
        assert_eq!(stream.ssl().peer_certificate().unwrap().to_der().unwrap(), pki.server.der);
        ask(&mut stream);
        server.join().unwrap();
    });
}

fn echo(stream: &mut (impl Read + Write)) {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    stream.write_all(&byte).unwrap();
}

fn ask(stream: &mut (impl Read + Write)) {
    let mut byte = [0];
    stream.write_all(b"?").unwrap();
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"?");
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// A connected UDP socket as a stream: one record a call.
#[derive(Debug)]
struct Datagrams(UdpSocket);

impl Read for Datagrams {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.recv(bytes)
    }
}

impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
