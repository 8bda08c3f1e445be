//! HQ's memory: one SQLite file in WAL mode, or a PostgreSQL database that several processes of HQ share.
//!
//! Statements are one text for both, with `$1` placeholders ([`sql`]); identities and hashes are lower-case hexadecimal in TEXT columns,
//! numbers are BIGINT. What a caller changes, it changes in one transaction that it commits itself. There is one such transaction at a
//! time, whichever database it is and however many processes there are.

pub(crate) mod access_tokens;
pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod changes;
pub(crate) mod counts;
mod ear;
pub(crate) mod events;
pub(crate) mod images;
pub(crate) mod leases;
pub(crate) mod listing;
pub(crate) mod living;
pub(crate) mod machines;
pub(crate) mod nodes;
pub(crate) mod orders;
mod place;
pub(crate) mod reach;
pub(crate) mod replaced;
pub(crate) mod roots;
pub(crate) mod rosters;
mod schema;
pub(crate) mod search;
mod server;
pub(crate) mod sessions;
pub(crate) mod sites;
pub(crate) mod sql;
pub(crate) mod tokens;
pub(crate) mod users;
pub(crate) mod vouchers;
pub(crate) mod waiting;
pub(crate) mod wan;

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use thiserror::Error;
use tokio::sync::{Mutex, OwnedMutexGuard};
use trust_format::PublicKey;
use web_api::Hex;

use crate::{
    access::{By, Node},
    bell::Bells,
};
use place::Place;
pub use place::{DatabasePlace, ParseDatabasePlaceError};
use server::Server;
pub(crate) use server::is_away;
pub(crate) use sql::Connection;
use sql::{Link, Row};

const READERS_MAX: u32 = 4;
/// Pages that a connection keeps, in KiB below zero: with SQLite's own 2 MiB, rows of nodes all over the file are read again for each write.
const WRITER_CACHE: &str = "-16384";
const READER_CACHE: &str = "-8192";
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Result of a statement.
pub(crate) type Result<T> = std::result::Result<T, sqlx::Error>;

/// Why the database cannot be used.
#[derive(Debug, Error)]
pub enum OpenDatabaseError {
    /// It cannot be opened, or it is damaged.
    #[error("database {place}")]
    Open {
        /// Which.
        place: DatabasePlace,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// Its server is not there.
    #[error("database {place} did not answer within {seconds} s")]
    Away {
        /// Which.
        place: DatabasePlace,
        /// How long HQ waited.
        seconds: u64,
        /// The last cause.
        #[source]
        source: sqlx::Error,
    },
    /// A later program wrote it.
    #[error(
        "database {place} has schema {found}, this program knows up to {known}: start the program that wrote it"
    )]
    Newer {
        /// Which.
        place: DatabasePlace,
        /// In the database.
        found: i64,
        /// In this program.
        known: i64,
    },
}

/// The open database.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pools: Pools,
    bells: Arc<Bells>,
    alone: Arc<Mutex<()>>,
    /// The number of the root under which this process signs.
    root: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
enum Pools {
    File {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Server(Server),
}

/// A transaction that may write. Dropped without a commit, it changes nothing, and nobody is told.
#[derive(Debug)]
pub(crate) struct Change {
    connection: Connection,
    bells: Arc<Bells>,
    /// Goes into the audit log with the change.
    act: Option<audit::Act>,
}

/// A connection that only reads. Each statement sees what is committed when it begins.
#[derive(Debug)]
pub(crate) struct Reading(Connection);

/// Nobody else publishes meanwhile, in this process or in another one on the same database.
#[derive(Debug)]
pub(crate) struct Alone {
    _here: OwnedMutexGuard<()>,
    _everywhere: Option<server::Lock>,
}

impl Deref for Change {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Deref for Reading {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Reading {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

impl Change {
    /// What is changed, in words, for the audit log. The last words count; a change that no person makes has none.
    pub(crate) fn says(&mut self, what: impl Into<String>) {
        if let Some(act) = &mut self.act {
            act.what = what.into();
        }
    }

    /// The change is somebody's act after all.
    pub(crate) fn act_of(&mut self, act: audit::Act) {
        self.act = Some(act);
    }

    /// Makes it last, and then tells the news of it.
    pub(crate) async fn commit(mut self) -> Result<()> {
        if let Some(act) = self.act.take() {
            audit::append(&mut self.connection, act).await?;
        }
        let (link, news) = self.connection.into_parts();
        match link {
            Link::SqliteWriter(change) => change.commit().await?,
            Link::PostgresWriter(mut change) => {
                server::notify(&mut change, news.iter()).await?;
                change.commit().await?;
            }
            Link::SqliteReader(_) | Link::PostgresReader(_) => {}
        }
        // not only through the server: the line to it may be down
        news.iter().for_each(|news| self.bells.hear(news));
        Ok(())
    }
}

impl Database {
    /// Opens the database, or makes it. What is told through it rings these bells.
    pub(crate) async fn open(
        place: &DatabasePlace,
        bells: Arc<Bells>,
    ) -> std::result::Result<Self, OpenDatabaseError> {
        let pools = match &place.0 {
            Place::File(path) => {
                let error = |source| OpenDatabaseError::Open {
                    place: place.clone(),
                    source,
                };
                let (writer, readers, found) = open_file(path).await.map_err(error)?;
                check_version(place, found)?;
                Pools::File { writer, readers }
            }
            Place::Server(options) => {
                let server = Server::open(place, options, bells.clone()).await?;
                Pools::Server(server)
            }
        };
        Ok(Self {
            pools,
            bells,
            alone: Arc::default(),
            // until it is said, nothing is signed
            root: Arc::new(AtomicU64::new(u64::MAX)),
        })
    }

    /// From now on this process signs under the root of this number, and waits with its changes when there is a higher one.
    pub(crate) fn signs_under(&self, root: u64) {
        self.root.store(root, Ordering::Relaxed);
    }

    /// A transaction in which a person changes something. What is committed is in the audit log.
    pub(crate) async fn write_by(&self, by: &By) -> Result<Change> {
        self.write_act(by.act()).await
    }

    /// The same for somebody who is just signing in.
    pub(crate) async fn write_act(&self, act: audit::Act) -> Result<Change> {
        let mut change = self.write().await?;
        change.act = Some(act);
        Ok(change)
    }

    /// A transaction that may write, for HQ itself and for nodes. There is one at a time.
    pub(crate) async fn write(&self) -> Result<Change> {
        let link = match &self.pools {
            Pools::File { writer, .. } => {
                Link::SqliteWriter(writer.begin_with("BEGIN IMMEDIATE").await?)
            }
            Pools::Server(server) => {
                Link::PostgresWriter(server.write(&self.root, &self.bells).await?)
            }
        };
        Ok(Change {
            connection: Connection::new(link),
            bells: self.bells.clone(),
            act: None,
        })
    }

    /// Ends every connection, so that its file can be moved.
    pub(crate) async fn close(self) {
        if let Pools::File { writer, readers } = self.pools {
            readers.close().await;
            writer.close().await;
        }
    }

    /// A connection that only reads.
    pub(crate) async fn read(&self) -> Result<Reading> {
        let link = match &self.pools {
            Pools::File { readers, .. } => Link::SqliteReader(readers.acquire().await?),
            Pools::Server(server) => Link::PostgresReader(server.read().await?),
        };
        Ok(Reading(Connection::new(link)))
    }

    /// For what reads, decides outside of a transaction and writes, such as publishing: one at a time.
    pub(crate) async fn alone(&self) -> Result<Alone> {
        let here = self.alone.clone().lock_owned().await;
        let everywhere = match &self.pools {
            Pools::File { .. } => None,
            Pools::Server(server) => Some(server.lock().await?),
        };
        Ok(Alone {
            _here: here,
            _everywhere: everywhere,
        })
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

fn check_version(place: &DatabasePlace, found: i64) -> std::result::Result<(), OpenDatabaseError> {
    match found > schema::VERSION {
        false => Ok(()),
        true => Err(OpenDatabaseError::Newer {
            place: place.clone(),
            found,
            known: schema::VERSION,
        }),
    }
}

/// Opens or makes a file. Returns its writer, its readers and its schema's number.
async fn open_file(path: &Path) -> Result<(SqlitePool, SqlitePool, i64)> {
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
        // a file does not hang up
        .test_before_acquire(false)
        .connect_with(options.clone().pragma("cache_size", WRITER_CACHE))
        .await?;
    let found = schema::bring_up_file(&writer).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .test_before_acquire(false)
        .connect_with(options.pragma("cache_size", READER_CACHE).read_only(true))
        .await?;
    Ok((writer, readers, found))
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
fn parsed<T: FromStr>(row: &Row, column: &str) -> Result<T> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| undecodable(column))
}

fn parsed_option<T: FromStr>(row: &Row, column: &str) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|t| t.parse().map_err(|_| undecodable(column)))
        .transpose()
}

fn key(row: &Row, column: &str) -> Result<PublicKey> {
    Ok(PublicKey(parsed::<Hex<32>>(row, column)?.0))
}

fn number(row: &Row, column: &str) -> Result<u64> {
    u64::try_from(row.try_get::<i64>(column)?).map_err(|_| undecodable(column))
}

fn flag(row: &Row, column: &str) -> Result<bool> {
    Ok(number(row, column)? != 0)
}

fn json<T: serde::de::DeserializeOwned>(row: &Row, column: &str) -> Result<T> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|_| undecodable(column))
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| sqlx::Error::Encode(e.into()))
}
