//! Access tokens: an account's right without a password, for scripts. Only hashes are here.

use web_api::{AccessTokenInfo, Hex};

use super::{Connection, Result, big, number, sql, users, users::UserRecord};

/// A token that was found by its secret.
#[derive(Debug, Clone)]
pub(crate) struct AccessTokenRecord {
    pub(crate) id: u64,
    pub(crate) until: u64,
    pub(crate) seen: u64,
    pub(crate) user: UserRecord,
}

/// For so long a token that is over can be seen.
const SEEN_AFTER_SECONDS: u64 = 90 * 24 * 3600;

/// Adds one; those of the account that were over long ago go. Returns its number.
pub(crate) async fn insert(
    db: &mut Connection,
    user: i64,
    name: &str,
    secret_hash: &Hex<32>,
    made: u64,
    until: u64,
) -> Result<u64> {
    sql::query("DELETE FROM access_tokens WHERE user_id = $1 AND until < $2")
        .bind(user)
        .bind(big(made.saturating_sub(SEEN_AFTER_SECONDS)))
        .execute(db)
        .await?;
    let row = sql::query(
        "INSERT INTO access_tokens (user_id, name, secret_hash, made, until) VALUES ($1, $2, $3, $4, $5) RETURNING id",
    )
    .bind(user)
    .bind(name)
    .bind(secret_hash.to_string())
    .bind(big(made))
    .bind(big(until))
    .fetch_one(db)
    .await?;
    number(&row, "id")
}

/// How many an account has that are not over.
pub(crate) async fn count(db: &mut Connection, user: i64, now: u64) -> Result<u64> {
    let row =
        sql::query("SELECT COUNT(*) AS n FROM access_tokens WHERE user_id = $1 AND until > $2")
            .bind(user)
            .bind(big(now))
            .fetch_one(db)
            .await?;
    number(&row, "n")
}

/// The token of a secret, with its account.
pub(crate) async fn by_hash(
    db: &mut Connection,
    secret_hash: &Hex<32>,
) -> Result<Option<AccessTokenRecord>> {
    let row = sql::query(
        "SELECT u.*, u.id AS user_id, u.name AS user_name, u.made AS user_made, u.seen AS user_seen,
            t.id AS token_id, t.until, t.seen AS token_seen
         FROM access_tokens t JOIN users u ON u.id = t.user_id WHERE t.secret_hash = $1",
    )
    .bind(secret_hash.to_string())
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        Ok(AccessTokenRecord {
            id: number(&row, "token_id")?,
            until: number(&row, "until")?,
            seen: number(&row, "token_seen")?,
            user: users::record(&row)?,
        })
    })
    .transpose()
}

/// It was used.
pub(crate) async fn used(db: &mut Connection, id: u64, now: u64) -> Result<()> {
    sql::query("UPDATE access_tokens SET seen = $2 WHERE id = $1")
        .bind(big(id))
        .bind(big(now))
        .execute(db)
        .await?;
    Ok(())
}

/// Those of an account, or of all, the newest first.
pub(crate) async fn infos(
    db: &mut Connection,
    user: Option<i64>,
    limit: u32,
) -> Result<Vec<AccessTokenInfo>> {
    let rows = sql::query(
        "SELECT t.*, u.name AS user_name FROM access_tokens t JOIN users u ON u.id = t.user_id
         WHERE $1 IS NULL OR t.user_id = $1 ORDER BY t.id DESC LIMIT $2",
    )
    .bind(user)
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(AccessTokenInfo {
                id: number(row, "id")?,
                user: row.try_get("user_name")?,
                name: row.try_get("name")?,
                made_unix_seconds: number(row, "made")?,
                until_unix_seconds: number(row, "until")?,
                seen_unix_seconds: number(row, "seen")?,
            })
        })
        .collect()
}

/// Takes one back, of an account or of anybody. Returns whether there was one.
pub(crate) async fn remove(db: &mut Connection, user: Option<i64>, id: u64) -> Result<bool> {
    let removed =
        sql::query("DELETE FROM access_tokens WHERE id = $2 AND ($1 IS NULL OR user_id = $1)")
            .bind(user)
            .bind(big(id))
            .execute(db)
            .await?;
    Ok(removed > 0)
}
