//! Proof of possession: who uploads a CA shows that its private key is at hand, by signing a
//! code (`openssl dgst -sha256 -sign ca.key`).

use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use boring::rand::rand_bytes;
use serde::Deserialize;

use super::ask::{Ask, Words};
use super::body::{JSON_BYTES, json};
use super::certificates::{shown, target, uploaded};
use super::error::ApiError;
use super::trusted;
use crate::names::TenantId;
use crate::registry::{Change, PossessionStep};

/// How long a code may be used, in seconds.
const CODE_LIFE: i64 = 24 * 3600;
const CODE_BYTES: usize = 32;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Signed {
    proof_of_possession_signed_verification_code: String,
}

/// A new code: `POST …/verification-code`.
pub async fn code(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let record = uploaded(&ask, &tenant)?;
    let mut random = [0; CODE_BYTES];
    rand_bytes(&mut random).map_err(|_| ApiError::internal("The machine gives no randomness."))?;
    let step = PossessionStep::NewCode {
        code: URL_SAFE_NO_PAD.encode(random),
        usable_until: ask.now().saturating_add(CODE_LIFE),
    };
    set(&ask, &tenant, record.sha256, step, "possession.code").await
}

/// The signed code: `POST …/pop`.
pub async fn prove(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let signed: Signed = json(request, JSON_BYTES).await?;
    let record = uploaded(&ask, &tenant)?;
    let usable = record.possession.usable_until >= ask.now();
    let Some(code) = record.possession.code.clone().filter(|_| usable) else {
        return Err(ApiError::bad_request(
            "There is no code to sign, or its day is over: ask for a new one by POST to \
             …/verification-code.",
        ));
    };
    let text: Vec<u8> = signed
        .proof_of_possession_signed_verification_code
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    let signature = STANDARD
        .decode(text)
        .map_err(|_| ApiError::bad_request("The signed code is not base64."))?;
    let (sha256, der) = (record.sha256, record.der.clone());
    let proven =
        ask.admin.work(move || trusted::verify_possession(&der, &code, &signature)).await?;
    if !proven {
        return Err(ApiError::bad_request(
            "The signature is not this certificate's over the code. Sign the code alone, without \
             a line end: printf %s CODE | openssl dgst -sha256 -sign ca.key | base64 -w0",
        ));
    }
    set(&ask, &tenant, sha256, PossessionStep::Signed, "possession.prove").await
}

/// By word of an operator of all tenants: `POST …/confirmed`.
pub async fn confirm(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    ask.principal().is_for_all_tenants()?;
    let sha256 = uploaded(&ask, &tenant)?.sha256;
    set(&ask, &tenant, sha256, PossessionStep::Vouched, "possession.confirm").await
}

async fn set(
    ask: &Ask,
    tenant: &TenantId,
    sha256: [u8; 32],
    step: PossessionStep,
    what: &'static str,
) -> Result<Response, ApiError> {
    let change = Change::SetPossession { tenant: tenant.clone(), sha256, step };
    let words = Words::missing("There is no such trusted certificate.");
    ask.apply(what, &target(tenant, &sha256), change, words).await?;
    shown(ask, tenant)
}
