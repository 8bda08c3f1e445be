//! A copy of a database that is in use, and a database that counts on after one.

use std::path::Path;

use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{BUSY_TIMEOUT, Connection, Result, audit, big, sql, unix_seconds};

/// By so much every number that HQ gives jumps: more than it gave since any backup that somebody restores.
pub(crate) const NUMBERS_SKIPPED: u64 = 1 << 20;

/// Writes what a SQLite file has at one moment into another file. Whoever writes meanwhile does not wait (SQLite, "VACUUM INTO").
pub(crate) async fn copy(file: &Path, to: &Path) -> Result<()> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(BUSY_TIMEOUT);
    let mut db = SqliteConnection::connect_with(&options).await?;
    sqlx::query("VACUUM INTO $1")
        .bind(to.to_string_lossy().into_owned())
        .execute(&mut db)
        .await?;
    db.close().await
}

/// What is given from now on has higher numbers than whatever was given after the backup. Nobody is signed in any more: a session that
/// ended, or a password that was changed since, must not come back.
pub(crate) async fn count_on(db: &mut Connection, what: &str) -> Result<()> {
    let skipped = big(NUMBERS_SKIPPED);
    // sites sign a channel and a roster of the next number when HQ starts
    sql::query(
        "UPDATE sites SET channel_number = channel_number + $1, channel_given = channel_given + $1,
            roster_number = roster_number + $1, pin_number = pin_number + $1, revocation = revocation + $1,
            order_given = $1 + COALESCE((SELECT MAX(o.number) FROM orders o WHERE o.site = sites.id), 0)",
    )
    .bind(skipped)
    .execute(&mut *db)
    .await?;
    sql::query(
        "UPDATE given SET release = $1 + COALESCE((SELECT MAX(i.release) FROM images i), 0)",
    )
    .bind(skipped)
    .execute(&mut *db)
    .await?;
    for statement in [
        "UPDATE change_numbers SET last = last + $1",
        "UPDATE leases SET fence = fence + $1",
    ] {
        sql::query(statement)
            .bind(skipped)
            .execute(&mut *db)
            .await?;
    }
    sql::query("DELETE FROM sessions").execute(&mut *db).await?;
    let act = audit::Act {
        who: "whoever runs HQ".into(),
        means: "command",
        address: String::new(),
        operation: "restore".into(),
        target: String::new(),
        what: format!(
            "{what}; numbers go on {NUMBERS_SKIPPED} higher, at {}",
            unix_seconds()
        ),
    };
    audit::append(db, act).await
}
