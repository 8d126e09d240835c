//! The one schema of both engines.

use sqlx::migrate::Migrator;

/// Brought in force when a registry is opened; a step that has shipped never changes.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("src/registry/migrations");
