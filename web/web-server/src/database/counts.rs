//! What there is, in numbers.

use super::{Connection, Result, big, number, sql};

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
