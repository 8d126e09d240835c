//! What memory has to learn: read from the store in one snapshot, deletions first, so that
//! what was deleted and added again is there in the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::connection::{Connection, Row, Transaction, Value};
use super::statuses::{News, key};
use super::text::{OPTION_SEPARATOR, device_id, from_hex, tenant_id};
use super::{AnchorRecord, AnchorStatus, DeviceStatus, KeyRow, Possession, StoreFault};
use crate::clock::UnixSeconds;
use crate::names::{DeviceId, TenantId};

/// Rows read at a time; bounds what one answer takes in memory.
const PAGE: i64 = 10_000;
/// Of anchors, which are larger.
const ANCHOR_PAGE: i64 = 500;

/// News from the store. `None` in a map: the row is gone.
#[derive(Default)]
pub struct Feed {
    /// Everything there is: what is not in here is gone.
    pub whole: bool,
    pub devices: News,
    pub pins: HashMap<(TenantId, [u8; 32]), Option<DeviceId>>,
    pub tenants: HashMap<TenantId, TenantFeed>,
    /// By their ids.
    pub keys: BTreeMap<String, Option<KeyRow>>,
}

/// News of one tenant.
#[derive(Default)]
pub struct TenantFeed {
    pub anchors: BTreeMap<[u8; 32], Option<Arc<AnchorRecord>>>,
    pub revocations: BTreeMap<String, UnixSeconds>,
    pub options: BTreeMap<(String, String), Option<String>>,
}

/// How far the store has come.
pub(super) struct Head {
    pub(super) version: i64,
    /// What was deleted up to here is no longer told.
    pub(super) pruned: i64,
}

const HEAD: &str = "SELECT version, pruned FROM registry_version";

pub(super) async fn version(connection: &mut Connection) -> Result<i64, StoreFault> {
    Ok(head_of(&connection.rows(HEAD, &[]).await?)?.version)
}

/// Reads what is newer than `since`; `None`: everything.
pub(super) async fn read(
    connection: &mut Connection,
    since: Option<i64>,
) -> Result<(Feed, i64), StoreFault> {
    let mut snapshot = connection.snapshot().await?;
    let head = head_of(&snapshot.rows(HEAD, &[]).await?)?;
    // A version below what was seen is that of a backup that was put back.
    let since = since.filter(|since| (head.pruned..=head.version).contains(since));
    let mut reader = Reader { tenants: HashSet::new(), feed: Feed::default() };
    reader.feed.whole = since.is_none();
    if let Some(since) = since {
        reader.deletions(&mut snapshot, since).await?;
    }
    // The rows of the first schema have version 0. No name is empty, so an empty one stands
    // before all of its version.
    let from = since.map_or(0, |since| since.saturating_add(1));
    reader.devices(&mut snapshot, from).await?;
    reader.pins(&mut snapshot, from).await?;
    reader.anchors(&mut snapshot, from).await?;
    reader.revocations(&mut snapshot, from).await?;
    reader.options(&mut snapshot, from).await?;
    reader.keys(&mut snapshot, from).await?;
    snapshot.rollback().await?;
    Ok((reader.feed, head.version))
}

fn head_of(rows: &[Row]) -> Result<Head, StoreFault> {
    let [row] = rows else { return Err(StoreFault::Row("no version, or several")) };
    Ok(Head { version: row.get(0)?, pruned: row.get(1)? })
}

struct Reader {
    /// One allocation for each tenant's name, however many rows it has.
    tenants: HashSet<TenantId>,
    feed: Feed,
}

impl Reader {
    async fn deletions(
        &mut self,
        snapshot: &mut Transaction<'_>,
        since: i64,
    ) -> Result<(), StoreFault> {
        let mut after = (since.saturating_add(1), String::new(), String::new(), String::new());
        loop {
            let rows = snapshot
                .rows(
                    "SELECT version, kind, tenant, name FROM deletions
                     WHERE (version, kind, tenant, name) > ($1, $2, $3, $4)
                     ORDER BY version, kind, tenant, name LIMIT $5",
                    &[
                        after.0.into(),
                        (&after.1).into(),
                        (&after.2).into(),
                        (&after.3).into(),
                        PAGE.into(),
                    ],
                )
                .await?;
            for row in &rows {
                self.deletion(row.get(1)?, row.get(2)?, row.get(3)?)?;
            }
            let Some(last) = rows.last() else { return Ok(()) };
            after = (last.get(0)?, last.get(1)?, last.get(2)?, last.get(3)?);
        }
    }

    fn deletion(&mut self, kind: &str, tenant: &str, name: &str) -> Result<(), StoreFault> {
        if kind == "signing_key" {
            self.feed.keys.insert(name.to_owned(), None);
            return Ok(());
        }
        let tenant = self.tenant(tenant)?;
        match kind {
            "device" => {
                let key = key(&tenant, &device_id(name)?);
                self.feed.devices.entry(tenant).or_default().insert(key, None);
            }
            "pin" => {
                self.feed.pins.insert((tenant, from_hex(name)?), None);
            }
            "anchor" => {
                self.of(tenant).anchors.insert(from_hex(name)?, None);
            }
            "option" => {
                let (category, key) = name
                    .split_once(OPTION_SEPARATOR)
                    .ok_or(StoreFault::Row("an impossible option"))?;
                self.of(tenant).options.insert((category.to_owned(), key.to_owned()), None);
            }
            _ => return Err(StoreFault::Row("a deletion of an unknown kind")),
        }
        Ok(())
    }

    async fn devices(
        &mut self,
        snapshot: &mut Transaction<'_>,
        from: i64,
    ) -> Result<(), StoreFault> {
        const SQL: &str = "SELECT version, tenant, device_id, status FROM devices
             WHERE (version, tenant, device_id) > ($1, $2, $3)
             ORDER BY version, tenant, device_id LIMIT $4";
        let mut place = Place::before(from);
        while let Some(rows) = place.page(snapshot, SQL, PAGE).await? {
            for row in &rows {
                let tenant = self.tenant(row.get(1)?)?;
                let status = DeviceStatus::parse(row.get(3)?)?;
                let key = key(&tenant, &device_id(row.get(2)?)?);
                self.feed.devices.entry(tenant).or_default().insert(key, Some(status));
            }
        }
        Ok(())
    }

    async fn pins(&mut self, snapshot: &mut Transaction<'_>, from: i64) -> Result<(), StoreFault> {
        const SQL: &str = "SELECT version, tenant, leaf_sha256, device_id FROM pins
             WHERE (version, tenant, leaf_sha256) > ($1, $2, $3)
             ORDER BY version, tenant, leaf_sha256 LIMIT $4";
        let mut place = Place::before(from);
        while let Some(rows) = place.page(snapshot, SQL, PAGE).await? {
            for row in &rows {
                let pin = (self.tenant(row.get(1)?)?, from_hex(row.get(2)?)?);
                self.feed.pins.insert(pin, Some(device_id(row.get(3)?)?));
            }
        }
        Ok(())
    }

    async fn anchors(
        &mut self,
        snapshot: &mut Transaction<'_>,
        from: i64,
    ) -> Result<(), StoreFault> {
        const SQL: &str = "SELECT version, tenant, sha256, der, name, status, auto_registration,
                    identity, added_at, changed_at, possession_confirmed, possession_code,
                    possession_until
             FROM anchors WHERE (version, tenant, sha256) > ($1, $2, $3)
             ORDER BY version, tenant, sha256 LIMIT $4";
        let mut place = Place::before(from);
        while let Some(rows) = place.page(snapshot, SQL, ANCHOR_PAGE).await? {
            for row in &rows {
                let tenant = self.tenant(row.get(1)?)?;
                let anchor = anchor(row)?;
                self.of(tenant).anchors.insert(anchor.sha256, Some(Arc::new(anchor)));
            }
        }
        Ok(())
    }

    async fn revocations(
        &mut self,
        snapshot: &mut Transaction<'_>,
        from: i64,
    ) -> Result<(), StoreFault> {
        const SQL: &str = "SELECT version, tenant, serial, revoked_at FROM revocations
             WHERE (version, tenant, serial) > ($1, $2, $3)
             ORDER BY version, tenant, serial LIMIT $4";
        let mut place = Place::before(from);
        while let Some(rows) = place.page(snapshot, SQL, PAGE).await? {
            for row in &rows {
                let tenant = self.tenant(row.get(1)?)?;
                self.of(tenant).revocations.insert(row.get(2)?, row.get(3)?);
            }
        }
        Ok(())
    }

    async fn options(
        &mut self,
        snapshot: &mut Transaction<'_>,
        from: i64,
    ) -> Result<(), StoreFault> {
        // A version writes one option at most, so that no page ends within a version.
        let mut from = from;
        loop {
            let rows = snapshot
                .rows(
                    "SELECT version, tenant, category, name, value FROM tenant_options
                     WHERE version >= $1 ORDER BY version LIMIT $2",
                    &[from.into(), PAGE.into()],
                )
                .await?;
            for row in &rows {
                let tenant = self.tenant(row.get(1)?)?;
                self.of(tenant).options.insert((row.get(2)?, row.get(3)?), Some(row.get(4)?));
            }
            let Some(last) = rows.last() else { return Ok(()) };
            from = last.get::<i64>(0)?.saturating_add(1);
        }
    }

    async fn keys(&mut self, snapshot: &mut Transaction<'_>, from: i64) -> Result<(), StoreFault> {
        let rows = snapshot
            .rows(
                "SELECT kid, algorithm, sealed, published_at, sign_from FROM signing_keys
                 WHERE version >= $1 ORDER BY kid",
                &[from.into()],
            )
            .await?;
        for row in &rows {
            let key = KeyRow {
                kid: row.get(0)?,
                algorithm: row.get(1)?,
                sealed: row.get(2)?,
                published_at: row.get(3)?,
                sign_from: row.get(4)?,
            };
            self.feed.keys.insert(key.kid.clone(), Some(key));
        }
        Ok(())
    }

    fn tenant(&mut self, text: &str) -> Result<TenantId, StoreFault> {
        if let Some(tenant) = self.tenants.get(text) {
            return Ok(tenant.clone());
        }
        let tenant = tenant_id(text)?;
        self.tenants.insert(tenant.clone());
        Ok(tenant)
    }

    fn of(&mut self, tenant: TenantId) -> &mut TenantFeed {
        self.feed.tenants.entry(tenant).or_default()
    }
}

/// Where the next page starts, by version, tenant and name, the first three columns.
struct Place {
    version: i64,
    tenant: String,
    name: String,
}

impl Place {
    fn before(version: i64) -> Place {
        Place { version, tenant: String::new(), name: String::new() }
    }

    async fn page(
        &mut self,
        snapshot: &mut Transaction<'_>,
        sql: &'static str,
        limit: i64,
    ) -> Result<Option<Vec<Row>>, StoreFault> {
        let values: [Value<'_>; 4] =
            [self.version.into(), (&self.tenant).into(), (&self.name).into(), limit.into()];
        let rows = snapshot.rows(sql, &values).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        *self = Place { version: last.get(0)?, tenant: last.get(1)?, name: last.get(2)? };
        Ok(Some(rows))
    }
}

fn anchor(row: &Row) -> Result<AnchorRecord, StoreFault> {
    let der = STANDARD
        .decode(row.get::<&str>(3)?)
        .map_err(|_| StoreFault::Row("a certificate that is not base64"))?;
    Ok(AnchorRecord {
        sha256: from_hex(row.get(2)?)?,
        der,
        name: row.get(4)?,
        status: AnchorStatus::parse(row.get(5)?)?,
        auto_registration: row.get::<i64>(6)? != 0,
        identity: row.get(7)?,
        added_at: row.get(8)?,
        changed_at: row.get(9)?,
        possession: Possession {
            confirmed: row.get::<i64>(10)? != 0,
            code: row.get(11)?,
            usable_until: row.get(12)?,
        },
    })
}
