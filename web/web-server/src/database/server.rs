//! A PostgreSQL database: its connections, who may write, and telling other processes.
//!
//! Whoever writes holds the *pen*, a lock on the only row of `schema_version`, from the beginning of its transaction: so there is one writer
//! at a time over all processes, as with a file, and a program that is older than the tables notices before it writes. Each process has one
//! connection that writes and waits for the pen with it; requests queue for that connection in the order in which they came.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{DatabasePlace, OpenDatabaseError, Result, big, check_version, ear::Ear, schema};
use crate::bell::{Bells, News};

/// Connections of one process that only read.
const READERS_MAX: u32 = 8;
/// How long a start waits for a server that is starting too.
const START_WITHIN: Duration = Duration::from_secs(30);
const START_PAUSE: Duration = Duration::from_secs(1);
/// How long a request waits for a connection or for the pen before it is refused.
const ACQUIRE_WITHIN: Duration = Duration::from_secs(10);
/// The same for publishing, which may wait for another one's large manifest.
const ALONE_WITHIN: Duration = Duration::from_secs(300);
/// How often a process that has to learn a root looks whether it did, and how many times.
const LEARN_PAUSE: Duration = Duration::from_millis(50);
const LEARN_TRIES_MAX: u32 = 100;
/// The channel of LISTEN and NOTIFY.
pub(super) const CHANNEL: &str = "lamplighter";
/// Held by whoever publishes.
const ALONE_LOCK: i64 = i64::from_be_bytes(*b"lamplhq2");

/// Settings of every connection. A process that stands still with the pen, or whose computer is gone, loses it.
const SETTINGS: [(&str, &str); 5] = [
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "300s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

/// A lock that ends with this value.
pub(super) type Lock = Transaction<'static, Postgres>;

/// The connections of this process.
#[derive(Debug, Clone)]
pub(super) struct Server {
    writer: PgPool,
    readers: PgPool,
    alone: PgPool,
    _ear: Arc<Ear>,
}

/// Whether an error says that the database is not there now, and not that something is wrong with what was asked.
pub(crate) fn is_away(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    match error {
        E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed => true,
        E::Database(error) => error.code().is_some_and(|code| {
            // connection lost, shutting down or starting, too many clients, the pen is not to be had, a standby
            code.starts_with("08")
                || matches!(
                    &*code,
                    "57P01" | "57P02" | "57P03" | "53300" | "55P03" | "25P03" | "25006"
                )
        }),
        _ => false,
    }
}

fn pool(connections: u32, within: Duration) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(within)
}

impl Server {
    /// Waits for the server, brings its tables up, and listens to other processes from now on.
    pub(super) async fn open(
        place: &DatabasePlace,
        options: &PgConnectOptions,
        bells: Arc<Bells>,
    ) -> std::result::Result<Self, OpenDatabaseError> {
        let options = options.clone().options(SETTINGS);
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("lamplighter hq"),
        };
        let mut first = connect(place, &options, START_WITHIN).await?;
        let found = schema::bring_up_server(&mut first).await;
        // its answer says nothing that matters here
        let _ = first.close().await;
        let found = found.map_err(|source| OpenDatabaseError::Open {
            place: place.clone(),
            source,
        })?;
        check_version(place, found)?;
        let reading = options
            .clone()
            .options([("default_transaction_read_only", "on")]);
        let waiting = options.clone().options([("lock_timeout", "300s")]);
        let readers = pool(READERS_MAX, ACQUIRE_WITHIN).connect_lazy_with(reading);
        let ear = Ear::open(place, &options, readers.clone(), bells);
        Ok(Self {
            writer: pool(1, ACQUIRE_WITHIN).connect_lazy_with(options),
            readers,
            alone: pool(1, ALONE_WITHIN).connect_lazy_with(waiting),
            _ear: Arc::new(ear),
        })
    }

    /// Takes the pen. When another process published a root, this one learns it first: what it signed else would not hold.
    pub(super) async fn write(
        &self,
        root: &AtomicU64,
        bells: &Bells,
    ) -> Result<Transaction<'static, Postgres>> {
        for _ in 0..LEARN_TRIES_MAX {
            let mut change = self.writer.begin().await?;
            let pen = schema::take_pen(&mut change).await?;
            if pen.version > schema::VERSION {
                return Err(outgrown(pen.version));
            }
            if pen.root <= big(root.load(Ordering::Relaxed)) {
                return Ok(change);
            }
            drop(change);
            bells.root.notify_one();
            sleep(LEARN_PAUSE).await;
        }
        let sentence = "another HQ published a root that this one has not learned";
        Err(sqlx::Error::Io(std::io::Error::other(sentence)))
    }

    pub(super) async fn read(&self) -> Result<PoolConnection<Postgres>> {
        self.readers.acquire().await
    }

    pub(super) async fn lock(&self) -> Result<Lock> {
        let mut lock = self.alone.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(ALONE_LOCK)
            .execute(&mut *lock)
            .await?;
        Ok(lock)
    }
}

fn outgrown(found: i64) -> sqlx::Error {
    let sentence = format!(
        "the database was brought up to schema {found} meanwhile, this program knows up to {}: start the program that did",
        schema::VERSION
    );
    sqlx::Error::Configuration(sentence.into())
}

/// The first connection. A server that is not there yet is waited for; one that refuses is not.
async fn connect(
    place: &DatabasePlace,
    options: &PgConnectOptions,
    within: Duration,
) -> std::result::Result<PgConnection, OpenDatabaseError> {
    let until = Instant::now() + within;
    let mut is_told = false;
    loop {
        let error = match timeout_at(until, PgConnection::connect_with(options)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        };
        let place = place.clone();
        if !is_away(&error) {
            let source = error;
            return Err(OpenDatabaseError::Open { place, source });
        }
        if Instant::now() + START_PAUSE >= until {
            return Err(OpenDatabaseError::Away {
                place,
                seconds: within.as_secs(),
                source: error,
            });
        }
        if !is_told {
            is_told = true;
            tracing::warn!(%place, %error, "the database does not answer; waiting for it");
        }
        sleep(START_PAUSE).await;
    }
}

/// Tells other processes, when and if the transaction is committed.
pub(super) async fn notify(
    db: &mut PgConnection,
    news: impl Iterator<Item = &News> + Send,
) -> Result<()> {
    let mut lines = Vec::new();
    for news in news {
        if let News::Root(number) = news {
            schema::raise_root(db, big(*number)).await?;
        }
        lines.push(news.to_line());
    }
    if lines.is_empty() {
        return Ok(());
    }
    sqlx::query("SELECT pg_notify($1, line) FROM unnest($2) AS line")
        .bind(CHANNEL)
        .bind(lines)
        .execute(db)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::place::Place;

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_after_a_while() {
        let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = door.local_addr().unwrap().port();
        drop(door);
        let place: DatabasePlace = format!("postgres://hq:hush@127.0.0.1:{port}/hq")
            .parse()
            .unwrap();
        let Place::Server(options) = &place.0 else {
            unreachable!("it is a server")
        };
        let begin = Instant::now();
        let error = connect(&place, options, Duration::from_secs(2)).await;
        let error = error.unwrap_err();
        assert!(begin.elapsed() >= START_PAUSE);
        let expect =
            format!("database postgres://hq@127.0.0.1:{port}/hq did not answer within 2 s");
        assert_eq!(error.to_string(), expect);
        assert!(!format!("{error:?}").contains("hush"));
    }
}
