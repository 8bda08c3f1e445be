//! Machines. A machine is known per site: what a node of one site says never touches another's.

use std::collections::BTreeMap;

use serde::Deserialize;
use trust_format::{MachineId, PublicKey, SiteId};
use utoipa::{IntoParams, ToSchema};
use web_api::{AdmissionState, Facts, Hex, InstallReport, Machine, MachineState, Page};

use super::{
    Connection, Result, big, changes, flag, json,
    listing::{Key, Listing, Order, Turn},
    number, parsed,
    reach::Reach,
    search::{Search, Words, searchable},
    sql, to_json, undecodable,
};
use crate::listed::Sort;

/// What is already known of a machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct MachineRecord {
    pub(crate) admitted: bool,
    pub(crate) approved: bool,
    pub(crate) facts: Facts,
    pub(crate) install: Option<InstallReport>,
}

impl MachineRecord {
    fn admission(&self) -> AdmissionState {
        match self.admitted || self.approved {
            true => AdmissionState::Admitted,
            false => AdmissionState::Waiting,
        }
    }

    fn state(&self) -> MachineState {
        MachineState::of(self.admission(), self.install.as_ref())
    }
}

fn record(row: &sql::Row) -> Result<MachineRecord> {
    let install: Option<String> = row.try_get("install")?;
    let install = install.map(|t| serde_json::from_str(&t).map_err(|_| undecodable("install")));
    Ok(MachineRecord {
        admitted: flag(row, "admitted")?,
        approved: flag(row, "approved")?,
        facts: json(row, "facts")?,
        install: install.transpose()?,
    })
}

/// A machine of a site.
pub(crate) async fn find(
    db: &mut Connection,
    site: SiteId,
    id: MachineId,
) -> Result<Option<MachineRecord>> {
    let row = sql::query("SELECT * FROM machines WHERE site = $1 AND id = $2")
        .bind(site.to_string())
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(record).transpose()
}

/// Writes a machine, new or not.
pub(crate) async fn put(
    db: &mut Connection,
    site: SiteId,
    id: MachineId,
    machine: &MachineRecord,
    seen: u64,
) -> Result<()> {
    let change = changes::next(db).await?;
    sql::query(
        "INSERT INTO machines (site, id, admitted, approved, facts, install, seen, state, changed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (site, id) DO UPDATE SET admitted = excluded.admitted, approved = excluded.approved,
         facts = excluded.facts, install = excluded.install, seen = excluded.seen, state = excluded.state,
         changed = excluded.changed",
    )
    .bind(site.to_string())
    .bind(id.to_string())
    .bind(i64::from(machine.admitted))
    .bind(i64::from(machine.approved))
    .bind(to_json(&machine.facts)?)
    .bind(machine.install.as_ref().map(to_json).transpose()?)
    .bind(big(seen))
    .bind(machine.state().word())
    .bind(big(change))
    .execute(&mut *db)
    .await?;
    sql::query(
        "INSERT INTO machine_words (site, id, words) VALUES ($1, $2, $3)
         ON CONFLICT (site, id) DO UPDATE SET words = excluded.words WHERE machine_words.words <> excluded.words",
    )
    .bind(site.to_string())
    .bind(id.to_string())
    .bind(words(id, &machine.facts))
    .execute(db)
    .await?;
    Ok(())
}

/// Writes how far machines are within the state that the database has; one that is in another stays as it is.
pub(crate) async fn put_progress(
    db: &mut Connection,
    news: &[((SiteId, MachineId), InstallReport)],
    seen: u64,
) -> Result<()> {
    let last = changes::next_of(db, news.len()).await?;
    let mut told = sql::query("WITH told (site, id, install, state, change) AS (VALUES ");
    for (at, ((site, id), report)) in news.iter().enumerate() {
        let install = to_json(report)?;
        // its state comes first: `{"state":"writing",`
        let state = install.split_inclusive(',').next().unwrap_or_default();
        let state = state.to_owned();
        told = told
            .say(if at == 0 { "(" } else { ", (" })
            .value(site.to_string())
            .say(", ")
            .value(id.to_string())
            .say(", ")
            .value(install)
            .say(", ")
            .value(state)
            .say(", ")
            .value(big(last - (news.len() - 1 - at) as u64))
            .say(")");
    }
    told.say(") UPDATE machines SET install = told.install, changed = told.change, seen = ")
        .value(big(seen))
        .say(
            " FROM told WHERE machines.site = told.site AND machines.id = told.id AND instr(machines.install, told.state) = 1",
        )
        .execute(db)
        .await?;
    Ok(())
}

/// What a machine is found by.
fn words(id: MachineId, facts: &Facts) -> String {
    let mut words = vec![id.to_string(), facts.model.clone()];
    words.extend(facts.uuid.map(|uuid| uuid.to_string()));
    words.extend(facts.serial.clone());
    words.extend(facts.code.clone());
    words.extend(facts.macs.iter().map(ToString::to_string));
    searchable(words.iter().map(String::as_str))
}

/// A person approves it.
pub(crate) async fn approve(db: &mut Connection, site: SiteId, id: MachineId) -> Result<()> {
    let change = changes::next(db).await?;
    sql::query(
        "UPDATE machines SET approved = 1, changed = $3, state = CASE WHEN state = 'waiting' THEN 'ready' ELSE state END
         WHERE site = $1 AND id = $2",
    )
        .bind(site.to_string())
        .bind(id.to_string())
        .bind(big(change))
    .execute(db)
        .await?;
    Ok(())
}

/// How many machines a site has.
pub(crate) async fn count(db: &mut Connection, site: SiteId) -> Result<u64> {
    let row = sql::query("SELECT COUNT(*) AS machines FROM machines WHERE site = $1")
        .bind(site.to_string())
        .fetch_one(db)
        .await?;
    number(&row, "machines")
}

const WORDS: Words = Words {
    table: "machine_words",
    keys: &["site", "id"],
    row: "m",
};

/// By what machines are sorted.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MachineSort {
    /// Last heard of first.
    #[default]
    Seen,
    /// By the site's name.
    Site,
}

impl Sort for MachineSort {
    fn order(self) -> Order {
        match self {
            Self::Seen => Order {
                word: "seen",
                keys: &[
                    Key::Number("m.seen"),
                    Key::Text("m.site"),
                    Key::Text("m.id"),
                ],
                descending: true,
            },
            Self::Site => Order {
                word: "site",
                keys: &[Key::Text("s.name"), Key::Text("m.id")],
                descending: false,
            },
        }
    }
}

/// Which machines.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineFilter {
    /// Of one site, by its name.
    #[param(nullable = false)]
    pub(crate) site: Option<String>,
    /// In one state.
    #[param(inline, nullable = false)]
    pub(crate) state: Option<MachineState>,
    /// With one identity, 32 hexadecimal digits.
    #[param(nullable = false)]
    pub(crate) id: Option<String>,
    /// Words that are in identity, UUID, serial, MAC addresses, model or code, or parts of them.
    #[param(value_type = String, required = false)]
    pub(crate) search: Option<Search>,
}

pub(super) fn infos(reach: Reach, turn: &Turn) -> Listing {
    let columns = "m.site, m.id, m.admitted, m.approved, m.facts, m.install, m.seen, m.changed, s.name AS site_name";
    let tables = match turn.word() {
        "site" => "machines m JOIN sites s ON s.id = m.site",
        _ => "machines m LEFT JOIN sites s ON s.id = m.site",
    };
    Listing::new(columns, tables).within("m.site", reach)
}

/// Machines for people, each with its site.
pub(crate) async fn page(
    db: &mut Connection,
    reach: Reach,
    filter: &MachineFilter,
    turn: &Turn,
) -> Result<Page<(SiteId, Machine)>> {
    let list = infos(reach, turn)
        .of_site("m.site", filter.site.as_ref())
        .when("m.state = ", filter.state.map(MachineState::word))
        .when("m.id = ", filter.id.as_ref())
        .search_words(db, WORDS, filter.search.as_ref());
    let mut page = list.await?.page(db, turn, info).await?;
    add_completed(db, &mut page.rows).await?;
    Ok(page)
}

/// Sites that saw a machine, and the machine as each saw it.
pub(crate) async fn of_identity(
    db: &mut Connection,
    reach: Reach,
    id: MachineId,
    limit: u32,
) -> Result<Vec<(SiteId, Machine)>> {
    let filter = MachineFilter {
        id: Some(id.to_string()),
        ..MachineFilter::default()
    };
    let turn = Turn::first(MachineSort::Seen.order(), limit);
    Ok(page(db, reach, &filter, &turn).await?.rows)
}

pub(super) fn info(row: &sql::Row) -> Result<(SiteId, Machine)> {
    let (site, id): (SiteId, MachineId) = (parsed(row, "site")?, parsed(row, "id")?);
    let record = record(row)?;
    let machine = Machine {
        id: Hex(id.0),
        site: row.try_get("site_name")?,
        admission: record.admission(),
        state: record.state(),
        facts: record.facts,
        install: record.install,
        completed: Vec::new(),
        seen_unix_seconds: number(row, "seen")?,
        change: number(row, "changed")?,
    };
    Ok((site, machine))
}

/// Orders that the machines of a page finished.
pub(super) async fn add_completed(
    db: &mut Connection,
    machines: &mut [(SiteId, Machine)],
) -> Result<()> {
    if machines.is_empty() {
        return Ok(());
    }
    let query =
        sql::query("SELECT site, machine, order_number FROM completions WHERE machine IN (")
            .list(machines.iter().map(|(_, machine)| machine.id.to_string()));
    let rows = query.say(") ORDER BY order_number").fetch_all(db).await?;
    let mut completed: BTreeMap<(SiteId, Hex<16>), Vec<u64>> = BTreeMap::new();
    for row in &rows {
        let whose = (parsed(row, "site")?, parsed(row, "machine")?);
        let orders = completed.entry(whose).or_default();
        orders.push(number(row, "order_number")?);
    }
    for (site, machine) in machines {
        machine.completed = completed.remove(&(*site, machine.id)).unwrap_or_default();
    }
    Ok(())
}

/// Stores proof that a machine finished an order. The first proof stays. Returns whether it is this one.
pub(crate) async fn complete(
    db: &mut Connection,
    site: SiteId,
    completion: &trust_format::Completion,
    document: &[u8],
) -> Result<bool> {
    let added = sql::query(
        "INSERT INTO completions (site, machine, order_number, node_key, document) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (site, machine, order_number) DO NOTHING",
    )
    .bind(site.to_string())
    .bind(completion.machine.to_string())
    .bind(big(completion.order))
    .bind(completion.node.map(|k| k.to_string()))
    .bind(document)
    .execute(db)
    .await?;
    Ok(added > 0)
}

/// Whether a machine finished an order.
pub(crate) async fn has_completed(
    db: &mut Connection,
    site: SiteId,
    id: MachineId,
    order: u64,
) -> Result<bool> {
    let row = sql::query(
        "SELECT 1 FROM completions WHERE site = $1 AND machine = $2 AND order_number = $3",
    )
    .bind(site.to_string())
    .bind(id.to_string())
    .bind(big(order))
    .fetch_optional(db)
    .await?;
    Ok(row.is_some())
}

/// The newest proofs of a site, newest order first.
pub(crate) async fn completions(
    db: &mut Connection,
    site: SiteId,
    limit: u32,
) -> Result<Vec<Vec<u8>>> {
    sql::query("SELECT document FROM completions WHERE site = $1 ORDER BY order_number DESC, machine LIMIT $2")
        .bind(site.to_string())
        .bind(i64::from(limit))
        .fetch_values(db, "document")
        .await
}

/// The newest order whose proof names this node as the one that was put on the machine's disk.
pub(crate) async fn order_that_put(
    db: &mut Connection,
    site: SiteId,
    id: MachineId,
    node: PublicKey,
) -> Result<Option<u64>> {
    let row = sql::query(
        "SELECT order_number FROM completions WHERE site = $1 AND machine = $2 AND node_key = $3 ORDER BY order_number DESC LIMIT 1",
    )
    .bind(site.to_string())
    .bind(id.to_string())
    .bind(node.to_string())
    .fetch_optional(db)
    .await?;
    row.map(|row| number(&row, "order_number")).transpose()
}
