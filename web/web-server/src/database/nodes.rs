//! Nodes.

use std::collections::BTreeMap;

use serde::Deserialize;
use trust_format::{MachineId, PublicKey, SiteId};
use utoipa::{IntoParams, ToSchema};
use web_api::{Facts, Hex, NodeInfo, Page, PeerAddress, SiteStanding};

use super::{
    Connection, Result, big, flag, key,
    listing::{Key, Listing, Order, Turn},
    number, parsed, parsed_option,
    reach::Reach,
    search::{Search, Words, searchable},
    sql, to_json,
};
use crate::listed::Sort;

/// A node as stored. It is *living* when it is not revoked, and no other has its place; or one has and it is heard of all the same.
#[derive(Debug, Clone)]
pub(crate) struct NodeRecord {
    pub(crate) key: PublicKey,
    pub(crate) site: SiteId,
    pub(crate) name: String,
    pub(crate) machine: MachineId,
    pub(crate) certificate: Vec<u8>,
    pub(crate) revoked: bool,
    /// Number of its last stored report.
    pub(crate) reports: u64,
    pub(crate) life: NodeLife,
}

/// What became of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeLife {
    /// Number of the order under which it was put on its machine; 0 for one that came otherwise.
    pub(crate) order: u64,
    /// When it was last heard of, in seconds since 1970; 0 if never.
    pub(crate) seen: u64,
    /// Another node has its place.
    pub(crate) replaced: Option<Replaced>,
}

/// Another node has the place of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) by: PublicKey,
    /// In seconds since 1970.
    pub(crate) since: u64,
    /// When people were told that this one was heard of all the same; 0 if never.
    pub(crate) heard_again: u64,
}

/// How a node came to be one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    Enrolled,
    Certified {
        order: u64,
    },
    Confirmed {
        order: u64,
    },
    /// Whoever opens a voucher.
    Voucher,
    /// Revoked before HQ met it.
    Forestalled,
}

impl Origin {
    fn word(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Certified { .. } => "certified",
            Self::Confirmed { .. } => "confirmed",
            Self::Voucher => "voucher",
            Self::Forestalled => "forestalled",
        }
    }

    /// Under which its machine is imaged; 0 for none.
    fn order(self) -> u64 {
        match self {
            Self::Certified { order } | Self::Confirmed { order } => order,
            _ => 0,
        }
    }
}

/// A node.
pub(crate) async fn find(db: &mut Connection, node: &PublicKey) -> Result<Option<NodeRecord>> {
    let row = sql::query("SELECT * FROM nodes WHERE node_key = $1")
        .bind(node.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(record).transpose()
}

/// A node in a row of the whole table.
pub(super) fn record(row: &sql::Row) -> Result<NodeRecord> {
    let by = parsed_option::<Hex<32>>(row, "replaced_by")?;
    let (since, heard_again) = (number(row, "replaced")?, number(row, "heard_again")?);
    Ok(NodeRecord {
        key: key(row, "node_key")?,
        site: parsed(row, "site")?,
        name: row.try_get("name")?,
        machine: parsed(row, "machine")?,
        certificate: row.try_get("certificate")?,
        revoked: flag(row, "revoked")?,
        reports: number(row, "reports")?,
        life: NodeLife {
            order: number(row, "order_number")?,
            seen: number(row, "seen")?,
            replaced: by.map(|by| Replaced {
                by: PublicKey(by.0),
                since,
                heard_again,
            }),
        },
    })
}

/// Adds a node that was not heard of yet.
pub(crate) async fn insert(
    db: &mut Connection,
    node: &NodeRecord,
    origin: Origin,
    facts: Option<&Facts>,
) -> Result<()> {
    sql::query(
        "INSERT INTO nodes (node_key, site, name, machine, origin, facts, certificate, revoked, seen, reports, order_number)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, $8)",
    )
    .bind(node.key.to_string())
    .bind(node.site.to_string())
    .bind(&node.name)
    .bind(node.machine.to_string())
    .bind(origin.word())
    .bind(facts.map(to_json).transpose()?)
    .bind(&node.certificate)
    .bind(big(origin.order()))
    .execute(&mut *db)
    .await?;
    set_words(db, node).await
}

/// What the node is found by from now on.
pub(super) async fn set_words(db: &mut Connection, node: &NodeRecord) -> Result<()> {
    let (key, machine) = (node.key.to_string(), node.machine.to_string());
    sql::query(
        "INSERT INTO node_words (node_key, words, site) VALUES ($1, $2, $3)
         ON CONFLICT (node_key) DO UPDATE SET words = excluded.words",
    )
    .bind(&key)
    .bind(searchable([key.as_str(), &machine, &node.name]))
    .bind(node.site.to_string())
    .execute(db)
    .await?;
    Ok(())
}

/// Revokes a node and ends its leases and those of agents that it vouches for; others may take them at once.
pub(crate) async fn revoke(db: &mut Connection, node: &PublicKey) -> Result<()> {
    sql::query("UPDATE nodes SET revoked = 1 WHERE node_key = $1")
        .bind(node.to_string())
        .execute(&mut *db)
        .await?;
    sql::query(
        "UPDATE leases SET finished = 1 WHERE holder = $1
         OR holder IN (SELECT agent_key FROM agents WHERE issuer = $1 OR certified = $1)",
    )
    .bind(node.to_string())
    .execute(&mut *db)
    .await?;
    // people decided between it and the one whose place it had and that was heard all the same
    sql::query(
        "UPDATE nodes SET replaced_by = NULL, replaced = 0, heard_again = 0
         WHERE replaced_by = $1 AND heard_again > 0 AND revoked = 0",
    )
    .bind(node.to_string())
    .execute(db)
    .await?;
    Ok(())
}

/// When a living node was last heard of, by itself or by one that named it, in seconds since 1970.
pub(crate) async fn seen(db: &mut Connection, node: &PublicKey) -> Result<Option<u64>> {
    let row = sql::query(
        "SELECT n.seen, (SELECT CAST(COALESCE(MAX(c.seen), 0) AS BIGINT) FROM roll_calls c JOIN nodes r ON r.node_key = c.node_key
            WHERE c.site = n.site AND r.revoked = 0 AND instr(c.there, n.node_key) > 0) AS named
         FROM nodes n WHERE n.node_key = $1 AND n.revoked = 0 AND (n.replaced_by IS NULL OR n.heard_again > 0)",
    )
    .bind(node.to_string())
    .fetch_optional(db)
    .await?;
    let later = |row: sql::Row| Ok(number(&row, "seen")?.max(number(&row, "named")?));
    row.map(later).transpose()
}

/// Nodes of a site that one of them named as being there, itself among them.
#[derive(Debug)]
pub(crate) struct RollCall {
    pub(crate) site: SiteId,
    pub(crate) there: Vec<PublicKey>,
    /// In seconds since 1970.
    pub(crate) seen: u64,
}

/// What HQ looks at when a node calls.
#[derive(Debug)]
pub(crate) struct Call {
    /// Number of its last stored report.
    pub(crate) reports: u64,
    /// There is nothing to write but that it was heard of: it was before, at the same address, has its place to itself, and its machine waits
    /// for nothing of it.
    pub(crate) is_settled: bool,
    /// It has its certificate as it is here.
    pub(crate) certificate_taken: bool,
    /// Of its site.
    pub(crate) standing: SiteStanding,
}

/// A node calls, from an address if it takes connections.
pub(crate) async fn call(
    db: &mut Connection,
    node: &PublicKey,
    address: Option<&str>,
) -> Result<Option<Call>> {
    let row = sql::query(
        "SELECT n.reports, n.certificate_taken, s.channel_number, s.roster_number,
            (SELECT COUNT(*) FROM orders o WHERE o.site = n.site) AS orders,
            CAST(CASE WHEN n.revoked = 0 AND n.replaced_by IS NULL AND n.seen > 0 AND ($2 IS NULL OR n.address = $2)
                AND (m.state IS NULL OR m.state = 'done') THEN 1 ELSE 0 END AS BIGINT) AS settled
         FROM nodes n JOIN sites s ON s.id = n.site LEFT JOIN machines m ON m.site = n.site AND m.id = n.machine
         WHERE n.node_key = $1",
    )
    .bind(node.to_string())
    .bind(address)
    .fetch_optional(db)
    .await?;
    let call = |row: sql::Row| {
        Ok(Call {
            reports: number(&row, "reports")?,
            is_settled: flag(&row, "settled")?,
            certificate_taken: flag(&row, "certificate_taken")?,
            standing: SiteStanding {
                channel: number(&row, "channel_number")?,
                roster: number(&row, "roster_number")?,
                orders: number(&row, "orders")?,
            },
        })
    };
    row.map(call).transpose()
}

/// Nodes of a site of which there is nothing to write but that they are there, and for which nothing waits.
pub(crate) async fn settled_of_site(
    db: &mut Connection,
    site: SiteId,
) -> Result<BTreeMap<PublicKey, u64>> {
    let rows = sql::query(
        "SELECT n.node_key, n.seen FROM nodes n LEFT JOIN machines m ON m.site = n.site AND m.id = n.machine
         WHERE n.site = $1 AND n.revoked = 0 AND n.replaced_by IS NULL AND n.seen > 0 AND n.certificate_taken = 1
            AND (m.state IS NULL OR m.state = 'done')",
    )
    .bind(site.to_string())
    .fetch_all(db)
    .await?;
    let heard = |row: &sql::Row| Ok((key(row, "node_key")?, number(row, "seen")?));
    rows.iter().map(heard).collect()
}

/// Writes whom these nodes of sites named last, and when that was.
pub(crate) async fn put_roll_calls(
    db: &mut Connection,
    calls: &[(PublicKey, RollCall)],
) -> Result<()> {
    let mut told = sql::query("INSERT INTO roll_calls (node_key, site, seen, there) VALUES ");
    for (at, (by, call)) in calls.iter().enumerate() {
        let there: Vec<String> = call.there.iter().map(PublicKey::to_string).collect();
        told = told
            .say(if at == 0 { "(" } else { ", (" })
            .list([by.to_string(), call.site.to_string()])
            .say(", ")
            .value(big(call.seen))
            .say(", ")
            .value(there.join(" "))
            .say(")");
    }
    told.say(
        " ON CONFLICT (node_key) DO UPDATE SET site = excluded.site, seen = excluded.seen, there = excluded.there",
    )
    .execute(db)
    .await?;
    Ok(())
}

/// These nodes were heard of then or later, and nothing else is new.
pub(crate) async fn heard_at(db: &mut Connection, nodes: &[PublicKey], seen: u64) -> Result<()> {
    sql::query("UPDATE nodes SET seen = ")
        .value(big(seen))
        .say(" WHERE node_key IN (")
        .list(nodes.iter().map(PublicKey::to_string))
        .say(")")
        .execute(db)
        .await?;
    Ok(())
}

/// The node was heard of; its reports are stored up to a number.
pub(crate) async fn heard(
    db: &mut Connection,
    node: &PublicKey,
    seen: u64,
    address: Option<&str>,
    reports: u64,
) -> Result<()> {
    sql::query("UPDATE nodes SET seen = $2, address = COALESCE($3, address), reports = $4 WHERE node_key = $1")
        .bind(node.to_string())
        .bind(big(seen))
        .bind(address)
        .bind(big(reports))
        .execute(db)
        .await?;
    Ok(())
}

fn info(row: &sql::Row) -> Result<NodeInfo> {
    Ok(NodeInfo {
        key: Hex(key(row, "node_key")?.0),
        site: row.try_get("site_name")?,
        name: row.try_get("name")?,
        machine: parsed(row, "machine")?,
        origin: row.try_get("origin")?,
        revoked: flag(row, "revoked")?,
        seen_unix_seconds: number(row, "seen")?,
        address: row.try_get("address")?,
        replaced_by: parsed_option(row, "replaced_by")?,
        replaced_unix_seconds: number(row, "replaced")?,
        heard_again_unix_seconds: number(row, "heard_again")?,
    })
}

/// One node for people.
pub(crate) async fn info_of(db: &mut Connection, node: &PublicKey) -> Result<Option<NodeInfo>> {
    let row = sql::query(
        "SELECT n.*, s.name AS site_name FROM nodes n JOIN sites s ON s.id = n.site WHERE n.node_key = $1",
    )
    .bind(node.to_string())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(info).transpose()
}

const WORDS: Words = Words {
    table: "node_words",
    keys: &["node_key"],
    row: "n",
};

/// By what nodes are sorted.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NodeSort {
    /// Last heard of first.
    #[default]
    Seen,
    /// By name.
    Name,
    /// By the site's name.
    Site,
}

impl Sort for NodeSort {
    fn order(self) -> Order {
        const KEY: Key = Key::Text("n.node_key");
        match self {
            Self::Seen => Order {
                word: "seen",
                keys: &[Key::Number("n.seen"), KEY],
                descending: true,
            },
            Self::Name => Order {
                word: "name",
                keys: &[Key::Text("n.name"), KEY],
                descending: false,
            },
            Self::Site => Order {
                word: "site",
                keys: &[Key::Text("s.name"), KEY],
                descending: false,
            },
        }
    }
}

/// What became of a node, to list it by.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NodeState {
    /// Not revoked, and no other has its place; or one has and it is heard of all the same.
    Living,
    /// Another has its place.
    Replaced,
    /// Revoked.
    Revoked,
}

impl NodeState {
    fn condition(self) -> &'static str {
        match self {
            Self::Living => "n.revoked = 0 AND (n.replaced_by IS NULL OR n.heard_again > 0)",
            Self::Replaced => "n.revoked = 0 AND n.replaced_by IS NOT NULL AND n.heard_again = 0",
            Self::Revoked => "n.revoked = 1",
        }
    }
}

/// Which nodes.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeFilter {
    /// Of one site, by its name.
    #[param(nullable = false)]
    pub(crate) site: Option<String>,
    /// In one state.
    #[param(inline, nullable = false)]
    pub(crate) state: Option<NodeState>,
    /// Words that are in key, name or machine, or parts of them.
    #[param(value_type = String, required = false)]
    pub(crate) search: Option<Search>,
}

/// Nodes for people.
pub(crate) async fn page(
    db: &mut Connection,
    reach: Reach,
    filter: &NodeFilter,
    turn: &Turn,
) -> Result<Page<NodeInfo>> {
    let columns = "n.node_key, n.name, n.machine, n.origin, n.revoked, n.seen, n.address,
         n.replaced_by, n.replaced, n.heard_again, s.name AS site_name";
    let tables = match turn.word() {
        "site" => "nodes n JOIN sites s ON s.id = n.site",
        _ => "nodes n LEFT JOIN sites s ON s.id = n.site",
    };
    let list = Listing::new(columns, tables)
        .within("n.site", reach)
        .of_site("n.site", filter.site.as_ref());
    let mut list = list.search_words(db, WORDS, filter.search.as_ref()).await?;
    if let Some(state) = filter.state {
        list = list.only(state.condition());
    }
    list.page(db, turn, info).await
}

/// Where the site's other living nodes were last heard of, newest first.
pub(crate) async fn peers(
    db: &mut Connection,
    site: SiteId,
    except: &PublicKey,
    limit: u32,
) -> Result<Vec<PeerAddress>> {
    let rows = sql::query(
        "SELECT node_key, address FROM nodes
         WHERE site = $1 AND node_key <> $2 AND revoked = 0 AND (replaced_by IS NULL OR heard_again > 0)
            AND address IS NOT NULL
         ORDER BY seen DESC, node_key LIMIT $3",
    )
    .bind(site.to_string())
    .bind(except.to_string())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(PeerAddress {
                key: Hex(key(row, "node_key")?.0),
                address: row.try_get("address")?,
            })
        })
        .collect()
}
