//! The file, its mode, its damage, its death, and its url.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::registry::sqlite;

/// A registry file in a directory of its own.
fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("portcullis.db");
    (directory, file)
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", file.display()))
}

pub(super) fn only_for_its_owner(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

async fn open(file: &Path) -> Result<Arc<Registry>, RegistryError> {
    open_with(RegistrySettings::new(format!("sqlite:{}", file.display()))).await
}

async fn refused(file: &Path) -> RegistryError {
    match open(file).await {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_files_are_for_their_owner_alone() {
    let (_directory, file) = place();
    let registry = open(&file).await.unwrap();
    register(&registry, "a").await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mode = fs::metadata(beside(&file, suffix)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
    registry.close().await;
    assert!(!beside(&file, "-wal").exists());
}

#[tokio::test]
async fn a_file_that_others_may_read_is_refused_and_not_changed() {
    for suffix in ["", "-wal"] {
        let (_directory, file) = place();
        fs::write(&file, "").unwrap();
        only_for_its_owner(&file);
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
        "mysql://user:secret@host/db",
        "postgres://user:secret@host/db?mode=secret",
    ] {
        let error = open_with(RegistrySettings::new(url)).await.err().unwrap();
        assert!(matches!(error, RegistryError::Url(_)), "{url}");
        assert!(!error.to_string().contains("secret"));
        assert!(!format!("{:?}", RegistrySettings::new(url)).contains("secret"));
    }
    assert!(sqlite::path("sqlite:file:a.db").unwrap().is_absolute());
    assert_eq!(sqlite::path("sqlite:///a/b.db").unwrap(), Path::new("/a/b.db"));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let (_directory, file) = place();
    let garbage = b"certainly not a database ".repeat(400);
    fs::write(&file, &garbage).unwrap();
    only_for_its_owner(&file);
    let error = refused(&file).await;
    assert!(matches!(error, RegistryError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains(&file.display().to_string()));
    assert_eq!(fs::read(&file).unwrap(), garbage);
}

#[tokio::test]
async fn a_database_with_damaged_pages_is_refused() {
    let (_directory, file) = place();
    let registry = open(&file).await.unwrap();
    for index in 0..300 {
        register(&registry, &format!("device-{index}")).await.unwrap();
    }
    registry.close().await;
    let mut bytes = fs::read(&file).unwrap();
    // Everything behind the first page, which holds the header and the schema.
    bytes[4096..].fill(0xff);
    fs::write(&file, bytes).unwrap();
    let error = refused(&file).await;
    assert!(matches!(error, RegistryError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn what_was_answered_survives_the_death_of_the_process() {
    let (directory, file) = place();
    let registry = open(&file).await.unwrap();
    register(&registry, "a").await.unwrap();
    apply(&registry, set_status("a", DeviceStatus::Blocked)).await;
    register(&registry, "b").await.unwrap();

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

#[test]
fn the_registry_outlives_the_runtime_that_opened_it() {
    let (_directory, file) = place();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = runtime().block_on(open(&file)).unwrap();
    let registered = runtime().block_on(register(&registry, "a")).unwrap();
    assert_eq!(registered.status, DeviceStatus::Active);
}

/// Each page of the feed is a search in an index: a poll must not read the whole table.
#[tokio::test]
async fn the_feed_is_read_by_its_indices() {
    let home = Home::sqlite();
    home.open().await.close().await;
    let mut connection = home.connect().await;
    for (statement, index) in [
        (
            "EXPLAIN QUERY PLAN SELECT version, tenant, device_id, status FROM devices
             WHERE (version, tenant, device_id) > ($1, $2, $3)
             ORDER BY version, tenant, device_id LIMIT $4",
            "devices_by_version",
        ),
        (
            "EXPLAIN QUERY PLAN SELECT version, tenant, serial, revoked_at FROM revocations
             WHERE (version, tenant, serial) > ($1, $2, $3)
             ORDER BY version, tenant, serial LIMIT $4",
            "revocations_by_version",
        ),
    ] {
        let values: [Value<'_>; 4] = [5.into(), "".into(), "".into(), 10.into()];
        let rows = connection.rows(statement, &values).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(3).unwrap()).collect();
        assert!(
            plan.len() == 1 && plan[0].contains("SEARCH") && plan[0].contains(index),
            "{plan:?}"
        );
    }
}
