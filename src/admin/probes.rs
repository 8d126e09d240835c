//! What monitors ask for: metrics, health, readiness. Without credentials, under any name.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use super::Admin;
use crate::listen::Edge;

/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

pub async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let edge = &admin.edge;
    edge.metrics.registry_up.set(edge.gate.registry().healthy().into());
    text(StatusCode::OK, METRICS_TYPE, edge.metrics.render())
}

pub async fn health() -> Response {
    text(StatusCode::OK, TEXT_TYPE, "ok\n")
}

pub async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    match unready(&admin.edge) {
        None if admin.edge.gate.registry().healthy() => text(StatusCode::OK, TEXT_TYPE, "ready\n"),
        // Still ready: a balancer that took every node out for a moment's trouble of their
        // database would refuse the devices that are served from memory.
        None => text(
            StatusCode::OK,
            TEXT_TYPE,
            "ready, but the device registry does not answer: first registrations and changes \
             wait for it\n",
        ),
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT_TYPE, format!("{reason}\n")),
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
    if !edge.gate.registry().fresh() {
        return Some(
            "the device registry has not been read for registry.max_staleness; devices are refused",
        );
    }
    None
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = (status, body.into()).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
