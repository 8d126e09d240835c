//! The engine for many nodes: a PostgreSQL database that they share.
//!
//! One connection writes and polls; where it is lost, it is made anew with growing pauses, and
//! the data path lives on from memory meanwhile. A second one hears (LISTEN) that another
//! node has written. Nothing depends on it but how soon that is noticed: the store is polled
//! all the same. A third one answers operators' questions; it is made with the first of them.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, Row as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::changes::CHANNEL;
use super::error::Place;
use super::schema;
use super::{RegistryError, StoreFault};

/// To connect: less than the deadline of a caller, so that the caller learns the reason.
const CONNECT: Duration = Duration::from_millis(1500);
/// To connect at the start, when nobody waits.
const FIRST_CONNECT: Duration = Duration::from_secs(10);
/// For the schema to be brought up to date, and for other nodes to do so.
const MIGRATE: Duration = Duration::from_secs(60);
/// Between attempts to connect: the first pause, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(4);
/// A silent ear is replaced: a network that lost the connection may never have said so.
const SILENCE: Duration = Duration::from_secs(300);

/// How long the server tries: a little less than this side waits. A transaction that this
/// side left open holds up every other node.
///
/// A database may be set up not to wait for its disk at a commit: what was answered would be
/// lost with the server.
const SESSION: &str = "SELECT set_config('synchronous_commit', 'on', false)
         WHERE current_setting('synchronous_commit') = 'off';
     SET statement_timeout = '5s';
     SET lock_timeout = '1500ms';
     SET idle_in_transaction_session_timeout = '10s'";

/// Of the connection that answers questions: each statement ends before the question's
/// deadline, so that none runs on for nobody.
const READING: &str = "SET statement_timeout = '4s';
     SET lock_timeout = '1500ms';
     SET idle_in_transaction_session_timeout = '10s';
     SET default_transaction_read_only = on";

/// What PostgreSQL's URL may say after `?`. Anything else would be left out without a word
/// to the operator.
const PARAMETERS: [&str; 13] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];

/// Whether a url is this engine's.
pub(super) fn is_url(url: &str) -> bool {
    url.starts_with("postgres:") || url.starts_with("postgresql:")
}

/// How to connect, and how that went lately. No `Debug`: it holds the password.
pub(super) struct Postgres {
    options: PgConnectOptions,
    /// Tells one run of one server from every other.
    server: Option<String>,
    failed: Option<Failed>,
    /// What each new connection is told first.
    session: &'static str,
}

struct Failed {
    again: Instant,
    pause: Duration,
    reason: Arc<str>,
}

impl Postgres {
    /// By what the url says, and the environment where the url leaves it open.
    pub(super) fn leaves_the_machine(&self) -> bool {
        let host = self.options.get_host().trim_matches(['[', ']']);
        let by_socket = self.options.get_socket().is_some() || host.starts_with('/');
        let loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        !by_socket && !loopback && host != "localhost"
    }

    /// Reads the url. No fault repeats any of it.
    pub(super) fn new(url: &str) -> Result<Postgres, RegistryError> {
        if !url.contains("://") {
            return Err(RegistryError::Url("'//' and a host are missing behind 'postgres:'"));
        }
        if url.contains('#') {
            return Err(RegistryError::Url("'#' ends a url: in a password write '%23'"));
        }
        let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
            if !PARAMETERS.contains(&name) {
                return Err(RegistryError::Url(
                    "after '?' it has a parameter other than sslmode, sslrootcert, sslcert, \
                     sslkey, host, hostaddr, port, dbname, user, password, application_name, \
                     options and statement-cache-capacity; in a password write '%3F' for '?'",
                ));
            }
        }
        let options = PgConnectOptions::from_str(url).map_err(|_| {
            RegistryError::Url(
                "PostgreSQL's url cannot be read; in a password write every character but \
                 letters and digits as '%' and two hex digits",
            )
        })?;
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("portcullis"),
        };
        let options = options.disable_statement_logging();
        Ok(Postgres { options, server: None, failed: None, session: SESSION })
    }

    /// To connect once more, for questions alone.
    pub(super) fn reader(&self) -> Postgres {
        let options = self.options.clone().application_name("portcullis reader");
        Postgres { options, server: None, failed: None, session: READING }
    }

    pub(super) fn place(&self) -> Place {
        let database = self.options.get_database().unwrap_or(self.options.get_username());
        Place::postgres(match self.options.get_socket() {
            Some(socket) => format!("{database} at PostgreSQL's socket {}", socket.display()),
            None => format!(
                "{database} at PostgreSQL {}:{}",
                self.options.get_host(),
                self.options.get_port()
            ),
        })
    }

    /// Connects and brings the schema up to date, one node at a time.
    pub(super) async fn open(&mut self) -> Result<PgConnection, StoreFault> {
        let mut connection = timeout(FIRST_CONNECT, self.options.connect())
            .await
            .map_err(|_| StoreFault::Silent(FIRST_CONNECT))??;
        // Under an advisory lock, which the connection holds until it is done.
        timeout(MIGRATE, schema::of_postgres().run_direct(None, &mut connection, false))
            .await
            .map_err(|_| StoreFault::Silent(MIGRATE))??;
        self.server = Some(session(&mut connection, self.session).await?);
        Ok(connection)
    }

    /// Connects, or connects anew, unless the last failure was a moment ago. Gives too whether the server
    /// is the same run of the same one: only then is its version a continuation.
    pub(super) async fn reconnect(&mut self) -> Result<(PgConnection, bool), StoreFault> {
        if let Some(failed) = &self.failed
            && Instant::now() < failed.again
        {
            return Err(StoreFault::Down(failed.reason.clone()));
        }
        let connecting = async {
            let mut connection = self.options.connect().await?;
            let server = session(&mut connection, self.session).await?;
            Ok::<_, StoreFault>((connection, server))
        };
        let connected = timeout(CONNECT, connecting).await;
        match connected.unwrap_or(Err(StoreFault::Silent(CONNECT))) {
            Ok((connection, server)) => {
                self.failed = None;
                let before = self.server.replace(server);
                let same = before == self.server;
                if before.is_some() {
                    tracing::info!(registry = %self.place(), "connected to PostgreSQL again");
                }
                Ok((connection, same))
            }
            Err(fault) => {
                let pause = self.failed.take().map_or(FIRST_PAUSE, |failed| failed.pause * 2);
                let (pause, reason) = (pause.min(LAST_PAUSE), Arc::from(fault.to_string()));
                let again = Instant::now() + pause;
                self.failed = Some(Failed { again, pause, reason: Arc::clone(&reason) });
                Err(StoreFault::Down(reason))
            }
        }
    }

    /// Wakes `wake` whenever a node says that it has written.
    pub(super) fn listen(&self, wake: Arc<Notify>) -> JoinHandle<()> {
        let options = self.options.clone().application_name("portcullis listener");
        let place = self.place();
        tokio::spawn(async move {
            let (mut pause, mut deaf) = (FIRST_PAUSE, false);
            loop {
                let started = Instant::now();
                let heard = async {
                    let listener = attach(&options).await?;
                    if std::mem::take(&mut deaf) {
                        tracing::info!(registry = %place, "told of other nodes' changes again");
                    }
                    hear(listener, &wake).await
                };
                // Said once, however often it fails.
                if let Err(error) = heard.await
                    && !std::mem::replace(&mut deaf, true)
                {
                    tracing::warn!(
                        registry = %place,
                        %error,
                        "not told of other nodes' changes; they are found by polling: check that \
                         PostgreSQL has a connection to spare, and no pooler of transactions in \
                         front of it, under which LISTEN does not work"
                    );
                }
                pause = if started.elapsed() > LAST_PAUSE { FIRST_PAUSE } else { pause * 2 };
                pause = pause.min(LAST_PAUSE);
                sleep(pause).await;
            }
        })
    }
}

async fn attach(options: &PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    let listening = async {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(options.clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    timeout(CONNECT, listening).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Hears until the connection ends.
async fn hear(mut listener: PgListener, wake: &Notify) -> Result<(), sqlx::Error> {
    loop {
        // Also before the first word: something may have been said in between.
        wake.notify_one();
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// Sets the deadlines of a session; gives what tells this run of this server.
async fn session(
    connection: &mut PgConnection,
    settings: &'static str,
) -> Result<String, StoreFault> {
    let asked = async {
        sqlx::raw_sql(settings).execute(&mut *connection).await?;
        sqlx::query("SELECT CAST(pg_postmaster_start_time() AS TEXT)")
            .fetch_one(&mut *connection)
            .await?
            .try_get(0)
    };
    Ok(timeout(FIRST_CONNECT, asked).await.map_err(|_| StoreFault::Silent(FIRST_CONNECT))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faulty_url_is_told_without_its_password() {
        for url in [
            "postgres://u:hunter2#@h/d",
            "postgres://u:hunter2?x@h/d",
            "postgres://u@h/d?passwd=hunter2",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@h/d?sslmode=hunter2",
            "postgres:",
        ] {
            let fault = Postgres::new(url).err().unwrap();
            assert!(matches!(fault, RegistryError::Url(_)), "{url}");
            assert!(!format!("{fault} {fault:?}").contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn a_place_has_host_port_and_database_and_no_password() {
        let place = |url| Postgres::new(url).unwrap().place().to_string();
        assert_eq!(
            place("postgresql://u:hunter2@db.example.com:6432/edge?sslmode=require"),
            "edge at PostgreSQL db.example.com:6432"
        );
        assert_eq!(
            place("postgres:///edge?host=/run/postgresql&user=u&password=hunter2"),
            "edge at PostgreSQL's socket /run/postgresql"
        );
    }
}
