//! Machines. A machine is known per site: what a node of one site says never touches another's.

use std::collections::BTreeMap;

use trust_format::{MachineId, PublicKey, SiteId};
use web_api::{AdmissionState, Facts, Hex, InstallReport, Machine};

use super::{
    Connection, Result, big, flag, json, number, parsed, reach::Reach, sql, to_json, undecodable,
};

/// What is already known of a machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct MachineRecord {
    pub(crate) admitted: bool,
    pub(crate) approved: bool,
    pub(crate) facts: Facts,
    pub(crate) install: Option<InstallReport>,
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
    row.map(|row| {
        Ok(MachineRecord {
            admitted: flag(&row, "admitted")?,
            approved: flag(&row, "approved")?,
            facts: json(&row, "facts")?,
            install: install(&row)?,
        })
    })
    .transpose()
}

fn install(row: &sql::Row) -> Result<Option<InstallReport>> {
    let text: Option<String> = row.try_get("install")?;
    text.map(|t| serde_json::from_str(&t).map_err(|_| undecodable("install")))
        .transpose()
}

/// Writes a machine, new or not.
pub(crate) async fn put(
    db: &mut Connection,
    site: SiteId,
    id: MachineId,
    machine: &MachineRecord,
    seen: u64,
) -> Result<()> {
    sql::query(
        "INSERT INTO machines (site, id, admitted, approved, facts, install, seen) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (site, id) DO UPDATE SET admitted = excluded.admitted, approved = excluded.approved,
         facts = excluded.facts, install = excluded.install, seen = excluded.seen",
    )
    .bind(site.to_string())
    .bind(id.to_string())
    .bind(i64::from(machine.admitted))
    .bind(i64::from(machine.approved))
    .bind(to_json(&machine.facts)?)
    .bind(machine.install.as_ref().map(to_json).transpose()?)
    .bind(big(seen))
    .execute(db)
    .await?;
    Ok(())
}

/// A person approves it.
pub(crate) async fn approve(db: &mut Connection, site: SiteId, id: MachineId) -> Result<()> {
    sql::query("UPDATE machines SET approved = 1 WHERE site = $1 AND id = $2")
        .bind(site.to_string())
        .bind(id.to_string())
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

/// Machines for people, last heard of first; all, or those of one identity.
pub(crate) async fn infos(
    db: &mut Connection,
    reach: Reach,
    id: Option<MachineId>,
    limit: u32,
) -> Result<Vec<(SiteId, Machine)>> {
    let id = id.map(|id| id.to_string());
    let rows = sql::query(
        "SELECT m.*, s.name AS site_name FROM machines m JOIN sites s ON s.id = m.site
         WHERE ($1 IS NULL OR m.id = $1) AND ($3 IS NULL OR m.site IN (SELECT site FROM reach WHERE user_id = $3))
         ORDER BY m.seen DESC, m.id LIMIT $2",
    )
    .bind(id.as_deref())
    .bind(i64::from(limit))
    .bind(reach)
    .fetch_all(&mut *db)
    .await?;
    let mut completed = completed_orders(db, id.as_deref()).await?;
    rows.iter()
        .map(|row| {
            let (site, id): (SiteId, MachineId) = (parsed(row, "site")?, parsed(row, "id")?);
            let admitted = flag(row, "admitted")? || flag(row, "approved")?;
            let machine = Machine {
                id: Hex(id.0),
                site: row.try_get("site_name")?,
                admission: match admitted {
                    true => AdmissionState::Admitted,
                    false => AdmissionState::Waiting,
                },
                facts: json(row, "facts")?,
                install: install(row)?,
                completed: completed.remove(&(site, id)).unwrap_or_default(),
                seen_unix_seconds: number(row, "seen")?,
            };
            Ok((site, machine))
        })
        .collect()
}

async fn completed_orders(
    db: &mut Connection,
    id: Option<&str>,
) -> Result<BTreeMap<(SiteId, MachineId), Vec<u64>>> {
    let rows = sql::query(
        "SELECT site, machine, order_number FROM completions WHERE $1 IS NULL OR machine = $1 ORDER BY order_number",
    )
    .bind(id)
    .fetch_all(db)
    .await?;
    let mut completed: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for row in &rows {
        let whose = (parsed(row, "site")?, parsed(row, "machine")?);
        completed
            .entry(whose)
            .or_default()
            .push(number(row, "order_number")?);
    }
    Ok(completed)
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
