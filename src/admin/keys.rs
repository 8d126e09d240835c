//! The edge's signing keys, which the server manages: what they are, and rotation by command.

use async_trait::async_trait;
use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::ask::{Ask, answer, no_content};
use super::body::{JSON_BYTES, json_or_nothing};
use super::error::ApiError;
use super::text;
use crate::clock::UnixSeconds;
use crate::registry::{Actor, RegistryError};
use crate::token::{Algorithm, KeyState};

/// Whoever holds the edge's keys.
#[async_trait]
pub trait KeyControl: Send + Sync {
    /// Every key of the edge as it is now, in any order.
    fn keys(&self) -> Vec<KeyInfo>;

    /// Publishes a new key, of `algorithm` or of each that is managed; it signs once verifiers
    /// have had the time to fetch it.
    ///
    /// # Errors
    /// Where keys are not managed here, or the registry does not answer.
    async fn rotate(
        &self,
        actor: &Actor,
        algorithm: Option<Algorithm>,
    ) -> Result<(), KeyControlFault>;

    /// Takes a key away at once: tokens that it signed are refused from now on. Where nothing
    /// else could sign then, keys that wait for their time go too, and a new one signs at once.
    ///
    /// # Errors
    /// As [`KeyControl::rotate`], and where the key is not there or, without `force`, is the one
    /// that signs.
    async fn delete(&self, actor: &Actor, kid: &str, force: bool) -> Result<(), KeyControlFault>;
}

/// A signing key, without any of its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    pub kid: String,
    pub algorithm: Algorithm,
    pub state: KeyState,
    /// `None`: a key of the configuration file, which is not managed here.
    pub published_at: Option<UnixSeconds>,
    pub sign_from: Option<UnixSeconds>,
    /// When it will no longer be published, where that is known.
    pub retires_at: Option<UnixSeconds>,
}

/// Why keys are not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyControlFault {
    #[error("the edge's keys come from files, not from the registry")]
    NotManaged,
    #[error("no key of this algorithm is managed")]
    AlgorithmNotManaged,
    #[error("there is no such key")]
    NotFound,
    #[error("the key signs now; rotate first")]
    Signing,
    #[error("a key was published a moment ago; it will sign soon")]
    JustRotated,
    #[error("a key could not be made")]
    Crypto,
    #[error("{0}")]
    NotMade(String),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl From<KeyControlFault> for ApiError {
    fn from(fault: KeyControlFault) -> ApiError {
        match fault {
            KeyControlFault::NotManaged => ApiError::conflict(
                "The edge's keys are those of the configuration file. To have them managed here, \
                 configure tokens.rotation.",
            ),
            KeyControlFault::AlgorithmNotManaged => {
                ApiError::unprocessable("No key of this algorithm is managed here.")
            }
            KeyControlFault::NotFound => ApiError::not_found("There is no such key."),
            KeyControlFault::Signing => ApiError::conflict(
                "This key signs now: rotate, and delete it when the new one signs. After a theft, \
                 delete all keys of its algorithm with ?force=true: a new one then signs at once.",
            ),
            KeyControlFault::JustRotated => {
                ApiError::conflict("A key was published a moment ago; it will sign soon.")
            }
            KeyControlFault::Crypto => ApiError::internal("A key could not be made."),
            KeyControlFault::NotMade(reason) => ApiError::conflict(reason),
            KeyControlFault::Registry(error) => error.into(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    kid: String,
    algorithm: &'static str,
    state: &'static str,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    published_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sign_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retires_at: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    algorithm: Option<AlgorithmName>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Delete {
    force: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum AlgorithmName {
    Es256,
    Rs256,
}

impl From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Algorithm {
        match name {
            AlgorithmName::Es256 => Algorithm::Es256,
            AlgorithmName::Rs256 => Algorithm::Rs256,
        }
    }
}

/// `GET /edge/signing-keys`.
pub async fn list(ask: Ask) -> Result<Response, ApiError> {
    Ok(answer(StatusCode::OK, &view(&ask)))
}

/// `POST /edge/signing-keys/rotate`.
pub async fn rotate(ask: Ask, request: Request) -> Result<Response, ApiError> {
    ask.principal().is_for_all_tenants()?;
    let rotate: Rotate = json_or_nothing(request, JSON_BYTES).await?;
    let algorithm = rotate.algorithm.map(Algorithm::from);
    ask.admin.keys.rotate(&ask.actor(), algorithm).await?;
    ask.log("key.rotate", algorithm.map_or("every algorithm", Algorithm::name));
    ask.in_force("key.rotate").await;
    Ok(answer(StatusCode::OK, &view(&ask)))
}

/// `DELETE /edge/signing-keys/{kid}`.
pub async fn delete(ask: Ask) -> Result<Response, ApiError> {
    ask.principal().is_for_all_tenants()?;
    let kid = ask.param("kid");
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if kid.len() > 64 || !kid.bytes().all(inner) {
        return Err(KeyControlFault::NotFound.into());
    }
    let Delete { force } = ask.query()?;
    ask.admin.keys.delete(&ask.actor(), kid, force).await?;
    ask.log("key.delete", kid);
    ask.in_force("key.delete").await;
    Ok(no_content())
}

fn view(ask: &Ask) -> serde_json::Value {
    let mut keys = ask.admin.keys.keys();
    keys.sort_by(|a, b| (b.published_at, &a.kid).cmp(&(a.published_at, &b.kid)));
    let keys: Vec<View> = keys
        .into_iter()
        .map(|key| View {
            source: if key.published_at.is_some() { "registry" } else { "file" },
            kid: key.kid,
            algorithm: key.algorithm.name(),
            state: match key.state {
                KeyState::Published => "PUBLISHED",
                KeyState::Signing => "SIGNING",
                KeyState::Retired => "RETIRED",
            },
            published_at: key.published_at.map(text::time),
            sign_from: key.sign_from.map(text::time),
            retires_at: key.retires_at.map(text::time),
        })
        .collect();
    serde_json::json!({ "keys": keys })
}
