//! The store in SQL, over either engine.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::connection::Connection;
use super::error::Place;
use super::feed::{self, Feed};
use super::postgres::{self, Postgres};
use super::sqlite::Interrupt;
use super::store::{Answers, Registrations, Store};
use super::{
    Actor, AuditQuery, AuditRecord, Change, DeviceQuery, DeviceRecord, Outcome, Registration,
    RegistryError, StoreFault, changes, questions, sqlite,
};
use crate::clock::UnixSeconds;
use crate::names::{DeviceId, TenantId};

/// Where a registry is kept, read from its url and not yet opened.
pub(super) enum Location {
    Sqlite(PathBuf),
    Postgres(Box<Postgres>),
}

impl Location {
    pub(super) fn parse(url: &str) -> Result<Location, RegistryError> {
        if postgres::is_url(url) {
            return Ok(Location::Postgres(Box::new(Postgres::new(url)?)));
        }
        Ok(Location::Sqlite(sqlite::path(url)?))
    }

    /// What answers questions about the same store. Nothing is opened yet.
    pub(super) fn reader(&self) -> SqlReader {
        let (place, source) = match self {
            Location::Sqlite(path) => (Place::sqlite(path), Location::Sqlite(path.clone())),
            Location::Postgres(postgres) => {
                (postgres.place(), Location::Postgres(Box::new(postgres.reader())))
            }
        };
        SqlReader { place, source, open: None }
    }

    /// Opens the store. `wake` is told where another node has written and the engine says so.
    pub(super) async fn open(self, wake: Arc<Notify>) -> Result<SqlStore, RegistryError> {
        match self {
            Location::Sqlite(path) => {
                let (connection, files) = sqlite::open(&path).await?;
                let mut store =
                    SqlStore::new(Place::sqlite(&path), Connection::Sqlite(connection), None, None);
                store.files = Some(files);
                Ok(store)
            }
            Location::Postgres(mut postgres) => {
                let place = postgres.place();
                let connection = postgres.open().await;
                let connection =
                    connection.map_err(|fault| RegistryError::opening(place.clone(), fault))?;
                let ear = postgres.listen(wake);
                let connection = Connection::Postgres(connection);
                Ok(SqlStore::new(place, connection, Some(postgres), Some(ear)))
            }
        }
    }
}

pub(super) struct SqlStore {
    place: Place,
    /// `None`: lost, and to be made anew. SQLite's is never lost.
    connection: Option<Connection>,
    /// SQLite's.
    files: Option<sqlite::Files>,
    postgres: Option<Box<Postgres>>,
    ear: Option<JoinHandle<()>>,
    /// Up to which version memory has followed; `None`: it must be told everything.
    position: Option<i64>,
}

impl SqlStore {
    fn new(
        place: Place,
        connection: Connection,
        postgres: Option<Box<Postgres>>,
        ear: Option<JoinHandle<()>>,
    ) -> SqlStore {
        SqlStore { place, connection: Some(connection), files: None, postgres, ear, position: None }
    }

    /// Does the work; once more on a new connection where the old one turns out to be lost,
    /// unless the work may have been done.
    async fn with<T>(
        &mut self,
        work: impl AsyncFn(&mut Connection) -> Result<T, StoreFault>,
    ) -> Result<T, StoreFault> {
        let fault = match self.attempt(&work).await {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        let final_word = fault.may_have_been_made()
            || matches!(fault, StoreFault::Down(_) | StoreFault::Silent(_));
        if self.connection.is_some() || final_word {
            return Err(fault);
        }
        self.attempt(&work).await
    }

    async fn attempt<T>(
        &mut self,
        work: &impl AsyncFn(&mut Connection) -> Result<T, StoreFault>,
    ) -> Result<T, StoreFault> {
        let done = work(self.connected().await?).await;
        if let Err(fault) = &done
            && self.postgres.is_some()
            && fault.loses_connection()
        {
            self.connection = None;
        }
        if done.is_err()
            && let Some(connection) = &mut self.connection
        {
            connection.undo().await;
        }
        done
    }

    async fn connected(&mut self) -> Result<&mut Connection, StoreFault> {
        if self.connection.is_none()
            && let Some(postgres) = &mut self.postgres
        {
            let (connection, same) = postgres.reconnect().await?;
            if !same {
                // It may be another server, or may have got a backup back.
                self.position = None;
            }
            self.connection = Some(Connection::Postgres(connection));
        }
        if let Some(files) = &self.files {
            files.check()?;
        }
        self.connection.as_mut().ok_or_else(|| StoreFault::Down("closed".into()))
    }
}

#[async_trait(?Send)]
impl Store for SqlStore {
    fn place(&self) -> &Place {
        &self.place
    }

    async fn register(&mut self, devices: &[Registration]) -> Result<Registrations, StoreFault> {
        let (outcomes, before) =
            self.with(async |connection| changes::register(connection, devices).await).await?;
        let in_step = self.position == Some(before);
        if in_step && outcomes.iter().any(|outcome| outcome.created) {
            self.position = Some(before + 1);
        }
        Ok(Registrations { outcomes, in_step })
    }

    async fn apply(
        &mut self,
        actor: &Actor,
        at: UnixSeconds,
        change: &Change,
    ) -> Result<Outcome, StoreFault> {
        self.with(async |connection| changes::apply(connection, actor, at, change).await).await
    }

    async fn follow(&mut self) -> Result<Option<Feed>, StoreFault> {
        // Also finds out whether the connection still lives, and so may forget the position.
        let version = self.with(async |connection| feed::version(connection).await).await?;
        if self.position == Some(version) {
            return Ok(None);
        }
        let since = self.position;
        let read = self.attempt(&async |connection| feed::read(connection, since).await).await;
        let (feed, version) = read?;
        self.position = Some(version);
        Ok(Some(feed))
    }

    async fn probe(&mut self) -> Result<(), StoreFault> {
        self.with(async |connection| changes::probe(connection).await).await
    }

    async fn close(self: Box<Self>) {
        if let Some(ear) = self.ear {
            ear.abort();
            // It ends by being aborted, which is no news.
            let _ = ear.await;
        }
        if let Some(connection) = self.connection
            && let Err(error) = connection.close().await
        {
            tracing::warn!(registry = %self.place, %error, "the registry did not close cleanly");
        }
    }
}

/// Answers questions over a connection that it makes with the first one, and anew where it is
/// lost or a question was broken off.
pub(super) struct SqlReader {
    place: Place,
    source: Location,
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    /// Ends what SQLite is still doing when a question is broken off; PostgreSQL ends it by
    /// its own deadline.
    _interrupt: Option<Interrupt>,
}

impl SqlReader {
    /// Asks; once more on a new connection where the old one turns out to be lost.
    pub(super) async fn with<T>(
        &mut self,
        work: impl AsyncFn(&mut Connection) -> Result<T, StoreFault>,
    ) -> Result<T, StoreFault> {
        let was_open = self.open.is_some();
        match self.attempt(&work).await {
            // A server that said nothing for so long will say nothing now.
            Err(fault)
                if was_open && self.open.is_none() && !matches!(fault, StoreFault::Silent(_)) =>
            {
                self.attempt(&work).await
            }
            answered => answered,
        }
    }

    async fn attempt<T>(
        &mut self,
        work: &impl AsyncFn(&mut Connection) -> Result<T, StoreFault>,
    ) -> Result<T, StoreFault> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        let answered = work(&mut open.connection).await;
        // A row that cannot be read breaks off within a transaction, which would show this
        // connection the same old state for ever.
        if answered.is_err() {
            open.connection.undo().await;
        }
        // A question that is broken off never comes here, and takes its connection along.
        if !answered.as_ref().is_err_and(StoreFault::loses_connection) {
            self.open = Some(open);
        }
        answered
    }

    async fn connect(&mut self) -> Result<Open, StoreFault> {
        Ok(match &mut self.source {
            Location::Sqlite(path) => {
                let (connection, interrupt) = sqlite::read(path).await?;
                Open { connection: Connection::Sqlite(connection), _interrupt: Some(interrupt) }
            }
            Location::Postgres(postgres) => {
                let (connection, _) = postgres.reconnect().await?;
                Open { connection: Connection::Postgres(connection), _interrupt: None }
            }
        })
    }
}

#[async_trait(?Send)]
impl Answers for SqlReader {
    fn place(&self) -> &Place {
        &self.place
    }

    async fn devices(&mut self, query: &DeviceQuery) -> Result<Vec<DeviceRecord>, StoreFault> {
        self.with(async |connection| questions::devices(connection, query).await).await
    }

    async fn device(
        &mut self,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Option<DeviceRecord>, StoreFault> {
        self.with(async |connection| questions::device(connection, tenant, device).await).await
    }

    async fn device_count(&mut self, tenant: &TenantId) -> Result<u64, StoreFault> {
        self.with(async |connection| questions::device_count(connection, tenant).await).await
    }

    async fn audit(&mut self, query: &AuditQuery) -> Result<Vec<AuditRecord>, StoreFault> {
        self.with(async |connection| questions::audit(connection, query).await).await
    }

    async fn close(self: Box<Self>) {
        if let Some(open) = self.open
            && let Err(error) = open.connection.close().await
        {
            tracing::debug!(registry = %self.place, %error, "the reader did not close cleanly");
        }
    }
}
