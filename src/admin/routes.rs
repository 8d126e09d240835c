//! Every path of the port, and what stands before all of them: who asks, and under what name.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, StatusCode};

use super::ask::Ask;
use super::auth::Peer;
use super::connection::Session;
use super::error::ApiError;
use super::{
    Admin, audit, bulk, certificates, crl, devices, host, keys, options, possession, probes,
    tenants,
};

const OPENAPI: &str = include_str!("openapi.json");

macro_rules! paths {
    ($($constant:ident $path:literal $label:literal),* $(,)?) => {
        $(pub(super) const $constant: &str = $path;)*
        /// Every path with its name in the metrics.
        pub(super) const PATHS: &[(&str, &str)] = &[$(($path, $label)),*];
    };
}

paths! {
    METRICS "/metrics" "metrics",
    HEALTHZ "/healthz" "healthz",
    READYZ "/readyz" "readyz",
    DESCRIPTION "/openapi.json" "openapi",
    CERTIFICATES "/tenant/tenants/{tenant}/trusted-certificates" "certificates",
    CERTIFICATES_BULK "/tenant/tenants/{tenant}/trusted-certificates/bulk" "certificates_bulk",
    CERTIFICATE "/tenant/tenants/{tenant}/trusted-certificates/{fingerprint}" "certificate",
    POP_CODE "/tenant/tenants/{tenant}/trusted-certificates-pop/{fingerprint}/verification-code"
        "possession_code",
    POP "/tenant/tenants/{tenant}/trusted-certificates-pop/{fingerprint}/pop" "possession",
    POP_CONFIRMED "/tenant/tenants/{tenant}/trusted-certificates-pop/{fingerprint}/confirmed"
        "possession_confirmed",
    CRL "/tenant/tenants/{tenant}/trusted-certificates/settings/crl" "crl",
    CRL_IMPLIED "/tenant/trusted-certificates/settings/crl" "crl_implied",
    DEVICES "/tenant/tenants/{tenant}/devices" "devices",
    DEVICE "/tenant/tenants/{tenant}/devices/{device}" "device",
    PINS "/tenant/tenants/{tenant}/devices/{device}/pins" "pins",
    PIN "/tenant/tenants/{tenant}/devices/{device}/pins/{sha256}" "pin",
    OPTIONS "/tenant/tenants/{tenant}/options" "options",
    OPTION "/tenant/tenants/{tenant}/options/{category}/{key}" "option",
    DEVICES_BULK "/devicecontrol/bulkNewDeviceRequests" "devices_bulk",
    DEVICES_ONE "/devicecontrol/newDeviceRequests" "devices_one",
    TENANTS "/edge/tenants" "tenants",
    AUDIT "/edge/audit" "audit",
    KEYS "/edge/signing-keys" "keys",
    KEYS_ROTATE "/edge/signing-keys/rotate" "keys_rotate",
    KEY "/edge/signing-keys/{kid}" "key",
}

/// The name in the metrics of what is no path of ours.
const NO_PATH: &str = "none";

/// The whole port. Requests carry a [`Peer`] among their extensions.
pub fn router(admin: Arc<Admin>) -> Router {
    let probes = Router::new()
        .route(METRICS, get(probes::metrics))
        .route(HEALTHZ, get(probes::health))
        .route(READYZ, get(probes::ready))
        .method_not_allowed_fallback(method_not_allowed);
    let api = Router::new()
        .route(DESCRIPTION, get(description))
        .route(CERTIFICATES, get(certificates::list).post(certificates::create))
        .route(CERTIFICATES_BULK, post(certificates::create_many))
        .route(
            CERTIFICATE,
            get(certificates::read).put(certificates::update).delete(certificates::delete),
        )
        .route(POP_CODE, post(possession::code))
        .route(POP, post(possession::prove))
        .route(POP_CONFIRMED, post(possession::confirm))
        .route(CRL, get(crl::read).put(crl::update))
        .route(CRL_IMPLIED, get(crl::read_implied).put(crl::update_implied))
        .route(DEVICES, get(devices::list))
        .route(DEVICE, get(devices::read).put(devices::update).delete(devices::delete))
        .route(PINS, post(devices::pin))
        .route(PIN, delete(devices::unpin))
        .route(OPTIONS, get(options::list))
        .route(OPTION, get(options::read).merge(put(options::update).delete(options::delete)))
        .route(DEVICES_BULK, post(bulk::register))
        .route(DEVICES_ONE, post(devices::register_one))
        .route(TENANTS, get(tenants::list))
        .route(AUDIT, get(audit::list))
        .route(KEYS, get(keys::list))
        .route(KEYS_ROTATE, post(keys::rotate))
        .route(KEY, delete(keys::delete))
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        // Each handler bounds its own body.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(admin.clone(), guard));
    probes.merge(api).layer(from_fn_with_state(admin.clone(), observe)).with_state(admin)
}

/// Nothing of the API is reached past this by anybody who is not known.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    match admit(&admin, request) {
        Ok(request) => {
            let session = request.extensions().get::<Session>().cloned();
            let bulk = matched(&request) == DEVICES_BULK;
            let _busy = session.map(|session| session.serving(bulk));
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn admit(admin: &Admin, mut request: Request) -> Result<Request, ApiError> {
    let peer = request
        .extensions()
        .get::<Peer>()
        .cloned()
        .ok_or_else(|| ApiError::internal("The connection has no peer."))?;
    host::check(request.headers(), request.uri(), peer.tls, &admin.hosts)?;
    let principal = admin.auth.authenticate(request.headers(), &peer)?;
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    // Of a path that is not there, or a method that it does not have, everybody may know.
    let there = matched(&request) != NO_PATH;
    if !reads && there {
        principal.may_change()?;
    }
    request.extensions_mut().insert(principal);
    Ok(request)
}

/// Counts and logs; no answer of the API is kept anywhere, or taken for anything but its type.
async fn observe(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let path = matched(&request).to_owned();
    let label = PATHS.iter().find(|(known, _)| *known == path).map_or(NO_PATH, |(_, label)| label);
    let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
    let method = request.method().clone();
    let mut response = next.run(request).await;
    let status = response.status();
    admin.edge.metrics.admin_request(label, status.as_u16());
    tracing::debug!(
        target: "portcullis::admin",
        ?peer,
        %method,
        route = label,
        status = status.as_u16(),
        "admin request"
    );
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn matched(request: &Request) -> &str {
    request.extensions().get::<MatchedPath>().map_or(NO_PATH, MatchedPath::as_str)
}

async fn description(_ask: Ask) -> Response {
    let kind = HeaderValue::from_static("application/json");
    let mut response = (StatusCode::OK, OPENAPI).into_response();
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn no_such_path() -> ApiError {
    ApiError::not_found("There is nothing under this path.")
}

async fn method_not_allowed() -> ApiError {
    ApiError::method_not_allowed()
}
