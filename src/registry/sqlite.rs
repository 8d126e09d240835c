//! The embedded engine: one SQLite file beside the process.
//!
//! WAL with `synchronous=FULL`: a commit that was answered survives `kill -9` and the loss
//! of power. Another process may open the same file at the same time; each waits for the
//! other's writes.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use super::{
    DeviceRecord, DeviceStatus, RegisteredBy, Registration, RegistryError, Store, StoreFault, Write,
};
use crate::names::{DeviceId, TenantId};

/// How long SQLite waits for another process to release its lock; less than the deadline of
/// a caller, so that the caller learns the reason.
const BUSY_TIMEOUT: Duration = Duration::from_millis(1500);

/// The path in a `sqlite:` url, taken as it stands: no escapes, no parameters.
pub(super) fn path(url: &str) -> Result<PathBuf, RegistryError> {
    let path = url
        .strip_prefix("sqlite:")
        .ok_or(RegistryError::Url("it does not start with 'sqlite:'"))?;
    let path = path.strip_prefix("//").unwrap_or(path);
    match path {
        "" => Err(RegistryError::Url("it names no file")),
        ":memory:" => Err(RegistryError::Url("a registry in memory forgets its devices")),
        _ if path.contains(['?', '#', '%', '\0']) => {
            Err(RegistryError::Url("'?', '#', '%' and NUL cannot stand in the path"))
        }
        // SQLite reads names of some shapes as something else than a path; none of them
        // is absolute.
        _ => {
            path::absolute(path).map_err(|source| RegistryError::File { path: path.into(), source })
        }
    }
}

pub(super) struct SqliteStore {
    connection: SqliteConnection,
    location: String,
}

impl SqliteStore {
    /// Opens the file, makes it where it is missing, and brings its schema up to date.
    pub(super) async fn open(path: PathBuf) -> Result<SqliteStore, RegistryError> {
        create_or_check(&path)?;
        match connect(&path).await {
            Ok(connection) => Ok(SqliteStore { connection, location: path.display().to_string() }),
            Err(fault) => Err(RegistryError::opening(path, fault)),
        }
    }
}

/// SQLite gives its `-wal` and `-shm` files the mode of the database file, so that one is
/// created here with the right mode before SQLite sees it.
fn create_or_check(path: &Path) -> Result<(), RegistryError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(path);
            return Err(RegistryError::DirectoryMissing(directory.into()));
        }
        Err(source) => return Err(RegistryError::File { path: path.into(), source }),
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let file = PathBuf::from(file);
        match fs::metadata(&file) {
            Ok(metadata) if !metadata.is_file() => return Err(RegistryError::NotAFile(file)),
            Ok(metadata) => {
                let mode = metadata.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(RegistryError::OpenToOthers { path: file, mode });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
            Err(source) => return Err(RegistryError::File { path: file, source }),
        }
    }
    Ok(())
}

async fn connect(path: &Path) -> Result<SqliteConnection, StoreFault> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .disable_statement_logging()
        .connect()
        .await?;
    sqlx::migrate!("src/registry/migrations").run_direct(None, &mut connection, false).await?;
    // SQLite opens a file that it may not write as read-only, without a word.
    connection.begin_with("BEGIN IMMEDIATE").await?.rollback().await?;
    Ok(connection)
}

#[async_trait]
impl Store for SqliteStore {
    fn location(&self) -> &str {
        &self.location
    }

    async fn write(&mut self, writes: &[Write]) -> Result<Vec<Option<DeviceStatus>>, StoreFault> {
        // IMMEDIATE takes the write lock at once; a lock that is taken by the first
        // statement could fail without waiting where another process has just written.
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                Write::Register(registration) => insert(&mut transaction, registration).await?,
                Write::SetStatus { tenant, device, status, at } => {
                    sqlx::query(
                        "UPDATE devices SET status = $3, changed_at = $4
                         WHERE tenant = $1 AND device_id = $2",
                    )
                    .bind(tenant.as_str())
                    .bind(device.as_str())
                    .bind(status.as_str())
                    .bind(*at)
                    .execute(&mut *transaction)
                    .await?;
                }
            }
            let stored =
                sqlx::query("SELECT status FROM devices WHERE tenant = $1 AND device_id = $2")
                    .bind(write.tenant().as_str())
                    .bind(write.device().as_str())
                    .fetch_optional(&mut *transaction)
                    .await?;
            let status = stored.map(|row| DeviceStatus::parse(row.try_get(0)?)).transpose()?;
            outcomes.push(status);
        }
        transaction.commit().await?;
        Ok(outcomes)
    }

    async fn probe(&mut self) -> Result<(), StoreFault> {
        let update = sqlx::query("UPDATE write_probe SET writes = writes + 1");
        update.execute(&mut self.connection).await?;
        Ok(())
    }

    async fn page(
        &mut self,
        after: Option<&(TenantId, DeviceId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, DeviceId, DeviceStatus)>, StoreFault> {
        // No name is empty, so the empty names stand before all.
        let (tenant, device) =
            after.map_or(("", ""), |(tenant, device)| (tenant.as_str(), device.as_str()));
        let rows = sqlx::query(
            "SELECT tenant, device_id, status FROM devices
             WHERE (tenant, device_id) > ($1, $2) ORDER BY tenant, device_id LIMIT $3",
        )
        .bind(tenant)
        .bind(device)
        .bind(i64::from(limit))
        .fetch_all(&mut self.connection)
        .await?;
        rows.iter()
            .map(|row| {
                let tenant = TenantId::parse(row.try_get(0)?)
                    .map_err(|_| StoreFault::Row("an impossible tenant"))?;
                Ok((tenant, device_id(row.try_get(1)?)?, DeviceStatus::parse(row.try_get(2)?)?))
            })
            .collect()
    }

    async fn list(
        &mut self,
        tenant: &TenantId,
        after: Option<&DeviceId>,
        limit: u32,
    ) -> Result<Vec<DeviceRecord>, StoreFault> {
        let rows = sqlx::query(
            "SELECT device_id, status, registered_by, registered_at, changed_at,
                    leaf_sha256, anchor_sha256
             FROM devices WHERE tenant = $1 AND device_id > $2 ORDER BY device_id LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(after.map_or("", DeviceId::as_str))
        .bind(i64::from(limit))
        .fetch_all(&mut self.connection)
        .await?;
        rows.iter().map(record).collect()
    }

    async fn close(self: Box<Self>) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(registry = self.location, %error, "the registry did not close cleanly");
        }
    }
}

async fn insert(
    connection: &mut SqliteConnection,
    registration: &Registration,
) -> Result<(), StoreFault> {
    sqlx::query(
        "INSERT INTO devices (tenant, device_id, status, registered_by, registered_at,
                              changed_at, leaf_sha256, anchor_sha256)
         VALUES ($1, $2, $3, $4, $5, $5, $6, $7)
         ON CONFLICT (tenant, device_id) DO NOTHING",
    )
    .bind(registration.tenant.as_str())
    .bind(registration.device.as_str())
    .bind(DeviceStatus::Active.as_str())
    .bind(registration.registered_by.as_str())
    .bind(registration.at)
    .bind(registration.leaf_sha256.map(to_hex))
    .bind(registration.anchor_sha256.map(to_hex))
    .execute(connection)
    .await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<DeviceRecord, StoreFault> {
    Ok(DeviceRecord {
        device: device_id(row.try_get(0)?)?,
        status: DeviceStatus::parse(row.try_get(1)?)?,
        registered_by: RegisteredBy::parse(row.try_get(2)?)?,
        registered_at: row.try_get(3)?,
        changed_at: row.try_get(4)?,
        leaf_sha256: row.try_get::<Option<&str>, _>(5)?.map(from_hex).transpose()?,
        anchor_sha256: row.try_get::<Option<&str>, _>(6)?.map(from_hex).transpose()?,
    })
}

fn device_id(text: &str) -> Result<DeviceId, StoreFault> {
    DeviceId::parse(text).map_err(|_| StoreFault::Row("an impossible device id"))
}

fn to_hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<[u8; 32], StoreFault> {
    let fault = || StoreFault::Row("a digest that is not hex");
    let bytes: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(fault)
}
