//! One way to speak SQL to both kinds of database: a text with `$1`, the values for it, and rows.
//!
//! The text is the same for SQLite and PostgreSQL. What it may say is what both understand: see `docs/design/0022-one-sql-text.md`.

use std::{borrow::Cow, collections::BTreeSet, fmt::Write as _};

use sqlx::{
    AssertSqlSafe, Database, Decode, Encode, Postgres, Row as _, Sqlite, Transaction, Type,
    pool::PoolConnection, postgres::PgRow, query::Query as Statement, sqlite::SqliteRow,
};

use super::Result;
use crate::bell::News;

/// A connection to the database: one that only reads, or one that is in a transaction.
#[derive(Debug)]
pub(crate) struct Connection {
    link: Link,
    /// To be told when the transaction is committed.
    news: BTreeSet<News>,
}

/// What it is made of.
#[derive(Debug)]
pub(super) enum Link {
    SqliteReader(PoolConnection<Sqlite>),
    SqliteWriter(Transaction<'static, Sqlite>),
    PostgresReader(PoolConnection<Postgres>),
    PostgresWriter(Transaction<'static, Postgres>),
}

/// The two kinds.
enum Kind<'a> {
    Sqlite(&'a mut sqlx::SqliteConnection),
    Postgres(&'a mut sqlx::PgConnection),
}

impl Connection {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            news: BTreeSet::new(),
        }
    }

    pub(super) fn into_parts(self) -> (Link, BTreeSet<News>) {
        (self.link, self.news)
    }

    /// Told when the transaction is committed, to this process and to every other on this database; never when it is not.
    pub(crate) fn tell(&mut self, news: News) {
        self.news.insert(news);
    }

    fn kind(&mut self) -> Kind<'_> {
        match &mut self.link {
            Link::SqliteReader(link) => Kind::Sqlite(link),
            Link::SqliteWriter(link) => Kind::Sqlite(link),
            Link::PostgresReader(link) => Kind::Postgres(link),
            Link::PostgresWriter(link) => Kind::Postgres(link),
        }
    }
}

/// A value for a statement. PostgreSQL wants the type of a NULL too.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
    Blob(Option<Vec<u8>>),
}

/// PostgreSQL's texts hold every character but one. Whoever reports that one must not be stopped for ever: it is shown as unreadable.
fn writable(text: String) -> String {
    match text.contains('\0') {
        true => text.replace('\0', "\u{FFFD}"),
        false => text,
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(writable(text)))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(writable))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        text.map(str::to_owned).into()
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Blob(Some(bytes.to_vec()))
    }
}

impl From<&Vec<u8>> for Value {
    fn from(bytes: &Vec<u8>) -> Self {
        bytes.as_slice().into()
    }
}

/// A statement and its values. Its text is made of pieces that are in this program: what people and machines say is a value.
#[derive(Debug, Clone)]
#[must_use = "a statement does nothing by itself"]
pub(crate) struct Query {
    text: Cow<'static, str>,
    values: Vec<Value>,
    /// The number of its first value, less one.
    behind: usize,
}

/// A statement that both kinds of database understand.
pub(crate) fn query(text: &'static str) -> Query {
    Query {
        text: Cow::Borrowed(text),
        values: Vec::new(),
        behind: 0,
    }
}

impl Query {
    /// The value of the next `$N`.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Goes on with a further piece of text.
    pub(crate) fn say(mut self, piece: &'static str) -> Self {
        self.text.to_mut().push_str(piece);
        self
    }

    /// Goes on with the next `$N` and its value.
    pub(crate) fn value(mut self, value: impl Into<Value>) -> Self {
        self = self.bind(value);
        // writing to a string does not fail
        let _ = write!(self.text.to_mut(), "${}", self.behind + self.values.len());
        self
    }

    /// Goes on with several of them, between commas.
    pub(crate) fn list<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        for (at, value) in values.into_iter().enumerate() {
            self = self.say(if at == 0 { "" } else { ", " }).value(value);
        }
        self
    }

    /// Pieces that will be said before these, and whose values have the numbers behind these.
    pub(crate) fn beside(&self, text: &'static str) -> Self {
        Self {
            behind: self.values.len(),
            ..query(text)
        }
    }

    /// The whole of pieces that were made beside these, or that have no values, and these.
    pub(crate) fn after(mut self, head: Self) -> Self {
        let fits = head.values.is_empty() || head.behind == self.values.len();
        debug_assert!(fits, "values have other numbers");
        self.values.extend(head.values);
        Self {
            text: Cow::Owned(head.text.into_owned() + &self.text),
            ..self
        }
    }

    /// Goes on with pieces that have no values.
    pub(crate) fn and(mut self, tail: &Self) -> Self {
        debug_assert!(tail.values.is_empty(), "values have other numbers");
        self.text.to_mut().push_str(&tail.text);
        self
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn statement<DB: Database>(self) -> Statement<'static, DB, DB::Arguments>
    where
        Option<String>: Encode<'static, DB> + Type<DB>,
        Option<i64>: Encode<'static, DB> + Type<DB>,
        Option<Vec<u8>>: Encode<'static, DB> + Type<DB>,
    {
        let mut statement = match self.text {
            Cow::Borrowed(text) => sqlx::query(text),
            // made of pieces of this program alone
            Cow::Owned(text) => sqlx::query(AssertSqlSafe(text)),
        };
        for value in self.values {
            statement = match value {
                Value::Text(text) => statement.bind(text),
                Value::Integer(number) => statement.bind(number),
                Value::Blob(bytes) => statement.bind(bytes),
            };
        }
        statement
    }

    /// Runs it. Returns how many rows it touched.
    pub(crate) async fn execute(self, db: &mut Connection) -> Result<u64> {
        Ok(match db.kind() {
            Kind::Sqlite(db) => self.statement().execute(db).await?.rows_affected(),
            Kind::Postgres(db) => self.statement().execute(db).await?.rows_affected(),
        })
    }

    /// The only row.
    pub(crate) async fn fetch_one(self, db: &mut Connection) -> Result<Row> {
        let found = self.fetch_optional(db).await?;
        found.ok_or(sqlx::Error::RowNotFound)
    }

    /// The first row, if there is one.
    pub(crate) async fn fetch_optional(self, db: &mut Connection) -> Result<Option<Row>> {
        Ok(match db.kind() {
            Kind::Sqlite(db) => {
                let found = self.statement().fetch_optional(db).await?;
                found.map(Row::Sqlite)
            }
            Kind::Postgres(db) => {
                let found = self.statement().fetch_optional(db).await?;
                found.map(Row::Postgres)
            }
        })
    }

    /// All rows.
    pub(crate) async fn fetch_all(self, db: &mut Connection) -> Result<Vec<Row>> {
        Ok(match db.kind() {
            Kind::Sqlite(db) => {
                let found = self.statement().fetch_all(db).await?;
                found.into_iter().map(Row::Sqlite).collect()
            }
            Kind::Postgres(db) => {
                let found = self.statement().fetch_all(db).await?;
                found.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// One column of the first row.
    pub(crate) async fn fetch_value<T: Owned>(
        self,
        db: &mut Connection,
        column: &str,
    ) -> Result<Option<T>> {
        let row = self.fetch_optional(db).await?;
        row.map(|row| row.try_get(column)).transpose()
    }

    /// One column of all rows.
    pub(crate) async fn fetch_values<T: Owned>(
        self,
        db: &mut Connection,
        column: &str,
    ) -> Result<Vec<T>> {
        let rows = self.fetch_all(db).await?;
        rows.iter().map(|row| row.try_get(column)).collect()
    }
}

/// What a column may be read as.
pub(crate) trait Readable<'r>:
    Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{
}

impl<'r, T> Readable<'r> for T where
    T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{
}

/// The same, without a borrow of the row.
pub(crate) trait Owned: for<'r> Readable<'r> {}

impl<T> Owned for T where T: for<'r> Readable<'r> {}

/// A row that was found.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// A column by its name: text, `i64`, bytes, or one of them that may be NULL.
    pub(crate) fn try_get<'r, T: Readable<'r>>(&'r self, column: &str) -> Result<T> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}
