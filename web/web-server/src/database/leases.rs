//! Leases and the ledger of WAN bytes.

use serde::Deserialize;
use trust_format::{PublicKey, SiteId};
use utoipa::{IntoParams, ToSchema};
use web_api::{Hex, LeaseKind, LedgerLine, Page};

use super::{
    Connection, Result, big, flag, key,
    listing::{Key, Listing, Order, Turn},
    number, parsed,
    reach::Reach,
    sql, undecodable,
};
use crate::listed::Sort;

/// In the column `island` of a site's main lease.
const MAIN: &str = "";

/// The right of one node to fetch one version for its site, or for its part of it.
#[derive(Debug, Clone)]
pub(crate) struct LeaseRecord {
    pub(crate) site: SiteId,
    pub(crate) manifest: Hex<32>,
    /// The island's first holder; the main lease has none.
    pub(crate) island: Option<PublicKey>,
    pub(crate) holder: PublicKey,
    pub(crate) token: String,
    pub(crate) fence: u64,
    /// The holder said that everything is there.
    pub(crate) finished: bool,
}

fn record(row: &sql::Row) -> Result<LeaseRecord> {
    let island = match row.try_get("island")? {
        MAIN => None,
        _ => Some(key(row, "island")?),
    };
    Ok(LeaseRecord {
        site: parsed(row, "site")?,
        manifest: parsed(row, "manifest")?,
        island,
        holder: key(row, "holder")?,
        token: row.try_get("token")?,
        fence: number(row, "fence")?,
        finished: flag(row, "finished")?,
    })
}

/// The leases of a site and version: the main one first, then islands, the oldest first.
pub(crate) async fn of_version(
    db: &mut Connection,
    site: SiteId,
    manifest: &Hex<32>,
) -> Result<Vec<LeaseRecord>> {
    let rows = sql::query(
        "SELECT * FROM leases WHERE site = $1 AND manifest = $2 ORDER BY island <> '', fence",
    )
    .bind(site.to_string())
    .bind(manifest.to_string())
    .fetch_all(db)
    .await?;
    rows.iter().map(record).collect()
}

/// The leases of a site that nobody has finished.
pub(crate) async fn open_of_site(db: &mut Connection, site: SiteId) -> Result<Vec<LeaseRecord>> {
    let rows = sql::query("SELECT * FROM leases WHERE site = $1 AND finished = 0")
        .bind(site.to_string())
        .fetch_all(db)
        .await?;
    rows.iter().map(record).collect()
}

/// The lease of a token.
pub(crate) async fn by_token(db: &mut Connection, token: &str) -> Result<Option<LeaseRecord>> {
    let row = sql::query("SELECT * FROM leases WHERE token = $1")
        .bind(token)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(record).transpose()
}

/// Writes a lease over the one before.
pub(crate) async fn put(db: &mut Connection, lease: &LeaseRecord) -> Result<()> {
    sql::query(
        "INSERT INTO leases (site, manifest, island, holder, token, fence, finished) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (site, manifest, island) DO UPDATE SET holder = excluded.holder, token = excluded.token,
         fence = excluded.fence, finished = excluded.finished",
    )
    .bind(lease.site.to_string())
    .bind(lease.manifest.to_string())
    .bind(lease.island.map_or_else(|| MAIN.to_owned(), |k| k.to_string()))
    .bind(lease.holder.to_string())
    .bind(&lease.token)
    .bind(big(lease.fence))
    .bind(i64::from(lease.finished))
    .execute(db)
    .await?;
    Ok(())
}

/// The holder has everything.
pub(crate) async fn finish(db: &mut Connection, token: &str) -> Result<()> {
    sql::query("UPDATE leases SET finished = 1 WHERE token = $1")
        .bind(token)
        .execute(db)
        .await?;
    Ok(())
}

/// The holder stops before the end: the fence stays, so that the next one is higher, and the holder counts as nobody.
pub(crate) async fn give_up(db: &mut Connection, token: &str) -> Result<()> {
    sql::query("UPDATE leases SET finished = 1, holder = $2 WHERE token = $1")
        .bind(token)
        .bind(Hex([0; 32]).to_string())
        .execute(db)
        .await?;
    Ok(())
}

fn word(kind: LeaseKind) -> &'static str {
    match kind {
        LeaseKind::Main => "main",
        LeaseKind::Island => "island",
    }
}

/// Adds WAN bytes to a site's account of a version.
pub(crate) async fn count_bytes(
    db: &mut Connection,
    site: SiteId,
    version: &Hex<32>,
    kind: LeaseKind,
    bytes: u64,
) -> Result<()> {
    sql::query(
        "INSERT INTO ledger (site, version, kind, wan_bytes) VALUES ($1, $2, $3, $4)
         ON CONFLICT (site, version, kind) DO UPDATE SET wan_bytes = ledger.wan_bytes + excluded.wan_bytes",
    )
    .bind(site.to_string())
    .bind(version.to_string())
    .bind(word(kind))
    .bind(big(bytes))
    .execute(db)
    .await?;
    Ok(())
}

/// By what lines of the ledger are sorted.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LedgerSort {
    /// By the site's name.
    #[default]
    Site,
    /// Most bytes first.
    Bytes,
}

impl Sort for LedgerSort {
    fn order(self) -> Order {
        match self {
            Self::Site => Order {
                word: "site",
                keys: &[
                    Key::Text("s.name"),
                    Key::Text("l.version"),
                    Key::Text("l.kind"),
                ],
                descending: false,
            },
            Self::Bytes => Order {
                word: "bytes",
                keys: &[
                    Key::Number("l.wan_bytes"),
                    Key::Text("l.site"),
                    Key::Text("l.version"),
                    Key::Text("l.kind"),
                ],
                descending: true,
            },
        }
    }
}

/// Which lines of the ledger.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct LedgerFilter {
    /// Of one site, by its name.
    #[param(nullable = false)]
    pub(crate) site: Option<String>,
    /// Of one version, by its digest.
    #[param(nullable = false)]
    pub(crate) version: Option<String>,
}

/// The ledger for people.
pub(crate) async fn ledger(
    db: &mut Connection,
    reach: Reach,
    filter: &LedgerFilter,
    turn: &Turn,
) -> Result<Page<LedgerLine>> {
    Listing::new(
        "l.version, l.kind, l.wan_bytes, s.name AS site_name, COALESCE(i.object_bytes, 0) AS object_bytes",
        match turn.word() {
            "site" => {
                "ledger l JOIN sites s ON s.id = l.site LEFT JOIN images i ON i.version = l.version"
            }
            _ => "ledger l LEFT JOIN sites s ON s.id = l.site LEFT JOIN images i ON i.version = l.version",
        },
    )
    .within("l.site", reach)
    .of_site("l.site", filter.site.as_ref())
    .when("l.version = ", filter.version.as_ref())
    .page(db, turn, line)
    .await
}

fn line(row: &sql::Row) -> Result<LedgerLine> {
    Ok(LedgerLine {
        site: row.try_get("site_name")?,
        version: parsed(row, "version")?,
        kind: match row.try_get("kind")? {
            "main" => LeaseKind::Main,
            "island" => LeaseKind::Island,
            _ => return Err(undecodable("kind")),
        },
        wan_bytes: number(row, "wan_bytes")?,
        object_bytes: number(row, "object_bytes")?,
    })
}
