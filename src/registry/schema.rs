//! The one schema of both engines, and what PostgreSQL has to be told besides.

use sqlx::migrate::Migrator;

/// Brought in force when a registry is opened; a step that has shipped never changes.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("src/registry/migrations");

static OF_POSTGRES: Migrator = sqlx::migrate!("src/registry/migrations/postgres");

/// The steps of PostgreSQL: numbered through with the others, so that SQLite's lack some.
pub(super) fn of_postgres() -> Migrator {
    Migrator::with_migrations(MIGRATIONS.iter().chain(OF_POSTGRES.iter()).cloned().collect())
}
