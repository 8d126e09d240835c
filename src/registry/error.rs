//! Why the registry cannot be opened or used, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::MigrateError;

/// Paths come from the configuration; nothing here quotes a peer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(
        "the registry's url is not usable: {0}; write 'sqlite:' and a path, as in 'sqlite:portcullis.db'"
    )]
    Url(&'static str),

    #[error("the registry's directory {} does not exist: create it, owned by the user that portcullis runs as", .0.display())]
    DirectoryMissing(PathBuf),

    #[error("the registry {} is not a regular file: name the database file itself", .0.display())]
    NotAFile(PathBuf),

    #[error("the registry's file {} is open to other users (mode {mode:03o}): chmod 600 {}", .path.display(), .path.display())]
    OpenToOthers { path: PathBuf, mode: u32 },

    #[error("the registry {} cannot be created or looked at: check the permissions of its directory", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("the registry {} is corrupt or not a database: put a backup in its place, or move it away (with its -wal and -shm) to start empty; blocked devices are then no longer blocked", .path.display())]
    Corrupt {
        path: PathBuf,
        #[source]
        source: StoreFault,
    },

    #[error("the registry {} was written by a newer portcullis: run that version, or put a backup in its place", .path.display())]
    TooNew { path: PathBuf },

    #[error("the registry {} cannot be opened for writing: check its permissions, its disk, and that no other process holds it locked", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: StoreFault,
    },

    #[error("the registry's thread cannot be started")]
    Thread(#[source] io::Error),

    /// The cause stands in the text, because it is logged where a request is refused.
    #[error(
        "the registry {location} cannot be used ({fault}): check its disk: space, permissions, health"
    )]
    Unavailable { location: Arc<str>, fault: Arc<StoreFault> },

    #[error("the registry did not answer within {0:?}: check the load and health of its disk")]
    Timeout(Duration),

    #[error("the registry did not keep a registration: another process changes its rows")]
    NotStored,

    #[error("the registry is closed")]
    Closed,
}

/// What a store's engine reports.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("schema: {0}")]
    Schema(#[from] MigrateError),
    #[error("a row holds {0}, which portcullis never writes")]
    Row(&'static str),
}

impl RegistryError {
    /// What a fault means while the registry is opened and read.
    pub(super) fn opening(path: PathBuf, fault: StoreFault) -> RegistryError {
        match fault {
            StoreFault::Schema(MigrateError::VersionMissing(_)) => RegistryError::TooNew { path },
            source if source.is_corruption() => RegistryError::Corrupt { path, source },
            source => RegistryError::Open { path, source },
        }
    }
}

impl StoreFault {
    fn is_corruption(&self) -> bool {
        let error = match self {
            StoreFault::Row(_) => return true,
            StoreFault::Database(error) => error,
            StoreFault::Schema(MigrateError::Execute(error)) => error,
            StoreFault::Schema(MigrateError::ExecuteMigration(error, _)) => error,
            StoreFault::Schema(_) => return false,
        };
        // SQLITE_CORRUPT or SQLITE_NOTADB, in the low byte of an extended code.
        let code = error.as_database_error().and_then(|error| error.code());
        let code = code.and_then(|code| code.parse::<i32>().ok());
        code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
    }
}
