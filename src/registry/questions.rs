//! The statements that answer operators.

use std::collections::HashMap;

use super::connection::{Connection, Row, Transaction, Value, rows_of};
use super::text::{device_id, from_hex, tenant_id};
use super::{
    AuditQuery, AuditRecord, DeviceQuery, DeviceRecord, DeviceStatus, MAX_PAGE, RegisteredBy,
    StoreFault,
};
use crate::names::{DeviceId, TenantId};

/// The columns of a device, for [`record`]. A macro, so that each statement is one literal.
macro_rules! device_where {
    ($($condition:literal),*) => {
        concat!(
            "SELECT device_id, status, registered_by, registered_at, changed_at, leaf_sha256,
                    anchor_sha256, device_type, name
             FROM devices WHERE ",
            $($condition),*
        )
    };
}

/// A page between two ids. The status stands in the text: only so can an engine see that the
/// index of the blocked ones holds all that is asked for.
macro_rules! page_where {
    ($status:literal) => {
        device_where!(
            "tenant = $1 AND device_id >= $2 AND device_id < $3 ",
            $status,
            " ORDER BY device_id LIMIT $4"
        )
    };
}

pub(super) const PAGE: &str = page_where!("");
pub(super) const PAGE_OF_ACTIVE: &str = page_where!("AND status = 'active'");
pub(super) const PAGE_OF_BLOCKED: &str = page_where!("AND status = 'blocked'");

macro_rules! audit_where {
    ($condition:literal) => {
        concat!(
            "SELECT id, at, actor, tenant, action, target, detail FROM audit WHERE ",
            $condition,
            " ORDER BY id DESC LIMIT $2"
        )
    };
}

pub(super) const AUDIT: &str = audit_where!("id < $1");
pub(super) const AUDIT_OF_TENANT: &str = audit_where!("tenant = $3 AND id < $1");

pub(super) async fn devices(
    connection: &mut Connection,
    query: &DeviceQuery,
) -> Result<Vec<DeviceRecord>, StoreFault> {
    let prefix = query.id_prefix.as_deref().unwrap_or_default();
    // What is no id begins none.
    if !prefix.is_empty() && DeviceId::parse(prefix).is_err() {
        return Ok(Vec::new());
    }
    // One search in an index from one bound to the other, not LIKE: nothing in a prefix is a
    // wildcard. An id holds neither of the two control characters: the first sorts before, the
    // second behind all that an id may go on with.
    let behind = query.after.as_ref().map(|after| format!("{after}\u{1}")).unwrap_or_default();
    let (from, to) = (behind.as_str().max(prefix), format!("{prefix}\u{7f}"));
    let values: [Value<'_>; 4] = [
        query.tenant.as_str().into(),
        from.into(),
        (&to).into(),
        i64::from(query.limit.min(MAX_PAGE)).into(),
    ];
    let sql = match query.status {
        None => PAGE,
        Some(DeviceStatus::Active) => PAGE_OF_ACTIVE,
        Some(DeviceStatus::Blocked) => PAGE_OF_BLOCKED,
    };
    let mut snapshot = connection.snapshot().await?;
    let rows = snapshot.rows(sql, &values).await?;
    let records = with_pins(&mut snapshot, &query.tenant, &rows).await?;
    snapshot.rollback().await?;
    Ok(records)
}

pub(super) async fn device(
    connection: &mut Connection,
    tenant: &TenantId,
    device: &DeviceId,
) -> Result<Option<DeviceRecord>, StoreFault> {
    let mut snapshot = connection.snapshot().await?;
    let sql = device_where!("tenant = $1 AND device_id = $2");
    let rows = snapshot.rows(sql, &[tenant.as_str().into(), device.as_str().into()]).await?;
    let records = with_pins(&mut snapshot, tenant, &rows).await?;
    snapshot.rollback().await?;
    Ok(records.into_iter().next())
}

pub(super) async fn device_count(
    connection: &mut Connection,
    tenant: &TenantId,
) -> Result<u64, StoreFault> {
    let sql = "SELECT COUNT(*) FROM devices WHERE tenant = $1";
    let rows = connection.rows(sql, &[tenant.as_str().into()]).await?;
    let count: i64 = rows.first().map_or(Ok(0), |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

pub(super) async fn audit(
    connection: &mut Connection,
    query: &AuditQuery,
) -> Result<Vec<AuditRecord>, StoreFault> {
    let before = Value::from(query.before.unwrap_or(i64::MAX));
    let limit = Value::from(i64::from(query.limit.min(MAX_PAGE)));
    let rows = match &query.tenant {
        None => connection.rows(AUDIT, &[before, limit]).await?,
        Some(tenant) => {
            connection.rows(AUDIT_OF_TENANT, &[before, limit, tenant.as_str().into()]).await?
        }
    };
    rows.iter()
        .map(|row| {
            Ok(AuditRecord {
                id: row.get(0)?,
                at: row.get(1)?,
                actor: row.get(2)?,
                tenant: row.get::<Option<&str>>(3)?.map(tenant_id).transpose()?,
                action: row.get(4)?,
                target: row.get(5)?,
                detail: row.get(6)?,
            })
        })
        .collect()
}

async fn with_pins(
    snapshot: &mut Transaction<'_>,
    tenant: &TenantId,
    rows: &[Row],
) -> Result<Vec<DeviceRecord>, StoreFault> {
    let mut records: Vec<_> = rows.iter().map(record).collect::<Result<_, _>>()?;
    if records.is_empty() {
        return Ok(records);
    }
    let sql = format!(
        "SELECT device_id, leaf_sha256 FROM pins
         WHERE tenant = $1 AND device_id IN (VALUES {}) ORDER BY leaf_sha256",
        rows_of(records.len(), 1, 2)
    );
    let mut values: Vec<Value<'_>> = vec![tenant.as_str().into()];
    values.extend(records.iter().map(|record| Value::from(record.device.as_str())));
    let mut pins: HashMap<String, Vec<[u8; 32]>> = HashMap::new();
    for row in snapshot.rows(sql, &values).await? {
        pins.entry(row.get(0)?).or_default().push(from_hex(row.get(1)?)?);
    }
    for record in &mut records {
        record.pins = pins.remove(record.device.as_str()).unwrap_or_default();
    }
    Ok(records)
}

fn record(row: &Row) -> Result<DeviceRecord, StoreFault> {
    Ok(DeviceRecord {
        device: device_id(row.get(0)?)?,
        status: DeviceStatus::parse(row.get(1)?)?,
        registered_by: RegisteredBy::parse(row.get(2)?)?,
        registered_at: row.get(3)?,
        changed_at: row.get(4)?,
        leaf_sha256: row.get::<Option<&str>>(5)?.map(from_hex).transpose()?,
        anchor_sha256: row.get::<Option<&str>>(6)?.map(from_hex).transpose()?,
        device_type: row.get(7)?,
        name: row.get(8)?,
        pins: Vec::new(),
    })
}
