//! Leases and the ledger of WAN bytes.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use trust_format::{PublicKey, SiteId};
use web_api::{Hex, LedgerLine};

use super::{Result, big, key, number, parsed};

/// The right of one node to fetch one version for its site.
#[derive(Debug, Clone)]
pub(crate) struct LeaseRecord {
    pub(crate) site: SiteId,
    pub(crate) manifest: Hex<32>,
    pub(crate) holder: PublicKey,
    pub(crate) token: String,
    pub(crate) fence: u64,
    pub(crate) renewed_millis: u64,
}

fn record(row: &SqliteRow) -> Result<LeaseRecord> {
    Ok(LeaseRecord {
        site: parsed(row, "site")?,
        manifest: parsed(row, "manifest")?,
        holder: key(row, "holder")?,
        token: row.try_get("token")?,
        fence: number(row, "fence")?,
        renewed_millis: number(row, "renewed_millis")?,
    })
}

/// The last lease of a site and version, over or not.
pub(crate) async fn find(
    db: &mut SqliteConnection,
    site: SiteId,
    manifest: &Hex<32>,
) -> Result<Option<LeaseRecord>> {
    let row = sqlx::query("SELECT * FROM leases WHERE site = $1 AND manifest = $2")
        .bind(site.to_string())
        .bind(manifest.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(record).transpose()
}

/// The lease of a token.
pub(crate) async fn by_token(
    db: &mut SqliteConnection,
    token: &str,
) -> Result<Option<LeaseRecord>> {
    let row = sqlx::query("SELECT * FROM leases WHERE token = $1")
        .bind(token)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(record).transpose()
}

/// Writes a lease over the one before.
pub(crate) async fn put(db: &mut SqliteConnection, lease: &LeaseRecord) -> Result<()> {
    sqlx::query(
        "INSERT INTO leases (site, manifest, holder, token, fence, renewed_millis) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (site, manifest) DO UPDATE SET holder = excluded.holder, token = excluded.token,
         fence = excluded.fence, renewed_millis = excluded.renewed_millis",
    )
    .bind(lease.site.to_string())
    .bind(lease.manifest.to_string())
    .bind(lease.holder.to_string())
    .bind(&lease.token)
    .bind(big(lease.fence))
    .bind(big(lease.renewed_millis))
    .execute(db)
    .await?;
    Ok(())
}

/// Adds WAN bytes to a site's account of a version.
pub(crate) async fn count_bytes(
    db: &mut SqliteConnection,
    site: SiteId,
    version: &Hex<32>,
    bytes: u64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO ledger (site, version, wan_bytes) VALUES ($1, $2, $3)
         ON CONFLICT (site, version) DO UPDATE SET wan_bytes = ledger.wan_bytes + excluded.wan_bytes",
    )
    .bind(site.to_string())
    .bind(version.to_string())
    .bind(big(bytes))
    .execute(db)
    .await?;
    Ok(())
}

/// The ledger.
pub(crate) async fn ledger(db: &mut SqliteConnection) -> Result<Vec<LedgerLine>> {
    let rows = sqlx::query(
        "SELECT l.*, s.name AS site_name, COALESCE(i.object_bytes, 0) AS object_bytes
         FROM ledger l JOIN sites s ON s.id = l.site LEFT JOIN images i ON i.version = l.version
         ORDER BY s.name, i.release DESC",
    )
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(LedgerLine {
                site: row.try_get("site_name")?,
                version: parsed(row, "version")?,
                wan_bytes: number(row, "wan_bytes")?,
                object_bytes: number(row, "object_bytes")?,
            })
        })
        .collect()
}
