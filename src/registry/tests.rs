//! One suite for both engines, and what only one of them can do.

mod crash;
mod devices;
mod feed;
mod nodes;
mod reader;
mod sqlite;
mod state;
mod worker;

#[path = "../../tests/postgres/mod.rs"]
mod postgres;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use self::postgres::Postgres;
use super::connection::{Connection, Value};
use super::*;

const LEAF: [u8; 32] = [0xab; 32];
const ANCHOR: [u8; 32] = [0x01; 32];
const NOW: i64 = 1_800_000_000;

/// Where a registry of a test lives.
enum Home {
    Sqlite { _directory: TempDir, file: PathBuf },
    Postgres(Postgres),
}

/// Runs each test against SQLite and against a PostgreSQL of its own.
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() {
                super::$name($crate::registry::tests::Home::sqlite()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() {
                super::$name($crate::registry::tests::Home::postgres()).await;
            })*
        }
    };
}
use on_both_engines;

impl Home {
    fn sqlite() -> Home {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("portcullis.db");
        Home::Sqlite { _directory: directory, file }
    }

    fn postgres() -> Home {
        Home::Postgres(Postgres::start())
    }

    fn settings(&self) -> RegistrySettings {
        let url = match self {
            Home::Sqlite { file, .. } => format!("sqlite:{}", file.display()),
            Home::Postgres(postgres) => postgres.url(),
        };
        RegistrySettings { poll: Duration::from_millis(30), ..RegistrySettings::new(url) }
    }

    async fn open(&self) -> Arc<Registry> {
        open_with(self.settings()).await.unwrap()
    }

    async fn connect(&self) -> Connection {
        match self {
            Home::Sqlite { file, .. } => {
                let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
                Connection::Sqlite(options.connect().await.unwrap())
            }
            Home::Postgres(postgres) => {
                let options = PgConnectOptions::from_str(&postgres.url()).unwrap();
                Connection::Postgres(options.connect().await.unwrap())
            }
        }
    }

    /// Runs a statement from outside, as another program would.
    async fn sql(&self, statement: &'static str) -> u64 {
        let mut connection = self.connect().await;
        let changed = connection.execute(statement, &[]).await.unwrap();
        connection.close().await.unwrap();
        changed
    }

    async fn number(&self, statement: &'static str) -> i64 {
        let mut connection = self.connect().await;
        let rows = connection.rows(statement, &[]).await.unwrap();
        let number = rows[0].get(0).unwrap();
        connection.close().await.unwrap();
        number
    }
}

async fn open_with(settings: RegistrySettings) -> Result<Arc<Registry>, RegistryError> {
    Registry::open(settings, Clock::manual(NOW), metrics()).await
}

fn metrics() -> Arc<Metrics> {
    Metrics::new().unwrap()
}

fn acme() -> TenantId {
    tenant("acme")
}

fn tenant(text: &str) -> TenantId {
    TenantId::parse(text).unwrap()
}

fn device(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

fn operator() -> Actor {
    Actor { name: "ops".into(), peer: Some([192, 0, 2, 7].into()) }
}

async fn register(registry: &Registry, id: &str) -> Result<Registered, RegistryError> {
    registry.register(&acme(), &device(id), &LEAF, &ANCHOR).await
}

async fn apply(registry: &Registry, change: Change) -> Outcome {
    registry.apply(&operator(), change).await.unwrap()
}

fn set_status(id: &str, status: DeviceStatus) -> Change {
    Change::SetDeviceStatus { tenant: acme(), device: device(id), status }
}

fn delete(id: &str) -> Change {
    Change::DeleteDevice { tenant: acme(), device: device(id) }
}

fn pin(id: &str, leaf_sha256: [u8; 32]) -> Change {
    Change::PinCertificate { tenant: acme(), device: device(id), leaf_sha256 }
}

fn option(key: &str, value: Option<&str>) -> Change {
    Change::SetOption {
        tenant: acme(),
        category: "oauth.internal".into(),
        key: key.into(),
        value: value.map(Into::into),
    }
}

fn bulk(ids: &[&str]) -> Change {
    let devices = ids.iter().map(|id| Registration {
        tenant: acme(),
        device: device(id),
        registered_by: RegisteredBy::Bulk,
        at: NOW,
        leaf_sha256: None,
        anchor_sha256: None,
        device_type: Some("c8y_Linux".into()),
        name: Some(format!("Pump {id} \"'; DROP TABLE devices; --")),
    });
    Change::RegisterDevices { tenant: acme(), devices: devices.collect() }
}

fn anchor(number: u8) -> AnchorRecord {
    AnchorRecord {
        sha256: [number; 32],
        der: vec![0x30, number, 0, 0xff],
        name: format!("anchor {number}"),
        status: AnchorStatus::Enabled,
        auto_registration: number.is_multiple_of(2),
        identity: "cn".into(),
        added_at: NOW,
        changed_at: NOW,
        possession: Possession::default(),
    }
}

fn add_anchors(numbers: &[u8]) -> Change {
    Change::AddAnchors { tenant: acme(), anchors: numbers.iter().copied().map(anchor).collect() }
}

fn key(kid: &str, algorithm: &str, published_at: i64) -> KeyRow {
    KeyRow {
        kid: kid.into(),
        algorithm: algorithm.into(),
        sealed: "c2VhbGVk".into(),
        published_at,
        sign_from: published_at + 60,
    }
}

fn page(limit: u32) -> DeviceQuery {
    DeviceQuery { tenant: acme(), after: None, limit, status: None, id_prefix: None }
}

async fn ids(registry: &Registry, query: DeviceQuery) -> Vec<String> {
    let records = registry.devices(query).await.unwrap();
    records.iter().map(|record| record.device.to_string()).collect()
}

/// Waits until something is so; fails the test after ten seconds.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let end = Instant::now() + Duration::from_secs(10);
    async move {
        while !is_so() {
            assert!(Instant::now() < end, "not so in ten seconds: {what}");
            sleep(Duration::from_millis(2)).await;
        }
    }
}
