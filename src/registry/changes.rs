//! The statements that write. Each change is one transaction, which takes the next version
//! first, and ends undone unless it has changed something.

use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::audit::Entry;
use super::connection::{Connection, Transaction, Value, rows_of};
use super::text::{option_name, to_hex};
use super::{
    AUDIT_KEPT, Actor, AnchorRecord, Change, DeviceOutcome, DeviceStatus, KeyRow, MAX_ANCHORS,
    MAX_OPTIONS, MAX_PINS, MAX_REVOCATIONS, MAX_SIGNING_KEYS, Outcome, PossessionStep, Registered,
    RegisteredBy, Registration, StoreFault,
};
use crate::clock::UnixSeconds;
use crate::names::{DeviceId, TenantId};

/// How long a deletion is told to nodes that were away; after that they load everything.
const DELETIONS_KEPT: i64 = 24 * 60 * 60;

/// The most rows of the audit trail that one change removes.
const AUDIT_PRUNED: i64 = 1000;

/// Rows of one INSERT: SQLite takes 32,766 values in one statement.
const ROWS: usize = 1000;

/// The channel by which PostgreSQL tells the other nodes of a new version.
pub(super) const CHANNEL: &str = "portcullis_registry";

/// A transaction that writes, and its version.
struct Writing<'c> {
    inside: Transaction<'c>,
    version: i64,
    at: UnixSeconds,
}

/// Gives what became of each device, and the version before, which is the present one where
/// nothing was written.
pub(super) async fn register(
    connection: &mut Connection,
    devices: &[Registration],
) -> Result<(Vec<Registered>, i64), StoreFault> {
    let mut writing = Writing::begin(connection, 0).await?;
    let created = writing.insert_devices(devices).await?;
    let there = devices.iter().zip(&created).filter(|(_, created)| !**created);
    let there: Vec<_> = there.map(|(device, _)| device).collect();
    let statuses = writing.statuses(&there).await?;
    let mut outcomes = Vec::with_capacity(devices.len());
    for (device, created) in devices.iter().zip(&created) {
        let place = (device.tenant.as_str().to_owned(), device.device.as_str().to_owned());
        let status = match created {
            true => DeviceStatus::Active,
            false => *statuses.get(&place).ok_or(StoreFault::Row("less than was inserted"))?,
        };
        outcomes.push(Registered { status, created: *created });
    }
    let before = writing.version - 1;
    if created.contains(&true) {
        writing.commit().await?;
    } else {
        writing.inside.rollback().await?;
    }
    Ok((outcomes, before))
}

pub(super) async fn apply(
    connection: &mut Connection,
    actor: &Actor,
    at: UnixSeconds,
    change: &Change,
) -> Result<Outcome, StoreFault> {
    let mut writing = Writing::begin(connection, at).await?;
    let outcome = writing.change(change).await?;
    let changed = match &outcome {
        Outcome::Done => true,
        Outcome::Devices(devices) => devices.contains(&DeviceOutcome::Created),
        _ => false,
    };
    if !changed {
        writing.inside.rollback().await?;
        return Ok(outcome);
    }
    writing.audit(actor, &Entry::of(change, &outcome)).await?;
    writing.commit().await?;
    Ok(outcome)
}

pub(super) async fn probe(connection: &mut Connection) -> Result<(), StoreFault> {
    connection.execute("UPDATE write_probe SET writes = writes + 1", &[]).await?;
    Ok(())
}

impl Writing<'_> {
    async fn begin(
        connection: &mut Connection,
        at: UnixSeconds,
    ) -> Result<Writing<'_>, StoreFault> {
        let mut inside = connection.begin().await?;
        let rows = inside
            .rows("UPDATE registry_version SET version = version + 1 RETURNING version", &[])
            .await?;
        let [row] = &rows[..] else { return Err(StoreFault::Row("no version, or several")) };
        let version = row.get(0)?;
        Ok(Writing { inside, version, at })
    }

    async fn commit(mut self) -> Result<(), StoreFault> {
        if let Transaction::Postgres(_) = self.inside {
            // Delivered with the commit.
            let version = self.version.to_string();
            let values: [Value<'_>; 2] = [CHANNEL.into(), (&version).into()];
            self.inside.rows("SELECT pg_notify($1, $2)", &values).await?;
        }
        self.inside.commit().await
    }

    async fn change(&mut self, change: &Change) -> Result<Outcome, StoreFault> {
        match change {
            Change::RegisterDevices { devices, .. } => {
                let created = self.insert_devices(devices).await?;
                let outcome = |created| match created {
                    true => DeviceOutcome::Created,
                    false => DeviceOutcome::Existed,
                };
                Ok(Outcome::Devices(created.into_iter().map(outcome).collect()))
            }
            Change::SetDeviceStatus { tenant, device, status } => {
                let sql = "UPDATE devices SET status = $3, changed_at = $4, version = $5
                           WHERE tenant = $1 AND device_id = $2";
                let values: [Value<'_>; 5] = [
                    tenant.as_str().into(),
                    device.as_str().into(),
                    status.as_str().into(),
                    self.at.into(),
                    self.version.into(),
                ];
                found(self.inside.execute(sql, &values).await?)
            }
            Change::DeleteDevice { tenant, device } => self.delete_device(tenant, device).await,
            Change::PinCertificate { tenant, device, leaf_sha256 } => {
                self.pin(tenant, device, &to_hex(leaf_sha256)).await
            }
            Change::UnpinCertificate { tenant, device, leaf_sha256 } => {
                let pin = to_hex(leaf_sha256);
                let sql = "DELETE FROM pins
                           WHERE tenant = $1 AND leaf_sha256 = $2 AND device_id = $3";
                let values: [Value<'_>; 3] =
                    [tenant.as_str().into(), (&pin).into(), device.as_str().into()];
                let deleted = self.inside.execute(sql, &values).await?;
                self.deleted(deleted, "pin", tenant.as_str(), &pin).await
            }
            Change::AddAnchors { tenant, anchors } => self.add_anchors(tenant, anchors).await,
            Change::UpdateAnchor { tenant, sha256, name, status, auto_registration, identity } => {
                let sql = "UPDATE anchors SET name = COALESCE($3, name),
                               status = COALESCE($4, status),
                               auto_registration = COALESCE($5, auto_registration),
                               identity = COALESCE($6, identity), changed_at = $7, version = $8
                           WHERE tenant = $1 AND sha256 = $2";
                let sha256 = to_hex(sha256);
                let values: [Value<'_>; 8] = [
                    tenant.as_str().into(),
                    (&sha256).into(),
                    Value::Text(name.as_deref()),
                    Value::Text(status.map(|status| status.as_str())),
                    Value::Int(auto_registration.map(i64::from)),
                    Value::Text(identity.as_deref()),
                    self.at.into(),
                    self.version.into(),
                ];
                found(self.inside.execute(sql, &values).await?)
            }
            Change::DeleteAnchor { tenant, sha256 } => {
                let sha256 = to_hex(sha256);
                let sql = "DELETE FROM anchors WHERE tenant = $1 AND sha256 = $2";
                let values: [Value<'_>; 2] = [tenant.as_str().into(), (&sha256).into()];
                let deleted = self.inside.execute(sql, &values).await?;
                self.deleted(deleted, "anchor", tenant.as_str(), &sha256).await
            }
            Change::SetPossession { tenant, sha256, step } => {
                let (confirmed, code, usable_until) = match step {
                    PossessionStep::NewCode { code, usable_until } => {
                        (None, Some(code.as_str()), *usable_until)
                    }
                    PossessionStep::Signed | PossessionStep::Vouched => (Some(1), None, 0),
                };
                let sql = "UPDATE anchors
                           SET possession_confirmed = COALESCE($3, possession_confirmed),
                               possession_code = $4, possession_until = $5, version = $6
                           WHERE tenant = $1 AND sha256 = $2";
                let sha256 = to_hex(sha256);
                let values: [Value<'_>; 6] = [
                    tenant.as_str().into(),
                    (&sha256).into(),
                    Value::Int(confirmed),
                    Value::Text(code),
                    usable_until.into(),
                    self.version.into(),
                ];
                found(self.inside.execute(sql, &values).await?)
            }
            Change::AddRevocations { tenant, serials } => self.revoke(tenant, serials).await,
            Change::SetOption { tenant, category, key, value } => {
                self.set_option(tenant, category, key, value.as_deref()).await
            }
            Change::AddSigningKey { row, unless_published_since } => {
                self.add_key(row, *unless_published_since).await
            }
            Change::DeleteSigningKeys { kids } => {
                let mut outcome = Outcome::NotFound;
                for kid in kids.iter().collect::<HashSet<_>>() {
                    let sql = "DELETE FROM signing_keys WHERE kid = $1";
                    let deleted = self.inside.execute(sql, &[kid.into()]).await?;
                    if self.deleted(deleted, "signing_key", "", kid).await? == Outcome::Done {
                        outcome = Outcome::Done;
                    }
                }
                Ok(outcome)
            }
        }
    }

    /// Which of them were not there.
    async fn insert_devices(&mut self, devices: &[Registration]) -> Result<Vec<bool>, StoreFault> {
        let mut created = HashSet::new();
        for devices in devices.chunks(ROWS) {
            let digests: Vec<_> = devices
                .iter()
                .map(|device| {
                    (
                        device.leaf_sha256.as_ref().map(to_hex),
                        device.anchor_sha256.as_ref().map(to_hex),
                    )
                })
                .collect();
            let mut values: Vec<Value<'_>> = Vec::with_capacity(devices.len() * 11);
            for (device, (leaf, anchor)) in devices.iter().zip(&digests) {
                values.extend([
                    device.tenant.as_str().into(),
                    device.device.as_str().into(),
                    DeviceStatus::Active.as_str().into(),
                    device.registered_by.as_str().into(),
                    device.at.into(),
                    device.at.into(),
                    Value::Text(leaf.as_deref()),
                    Value::Text(anchor.as_deref()),
                    Value::Text(device.device_type.as_deref()),
                    Value::Text(device.name.as_deref()),
                    Value::from(self.version),
                ]);
            }
            let sql = format!(
                "INSERT INTO devices (tenant, device_id, status, registered_by, registered_at,
                     changed_at, leaf_sha256, anchor_sha256, device_type, name, version)
                 VALUES {} ON CONFLICT (tenant, device_id) DO NOTHING
                 RETURNING tenant, device_id",
                rows_of(devices.len(), 11, 1)
            );
            for row in self.inside.rows(sql, &values).await? {
                created.insert((row.get::<String>(0)?, row.get::<String>(1)?));
            }
        }
        // Where a device stands twice, the first one was created.
        let created = devices.iter().map(|device| {
            created.remove(&(device.tenant.as_str().to_owned(), device.device.as_str().to_owned()))
        });
        Ok(created.collect())
    }

    async fn statuses(
        &mut self,
        devices: &[&Registration],
    ) -> Result<BTreeMap<(String, String), DeviceStatus>, StoreFault> {
        let mut statuses = BTreeMap::new();
        for devices in devices.chunks(ROWS) {
            let values: Vec<Value<'_>> = devices
                .iter()
                .flat_map(|device| [device.tenant.as_str().into(), device.device.as_str().into()])
                .collect();
            let sql = format!(
                "SELECT tenant, device_id, status FROM devices
                 WHERE (tenant, device_id) IN (VALUES {})",
                rows_of(devices.len(), 2, 1)
            );
            for row in self.inside.rows(sql, &values).await? {
                statuses.insert((row.get(0)?, row.get(1)?), DeviceStatus::parse(row.get(2)?)?);
            }
        }
        Ok(statuses)
    }

    async fn delete_device(
        &mut self,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Outcome, StoreFault> {
        let place: [Value<'_>; 2] = [tenant.as_str().into(), device.as_str().into()];
        let pins = self
            .inside
            .rows("SELECT leaf_sha256 FROM pins WHERE tenant = $1 AND device_id = $2", &place)
            .await?;
        for row in &pins {
            self.tell_deletion("pin", tenant.as_str(), row.get(0)?).await?;
        }
        let sql = "DELETE FROM pins WHERE tenant = $1 AND device_id = $2";
        self.inside.execute(sql, &place).await?;
        let sql = "DELETE FROM devices WHERE tenant = $1 AND device_id = $2";
        let deleted = self.inside.execute(sql, &place).await?;
        self.deleted(deleted, "device", tenant.as_str(), device.as_str()).await
    }

    async fn pin(
        &mut self,
        tenant: &TenantId,
        device: &DeviceId,
        pin: &str,
    ) -> Result<Outcome, StoreFault> {
        let sql = "SELECT device_id FROM pins WHERE tenant = $1 AND leaf_sha256 = $2";
        let owners = self.inside.rows(sql, &[tenant.as_str().into(), pin.into()]).await?;
        if let Some(owner) = owners.first() {
            return Ok(match owner.get::<&str>(0)? == device.as_str() {
                true => Outcome::Existed,
                false => Outcome::Conflict { index: 0 },
            });
        }
        let place: [Value<'_>; 2] = [tenant.as_str().into(), device.as_str().into()];
        let sql = "SELECT COUNT(*) FROM pins WHERE tenant = $1 AND device_id = $2";
        if self.number(sql, &place).await? >= MAX_PINS {
            return Ok(Outcome::Limit("a device has at most 16 pins"));
        }
        let registration = Registration {
            tenant: tenant.clone(),
            device: device.clone(),
            registered_by: RegisteredBy::Manual,
            at: self.at,
            leaf_sha256: None,
            anchor_sha256: None,
            device_type: None,
            name: None,
        };
        self.insert_devices(&[registration]).await?;
        let sql = "INSERT INTO pins (tenant, device_id, leaf_sha256, version)
                   VALUES ($1, $2, $3, $4)";
        let [tenant, device] = place;
        self.inside.execute(sql, &[tenant, device, pin.into(), self.version.into()]).await?;
        Ok(Outcome::Done)
    }

    async fn add_anchors(
        &mut self,
        tenant: &TenantId,
        anchors: &[AnchorRecord],
    ) -> Result<Outcome, StoreFault> {
        let mut seen = HashSet::new();
        if let Some(index) = anchors.iter().position(|anchor| !seen.insert(anchor.sha256)) {
            return Ok(Outcome::Conflict { index });
        }
        let mut created = HashSet::new();
        for anchors in anchors.chunks(ROWS) {
            let texts: Vec<_> = anchors
                .iter()
                .map(|anchor| (to_hex(&anchor.sha256), STANDARD.encode(&anchor.der)))
                .collect();
            let mut values: Vec<Value<'_>> = Vec::with_capacity(anchors.len() * 13);
            for (anchor, (sha256, der)) in anchors.iter().zip(&texts) {
                values.extend([
                    tenant.as_str().into(),
                    sha256.into(),
                    der.into(),
                    (&anchor.name).into(),
                    anchor.status.as_str().into(),
                    anchor.auto_registration.into(),
                    (&anchor.identity).into(),
                    anchor.added_at.into(),
                    anchor.changed_at.into(),
                    anchor.possession.confirmed.into(),
                    Value::Text(anchor.possession.code.as_deref()),
                    anchor.possession.usable_until.into(),
                    Value::from(self.version),
                ]);
            }
            let sql = format!(
                "INSERT INTO anchors (tenant, sha256, der, name, status, auto_registration,
                     identity, added_at, changed_at, possession_confirmed, possession_code,
                     possession_until, version)
                 VALUES {} ON CONFLICT (tenant, sha256) DO NOTHING RETURNING sha256",
                rows_of(anchors.len(), 13, 1)
            );
            for row in self.inside.rows(sql, &values).await? {
                created.insert(row.get::<String>(0)?);
            }
        }
        let there = anchors.iter().position(|anchor| !created.contains(&to_hex(&anchor.sha256)));
        if let Some(index) = there {
            return Ok(Outcome::Conflict { index });
        }
        let sql = "SELECT COUNT(*) FROM anchors WHERE tenant = $1";
        if self.number(sql, &[tenant.as_str().into()]).await? > MAX_ANCHORS {
            return Ok(Outcome::Limit("a tenant has at most 10000 trusted certificates"));
        }
        // Nothing to add is nothing changed.
        Ok(if anchors.is_empty() { Outcome::Existed } else { Outcome::Done })
    }

    async fn revoke(
        &mut self,
        tenant: &TenantId,
        serials: &[(String, UnixSeconds)],
    ) -> Result<Outcome, StoreFault> {
        // Where a serial stands twice, the last one counts: one statement may not write a
        // row twice.
        let serials: BTreeMap<&str, UnixSeconds> =
            serials.iter().map(|(serial, at)| (serial.as_str(), *at)).collect();
        let serials: Vec<_> = serials.into_iter().collect();
        for serials in serials.chunks(ROWS) {
            let values: Vec<Value<'_>> = serials
                .iter()
                .flat_map(|(serial, at)| {
                    [
                        tenant.as_str().into(),
                        Value::from(*serial),
                        Value::from(*at),
                        Value::from(self.version),
                    ]
                })
                .collect();
            let sql = format!(
                "INSERT INTO revocations (tenant, serial, revoked_at, version) VALUES {}
                 ON CONFLICT (tenant, serial) DO UPDATE
                 SET revoked_at = excluded.revoked_at, version = excluded.version",
                rows_of(serials.len(), 4, 1)
            );
            self.inside.execute(sql, &values).await?;
        }
        let sql = "SELECT COUNT(*) FROM revocations WHERE tenant = $1";
        if self.number(sql, &[tenant.as_str().into()]).await? > MAX_REVOCATIONS {
            return Ok(Outcome::Limit("a tenant has at most 100000 revoked serial numbers"));
        }
        Ok(if serials.is_empty() { Outcome::Existed } else { Outcome::Done })
    }

    async fn set_option(
        &mut self,
        tenant: &TenantId,
        category: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<Outcome, StoreFault> {
        let tenant_value = Value::from(tenant.as_str());
        let Some(value) = value else {
            let sql = "DELETE FROM tenant_options
                       WHERE tenant = $1 AND category = $2 AND name = $3";
            let values = [tenant_value, category.into(), key.into()];
            let deleted = self.inside.execute(sql, &values).await?;
            let name = option_name(category, key);
            return self.deleted(deleted, "option", tenant.as_str(), &name).await;
        };
        let sql = "INSERT INTO tenant_options (tenant, category, name, value, version)
                   VALUES ($1, $2, $3, $4, $5)
                   ON CONFLICT (tenant, category, name) DO UPDATE
                   SET value = excluded.value, version = excluded.version";
        let values = [tenant_value, category.into(), key.into(), value.into(), self.version.into()];
        self.inside.execute(sql, &values).await?;
        let sql = "SELECT COUNT(*) FROM tenant_options WHERE tenant = $1";
        if self.number(sql, &[tenant_value]).await? > MAX_OPTIONS {
            return Ok(Outcome::Limit("a tenant has at most 1000 options"));
        }
        Ok(Outcome::Done)
    }

    async fn add_key(
        &mut self,
        key: &KeyRow,
        unless_published_since: UnixSeconds,
    ) -> Result<Outcome, StoreFault> {
        let sql = "SELECT COUNT(*) FROM signing_keys WHERE algorithm = $1 AND published_at >= $2";
        let values: [Value<'_>; 2] = [(&key.algorithm).into(), unless_published_since.into()];
        if self.number(sql, &values).await? > 0 {
            return Ok(Outcome::Existed);
        }
        let sql =
            "INSERT INTO signing_keys (kid, algorithm, sealed, published_at, sign_from, version)
                   VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (kid) DO NOTHING";
        let values: [Value<'_>; 6] = [
            (&key.kid).into(),
            (&key.algorithm).into(),
            (&key.sealed).into(),
            key.published_at.into(),
            key.sign_from.into(),
            self.version.into(),
        ];
        if self.inside.execute(sql, &values).await? == 0 {
            return Ok(Outcome::Conflict { index: 0 });
        }
        if self.number("SELECT COUNT(*) FROM signing_keys", &[]).await? > MAX_SIGNING_KEYS {
            return Ok(Outcome::Limit("there are at most 1000 signing keys"));
        }
        Ok(Outcome::Done)
    }

    async fn number(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<i64, StoreFault> {
        let rows = self.inside.rows(sql, values).await?;
        rows.first().map_or(Ok(0), |row| row.get(0))
    }

    /// Tells other nodes what is gone, where it is.
    async fn deleted(
        &mut self,
        rows: u64,
        kind: &str,
        tenant: &str,
        name: &str,
    ) -> Result<Outcome, StoreFault> {
        if rows == 0 {
            return Ok(Outcome::NotFound);
        }
        self.tell_deletion(kind, tenant, name).await?;
        let old: [Value<'_>; 1] = [self.at.saturating_sub(DELETIONS_KEPT).into()];
        let sql = "UPDATE registry_version
                   SET pruned = (SELECT MAX(version) FROM deletions WHERE at < $1)
                   WHERE pruned < (SELECT MAX(version) FROM deletions WHERE at < $1)";
        self.inside.execute(sql, &old).await?;
        self.inside.execute("DELETE FROM deletions WHERE at < $1", &old).await?;
        Ok(Outcome::Done)
    }

    async fn tell_deletion(
        &mut self,
        kind: &str,
        tenant: &str,
        name: &str,
    ) -> Result<(), StoreFault> {
        let sql = "INSERT INTO deletions (version, kind, tenant, name, at)
                   VALUES ($1, $2, $3, $4, $5)";
        let values: [Value<'_>; 5] =
            [self.version.into(), kind.into(), tenant.into(), name.into(), self.at.into()];
        self.inside.execute(sql, &values).await?;
        Ok(())
    }

    async fn audit(&mut self, actor: &Actor, entry: &Entry<'_>) -> Result<(), StoreFault> {
        let actor = match actor.peer {
            Some(peer) => format!("{} ({peer})", actor.name),
            None => actor.name.clone(),
        };
        let sql = "INSERT INTO audit (id, at, actor, tenant, action, target, detail)
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let values: [Value<'_>; 7] = [
            self.version.into(),
            self.at.into(),
            (&actor).into(),
            Value::Text(entry.tenant.map(TenantId::as_str)),
            entry.action.into(),
            (&entry.target).into(),
            (&entry.detail).into(),
        ];
        self.inside.execute(sql, &values).await?;
        // Some with each change, so that none has to remove all that has become old.
        let sql = "DELETE FROM audit WHERE id IN
                       (SELECT id FROM audit WHERE at < $1 ORDER BY at LIMIT $2)";
        let old = self.at.saturating_sub(AUDIT_KEPT);
        self.inside.execute(sql, &[old.into(), AUDIT_PRUNED.into()]).await?;
        Ok(())
    }
}

fn found(rows: u64) -> Result<Outcome, StoreFault> {
    Ok(if rows == 0 { Outcome::NotFound } else { Outcome::Done })
}
