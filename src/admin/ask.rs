//! One request whose principal is known: what it names, what it asks, what it changes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Admin;
use super::auth::Principal;
use super::error::{ApiError, quoted};
use crate::clock::UnixSeconds;
use crate::names::{DeviceId, TenantId};
use crate::registry::{Actor, Change, Outcome, Registry};
use crate::tenant::TenantEntry;

/// How long an answer waits for its change to be in force.
const IN_FORCE: Duration = Duration::from_secs(5);

/// A request past the guard.
pub struct Ask {
    pub admin: Arc<Admin>,
    principal: Principal,
    params: Vec<(String, String)>,
    uri: Uri,
}

impl FromRequestParts<Arc<Admin>> for Ask {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Ask, ApiError> {
        let principal =
            parts.extensions.get::<Principal>().cloned().ok_or_else(|| {
                ApiError::unauthorized("Send a token: `Authorization: Bearer …`.")
            })?;
        let Path(params) = Path::from_request_parts(parts, admin)
            .await
            .map_err(|_| ApiError::not_found("The path is not UTF-8."))?;
        Ok(Ask { admin: admin.clone(), principal, params, uri: parts.uri.clone() })
    }
}

impl Ask {
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    pub fn actor(&self) -> Actor {
        self.principal.actor()
    }

    pub fn registry(&self) -> &Registry {
        self.admin.edge.gate.registry()
    }

    pub fn now(&self) -> UnixSeconds {
        self.admin.edge.gate.clock().now()
    }

    /// A part of the path, decoded.
    pub fn param(&self, name: &str) -> &str {
        let found = self.params.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// The path as it was sent, without the query.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// # Errors
    /// 400, also for parameters that nobody reads: a typo must not go unnoticed.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        Query::try_from_uri(&self.uri).map(|Query(query)| query).map_err(|rejection| {
            let text = rejection.body_text();
            let reason = text.rsplit_once("string: ").map_or(text.as_str(), |(_, reason)| reason);
            ApiError::bad_request(format!("The query is not as expected: {}.", quoted(reason)))
        })
    }

    /// The tenant of the path.
    ///
    /// # Errors
    /// 404 where it is not there, or not for this principal.
    pub fn tenant(&self) -> Result<TenantId, ApiError> {
        self.visible(self.param("tenant")).map(|entry| entry.id().clone())
    }

    /// A tenant by its id, where this principal sees it.
    ///
    /// # Errors
    /// 404.
    pub fn visible(&self, id: &str) -> Result<TenantEntry, ApiError> {
        let id = TenantId::parse(id).map_err(|_| ApiError::no_such_tenant())?;
        let generation = self.admin.edge.generation();
        match generation.directory.by_id(&id) {
            Some(entry) if self.principal.sees(&id) => Ok(entry.clone()),
            _ => Err(ApiError::no_such_tenant()),
        }
    }

    /// The tenant that a request without one in its path is for: the credential's own, or
    /// `asked`, the query's.
    ///
    /// # Errors
    /// 404, or 400 where neither is there.
    pub fn implied_tenant(&self, asked: Option<&str>) -> Result<TenantId, ApiError> {
        let own = self.principal.tenant().map(TenantId::as_str);
        let id = asked.or(own).ok_or_else(|| {
            ApiError::bad_request(
                "This credential is not bound to one tenant: name one by `?tenant=…`.",
            )
        })?;
        self.visible(id).map(|entry| entry.id().clone())
    }

    /// The device of the path.
    ///
    /// # Errors
    /// 404 for what cannot be a device's id.
    pub fn device(&self) -> Result<DeviceId, ApiError> {
        DeviceId::parse(self.param("device")).map_err(|_| no_such_device())
    }

    /// Makes a change, and logs it. The outcome is `Done`, `Devices`, or `Existed`, where nothing
    /// has changed.
    ///
    /// # Errors
    /// 404 and `missing` where the thing is not there, 409 and `taken` where something is in
    /// the way, 422 for a limit, 503 where the registry does not answer.
    pub async fn apply(
        &self,
        what: &'static str,
        target: &str,
        change: Change,
        words: Words,
    ) -> Result<Outcome, ApiError> {
        let actor = self.actor();
        match self.registry().apply(&actor, change).await? {
            Outcome::NotFound => Err(ApiError::not_found(words.missing)),
            Outcome::Conflict { index } => Err((words.taken)(index)),
            Outcome::Limit(limit) => Err(ApiError::unprocessable(limit)),
            outcome => {
                if !matches!(outcome, Outcome::Existed) {
                    self.log(what, target);
                }
                self.in_force(what).await;
                Ok(outcome)
            }
        }
    }

    /// Waits until what is stored by now is in force here, so that whoever is answered finds it
    /// so. Other nodes follow.
    pub async fn in_force(&self, what: &'static str) {
        let version = *self.registry().changes().borrow();
        if !self.admin.edge.follows(version, IN_FORCE).await {
            tracing::warn!(
                target: "portcullis::admin",
                action = what,
                "a change is stored and not yet in force: many tenants are to be put together anew"
            );
        }
    }

    /// One event for each change.
    pub fn log(&self, what: &'static str, target: &str) {
        tracing::info!(
            target: "portcullis::admin",
            actor = self.principal.name(),
            peer = %self.principal.address(),
            action = what,
            subject = ?target,
            "changed"
        );
    }
}

/// What a change is answered with where it does not come to pass.
#[derive(Clone, Copy)]
pub struct Words {
    pub missing: &'static str,
    pub taken: fn(usize) -> ApiError,
}

impl Words {
    pub const fn missing(missing: &'static str) -> Words {
        Words { missing, taken: |_| ApiError::conflict("Something like it is there already.") }
    }
}

pub fn no_such_device() -> ApiError {
    ApiError::not_found(NO_SUCH_DEVICE)
}

pub const NO_SUCH_DEVICE: &str = "There is no such device.";

/// A JSON answer.
pub fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => {
            let mut response = Response::new(text.into());
            *response.status_mut() = status;
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(_) => ApiError::internal("The answer could not be written.").into_response(),
    }
}

/// A JSON answer to something new, which is found at `location`.
pub fn created(location: &str, body: &impl Serialize) -> Response {
    let mut response = answer(StatusCode::CREATED, body);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

pub fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
