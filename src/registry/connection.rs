//! One text of SQL for both engines: a statement is written once, with `$1` for its values,
//! and holds nothing but text and 64-bit integers.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, Decode, Row as _, SqlSafeStr, SqlStr, Type};
use tokio::time::timeout;

use super::StoreFault;

/// For PostgreSQL to answer one statement. Longer than its own `statement_timeout`, which
/// tells more: this one is for a network that swallows everything.
const ANSWER: Duration = Duration::from_secs(6);

/// A value of a statement. `None` is a NULL of that type.
#[derive(Clone, Copy)]
pub(super) enum Value<'v> {
    Text(Option<&'v str>),
    Int(Option<i64>),
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(text: &'v str) -> Value<'v> {
        Value::Text(Some(text))
    }
}

impl<'v> From<&'v String> for Value<'v> {
    fn from(text: &'v String) -> Value<'v> {
        Value::Text(Some(text))
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Value::Int(Some(number))
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Value::Int(Some(yes.into()))
    }
}

/// A statement's text: written in the source, or made by [`rows_of`].
pub(super) trait Sql {
    fn text(self) -> SqlStr;
    /// The same for SQLite.
    fn sqlite_text(self) -> SqlStr;
    /// Whether the engine should remember it prepared.
    const KEPT: bool;
}

impl Sql for &'static str {
    fn text(self) -> SqlStr {
        self.into_sql_str()
    }
    fn sqlite_text(self) -> SqlStr {
        self.text()
    }
    const KEPT: bool = true;
}

impl Sql for String {
    fn text(self) -> SqlStr {
        // Every value is bound: what is put together here is placeholders alone.
        AssertSqlSafe(self).into_sql_str()
    }
    /// `?` alone, since the values stand in their order: to SQLite `$1` is a name, and it looks
    /// each name up among all others, which are thousands here.
    fn sqlite_text(self) -> SqlStr {
        let mut text = String::with_capacity(self.len());
        for (index, part) in self.split('$').enumerate() {
            match index {
                0 => text.push_str(part),
                _ => {
                    text.push('?');
                    text.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
                }
            }
        }
        text.text()
    }
    const KEPT: bool = false;
}

/// `($1, $2), ($3, $4)`: the placeholders of `rows` rows of `width` values each. The first is
/// `$first`.
pub(super) fn rows_of(rows: usize, width: usize, first: usize) -> String {
    let row = |row: usize| {
        let places: Vec<String> =
            (0..width).map(|place| format!("${}", first + row * width + place)).collect();
        format!("({})", places.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

pub(super) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Dropped without a commit, it is undone: PostgreSQL's at once, SQLite's by
/// [`Connection::undo`].
pub(super) enum Transaction<'c> {
    /// Not sqlx's own: SQLite ends a transaction by itself where the disk fails it, and sqlx
    /// would count it as open for ever.
    Sqlite(&'c mut SqliteConnection),
    Postgres(sqlx::Transaction<'c, Postgres>),
}

pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(super) fn get<'r, T>(&'r self, column: usize) -> Result<T, StoreFault>
    where
        T: Type<Sqlite> + Decode<'r, Sqlite> + Type<Postgres> + Decode<'r, Postgres>,
    {
        Ok(match self {
            Row::Sqlite(row) => row.try_get(column)?,
            Row::Postgres(row) => row.try_get(column)?,
        })
    }
}

/// Either engine's query with its values.
macro_rules! query {
    ($text:expr, $type:ident, $values:ident) => {{
        let mut query = sqlx::query($text).persistent($type::KEPT);
        for value in $values {
            query = match *value {
                Value::Text(text) => query.bind(text),
                Value::Int(number) => query.bind(number),
            };
        }
        query
    }};
}

impl Connection {
    /// For writing: no other writer comes in between.
    pub(super) async fn begin(&mut self) -> Result<Transaction<'_>, StoreFault> {
        Ok(match self {
            // IMMEDIATE takes the write lock at once; a lock that is taken by the first
            // statement could fail without waiting where another process has just written.
            Connection::Sqlite(connection) => {
                told(connection, "BEGIN IMMEDIATE").await?;
                Transaction::Sqlite(connection)
            }
            // Said, because a database may have another default, under which a writer that
            // has waited for another one fails.
            Connection::Postgres(connection) => {
                let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
                Transaction::Postgres(answered(connection.begin_with(begin)).await?)
            }
        })
    }

    /// Ends what a failure has left open. Where there is nothing, nothing happens.
    pub(super) async fn undo(&mut self) {
        if let Connection::Sqlite(connection) = self {
            // Fails where SQLite has undone it; where the disk still fails, so does the next
            // BEGIN, and this is tried again.
            let _ = told(connection, "ROLLBACK").await;
        }
    }

    /// For reading: every statement sees the same state.
    pub(super) async fn snapshot(&mut self) -> Result<Transaction<'_>, StoreFault> {
        Ok(match self {
            Connection::Sqlite(connection) => {
                told(connection, "BEGIN").await?;
                Transaction::Sqlite(connection)
            }
            Connection::Postgres(connection) => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                Transaction::Postgres(answered(connection.begin_with(begin)).await?)
            }
        })
    }

    pub(super) async fn rows<S: Sql>(
        &mut self,
        sql: S,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StoreFault> {
        match self {
            Connection::Sqlite(connection) => rows_sqlite(connection, sql, values).await,
            Connection::Postgres(connection) => rows_postgres(connection, sql, values).await,
        }
    }

    pub(super) async fn execute<S: Sql>(
        &mut self,
        sql: S,
        values: &[Value<'_>],
    ) -> Result<u64, StoreFault> {
        Ok(match self {
            Connection::Sqlite(connection) => {
                query!(sql.sqlite_text(), S, values).execute(connection).await?.rows_affected()
            }
            Connection::Postgres(connection) => {
                answered(query!(sql.text(), S, values).execute(connection)).await?.rows_affected()
            }
        })
    }

    pub(super) async fn close(self) -> Result<(), StoreFault> {
        match self {
            Connection::Sqlite(connection) => Ok(connection.close().await?),
            Connection::Postgres(connection) => answered(connection.close()).await,
        }
    }
}

impl Transaction<'_> {
    pub(super) async fn rows<S: Sql>(
        &mut self,
        sql: S,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StoreFault> {
        match self {
            Transaction::Sqlite(inside) => rows_sqlite(inside, sql, values).await,
            Transaction::Postgres(inside) => rows_postgres(inside, sql, values).await,
        }
    }

    /// How many rows the statement has changed.
    pub(super) async fn execute<S: Sql>(
        &mut self,
        sql: S,
        values: &[Value<'_>],
    ) -> Result<u64, StoreFault> {
        Ok(match self {
            Transaction::Sqlite(inside) => {
                query!(sql.sqlite_text(), S, values).execute(&mut **inside).await?.rows_affected()
            }
            Transaction::Postgres(inside) => {
                answered(query!(sql.text(), S, values).execute(&mut **inside))
                    .await?
                    .rows_affected()
            }
        })
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// [`StoreFault::Commit`]: it may be durable or undone.
    pub(super) async fn commit(self) -> Result<(), StoreFault> {
        let committed = match self {
            Transaction::Sqlite(inside) => told(inside, "COMMIT").await,
            Transaction::Postgres(inside) => answered(inside.commit()).await,
        };
        committed.map_err(|fault| StoreFault::Commit(Box::new(fault)))
    }

    pub(super) async fn rollback(self) -> Result<(), StoreFault> {
        match self {
            Transaction::Sqlite(inside) => told(inside, "ROLLBACK").await,
            Transaction::Postgres(inside) => answered(inside.rollback()).await,
        }
    }
}

async fn told(connection: &mut SqliteConnection, what: &'static str) -> Result<(), StoreFault> {
    sqlx::raw_sql(what).execute(connection).await?;
    Ok(())
}

async fn rows_sqlite<S: Sql>(
    connection: &mut SqliteConnection,
    sql: S,
    values: &[Value<'_>],
) -> Result<Vec<Row>, StoreFault> {
    let rows = query!(sql.sqlite_text(), S, values).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Row::Sqlite).collect())
}

async fn rows_postgres<S: Sql>(
    connection: &mut PgConnection,
    sql: S,
    values: &[Value<'_>],
) -> Result<Vec<Row>, StoreFault> {
    let rows = answered(query!(sql.text(), S, values).fetch_all(connection)).await?;
    Ok(rows.into_iter().map(Row::Postgres).collect())
}

async fn answered<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreFault> {
    Ok(timeout(ANSWER, asked).await.map_err(|_| StoreFault::Silent(ANSWER))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_through() {
        assert_eq!(rows_of(2, 3, 1), "($1, $2, $3), ($4, $5, $6)");
        assert_eq!(rows_of(3, 1, 2), "($2), ($3), ($4)");
        let text = format!("SELECT {} LIMIT $12", rows_of(1, 2, 1));
        assert_eq!(text.sqlite_text().as_str(), "SELECT (?, ?) LIMIT ?");
    }
}
