//! Sessions of browsers. The secret is in a cookie, and only its hash is here.

use web_api::{Hex, SessionInfo};

use super::{Connection, Result, big, number, sql, users, users::UserRecord};

/// Sessions of one account; the one that was used longest ago makes room.
const PER_USER_MAX: i64 = 32;

/// A session that was found by its secret.
#[derive(Debug, Clone)]
pub(crate) struct SessionRecord {
    pub(crate) id: u64,
    pub(crate) made: u64,
    pub(crate) seen: u64,
    pub(crate) user: UserRecord,
}

/// Adds one. Returns its number.
pub(crate) async fn insert(
    db: &mut Connection,
    user: i64,
    secret_hash: &Hex<32>,
    now: u64,
    address: &str,
    browser: &str,
) -> Result<u64> {
    let row = sql::query(
        "INSERT INTO sessions (user_id, secret_hash, made, seen, address, browser) VALUES ($1, $2, $3, $3, $4, $5) RETURNING id",
    )
    .bind(user)
    .bind(secret_hash.to_string())
    .bind(big(now))
    .bind(address)
    .bind(browser)
    .fetch_one(db)
    .await?;
    sql::query(
        "DELETE FROM sessions WHERE user_id = $1 AND id NOT IN
            (SELECT id FROM sessions WHERE user_id = $1 ORDER BY seen DESC, id DESC LIMIT $2)",
    )
    .bind(user)
    .bind(PER_USER_MAX)
    .execute(db)
    .await?;
    number(&row, "id")
}

/// The session of a secret, with its account.
pub(crate) async fn by_hash(
    db: &mut Connection,
    secret_hash: &Hex<32>,
) -> Result<Option<SessionRecord>> {
    let row = sql::query(
        "SELECT u.*, u.id AS user_id, u.name AS user_name, u.made AS user_made, u.seen AS user_seen,
            s.id AS session_id, s.made AS session_made, s.seen AS session_seen
         FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.secret_hash = $1",
    )
    .bind(secret_hash.to_string())
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        Ok(SessionRecord {
            id: number(&row, "session_id")?,
            made: number(&row, "session_made")?,
            seen: number(&row, "session_seen")?,
            user: users::record(&row)?,
        })
    })
    .transpose()
}

/// It was used.
pub(crate) async fn used(db: &mut Connection, id: u64, now: u64, address: &str) -> Result<()> {
    sql::query("UPDATE sessions SET seen = $2, address = $3 WHERE id = $1")
        .bind(big(id))
        .bind(big(now))
        .bind(address)
        .execute(db)
        .await?;
    Ok(())
}

/// Those of an account, the last used first.
pub(crate) async fn of_user(
    db: &mut Connection,
    user: i64,
    current: Option<u64>,
) -> Result<Vec<SessionInfo>> {
    let rows = sql::query("SELECT * FROM sessions WHERE user_id = $1 ORDER BY seen DESC, id DESC")
        .bind(user)
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| {
            let id = number(row, "id")?;
            Ok(SessionInfo {
                id,
                made_unix_seconds: number(row, "made")?,
                seen_unix_seconds: number(row, "seen")?,
                address: row.try_get("address")?,
                browser: row.try_get("browser")?,
                current: current == Some(id),
            })
        })
        .collect()
}

/// Ends one of an account. Returns whether there was one.
pub(crate) async fn end(db: &mut Connection, user: i64, id: u64) -> Result<bool> {
    let ended = sql::query("DELETE FROM sessions WHERE user_id = $1 AND id = $2")
        .bind(user)
        .bind(big(id))
        .execute(db)
        .await?;
    Ok(ended > 0)
}

/// Ends all of an account but one. Returns how many.
pub(crate) async fn end_all(db: &mut Connection, user: i64, but: Option<u64>) -> Result<u64> {
    sql::query("DELETE FROM sessions WHERE user_id = $1 AND id <> $2")
        .bind(user)
        // numbers begin at 1
        .bind(big(but.unwrap_or(0)))
        .execute(db)
        .await
}
