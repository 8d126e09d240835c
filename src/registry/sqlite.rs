//! The embedded engine: one SQLite file beside the process.
//!
//! WAL with `synchronous=FULL`: a commit that was answered survives `kill -9` and the loss
//! of power. Another process may open the same file at the same time; each waits for the
//! other's writes.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _, SqliteConnection};

use super::error::Place;
use super::schema::MIGRATIONS;
use super::{RegistryError, StoreFault};

/// How long SQLite waits for another process to release its lock; less than the deadline of
/// a caller, so that the caller learns the reason.
const BUSY_TIMEOUT: Duration = Duration::from_millis(1500);

/// How many of SQLite's steps pass between two looks whether somebody still waits: below a
/// tenth of a millisecond.
const STEPS: i32 = 1000;

/// The path in a `sqlite:` url, taken as it stands: no escapes, no parameters.
pub(super) fn path(url: &str) -> Result<PathBuf, RegistryError> {
    let path = url
        .strip_prefix("sqlite:")
        .ok_or(RegistryError::Url("it starts neither with 'sqlite:' nor with 'postgres:'"))?;
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

/// The files that are open. SQLite goes on to write to one that was deleted or moved away,
/// whose contents end with the process, and to one whose log another database has taken.
pub(super) struct Files([(PathBuf, Identity); 3]);

/// What a file is to the machine, whatever it is called.
type Identity = (u64, u64);

impl Files {
    /// # Errors
    /// Where one of them is not there.
    fn at(path: &Path) -> Result<Files, StoreFault> {
        let file = |suffix| -> Result<_, StoreFault> {
            let path = beside(path, suffix);
            let identity = identity(&path).ok_or_else(|| StoreFault::Gone(path.clone()))?;
            Ok((path, identity))
        };
        Ok(Files([file("")?, file("-wal")?, file("-shm")?]))
    }

    /// # Errors
    /// Where one of them is no longer there under its name.
    pub(super) fn check(&self) -> Result<(), StoreFault> {
        let gone = self.0.iter().find(|(path, opened)| identity(path) != Some(*opened));
        gone.map_or(Ok(()), |(path, _)| Err(StoreFault::Gone(path.clone())))
    }
}

fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut file = path.as_os_str().to_owned();
    file.push(suffix);
    PathBuf::from(file)
}

/// Opens the file, makes it where it is missing, and brings its schema up to date.
pub(super) async fn open(path: &Path) -> Result<(SqliteConnection, Files), RegistryError> {
    create_or_check(path)?;
    let opened = async { Ok((connect(path).await?, Files::at(path)?)) }.await;
    opened.map_err(|fault| RegistryError::opening(Place::sqlite(path), fault))
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
        let file = beside(path, suffix);
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

/// Ends a statement of its connection when it is dropped: SQLite's thread would otherwise
/// read on for nobody.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One more connection to a file that is open, which cannot write.
pub(super) async fn read(path: &Path) -> Result<(SqliteConnection, Interrupt), StoreFault> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
        .connect()
        .await?;
    let ended = Arc::new(AtomicBool::new(false));
    let interrupt = Interrupt(ended.clone());
    let goes_on = move || !ended.load(Ordering::Acquire);
    connection.lock_handle().await?.set_progress_handler(STEPS, goes_on);
    Ok((connection, interrupt))
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
    // All or nothing, and one process at a time. Without it SQLite would open a file that it
    // may not write as read-only, without a word.
    let mut alone = connection.begin_with("BEGIN IMMEDIATE").await?;
    MIGRATIONS.run_direct(None, &mut *alone, false).await?;
    alone.commit().await?;
    Ok(connection)
}
