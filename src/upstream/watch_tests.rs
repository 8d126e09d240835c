use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use boring::pkey::PKey;
use boring::ssl::{SslAcceptor, SslMethod, SslVerifyMode};
use boring::x509::X509;
use boring::x509::store::X509StoreBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::*;
use crate::metrics::Metrics;
use crate::upstream::mint::{Authority, pool_settings};
use crate::upstream::{PoolSettings, UpstreamTls};

fn pool(settings: PoolSettings) -> (Arc<Pool>, Arc<Metrics>) {
    let metrics = Metrics::new().unwrap();
    (Pool::new(settings, &metrics).unwrap(), metrics)
}

fn is_up(pool: &Arc<Pool>) -> bool {
    pool.servers().iter().any(|server| server.is_up())
}

/// Waits until the condition holds; fails after ten seconds.
async fn until(condition: impl Fn() -> bool) {
    let held = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(Duration::from_secs(10), held).await.unwrap();
}

/// Answers each request with the status that is set just then.
async fn http_server() -> (SocketAddr, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = Arc::new(AtomicU16::new(200));
    let shown = status.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            if request.starts_with(b"GET /health?full HTTP/1.1\r\n") {
                let status = shown.load(Ordering::Relaxed);
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    (address, status)
}

fn http_settings(servers: &[SocketAddr]) -> PoolSettings {
    let mut settings = pool_settings(servers);
    settings.health.path = Some("/health?full".into());
    settings
}

#[tokio::test]
async fn a_server_that_answers_badly_goes_down_after_its_threshold_and_comes_back() {
    let (address, status) = http_server().await;
    let (pool, metrics) = pool(http_settings(&[address]));
    let series =
        |value: u8| format!("server_up{{server=\"{address}\",upstream=\"platform\"}} {value}\n");
    let shows = |value: u8| String::from_utf8(metrics.render()).unwrap().contains(&series(value));
    check_all(pool.servers()).await;
    assert!(is_up(&pool) && shows(1));
    for bad in [503, 301, 404] {
        status.store(bad, Ordering::Relaxed);
        check_all(pool.servers()).await;
        assert!(is_up(&pool), "one failure is not enough");
        check_all(pool.servers()).await;
        assert!(!is_up(&pool) && shows(0), "{bad}");
        status.store(204, Ordering::Relaxed);
        check_all(pool.servers()).await;
        assert!(is_up(&pool) && shows(1));
    }
}

#[tokio::test]
async fn checks_run_by_themselves_and_end_with_the_pool() {
    let (address, status) = http_server().await;
    let (pool, metrics) = pool(http_settings(&[address]));
    let task = pool.spawn_health(&Handle::current());
    status.store(500, Ordering::Relaxed);
    until(|| !is_up(&pool)).await;
    status.store(200, Ordering::Relaxed);
    until(|| is_up(&pool)).await;
    drop(pool);
    time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
    let text = String::from_utf8(metrics.render()).unwrap();
    assert!(!text.contains("portcullis_upstream_server_up{"));
}

#[tokio::test]
async fn without_a_path_a_connection_is_enough() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (pool, _) = pool(pool_settings(&[address]));
    check_all(pool.servers()).await;
    assert!(is_up(&pool));
    drop(listener);
    check_all(pool.servers()).await;
    check_all(pool.servers()).await;
    assert!(!is_up(&pool));
    let _listener = TcpListener::bind(address).await.unwrap();
    check_all(pool.servers()).await;
    assert!(is_up(&pool));
}

#[tokio::test]
async fn one_sick_server_leaves_the_others_in_use() {
    let (well, _) = http_server().await;
    let (sick, status) = http_server().await;
    status.store(500, Ordering::Relaxed);
    let (pool, _) = pool(http_settings(&[sick, well]));
    check_all(pool.servers()).await;
    check_all(pool.servers()).await;
    for _ in 0..4 {
        assert_eq!(pool.pick(&[]).unwrap().address(), well);
    }
}

#[tokio::test]
async fn a_silent_server_fails_its_check_when_the_time_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = http_settings(&[listener.local_addr().unwrap()]);
    settings.health.timeout = Duration::from_millis(20);
    settings.health.unhealthy_after = 1;
    let (pool, _) = pool(settings);
    check_all(pool.servers()).await;
    assert!(!is_up(&pool));
}

#[tokio::test]
async fn http_2_without_tls_is_checked_over_a_new_connection_each_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = http_settings(&[listener.local_addr().unwrap()]);
    settings.http2_cleartext = true;
    settings.health.unhealthy_after = 1;
    let connections = Arc::new(AtomicU16::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut answer))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/health");
                    answer.send_response(http::Response::new(()), true).unwrap();
                }
            });
        }
    });
    let (pool, _) = pool(settings);
    for round in 1..=3 {
        check_all(pool.servers()).await;
        assert!(is_up(&pool));
        assert_eq!(connections.load(Ordering::Relaxed), round);
    }
}

/// A TLS server that wants a client certificate of the CA and answers 200. It serves until the
/// test's process ends.
fn tls_server(server: (Vec<u8>, Vec<u8>), client_ca: &Authority) -> SocketAddr {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    acceptor.set_certificate(&X509::from_pem(&server.0).unwrap()).unwrap();
    acceptor.set_private_key(&PKey::private_key_from_pem(&server.1).unwrap()).unwrap();
    let mut store = X509StoreBuilder::new().unwrap();
    store.add_cert(X509::from_pem(&client_ca.pem()).unwrap()).unwrap();
    acceptor.set_verify_cert_store(store.build()).unwrap();
    acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let acceptor = acceptor.build();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let Ok(mut stream) = acceptor.accept(stream) else { continue };
            let mut buffer = [0; 4096];
            if stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    address
}

#[tokio::test]
async fn checks_over_tls_use_the_pools_ca_name_and_client_certificate() {
    let names = ["Platform CA", "Edge CA", "Stranger CA"];
    let [platform_ca, edge_ca, stranger] = names.map(Authority::new);
    let address = tls_server(platform_ca.issue("platform.internal", 7), &edge_ca);
    let good = UpstreamTls {
        server_name: "platform.internal".into(),
        ca_pem: Some(platform_ca.pem()),
        client: Some(edge_ca.issue("edge", 2)),
        verify: true,
        http2: false,
    };
    let wrong = [
        UpstreamTls { ca_pem: Some(stranger.pem()), ..good.clone() },
        UpstreamTls { ca_pem: None, ..good.clone() },
        UpstreamTls { server_name: "other.internal".into(), ..good.clone() },
        UpstreamTls { client: None, ..good.clone() },
        UpstreamTls { client: Some(stranger.issue("edge", 2)), ..good.clone() },
    ];
    let up_after_a_check = async |tls: UpstreamTls, path: Option<&str>| {
        let mut settings = pool_settings(&[address]);
        settings.tls = Some(tls);
        settings.health.path = path.map(str::to_owned);
        settings.health.unhealthy_after = 1;
        let (pool, _) = pool(settings);
        check_all(pool.servers()).await;
        is_up(&pool)
    };
    assert!(up_after_a_check(good.clone(), Some("/health")).await);
    assert!(up_after_a_check(good.clone(), None).await);
    let unverified = UpstreamTls { verify: false, ca_pem: None, ..good };
    assert!(up_after_a_check(unverified, Some("/health")).await);
    for (case, tls) in wrong.into_iter().enumerate() {
        assert!(!up_after_a_check(tls, Some("/health")).await, "case {case}");
    }
}

#[test]
fn jitter_stays_within_a_tenth() {
    for _ in 0..1_000 {
        let pause = jittered(Duration::from_secs(10));
        assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&pause));
    }
}
