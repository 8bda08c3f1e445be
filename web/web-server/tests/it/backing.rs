//! What stands behind the HQs of one test: files, or a database and a bucket of its own on the servers that `./dev servers` starts.

use std::{path::Path, sync::Arc};

use reqwest::{Client, Method};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use web_server::{Bucket, DatabasePlace};

use crate::pinned::tls;

/// Set by `./dev servers`: the URL of a database beside which others can be made.
const POSTGRES: &str = "LAMPLIGHTER_TEST_POSTGRES";
/// Set by it too, for HQ as well.
const S3: &str = "AWS_ENDPOINT_URL";

/// Functions of SQLite's that tests use, for PostgreSQL.
const FUNCTIONS: &str = "
CREATE FUNCTION printf(form TEXT, number BIGINT) RETURNS TEXT LANGUAGE SQL
    AS $$ SELECT lpad(to_hex(number), CAST(substring(form FROM '[1-9][0-9]*') AS INTEGER), '0') $$;
CREATE FUNCTION unixepoch() RETURNS BIGINT LANGUAGE SQL
    AS $$ SELECT CAST(extract(epoch FROM now()) AS BIGINT) $$;
CREATE FUNCTION json_set(whole TEXT, path TEXT, number BIGINT) RETURNS TEXT LANGUAGE SQL
    AS $$ SELECT CAST(jsonb_set(CAST(whole AS JSONB), ARRAY[substring(path FROM 3)], to_jsonb(number)) AS TEXT) $$;
";

/// Behind one chain. Nothing is taken away at its end: to drop a database PostgreSQL waits for every connection that is being made, of which
/// a test that ended may have one, and the servers' folder goes as a whole.
#[derive(Debug)]
pub(crate) struct Backing(Option<Shared>);

/// A name of this chain alone, on servers that others use too.
#[derive(Debug)]
struct Shared {
    server: String,
    name: String,
}

impl Shared {
    fn url(&self) -> String {
        self.server
            .replace("/postgres?", &format!("/{}?", self.name))
    }

    async fn make(&self) {
        let mut server = PgConnection::connect(&self.server).await.unwrap();
        let make = format!("CREATE DATABASE {} TEMPLATE template0", self.name);
        sqlx::raw_sql(AssertSqlSafe(make))
            .execute(&mut server)
            .await
            .unwrap();
        let mut database = PgConnection::connect(&self.url()).await.unwrap();
        sqlx::raw_sql(FUNCTIONS)
            .execute(&mut database)
            .await
            .unwrap();
        let bucket = format!("{}/{}", std::env::var(S3).unwrap(), self.name);
        let client = Client::builder().tls_backend_preconfigured(tls([0; 32], None));
        let client = client.no_proxy().build().unwrap();
        let made = client.request(Method::PUT, bucket).send().await.unwrap();
        assert_eq!(made.status(), 200);
    }
}

impl Backing {
    pub(crate) async fn new() -> Arc<Self> {
        let Ok(server) = std::env::var(POSTGRES) else {
            return Arc::new(Self(None));
        };
        let name = format!("w{:016x}", getrandom::u64().unwrap());
        let shared = Shared { server, name };
        shared.make().await;
        Arc::new(Self(Some(shared)))
    }

    /// Whether several HQs may stand on it.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.is_some()
    }

    /// `None` for HQ's own file.
    pub(crate) fn database(&self) -> Option<DatabasePlace> {
        Some(self.0.as_ref()?.url().parse().unwrap())
    }

    /// `None` for HQ's own folder.
    pub(crate) fn objects(&self) -> Option<Bucket> {
        let name = &self.0.as_ref()?.name;
        Some(format!("s3://{name}/chain").parse().unwrap())
    }

    /// The password that HQ has for its database.
    pub(crate) fn password(&self) -> Option<&str> {
        let (_, rest) = self.0.as_ref()?.server.split_once("lamplighter:")?;
        Some(rest.split_once('@')?.0)
    }

    /// A statement behind HQ's back.
    pub(crate) async fn sql(&self, file: &Path, statement: &'static str) {
        match &self.0 {
            None => {
                let mut db = SqliteConnection::connect(file.to_str().unwrap())
                    .await
                    .unwrap();
                sqlx::raw_sql(statement).execute(&mut db).await.unwrap();
            }
            Some(shared) => {
                let mut db = PgConnection::connect(&shared.url()).await.unwrap();
                let statement = match statement.strip_prefix("PRAGMA user_version = ") {
                    Some(number) => format!("UPDATE schema_version SET version = {number}"),
                    None => statement.to_owned(),
                };
                sqlx::raw_sql(AssertSqlSafe(statement))
                    .execute(&mut db)
                    .await
                    .unwrap();
            }
        }
    }

    /// Another way to the same database, which a test can cut.
    pub(crate) async fn line(&self) -> Line {
        let shared = self.0.as_ref().unwrap();
        let url = shared.url();
        let (_, server) = url.split_once('@').unwrap();
        let server = server.split_once('/').unwrap().0.to_owned();
        let mut line = Line {
            url,
            server,
            port: 0,
            pipes: JoinSet::new(),
        };
        line.mend().await;
        line
    }
}

/// A TCP port in front of the database's own.
pub(crate) struct Line {
    url: String,
    server: String,
    port: u16,
    pipes: JoinSet<()>,
}

impl Line {
    pub(crate) fn database(&self) -> DatabasePlace {
        let url = self.url.replace(&self.server, &self.address());
        url.parse().unwrap()
    }

    /// Where it ends, for messages.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Every connection breaks, and none can be made.
    pub(crate) async fn cut(&mut self) {
        self.pipes.shutdown().await;
    }

    pub(crate) async fn mend(&mut self) {
        let door = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = door.local_addr().unwrap().port();
        let server = self.server.clone();
        self.pipes.spawn(async move {
            // ends with the listener
            let mut pipes = JoinSet::new();
            while let Ok((stream, _)) = door.accept().await {
                pipes.spawn(pipe(stream, server.clone()));
            }
        });
    }
}

async fn pipe(mut stream: TcpStream, server: String) {
    if let Ok(mut server) = TcpStream::connect(server).await {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
    }
}
