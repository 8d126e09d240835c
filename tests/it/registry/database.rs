//! Databases from outside of the edge: SQL, and a PostgreSQL as fate treats it.

use std::fs;
use std::path::Path;

use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row, ValueRef};

use crate::world::eventually;

use super::block_on;

/// Runs SQL on PostgreSQL; gives the first column of every row as a text.
pub fn postgres(url: &str, sql: &str) -> Vec<String> {
    block_on(async {
        let mut connection = PgConnection::connect(url).await.unwrap();
        let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.unwrap();
        let text = |row: &sqlx::postgres::PgRow| {
            let value = row.try_get_raw(0).unwrap();
            if value.is_null() { String::new() } else { value.as_str().unwrap().to_owned() }
        };
        rows.iter().map(text).collect()
    })
}

/// Runs SQL on a file of SQLite; gives the first column of every row, which must be a text.
pub fn sqlite(file: &Path, sql: &str) -> Vec<String> {
    block_on(async {
        let options = SqliteConnectOptions::new().filename(file);
        let mut connection = options.connect().await.unwrap();
        let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    })
}

/// A writer in this process that does not come to its end.
pub struct Holder(SqliteConnection);

impl Holder {
    pub fn take(file: &Path) -> Holder {
        block_on(async {
            let options = SqliteConnectOptions::new().filename(file);
            let mut connection = options.connect().await.unwrap();
            connection.execute("BEGIN IMMEDIATE").await.unwrap();
            Holder(connection)
        })
    }

    pub fn release(mut self) {
        block_on(async {
            self.0.execute("ROLLBACK").await.unwrap();
            self.0.close().await.unwrap();
        });
    }
}

/// Ends every process of a PostgreSQL by SIGKILL, as the kernel does when memory runs out.
pub fn kill_9(url: &str) {
    let pid_file = postgres(url, "SELECT pg_read_file('postmaster.pid')");
    let postmaster: libc::pid_t = pid_file[0].lines().next().unwrap().parse().unwrap();
    // So that it starts nobody any more.
    signal(postmaster, libc::SIGSTOP);
    let mut all: Vec<libc::pid_t> =
        processes().filter(|pid| parent(*pid) == Some(postmaster)).collect();
    all.push(postmaster);
    for pid in &all {
        signal(*pid, libc::SIGKILL);
    }
    eventually("PostgreSQL is dead", || all.iter().all(|pid| parent(*pid).is_none()));
}

fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: takes numbers only. The process is PostgreSQL's, which runs until it is killed
    // here; one that has ended by itself meanwhile is not found.
    unsafe { libc::kill(pid, signal) };
}

fn processes() -> impl Iterator<Item = libc::pid_t> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// `None` where the process has ended, or waits only for its parent to ask how.
fn parent(pid: libc::pid_t) -> Option<libc::pid_t> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the command's name, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.next()?.parse().ok(),
    }
}
