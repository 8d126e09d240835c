//! HTTP/2 on both sides of the edge.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;

use crate::http2::frames::{
    DATA, END_HEADERS, END_STREAM, H2, HEADERS, INITIAL_WINDOW_SIZE, block, frame, get, post,
};
use crate::world::{World, eventually};

use super::curl::Curl;
use super::nginx::Nginx;

/// A gRPC service of sorts: answers `pong` and `grpc-status: 0` in a trailer.
struct Service {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
}

struct Call {
    head: Request<()>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

impl Service {
    fn start() -> Service {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let log = calls.clone();
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let socket = tokio::net::TcpListener::from_std(socket).unwrap();
                while let Ok((tcp, _)) = socket.accept().await {
                    tokio::spawn(serve(tcp, log.clone()));
                }
            });
        });
        Service { address, calls }
    }

    fn world(&self) -> World {
        let address = self.address;
        World::with(|_, config| {
            config.platform = format!("http: [\"{address}\"]\nhttp2: true");
        })
    }
}

async fn serve(tcp: tokio::net::TcpStream, log: Arc<Mutex<Vec<Call>>>) {
    // A health check connects and says nothing.
    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let log = log.clone();
        tokio::spawn(async move {
            let (head, mut stream) = request.into_parts();
            let mut body = Vec::new();
            while let Some(Ok(data)) = stream.data().await {
                body.extend_from_slice(&data);
                let _ = stream.flow_control().release_capacity(data.len());
            }
            let trailers = stream.trailers().await.ok().flatten();
            log.lock().unwrap().push(Call { head: Request::from_parts(head, ()), body, trailers });
            let answer = Response::builder().header("content-type", "application/grpc");
            let answer = answer.body(()).unwrap();
            let Ok(mut send) = respond.send_response(answer, false) else { return };
            let _ = send.send_data(Bytes::from_static(b"pong"), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = send.send_trailers(trailers);
        });
    }
}

#[test]
fn a_grpc_call_passes_with_its_trailers() {
    let service = Service::start();
    let world = service.world();
    let curl = Curl::of(&world).args(["--http2", "--include", "--data-binary", "ping"]).args([
        "--header",
        "TE: trailers",
        "--header",
        "Content-Type: application/grpc",
    ]);
    let output = curl.run("/package.Service/Method");
    assert!(output.starts_with("HTTP/2 200"), "{output}");
    assert!(output.contains("content-type: application/grpc"), "{output}");
    assert!(output.contains("pong") && output.contains("grpc-status: 0"), "{output}");
    let calls = service.calls.lock().unwrap();
    let call = &calls[0];
    assert_eq!(call.body, b"ping");
    assert_eq!(call.head.headers()["te"], "trailers");
    assert_eq!(call.head.uri().path(), "/package.Service/Method");
    assert_eq!(call.head.uri().authority().unwrap().host(), "acme.example.com");
    assert!(call.head.headers().contains_key("x-ssl-cert-chain"));
    drop(calls);

    let mut h2 = H2::connect(&world.acme_client());
    let answer = h2.get("/package.Service/Method");
    assert_eq!((answer.status, &answer.body[..], answer.blocks), (200, &b"pong"[..], 2));
}

#[test]
fn trailers_of_a_request_bring_no_identity_to_an_http2_upstream() {
    let service = Service::start();
    let world = service.world();
    let mut h2 = H2::connect(&world.acme_client());
    let stream = h2.request(&post("/inventory"), false);
    h2.send(&frame(DATA, 0, stream, b"hello")).unwrap();
    let forged = block(&[("x-ssl-cert-chain", "forged"), ("client-cert", "forged")]);
    h2.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &forged)).unwrap();
    assert_eq!(h2.answer(stream).status, 200);
    let mut h1 = world.acme_client().connect().unwrap();
    let request = "POST /inventory HTTP/1.1\r\nHost: acme.example.com\r\nTE: trailers\r\n\
                   Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                   5\r\nhello\r\n0\r\nX-Ssl-Cert-Chain: forged\r\n\r\n";
    assert_eq!(h1.exchange(request.as_bytes()).unwrap().status, 200);
    let calls = service.calls.lock().unwrap();
    assert_eq!(calls.len(), 2);
    for call in calls.iter() {
        assert_eq!(call.body, b"hello");
        assert!(call.trailers.as_ref().is_none_or(HeaderMap::is_empty), "{:?}", call.trailers);
        let chains = call.head.headers().get_all("x-ssl-cert-chain").iter().count();
        assert_eq!(chains, 1);
        assert!(!format!("{:?}", call.head).contains("forged"));
    }
}

#[test]
fn http1_requests_reach_a_cleartext_http2_upstream() {
    let block =
        "location / { return 200 \"$server_protocol|$request_uri|$http_x_ssl_cert_chain\"; }";
    let nginx = Nginx::start("http2", block, &[]);
    let world = World::with(|_, config| {
        config.platform = format!("http: [\"{}\"]\nhttp2: true", nginx.address());
    });
    let mut connection = world.acme_client().connect().unwrap();
    for lines in ["", "Connection: X-Ssl-Cert-Chain\r\nX-Ssl-Cert-Chain: forged\r\n"] {
        let request = format!("GET /h1?x=1 HTTP/1.1\r\nHost: acme.example.com\r\n{lines}\r\n");
        let text = connection.exchange(request.as_bytes()).unwrap().text();
        assert!(text.starts_with("HTTP/2.0|/h1?x=1|-----BEGIN CERTIFICATE-----"), "{text}");
        assert!(!text.contains("forged"), "{text}");
    }
    let answer = H2::connect(&world.acme_client()).get("/h2");
    assert!(answer.body.starts_with(b"HTTP/2.0|/h2|-----BEGIN CERTIFICATE-----"));
    assert!(nginx.log().is_empty(), "{}", nginx.log());
}

#[test]
fn a_device_that_takes_nothing_does_not_starve_others_on_the_upstreams_connection() {
    let nginx = Nginx::start("http2", "http2_max_concurrent_streams 128;", &[]);
    nginx.serve("large", &vec![b'x'; 24 << 20]);
    nginx.serve("small", &vec![b'y'; 100_000]);
    let world = World::with(|_, config| {
        // One worker has one connection; which of the two serves whom is chance.
        config.platform = format!("http: [\"{}\"]\nhttp2: true", nginx.address());
    });
    let stalled: Vec<H2> = (0..6)
        .map(|_| {
            let settings = [(INITIAL_WINDOW_SIZE, 0)];
            let mut h2 = H2::with_settings(&world.acme_client(), &settings);
            for _ in 0..4 {
                h2.request(&get("/large"), true);
            }
            // The header comes, the body waits for a window.
            while h2.next(Duration::from_secs(5)).expect("an answer").kind != HEADERS {}
            h2
        })
        .collect();
    let answers = "portcullis_upstream_responses_total{status=\"2xx\",upstream=\"platform\"}";
    eventually("all are being answered", || world.metric(answers) >= 24.0);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let response = world.globex_client().get("/small").unwrap();
        assert_eq!((response.status, response.body.len()), (200, 100_000));
    }
    drop(stalled);
}
