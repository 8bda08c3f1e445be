//! Sites and what their channels are made of.

use std::collections::BTreeMap;

use trust_format::{PublicKey, SiteId};
use web_api::{Hex, SiteInfo, SiteUnknown};

use super::{
    Connection, Result, big, flag, key, number, parsed, parsed_option, reach::Reach, sql,
    undecodable,
};

/// A site as stored.
#[derive(Debug, Clone)]
pub(crate) struct SiteRecord {
    pub(crate) id: SiteId,
    pub(crate) name: String,
    pub(crate) unknown: SiteUnknown,
    pub(crate) provisional: bool,
    pub(crate) release_floor: u64,
    pub(crate) image: Option<Hex<32>>,
    pub(crate) revocation: u64,
    pub(crate) channel_number: u64,
    /// The signed document; empty before the first.
    pub(crate) channel: Vec<u8>,
    pub(crate) roster_number: u64,
    /// The signed document; empty before the first.
    pub(crate) roster: Vec<u8>,
}

fn record(row: &sql::Row) -> Result<SiteRecord> {
    Ok(SiteRecord {
        id: parsed(row, "id")?,
        name: row.try_get("name")?,
        unknown: match row.try_get("unknown")? {
            "wait" => SiteUnknown::Wait,
            "admit" => SiteUnknown::Admit,
            "pin" => SiteUnknown::Pin,
            "refuse" => SiteUnknown::Refuse,
            _ => return Err(undecodable("unknown")),
        },
        provisional: flag(row, "provisional")?,
        release_floor: number(row, "release_floor")?,
        image: parsed_option(row, "image")?,
        revocation: number(row, "revocation")?,
        channel_number: number(row, "channel_number")?,
        channel: row.try_get("channel")?,
        roster_number: number(row, "roster_number")?,
        roster: row.try_get("roster")?,
    })
}

fn word(unknown: SiteUnknown) -> &'static str {
    match unknown {
        SiteUnknown::Wait => "wait",
        SiteUnknown::Admit => "admit",
        SiteUnknown::Pin => "pin",
        SiteUnknown::Refuse => "refuse",
    }
}

/// Adds a site without a channel.
pub(crate) async fn insert(
    db: &mut Connection,
    id: SiteId,
    name: &str,
    unknown: SiteUnknown,
) -> Result<()> {
    sql::query(
        "INSERT INTO sites (id, name, unknown, provisional, release_floor, revocation, channel_number, channel)
         VALUES ($1, $2, $3, 1, 0, 0, 0, $4)",
    )
    .bind(id.to_string())
    .bind(name)
    .bind(word(unknown))
    .bind(&[] as &[u8])
    .execute(db)
    .await?;
    Ok(())
}

/// Writes everything but the name.
pub(crate) async fn update(db: &mut Connection, site: &SiteRecord) -> Result<()> {
    sql::query(
        "UPDATE sites SET unknown = $2, provisional = $3, release_floor = $4, image = $5, revocation = $6,
         channel_number = $7, channel = $8, roster_number = $9, roster = $10 WHERE id = $1",
    )
    .bind(site.id.to_string())
    .bind(word(site.unknown))
    .bind(i64::from(site.provisional))
    .bind(big(site.release_floor))
    .bind(site.image.map(|i| i.to_string()))
    .bind(big(site.revocation))
    .bind(big(site.channel_number))
    .bind(&site.channel)
    .bind(big(site.roster_number))
    .bind(&site.roster)
    .execute(db)
    .await?;
    Ok(())
}

/// The site of a name, within a reach.
pub(crate) async fn by_name(
    db: &mut Connection,
    reach: Reach,
    name: &str,
) -> Result<Option<SiteRecord>> {
    let row = sql::query(
        "SELECT * FROM sites WHERE name = $1 AND ($2 IS NULL OR id IN (SELECT site FROM reach WHERE user_id = $2))",
    )
        .bind(name)
        .bind(reach)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(record).transpose()
}

/// The site of an identity.
pub(crate) async fn by_id(db: &mut Connection, id: SiteId) -> Result<Option<SiteRecord>> {
    let row = sql::query("SELECT * FROM sites WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(record).transpose()
}

/// Identities of all sites.
pub(crate) async fn ids(db: &mut Connection) -> Result<Vec<SiteId>> {
    let rows = sql::query("SELECT id FROM sites ORDER BY name")
        .fetch_all(db)
        .await?;
    rows.iter().map(|row| parsed(row, "id")).collect()
}

/// All sites by name, or one, for people.
pub(crate) async fn infos(
    db: &mut Connection,
    reach: Reach,
    name: Option<&str>,
) -> Result<Vec<SiteInfo>> {
    let mut tags: BTreeMap<SiteId, Vec<String>> = BTreeMap::new();
    for (site, tag) in super::reach::tags(db, name).await? {
        tags.entry(site).or_default().push(tag);
    }
    let rows = sql::query(
        "SELECT s.*,
            (SELECT COUNT(*) FROM nodes n WHERE n.site = s.id
                AND n.revoked = 0 AND n.origin <> 'voucher' AND (n.replaced_by IS NULL OR n.heard_again > 0)) AS nodes,
            (SELECT COUNT(*) FROM machines m WHERE m.site = s.id) AS machines,
            (SELECT CAST(COALESCE(SUM(l.wan_bytes), 0) AS BIGINT) FROM ledger l WHERE l.site = s.id) AS wan_bytes
         FROM sites s WHERE ($1 IS NULL OR s.name = $1)
            AND ($2 IS NULL OR s.id IN (SELECT site FROM reach WHERE user_id = $2))
         ORDER BY s.name",
    )
    .bind(name)
    .bind(reach)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            let site = record(row)?;
            Ok(SiteInfo {
                id: Hex(site.id.0),
                name: site.name,
                unknown: site.unknown,
                channel: site.channel_number,
                image: site.image,
                nodes: number(row, "nodes")?,
                machines: number(row, "machines")?,
                wan_bytes: number(row, "wan_bytes")?,
                tags: tags.remove(&site.id).unwrap_or_default(),
            })
        })
        .collect()
}

/// Keys of the site's revoked nodes.
pub(crate) async fn revoked(db: &mut Connection, site: SiteId) -> Result<Vec<PublicKey>> {
    let rows =
        sql::query("SELECT node_key FROM nodes WHERE site = $1 AND revoked = 1 ORDER BY node_key")
            .bind(site.to_string())
            .fetch_all(db)
            .await?;
    rows.iter().map(|row| key(row, "node_key")).collect()
}
