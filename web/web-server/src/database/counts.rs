//! What there is, in numbers.

use web_api::{MachineCounts, NodeCounts, Summary};

use super::{Connection, Result, big, number, reach::Reach, sql};

/// What there is.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) sites: u64,
    /// By state.
    pub(crate) machines: Vec<(String, u64)>,
    /// Living ones.
    pub(crate) nodes: u64,
    /// Those of them that were heard of since a moment.
    pub(crate) nodes_there: u64,
    pub(crate) wan_bytes: u64,
}

/// The database answers.
pub(crate) async fn answers(db: &mut Connection) -> Result<()> {
    sql::query("SELECT last FROM change_numbers")
        .fetch_one(db)
        .await?;
    Ok(())
}

/// All of it. Nodes are there that were heard of since then, in seconds since 1970.
pub(crate) async fn all(db: &mut Connection, since: u64) -> Result<Counts> {
    let states = sql::query("SELECT state, COUNT(*) AS machines FROM machines GROUP BY state")
        .fetch_all(db)
        .await?;
    let state = |row: &sql::Row| Ok((row.try_get("state")?, number(row, "machines")?));
    let machines = states.iter().map(state).collect::<Result<_>>()?;
    let row = sql::query(
        "SELECT (SELECT COUNT(*) FROM sites) AS sites,
            (SELECT COUNT(*) FROM nodes WHERE revoked = 0 AND (replaced_by IS NULL OR heard_again > 0)) AS nodes,
            (SELECT COUNT(*) FROM nodes WHERE seen >= $1
                AND revoked = 0 AND (replaced_by IS NULL OR heard_again > 0)) AS there,
            (SELECT CAST(COALESCE(SUM(wan_bytes), 0) AS BIGINT) FROM ledger) AS wan_bytes",
    )
    .bind(big(since))
    .fetch_one(db)
    .await?;
    Ok(Counts {
        sites: number(&row, "sites")?,
        machines,
        nodes: number(&row, "nodes")?,
        nodes_there: number(&row, "there")?,
        wan_bytes: number(&row, "wan_bytes")?,
    })
}

/// What there is within a reach. Nodes are there that were heard of since then, in seconds since 1970. Nothing of what happened is looked
/// at: it grows for ever.
pub(crate) async fn within(db: &mut Connection, reach: Reach, since: u64) -> Result<Summary> {
    let states = sql::query(
        "SELECT state, COUNT(*) AS machines FROM machines
         WHERE $1 IS NULL OR site IN (SELECT site FROM reach WHERE user_id = $1) GROUP BY state",
    )
    .bind(reach)
    .fetch_all(&mut *db)
    .await?;
    let mut machines = MachineCounts::default();
    for row in &states {
        let counted = match row.try_get("state")? {
            "waiting" => &mut machines.waiting,
            "ready" => &mut machines.ready,
            "imaging" => &mut machines.imaging,
            "done" => &mut machines.done,
            _ => &mut machines.failed,
        };
        *counted += number(row, "machines")?;
    }
    // one pass over all nodes: by site, or by when they were heard of, each would be looked up by itself
    let row = sql::query(
        "SELECT COUNT(*) AS living, CAST(COALESCE(SUM(CASE WHEN seen >= $2 THEN 1 ELSE 0 END), 0) AS BIGINT) AS there FROM nodes
         WHERE revoked = 0 AND origin <> 'voucher' AND (replaced_by IS NULL OR heard_again > 0)
            AND ($1 IS NULL OR site IN (SELECT site FROM reach WHERE user_id = $1))",
    )
    .bind(reach)
    .bind(big(since))
    .fetch_one(&mut *db)
    .await?;
    let there = number(&row, "there")?;
    let nodes = NodeCounts {
        there,
        silent: number(&row, "living")?.saturating_sub(there),
    };
    let row = sql::query(
        "SELECT (SELECT COUNT(*) FROM sites WHERE $1 IS NULL OR id IN (SELECT site FROM reach WHERE user_id = $1)) AS sites,
            (SELECT CAST(COALESCE(SUM(wan_bytes), 0) AS BIGINT) FROM ledger
                WHERE $1 IS NULL OR site IN (SELECT site FROM reach WHERE user_id = $1)) AS wan_bytes",
    )
    .bind(reach)
    .fetch_one(db)
    .await?;
    Ok(Summary {
        sites: number(&row, "sites")?,
        machines,
        nodes,
        wan_bytes: number(&row, "wan_bytes")?,
    })
}
