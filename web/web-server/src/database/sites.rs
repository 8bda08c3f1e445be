//! Sites and what their channels are made of.

use std::collections::BTreeMap;

use serde::Deserialize;
use trust_format::{PublicKey, SiteId};
use utoipa::{IntoParams, ToSchema};
use web_api::{Hex, MachineState, Page, SiteInfo, SiteUnknown};

use super::{
    Connection, Result, big, flag, key,
    listing::{Key, Listing, Order, Turn},
    number, parsed, parsed_option,
    reach::Reach,
    search::{Search, searchable},
    sql, undecodable,
};
use crate::listed::Sort;

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
        unknown: unknown(row)?,
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

fn unknown(row: &sql::Row) -> Result<SiteUnknown> {
    Ok(match row.try_get("unknown")? {
        "wait" => SiteUnknown::Wait,
        "admit" => SiteUnknown::Admit,
        "pin" => SiteUnknown::Pin,
        "refuse" => SiteUnknown::Refuse,
        _ => return Err(undecodable("unknown")),
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
        "INSERT INTO sites (id, name, unknown, provisional, release_floor, revocation, channel_number, channel, words)
         VALUES ($1, $2, $3, 1, 0, 0, 0, $4, $5)",
    )
    .bind(id.to_string())
    .bind(name)
    .bind(word(unknown))
    .bind(&[] as &[u8])
    .bind(searchable([name]))
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

/// By what sites are sorted.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SiteSort {
    /// By name.
    #[default]
    Name,
    /// Those with most machines first.
    Machines,
    /// Those with most failed installs first.
    Failed,
    /// Those that fetched most over their WAN first.
    Wan,
}

impl Sort for SiteSort {
    fn order(self) -> Order {
        const NAME: Key = Key::Text("s.name");
        const COUNTED: Key = Key::Number("COALESCE(c.number, 0)");
        let counted = |word| Order {
            word,
            keys: &[COUNTED, NAME],
            descending: true,
        };
        match self {
            Self::Name => Order {
                word: "name",
                keys: &[NAME],
                descending: false,
            },
            Self::Machines => counted("machines"),
            Self::Failed => counted("failed"),
            Self::Wan => counted("wan"),
        }
    }
}

/// Sites, with what they are sorted by: counted in one go, not for each of them.
fn tables(sort: &str) -> &'static str {
    match sort {
        "machines" => {
            "sites s LEFT JOIN (SELECT site, COUNT(*) AS number FROM machines GROUP BY site) c ON c.site = s.id"
        }
        "failed" => {
            "sites s LEFT JOIN (SELECT site, COUNT(*) AS number FROM machines WHERE state = 'failed' GROUP BY site) c ON c.site = s.id"
        }
        "wan" => {
            "sites s LEFT JOIN (SELECT site, CAST(SUM(wan_bytes) AS BIGINT) AS number FROM ledger GROUP BY site) c ON c.site = s.id"
        }
        _ => "sites s",
    }
}

/// Which sites.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct SiteFilter {
    /// With a tag.
    #[param(nullable = false)]
    pub(crate) tag: Option<String>,
    /// With a machine in a state.
    #[param(inline, nullable = false)]
    pub(crate) has: Option<MachineState>,
    /// With a rule for unknown machines.
    #[param(inline, nullable = false)]
    pub(crate) unknown: Option<SiteUnknown>,
    /// Words that are in the name, or parts of them.
    #[param(value_type = String, required = false)]
    pub(crate) search: Option<Search>,
}

fn infos(reach: Reach, sort: &str) -> Listing {
    let columns = "s.id, s.name, s.unknown, s.channel_number, s.image";
    let list = Listing::new(columns, "sites s").sorted_with(tables(sort));
    list.within("s.id", reach)
}

/// Sites for people.
pub(crate) async fn page(
    db: &mut Connection,
    reach: Reach,
    filter: &SiteFilter,
    turn: &Turn,
) -> Result<Page<SiteInfo>> {
    let list = infos(reach, turn.word())
        .when_in(
            "s.id IN (SELECT t.site FROM site_tags t WHERE t.tag = ",
            filter.tag.as_ref(),
        )
        .when_in(
            "s.id IN (SELECT m.site FROM machines m WHERE m.state = ",
            filter.has.map(MachineState::word),
        )
        .when("s.unknown = ", filter.unknown.map(word))
        .search("s.words", filter.search.as_ref());
    let mut page = list.page(db, turn, info).await?;
    add_tags(db, &mut page.rows).await?;
    add_counts(db, &mut page.rows).await?;
    Ok(page)
}

/// One of them, by its name.
pub(crate) async fn info_of(
    db: &mut Connection,
    reach: Reach,
    name: &str,
) -> Result<Option<SiteInfo>> {
    let list = infos(reach, "").when("s.name = ", Some(name));
    let row = list.fetch_optional(db).await?;
    let mut sites: Vec<_> = row.iter().map(info).collect::<Result<_>>()?;
    add_tags(db, &mut sites).await?;
    add_counts(db, &mut sites).await?;
    Ok(sites.pop())
}

fn info(row: &sql::Row) -> Result<SiteInfo> {
    let id: SiteId = parsed(row, "id")?;
    Ok(SiteInfo {
        id: Hex(id.0),
        name: row.try_get("name")?,
        unknown: unknown(row)?,
        channel: number(row, "channel_number")?,
        image: parsed_option(row, "image")?,
        nodes: 0,
        machines: 0,
        waiting: 0,
        imaging: 0,
        failed: 0,
        wan_bytes: 0,
        tags: Vec::new(),
    })
}

async fn add_tags(db: &mut Connection, sites: &mut [SiteInfo]) -> Result<()> {
    let ids = sites.iter().map(|site| site.id.to_string());
    let mut tags: BTreeMap<Hex<16>, Vec<String>> = BTreeMap::new();
    for (site, tag) in super::reach::tags(db, ids).await? {
        tags.entry(Hex(site.0)).or_default().push(tag);
    }
    for site in sites {
        site.tags = tags.remove(&site.id).unwrap_or_default();
    }
    Ok(())
}

/// What is counted of the sites of a page.
async fn add_counts(db: &mut Connection, sites: &mut [SiteInfo]) -> Result<()> {
    let mut at: BTreeMap<Hex<16>, usize> = BTreeMap::new();
    at.extend(sites.iter().enumerate().map(|(at, site)| (site.id, at)));
    if at.is_empty() {
        return Ok(());
    }
    let query = sql::query(
        "SELECT s.id,
            (SELECT COUNT(*) FROM nodes n WHERE n.site = s.id
                AND n.revoked = 0 AND n.origin <> 'voucher' AND (n.replaced_by IS NULL OR n.heard_again > 0)) AS nodes,
            (SELECT COUNT(*) FROM machines m WHERE m.site = s.id) AS machines,
            (SELECT COUNT(*) FROM machines m WHERE m.site = s.id AND m.state = 'waiting') AS waiting,
            (SELECT COUNT(*) FROM machines m WHERE m.site = s.id AND m.state = 'imaging') AS imaging,
            (SELECT COUNT(*) FROM machines m WHERE m.site = s.id AND m.state = 'failed') AS failed,
            (SELECT CAST(COALESCE(SUM(l.wan_bytes), 0) AS BIGINT) FROM ledger l WHERE l.site = s.id) AS wan_bytes
         FROM sites s WHERE s.id IN (",
    );
    let query = query.list(at.keys().map(ToString::to_string)).say(")");
    for row in &query.fetch_all(db).await? {
        let site: SiteId = parsed(row, "id")?;
        let site = at.get(&Hex(site.0)).and_then(|at| sites.get_mut(*at));
        let Some(site) = site else { continue };
        site.nodes = number(row, "nodes")?;
        site.machines = number(row, "machines")?;
        site.waiting = number(row, "waiting")?;
        site.imaging = number(row, "imaging")?;
        site.failed = number(row, "failed")?;
        site.wan_bytes = number(row, "wan_bytes")?;
    }
    Ok(())
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
