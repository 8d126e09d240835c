//! Who changed what, newest first.

use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::ask::{Ask, answer};
use super::error::ApiError;
use super::text;
use crate::names::TenantId;
use crate::registry::{AuditQuery, AuditRecord, MAX_PAGE};

const USUAL_PAGE: u32 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    tenant: Option<String>,
    before: Option<i64>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct View {
    id: i64,
    time: String,
    actor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    action: String,
    target: String,
    detail: String,
}

#[derive(Serialize)]
struct List {
    records: Vec<View>,
    #[serde(rename = "self")]
    this: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /edge/audit`. A principal that is bound to a tenant reads that tenant's alone.
pub async fn list(ask: Ask) -> Result<Response, ApiError> {
    let query: ListQuery = ask.query()?;
    let limit = query.limit.unwrap_or(USUAL_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::bad_request("limit is 1 to 1000."));
    }
    if query.before.is_some_and(|before| before < 1) {
        return Err(ApiError::bad_request("before is the id of a record, from 1."));
    }
    let tenant = match (query.tenant.as_deref(), ask.principal().tenant()) {
        // Not held against the directory: a tenant that is gone has its records still.
        (Some(named), own) => {
            let named = TenantId::parse(named).map_err(|_| ApiError::no_such_tenant())?;
            if own.is_some_and(|own| *own != named) {
                return Err(ApiError::no_such_tenant());
            }
            Some(named)
        }
        (None, own) => own.cloned(),
    };
    let asked = AuditQuery { tenant, before: query.before, limit };
    let found = ask.registry().audit(asked).await?;
    let link = |before: Option<i64>| {
        let mut link = format!("{}?limit={limit}", ask.path());
        if let Some(tenant) = &query.tenant {
            link.push_str(&format!("&tenant={tenant}"));
        }
        if let Some(before) = before {
            link.push_str(&format!("&before={before}"));
        }
        link
    };
    let full = found.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = found.last().filter(|_| full).map(|last| link(Some(last.id)));
    let this = link(query.before);
    let records = found.into_iter().map(View::from).collect();
    Ok(answer(StatusCode::OK, &List { records, this, next }))
}

impl From<AuditRecord> for View {
    fn from(record: AuditRecord) -> View {
        View {
            id: record.id,
            time: text::time(record.at),
            actor: record.actor,
            tenant: record.tenant.map(|tenant| tenant.to_string()),
            action: record.action,
            target: record.target,
            detail: record.detail,
        }
    }
}
