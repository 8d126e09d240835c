//! The operators' port: metrics, health and readiness. Never reachable through a listener
//! of devices.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::listen::Edge;

/// A scrape, a probe and a few curious people.
const CONNECTIONS: usize = 64;
/// From connecting to the end of a request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// One connection in total: a scraper reconnects.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves the admin port until the process ends.
pub async fn serve(listener: TcpListener, edge: Arc<Edge>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(target: "portcullis::admin", %error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // A full port turns the newcomer away rather than make it wait.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let edge = edge.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&edge, &request);
                log(peer, &request, response.status());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(tcp), service);
            // A scraper that goes away early is no event.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(place);
        });
    }
}

fn answer(edge: &Edge, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n".into());
    }
    match request.uri().path() {
        "/metrics" => {
            edge.metrics.registry_up.set(edge.gate.devices().healthy().into());
            let mut response = text(StatusCode::OK, edge.metrics.render().into());
            let kind = http::HeaderValue::from_static(METRICS_TYPE);
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            response
        }
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match unready(edge) {
            None => text(StatusCode::OK, "ready\n".into()),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n").into()),
        },
        _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz and /readyz are here\n".into()),
    }
}

/// Why no traffic should be sent here.
fn unready(edge: &Edge) -> Option<&'static str> {
    if edge.draining() {
        return Some("draining");
    }
    if edge.generation().directory.serviceable().next().is_none() {
        return Some("no tenant can be served; `portcullis check` lists the faults");
    }
    if !edge.gate.devices().healthy() {
        return Some("the device registry does not answer");
    }
    None
}

fn text(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn log(peer: SocketAddr, request: &Request<Incoming>, status: StatusCode) {
    tracing::debug!(
        target: "portcullis::admin",
        %peer,
        path = ?request.uri().path(),
        status = status.as_u16(),
        "admin request"
    );
}
