//! Why the registry cannot be opened or used, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::MigrateError;

/// Paths and hosts come from the configuration; nothing here quotes a peer or a password.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(
        "the registry's url is not usable: {0}; write 'sqlite:' and a path, as in \
         'sqlite:portcullis.db', or 'postgres://user:password@host:5432/database?sslmode=verify-full'"
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

    #[error("the registry {place} is corrupt or not a database: {}", .place.repair())]
    Corrupt {
        place: Place,
        #[source]
        source: StoreFault,
    },

    #[error(
        "the registry {place} was written by a newer portcullis: run that version, or put a backup in its place"
    )]
    TooNew { place: Place },

    #[error("the registry {place} cannot be opened: {}", .place.opening())]
    Open {
        place: Place,
        #[source]
        source: StoreFault,
    },

    #[error("the registry's thread cannot be started")]
    Thread(#[source] io::Error),

    /// The cause stands in the text, because it is logged where a request is refused.
    #[error("the registry {place} cannot be used ({fault}): {}", .place.using())]
    Unavailable { place: Place, fault: Arc<StoreFault> },

    #[error("the registry {place} did not answer within {after:?}: {}", .place.using())]
    Timeout { place: Place, after: Duration },

    /// Of questions alone: nothing was asked to be changed.
    #[error("too many questions wait for the registry {place}: ask again in a moment")]
    Busy { place: Place },

    /// Nothing has been changed.
    #[error("{0}")]
    Unfit(&'static str),

    #[error("the registry is closed")]
    Closed,
}

/// What an operator knows the store by; never with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    engine: Engine,
    name: Arc<str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
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
    /// The change may have been made.
    #[error("while committing, so that the change may have been made: {0}")]
    Commit(Box<StoreFault>),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error(
        "{} was deleted, moved or replaced while in use; put it back, or stop portcullis, put a \
         backup in its place (without the old -wal and -shm) and start it",
        .0.display()
    )]
    Gone(PathBuf),
    #[error("not connected; the next attempt follows soon; the last one failed: {0}")]
    Down(Arc<str>),
}

impl Place {
    pub(super) fn sqlite(path: &std::path::Path) -> Place {
        Place { engine: Engine::Sqlite, name: path.display().to_string().into() }
    }

    pub(super) fn postgres(name: String) -> Place {
        Place { engine: Engine::Postgres, name: name.into() }
    }

    fn repair(&self) -> &'static str {
        match self.engine {
            Engine::Sqlite => {
                "put a backup in its place, or move it away (with its -wal and -shm) to start \
                 empty; blocked devices are then no longer blocked"
            }
            Engine::Postgres => {
                "restore a backup, or name an empty database to start anew; blocked devices are \
                 then no longer blocked"
            }
        }
    }

    fn opening(&self) -> &'static str {
        match self.engine {
            Engine::Sqlite => {
                "check that it can be written: its permissions, its disk, and that no other \
                 process holds it locked"
            }
            Engine::Postgres => {
                "check that PostgreSQL runs and can be reached, the url's host, port, database, \
                 user, password and sslmode, and that the user may create tables"
            }
        }
    }

    fn using(&self) -> &'static str {
        match self.engine {
            Engine::Sqlite => "check its disk: space, permissions, load, health",
            Engine::Postgres => {
                "check that PostgreSQL runs, can be reached, takes writes, and its load"
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl RegistryError {
    /// What a fault means while the registry is opened and read.
    pub(super) fn opening(place: Place, fault: StoreFault) -> RegistryError {
        match fault {
            StoreFault::Schema(MigrateError::VersionMissing(_)) => RegistryError::TooNew { place },
            source if source.is_corruption(&place) => RegistryError::Corrupt { place, source },
            source => RegistryError::Open { place, source },
        }
    }
}

impl StoreFault {
    fn is_corruption(&self, place: &Place) -> bool {
        if matches!(self, StoreFault::Row(_)) {
            return true;
        }
        // SQLITE_CORRUPT or SQLITE_NOTADB, in the low byte of an extended code.
        let code = self.code().and_then(|code| code.parse::<i32>().ok());
        place.engine == Engine::Sqlite && code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
    }

    /// Whether PostgreSQL's connection is of no use any more. Where it is not certain that
    /// it is, a new one does no harm.
    pub(super) fn loses_connection(&self) -> bool {
        match self {
            StoreFault::Row(_) | StoreFault::Gone(_) | StoreFault::Down(_) => false,
            StoreFault::Commit(fault) => fault.loses_connection(),
            StoreFault::Silent(_) => true,
            // Locks and deadlines that ran out, deadlocks, and constraints.
            StoreFault::Database(_) | StoreFault::Schema(_) => !self.code().is_some_and(|code| {
                matches!(&*code, "55P03" | "57014" | "40001" | "40P01") || code.starts_with("23")
            }),
        }
    }

    pub(super) fn may_have_been_made(&self) -> bool {
        matches!(self, StoreFault::Commit(_))
    }

    fn code(&self) -> Option<String> {
        let error = match self {
            StoreFault::Database(error)
            | StoreFault::Schema(
                MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
            ) => error,
            StoreFault::Commit(fault) => return fault.code(),
            _ => return None,
        };
        error.as_database_error()?.code().map(Into::into)
    }
}
