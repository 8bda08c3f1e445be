//! Enrolment tokens. The secret is never stored, only its hash.

use trust_format::{PublicKey, SiteId};
use web_api::{Hex, TokenInfo};

use super::{Connection, Result, big, flag, number, parsed, parsed_option, sql, unix_seconds};

/// A token as stored.
#[derive(Debug, Clone)]
pub(crate) struct TokenRecord {
    pub(crate) id: u64,
    pub(crate) site: SiteId,
    pub(crate) expires: u64,
    pub(crate) revoked: bool,
    pub(crate) frozen: bool,
    pub(crate) used_by: Option<PublicKey>,
    /// The node whose place its user gets.
    pub(crate) replaces: Option<PublicKey>,
}

fn record(row: &sql::Row) -> Result<TokenRecord> {
    let key = |column| -> Result<_> {
        Ok(parsed_option::<Hex<32>>(row, column)?.map(|k| PublicKey(k.0)))
    };
    Ok(TokenRecord {
        id: number(row, "id")?,
        site: parsed(row, "site")?,
        expires: number(row, "expires")?,
        revoked: flag(row, "revoked")?,
        frozen: flag(row, "frozen")?,
        used_by: key("used_by")?,
        replaces: key("replaces")?,
    })
}

impl TokenRecord {
    /// For people.
    pub(crate) fn state(&self) -> &'static str {
        match self {
            Self { frozen: true, .. } => "frozen",
            Self {
                used_by: Some(_), ..
            } => "used",
            Self { revoked: true, .. } => "revoked",
            Self { expires, .. } if *expires <= unix_seconds() => "expired",
            _ => "open",
        }
    }
}

fn info(row: &sql::Row) -> Result<TokenInfo> {
    let token = record(row)?;
    Ok(TokenInfo {
        id: token.id,
        site: row.try_get("site_name")?,
        state: token.state().to_owned(),
        expires_unix_seconds: token.expires,
        replaces: token.replaces.map(|k| Hex(k.0)),
    })
}

/// Adds a token.
pub(crate) async fn insert(
    db: &mut Connection,
    site: SiteId,
    secret_hash: &Hex<32>,
    expires: u64,
    replaces: Option<&PublicKey>,
) -> Result<()> {
    sql::query(
        "INSERT INTO tokens (site, secret_hash, expires, revoked, frozen, replaces) VALUES ($1, $2, $3, 0, 0, $4)",
    )
    .bind(site.to_string())
    .bind(secret_hash.to_string())
    .bind(big(expires))
    .bind(replaces.map(PublicKey::to_string))
    .execute(db)
    .await?;
    Ok(())
}

/// The token of a secret.
pub(crate) async fn by_hash(
    db: &mut Connection,
    secret_hash: &Hex<32>,
) -> Result<Option<TokenRecord>> {
    let row = sql::query("SELECT * FROM tokens WHERE secret_hash = $1")
        .bind(secret_hash.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(record).transpose()
}

/// One token for people.
pub(crate) async fn by_id(db: &mut Connection, id: u64) -> Result<Option<TokenInfo>> {
    let row = sql::query("SELECT t.*, s.name AS site_name FROM tokens t JOIN sites s ON s.id = t.site WHERE t.id = $1")
        .bind(big(id))
        .fetch_optional(db)
        .await?;
    row.as_ref().map(info).transpose()
}

/// The site's tokens for people, newest first.
pub(crate) async fn of_site(db: &mut Connection, site: SiteId) -> Result<Vec<TokenInfo>> {
    let rows = sql::query(
        "SELECT t.*, s.name AS site_name FROM tokens t JOIN sites s ON s.id = t.site
         WHERE t.site = $1 ORDER BY t.id DESC LIMIT 1000",
    )
    .bind(site.to_string())
    .fetch_all(db)
    .await?;
    rows.iter().map(info).collect()
}

/// The token is spent.
pub(crate) async fn spend(db: &mut Connection, id: u64, by: &PublicKey) -> Result<()> {
    sql::query("UPDATE tokens SET used_by = $2 WHERE id = $1")
        .bind(big(id))
        .bind(by.to_string())
        .execute(db)
        .await?;
    Ok(())
}

/// The token was used twice.
pub(crate) async fn freeze(db: &mut Connection, id: u64) -> Result<()> {
    sql::query("UPDATE tokens SET frozen = 1 WHERE id = $1")
        .bind(big(id))
        .execute(db)
        .await?;
    Ok(())
}

/// A person took it back.
pub(crate) async fn revoke(db: &mut Connection, id: u64) -> Result<()> {
    sql::query("UPDATE tokens SET revoked = 1 WHERE id = $1")
        .bind(big(id))
        .execute(db)
        .await?;
    Ok(())
}
