use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::*;

const LEAF: [u8; 32] = [0xab; 32];
const ANCHOR: [u8; 32] = [0x01; 32];

fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}

fn device(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

fn metrics() -> Arc<Metrics> {
    Metrics::new().unwrap()
}

async fn open(file: &Path) -> Result<Arc<Devices>, RegistryError> {
    let url = format!("sqlite:{}", file.display());
    Devices::open(&url, Clock::manual(1_800_000_000), metrics()).await
}

/// A registry file in a directory of its own.
fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("portcullis.db");
    (directory, file)
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", file.display()))
}

async fn register(devices: &Devices, id: &str) -> Result<DeviceStatus, RegistryError> {
    devices.register(&acme(), &device(id), &LEAF, &ANCHOR).await
}

async fn refused(file: &Path) -> RegistryError {
    match open(file).await {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn what_was_registered_and_blocked_is_there_after_a_restart() {
    let (_directory, file) = place();
    let devices = open(&file).await.unwrap();
    assert!(devices.healthy());
    assert_eq!(devices.status(&acme(), &device("a")), None);
    assert_eq!(register(&devices, "a").await.unwrap(), DeviceStatus::Active);
    assert_eq!(devices.status(&acme(), &device("a")), Some(DeviceStatus::Active));
    register(&devices, "b").await.unwrap();
    assert!(devices.set_status(&acme(), &device("b"), DeviceStatus::Blocked).await.unwrap());
    assert_eq!(devices.status(&acme(), &device("b")), Some(DeviceStatus::Blocked));
    devices.close().await;
    assert!(!beside(&file, "-wal").exists());

    let devices = open(&file).await.unwrap();
    assert_eq!(devices.status(&acme(), &device("a")), Some(DeviceStatus::Active));
    assert_eq!(devices.status(&acme(), &device("b")), Some(DeviceStatus::Blocked));
    let umbrella = TenantId::parse("umbrella").unwrap();
    assert_eq!(devices.status(&umbrella, &device("a")), None);
    let listed = devices.list(&acme(), None, 10).await.unwrap();
    assert_eq!(
        listed[0],
        DeviceRecord {
            device: device("a"),
            status: DeviceStatus::Active,
            registered_by: RegisteredBy::Auto,
            registered_at: 1_800_000_000,
            changed_at: 1_800_000_000,
            leaf_sha256: Some(LEAF),
            anchor_sha256: Some(ANCHOR),
        }
    );
}

#[tokio::test]
async fn a_blocked_device_that_registers_again_stays_blocked() {
    let (_directory, file) = place();
    let devices = open(&file).await.unwrap();
    register(&devices, "a").await.unwrap();
    devices.set_status(&acme(), &device("a"), DeviceStatus::Blocked).await.unwrap();
    let other_leaf = devices.register(&acme(), &device("a"), &[9; 32], &ANCHOR).await;
    assert_eq!(other_leaf.unwrap(), DeviceStatus::Blocked);
    assert_eq!(devices.status(&acme(), &device("a")), Some(DeviceStatus::Blocked));
    let listed = devices.list(&acme(), None, 10).await.unwrap();
    assert_eq!((listed.len(), listed[0].leaf_sha256), (1, Some(LEAF)));
}

#[tokio::test]
async fn a_device_that_is_not_registered_cannot_be_blocked() {
    let (_directory, file) = place();
    let devices = open(&file).await.unwrap();
    assert!(!devices.set_status(&acme(), &device("a"), DeviceStatus::Blocked).await.unwrap());
    assert_eq!(devices.status(&acme(), &device("a")), None);
}

#[tokio::test]
async fn many_devices_register_at_once_some_of_them_twice() {
    let (_directory, file) = place();
    let devices = open(&file).await.unwrap();
    let tasks: Vec<_> = (0..1000)
        .map(|index| {
            let devices = devices.clone();
            tokio::spawn(async move { register(&devices, &format!("d{}", index % 500)).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), DeviceStatus::Active);
    }
    assert_eq!(devices.list(&acme(), None, u32::MAX).await.unwrap().len(), 500);
}

#[tokio::test]
async fn a_list_goes_on_after_the_last_device_and_stays_in_its_tenant() {
    let (_directory, file) = place();
    let devices = open(&file).await.unwrap();
    for id in ["c", "a", "b", "percent=_1"] {
        register(&devices, id).await.unwrap();
    }
    let other = TenantId::parse("acme_").unwrap();
    devices.register(&other, &device("z"), &LEAF, &ANCHOR).await.unwrap();
    let ids = async |tenant: &TenantId, after: Option<&str>, limit| -> Vec<String> {
        let after = after.map(device);
        let listed = devices.list(tenant, after.as_ref(), limit).await.unwrap();
        listed.iter().map(|record| record.device.to_string()).collect()
    };
    assert_eq!(ids(&acme(), None, 2).await, ["a", "b"]);
    assert_eq!(ids(&acme(), Some("b"), 2).await, ["c", "percent=_1"]);
    assert!(ids(&acme(), Some("percent=_1"), 2).await.is_empty());
    assert_eq!(ids(&other, None, 10).await, ["z"]);
    // A name is never a pattern: `_` would match any character under LIKE.
    assert!(ids(&TenantId::parse("a___").unwrap(), None, 10).await.is_empty());
}

#[tokio::test]
async fn the_files_are_for_their_owner_alone() {
    let (_directory, file) = place();
    let devices = open(&file).await.unwrap();
    register(&devices, "a").await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mode = fs::metadata(beside(&file, suffix)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn a_file_that_others_may_read_is_refused_and_not_changed() {
    for suffix in ["", "-wal"] {
        let (_directory, file) = place();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let open_to_all = beside(&file, suffix);
        fs::write(&open_to_all, "").unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o640)).unwrap();
        let error = refused(&file).await.to_string();
        assert!(error.contains(&format!("chmod 600 {}", open_to_all.display())), "{error}");
        let mode = fs::metadata(&open_to_all).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}

#[tokio::test]
async fn a_missing_directory_and_a_directory_in_place_of_the_file_are_told() {
    let (directory, _) = place();
    let error = refused(&directory.path().join("none/portcullis.db")).await;
    assert!(matches!(&error, RegistryError::DirectoryMissing(path) if path.ends_with("none")));
    assert!(matches!(refused(directory.path()).await, RegistryError::NotAFile(_)));
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(refused(&file.join("portcullis.db")).await, RegistryError::File { .. }));
}

#[tokio::test]
async fn a_url_of_another_kind_is_refused() {
    for url in [
        "",
        "portcullis.db",
        "sqlite:",
        "sqlite://",
        "sqlite::memory:",
        "sqlite:a.db?mode=memory",
        "postgres://user:secret@host/db",
    ] {
        let error = Devices::open(url, Clock::system(), metrics()).await.err().unwrap();
        assert!(matches!(error, RegistryError::Url(_)), "{url}");
        assert!(!error.to_string().contains("secret"));
    }
    assert!(sqlite::path("sqlite:file:a.db").unwrap().is_absolute());
    assert_eq!(sqlite::path("sqlite:///a/b.db").unwrap(), Path::new("/a/b.db"));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let (_directory, file) = place();
    let garbage = b"certainly not a database ".repeat(400);
    fs::write(&file, &garbage).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let error = refused(&file).await;
    assert!(matches!(error, RegistryError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains(&file.display().to_string()));
    assert_eq!(fs::read(&file).unwrap(), garbage);
}

#[tokio::test]
async fn a_database_with_damaged_pages_is_refused() {
    let (_directory, file) = place();
    let devices = open(&file).await.unwrap();
    for index in 0..300 {
        register(&devices, &format!("device-{index}")).await.unwrap();
    }
    devices.close().await;
    let mut bytes = fs::read(&file).unwrap();
    // Everything behind the first page, which holds the header and the schema.
    bytes[4096..].fill(0xff);
    fs::write(&file, bytes).unwrap();
    let error = refused(&file).await;
    assert!(matches!(error, RegistryError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_row_that_portcullis_never_writes_is_refused() {
    let (_directory, file) = place();
    open(&file).await.unwrap().close().await;
    sql(&file, "INSERT INTO devices VALUES ('acme', '../x', 'active', 'auto', 0, 0, NULL, NULL)")
        .await;
    let error = refused(&file).await;
    assert!(matches!(error, RegistryError::Corrupt { source: StoreFault::Row(_), .. }));
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused() {
    let (_directory, file) = place();
    open(&file).await.unwrap().close().await;
    sql(&file, "UPDATE _sqlx_migrations SET version = 9999").await;
    assert!(matches!(refused(&file).await, RegistryError::TooNew { .. }));
}

#[tokio::test]
async fn what_was_answered_survives_the_death_of_the_process() {
    let (directory, file) = place();
    let devices = open(&file).await.unwrap();
    register(&devices, "a").await.unwrap();
    devices.set_status(&acme(), &device("a"), DeviceStatus::Blocked).await.unwrap();
    register(&devices, "b").await.unwrap();

    // What lies on the disk while the process still runs is what a `kill -9` leaves.
    let after_death = directory.path().join("after-death.db");
    let torn = directory.path().join("torn.db");
    for copy in [&after_death, &torn] {
        fs::copy(&file, copy).unwrap();
        fs::copy(beside(&file, "-wal"), beside(copy, "-wal")).unwrap();
    }
    let reopened = open(&after_death).await.unwrap();
    assert_eq!(reopened.status(&acme(), &device("a")), Some(DeviceStatus::Blocked));
    assert_eq!(reopened.status(&acme(), &device("b")), Some(DeviceStatus::Active));

    // A log that was torn within its last commit loses that one, as if never answered.
    let log = fs::OpenOptions::new().write(true).open(beside(&torn, "-wal")).unwrap();
    log.set_len(log.metadata().unwrap().len() - 10).unwrap();
    let reopened = open(&torn).await.unwrap();
    assert_eq!(reopened.status(&acme(), &device("a")), Some(DeviceStatus::Blocked));
    assert_eq!(reopened.status(&acme(), &device("b")), None);
    register(&reopened, "b").await.unwrap();
}

#[tokio::test]
async fn two_processes_may_open_one_file() {
    let (_directory, file) = place();
    let first = open(&file).await.unwrap();
    let second = open(&file).await.unwrap();
    register(&first, "a").await.unwrap();
    second.set_status(&acme(), &device("a"), DeviceStatus::Blocked).await.unwrap();
    // The first one's memory learns of it when it asks the store.
    assert_eq!(register(&first, "a").await.unwrap(), DeviceStatus::Blocked);
    assert_eq!(first.status(&acme(), &device("a")), Some(DeviceStatus::Blocked));
}

#[tokio::test]
async fn a_hundred_thousand_devices_are_loaded_in_seconds() {
    let (_directory, file) = place();
    open(&file).await.unwrap().close().await;
    sql(
        &file,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
         INSERT INTO devices
         SELECT 'tenant-' || (i % 7), 'device-' || i,
                CASE WHEN i = 77777 THEN 'blocked' ELSE 'active' END, 'bulk', 0, 0, NULL, NULL
         FROM n",
    )
    .await;
    let started = Instant::now();
    let devices = open(&file).await.unwrap();
    let taken = started.elapsed();
    assert!(taken < Duration::from_secs(10), "{taken:?}");
    for index in 1..=100_000 {
        let tenant = TenantId::parse(&format!("tenant-{}", index % 7)).unwrap();
        let expected = if index == 77_777 { DeviceStatus::Blocked } else { DeviceStatus::Active };
        assert_eq!(devices.status(&tenant, &device(&format!("device-{index}"))), Some(expected));
    }
}

#[tokio::test]
async fn a_closed_registry_answers_from_memory_and_takes_no_writes() {
    let (_directory, file) = place();
    let devices = open(&file).await.unwrap();
    register(&devices, "a").await.unwrap();
    devices.close().await;
    devices.close().await;
    assert_eq!(devices.status(&acme(), &device("a")), Some(DeviceStatus::Active));
    assert!(matches!(register(&devices, "b").await, Err(RegistryError::Closed)));
    assert!(matches!(devices.list(&acme(), None, 1).await, Err(RegistryError::Closed)));
}

#[test]
fn the_registry_outlives_the_runtime_that_opened_it() {
    let (_directory, file) = place();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let devices = runtime().block_on(open(&file)).unwrap();
    let status = runtime().block_on(register(&devices, "a")).unwrap();
    assert_eq!(status, DeviceStatus::Active);
}

/// Runs a statement from outside, as another program would.
async fn sql(file: &Path, statement: &'static str) {
    let mut connection = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// A store that fails or hangs when it is told to.
struct Faulty {
    failing: Arc<AtomicBool>,
    hangs: bool,
}

#[async_trait]
impl Store for Faulty {
    fn location(&self) -> &str {
        "faulty"
    }

    async fn probe(&mut self) -> Result<(), StoreFault> {
        match self.failing.load(Ordering::Acquire) {
            true => Err(StoreFault::Row("a fault of the test")),
            false => Ok(()),
        }
    }

    async fn write(&mut self, writes: &[Write]) -> Result<Vec<Option<DeviceStatus>>, StoreFault> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if self.failing.load(Ordering::Acquire) {
            return Err(StoreFault::Row("a fault of the test"));
        }
        Ok(vec![Some(DeviceStatus::Active); writes.len()])
    }

    async fn page(
        &mut self,
        _: Option<&(TenantId, DeviceId)>,
        _: u32,
    ) -> Result<Vec<(TenantId, DeviceId, DeviceStatus)>, StoreFault> {
        Ok(Vec::new())
    }

    async fn list(
        &mut self,
        _: &TenantId,
        _: Option<&DeviceId>,
        _: u32,
    ) -> Result<Vec<DeviceRecord>, StoreFault> {
        Ok(Vec::new())
    }

    async fn close(self: Box<Self>) {}
}

async fn faulty(store: Faulty, metrics: &Arc<Metrics>, deadline: Duration) -> Arc<Devices> {
    let opening = async {
        let store: Box<dyn Store> = Box::new(store);
        Ok(store)
    };
    Devices::start(opening, Clock::manual(0), metrics.clone(), deadline).await.unwrap()
}

#[tokio::test]
async fn a_failed_write_changes_nothing_in_memory_and_health_until_one_succeeds() {
    let (metrics, failing) = (metrics(), Arc::new(AtomicBool::new(true)));
    let store = Faulty { failing: failing.clone(), hangs: false };
    let devices = faulty(store, &metrics, DEADLINE).await;
    assert!(devices.healthy());
    assert_eq!(metrics.registry_up.get(), 1);

    let error = register(&devices, "a").await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }));
    assert!(error.to_string().contains("a fault of the test"));
    assert_eq!(devices.status(&acme(), &device("a")), None);
    assert!(!devices.healthy());
    assert_eq!(metrics.registry_up.get(), 0);

    failing.store(false, Ordering::Release);
    register(&devices, "a").await.unwrap();
    assert!(devices.healthy());
    assert_eq!(metrics.registry_up.get(), 1);
}

#[tokio::test]
async fn a_store_that_does_not_answer_ends_the_wait_by_the_deadline() {
    let metrics = metrics();
    let store = Faulty { failing: Arc::default(), hangs: true };
    let devices = faulty(store, &metrics, Duration::from_millis(50)).await;
    assert!(matches!(register(&devices, "a").await, Err(RegistryError::Timeout(_))));
    assert_eq!(devices.status(&acme(), &device("a")), None);
    assert!(!devices.healthy());
    assert_eq!(metrics.registry_up.get(), 0);
}
