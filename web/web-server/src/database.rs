//! HQ's memory: one SQLite file in WAL mode, written by one connection and read by a few.
//!
//! Statements are portable SQL with `$1` placeholders; identities and hashes are lower-case hexadecimal in TEXT columns,
//! numbers are BIGINT. What a caller changes, it changes in one transaction that it commits itself.

pub(crate) mod agents;
pub(crate) mod events;
pub(crate) mod images;
pub(crate) mod leases;
pub(crate) mod living;
pub(crate) mod machines;
pub(crate) mod nodes;
pub(crate) mod orders;
pub(crate) mod replaced;
pub(crate) mod rosters;
mod schema;
pub(crate) mod sites;
pub(crate) mod tokens;
pub(crate) mod vouchers;
pub(crate) mod waiting;
pub(crate) mod wan;

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    Row, Sqlite, SqlitePool, Transaction,
    pool::PoolConnection,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use thiserror::Error;
use trust_format::PublicKey;
use web_api::Hex;

use crate::access::Node;

const READERS_MAX: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Result of a statement.
pub(crate) type Result<T> = std::result::Result<T, sqlx::Error>;

/// Why the database cannot be used.
#[derive(Debug, Error)]
pub enum OpenDatabaseError {
    /// It cannot be opened, or it is damaged.
    #[error("database {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// A later program wrote it.
    #[error(
        "database {path} has schema {found}, this program knows up to {known}: start the program that wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: i64,
        /// In this program.
        known: i64,
    },
}

/// The open database.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Database {
    /// Opens the file, or makes it.
    pub(crate) async fn open(path: &Path) -> std::result::Result<Self, OpenDatabaseError> {
        let error = |source| OpenDatabaseError::Open {
            path: path.to_owned(),
            source,
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // what HQ answered must survive a power cut
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(error)?;
        let found = schema::bring_up(&writer).await.map_err(error)?;
        if found > schema::VERSION {
            return Err(OpenDatabaseError::Newer {
                path: path.to_owned(),
                found,
                known: schema::VERSION,
            });
        }
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .connect_with(options.read_only(true))
            .await
            .map_err(error)?;
        Ok(Self { writer, readers })
    }

    /// A transaction that may write. There is one at a time; dropped without a commit, it changes nothing.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Sqlite>> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// A connection that only reads.
    pub(crate) async fn read(&self) -> Result<PoolConnection<Sqlite>> {
        self.readers.acquire().await
    }

    /// A node, and whether it is revoked.
    pub(crate) async fn node(&self, key: &PublicKey) -> Result<Option<(Node, bool)>> {
        let record = nodes::find(&mut *self.read().await?, key).await?;
        Ok(record.map(|r| {
            let node = Node {
                key: *key,
                site: r.site,
                is_replaced: r.life.replaced.is_some(),
            };
            (node, r.revoked)
        }))
    }
}

/// HQ's clock in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    unix_millis() / 1000
}

/// HQ's clock in milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A number for a BIGINT column. HQ's own numbers are far below its range; those of others are checked where they come in.
pub(crate) fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn undecodable(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds what this program never writes").into())
}

/// An identity or hash in a TEXT column.
fn parsed<T: FromStr>(row: &SqliteRow, column: &str) -> Result<T> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| undecodable(column))
}

fn parsed_option<T: FromStr>(row: &SqliteRow, column: &str) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|t| t.parse().map_err(|_| undecodable(column)))
        .transpose()
}

fn key(row: &SqliteRow, column: &str) -> Result<PublicKey> {
    Ok(PublicKey(parsed::<Hex<32>>(row, column)?.0))
}

fn number(row: &SqliteRow, column: &str) -> Result<u64> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| undecodable(column))
}

fn flag(row: &SqliteRow, column: &str) -> Result<bool> {
    Ok(number(row, column)? != 0)
}

fn json<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|_| undecodable(column))
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| sqlx::Error::Encode(e.into()))
}
