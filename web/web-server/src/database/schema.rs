//! The tables, made at the first start. A change of them is a new step here and a new number.

use sqlx::SqlitePool;

use super::Result;

/// Number of the schema that this program writes.
pub(super) const VERSION: i64 = 1;

const STEP_1: &str = "
CREATE TABLE sites (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    unknown TEXT NOT NULL,
    provisional BIGINT NOT NULL,
    release_floor BIGINT NOT NULL,
    image TEXT,
    revocation BIGINT NOT NULL,
    channel_number BIGINT NOT NULL,
    channel BLOB NOT NULL
);
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    site TEXT NOT NULL REFERENCES sites (id),
    secret_hash TEXT NOT NULL UNIQUE,
    expires BIGINT NOT NULL,
    revoked BIGINT NOT NULL,
    frozen BIGINT NOT NULL,
    used_by TEXT
);
CREATE TABLE nodes (
    node_key TEXT PRIMARY KEY NOT NULL,
    site TEXT NOT NULL REFERENCES sites (id),
    name TEXT NOT NULL,
    machine TEXT NOT NULL,
    origin TEXT NOT NULL,
    facts TEXT,
    certificate BLOB NOT NULL,
    revoked BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    address TEXT,
    reports BIGINT NOT NULL
);
CREATE INDEX nodes_of_site ON nodes (site, revoked);
CREATE TABLE machines (
    site TEXT NOT NULL REFERENCES sites (id),
    id TEXT NOT NULL,
    admitted BIGINT NOT NULL,
    approved BIGINT NOT NULL,
    facts TEXT NOT NULL,
    install TEXT,
    seen BIGINT NOT NULL,
    PRIMARY KEY (site, id)
);
CREATE INDEX machines_by_id ON machines (id);
CREATE INDEX machines_by_seen ON machines (seen);
CREATE TABLE images (
    version TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    release BIGINT NOT NULL UNIQUE,
    disk_bytes BIGINT NOT NULL,
    used_bytes BIGINT NOT NULL,
    object_bytes BIGINT NOT NULL,
    published BIGINT NOT NULL
);
CREATE TABLE orders (
    site TEXT NOT NULL REFERENCES sites (id),
    number BIGINT NOT NULL,
    version TEXT NOT NULL REFERENCES images (version),
    machine TEXT,
    erase BIGINT NOT NULL,
    document BLOB NOT NULL,
    made BIGINT NOT NULL,
    PRIMARY KEY (site, number)
);
CREATE TABLE completions (
    site TEXT NOT NULL REFERENCES sites (id),
    machine TEXT NOT NULL,
    order_number BIGINT NOT NULL,
    node_key TEXT,
    document BLOB NOT NULL,
    PRIMARY KEY (site, machine, order_number)
);
CREATE TABLE leases (
    site TEXT NOT NULL REFERENCES sites (id),
    manifest TEXT NOT NULL,
    holder TEXT NOT NULL,
    token TEXT NOT NULL UNIQUE,
    fence BIGINT NOT NULL,
    renewed_millis BIGINT NOT NULL,
    PRIMARY KEY (site, manifest)
);
CREATE TABLE ledger (
    site TEXT NOT NULL REFERENCES sites (id),
    version TEXT NOT NULL,
    wan_bytes BIGINT NOT NULL,
    PRIMARY KEY (site, version)
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    site TEXT NOT NULL REFERENCES sites (id),
    source TEXT NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    happened BIGINT NOT NULL
);
PRAGMA user_version = 1;
";

/// Makes the tables in a new file. Returns the number that was found, unless it was new.
pub(super) async fn bring_up(writer: &SqlitePool) -> Result<i64> {
    let mut change = writer.begin_with("BEGIN IMMEDIATE").await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *change)
        .await?;
    if found != 0 {
        return Ok(found);
    }
    sqlx::raw_sql(STEP_1).execute(&mut *change).await?;
    change.commit().await?;
    Ok(VERSION)
}
