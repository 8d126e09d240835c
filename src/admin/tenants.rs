//! Which tenants there are, and how much each has.

use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::ask::{Ask, answer};
use super::error::ApiError;
use super::trusted;
use crate::names::TenantId;
use crate::tenant::TenantEntry;

const USUAL_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    id: String,
    state: &'static str,
    devices: u64,
    trusted_certificates: usize,
    revoked_serial_numbers: usize,
}

#[derive(Serialize)]
struct List {
    tenants: Vec<View>,
    #[serde(rename = "self")]
    this: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /edge/tenants`, by id.
pub async fn list(ask: Ask) -> Result<Response, ApiError> {
    let query: ListQuery = ask.query()?;
    let limit = query.limit.unwrap_or(USUAL_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::bad_request("limit is 1 to 1000."));
    }
    let after = query.after.as_deref().map(TenantId::parse).transpose();
    let after = after.map_err(|fault| ApiError::bad_request(format!("after: {fault}.")))?;
    let generation = ask.admin.edge.generation();
    let mut entries: Vec<TenantEntry> = generation
        .directory
        .entries()
        .filter(|entry| ask.principal().sees(entry.id()))
        .filter(|entry| after.as_ref().is_none_or(|after| entry.id() > after))
        .cloned()
        .collect();
    drop(generation);
    entries.sort_by(|a, b| a.id().cmp(b.id()));
    let more = entries.len() > limit;
    entries.truncate(limit);
    let mut tenants = Vec::with_capacity(entries.len());
    for entry in &entries {
        let id = entry.id();
        let state = ask.registry().tenant(id);
        tenants.push(View {
            id: id.to_string(),
            state: match entry {
                TenantEntry::Serviceable(_) => "SERVICEABLE",
                TenantEntry::Unavailable(_) => "UNAVAILABLE",
            },
            devices: ask.registry().known_devices(id),
            trusted_certificates: state.anchors.len() + trusted::file_anchor_count(entry),
            revoked_serial_numbers: state.revocations.len(),
        });
    }
    let link = |after: Option<&str>| {
        let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
        format!("{}?limit={limit}{after}", ask.path())
    };
    let next = entries.last().filter(|_| more).map(|last| link(Some(last.id().as_str())));
    let this = link(query.after.as_deref());
    Ok(answer(StatusCode::OK, &List { tenants, this, next }))
}
