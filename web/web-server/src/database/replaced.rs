//! Nodes whose place another has, and nodes by name.

use trust_format::{MachineId, PublicKey, SiteId};

use super::{
    Connection, Result, big, key, nodes, nodes::NodeRecord, reach::Reach, sql, unix_seconds,
};

/// A node that came onto a machine's disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) site: SiteId,
    pub(crate) machine: MachineId,
    /// Under which order.
    pub(crate) order: u64,
    pub(crate) node: PublicKey,
    /// A completion names it; else it called home.
    pub(crate) proven: bool,
}

/// Nodes whose key begins with these lower-case digits, at most two.
pub(crate) async fn by_beginning(
    db: &mut Connection,
    reach: Reach,
    digits: &str,
) -> Result<Vec<NodeRecord>> {
    let rows = sql::query(
        "SELECT * FROM nodes WHERE node_key LIKE $1
            AND ($2 IS NULL OR site IN (SELECT site FROM reach WHERE user_id = $2)) ORDER BY node_key LIMIT 2",
    )
        .bind(format!("{digits}%"))
        .bind(reach)
        .fetch_all(db)
        .await?;
    rows.iter().map(nodes::record).collect()
}

/// Another living node of the site that has this name.
pub(crate) async fn namesake(
    db: &mut Connection,
    node: &NodeRecord,
    name: &str,
) -> Result<Option<PublicKey>> {
    let row = sql::query(
        "SELECT node_key FROM nodes WHERE site = $1 AND name = $2 AND node_key <> $3
         AND revoked = 0 AND (replaced_by IS NULL OR heard_again > 0) ORDER BY node_key LIMIT 1",
    )
    .bind(node.site.to_string())
    .bind(name)
    .bind(node.key.to_string())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(|row| key(row, "node_key")).transpose()
}

/// The name of the living node on a machine, the newest first.
pub(crate) async fn name_on(
    db: &mut Connection,
    site: SiteId,
    machine: MachineId,
) -> Result<Option<String>> {
    sql::query(
        "SELECT name FROM nodes WHERE site = $1 AND machine = $2
         AND revoked = 0 AND (replaced_by IS NULL OR heard_again > 0)
         ORDER BY order_number DESC, seen DESC, node_key LIMIT 1",
    )
    .bind(site.to_string())
    .bind(machine.to_string())
    .fetch_value(db, "name")
    .await
}

/// Writes a node's name, and the certificate that says it for the node to take.
pub(crate) async fn rename(
    db: &mut Connection,
    node: &PublicKey,
    name: &str,
    certificate: &[u8],
) -> Result<()> {
    sql::query(
        "UPDATE nodes SET name = $2, certificate = $3, certificate_taken = 0 WHERE node_key = $1",
    )
    .bind(node.to_string())
    .bind(name)
    .bind(certificate)
    .execute(&mut *db)
    .await?;
    match nodes::find(db, node).await? {
        Some(named) => nodes::set_words(db, &named).await,
        None => Ok(()),
    }
}

/// The node that came later onto the same disk: under a higher order, or under the same one when its completion names that node and the
/// arrival has none. News of an earlier node may come last.
pub(crate) async fn successor(db: &mut Connection, arrival: &Arrival) -> Result<Option<PublicKey>> {
    let row = sql::query(
        "SELECT c.node_key FROM (
            SELECT node_key, order_number, 0 AS proven FROM nodes WHERE site = $1 AND machine = $2 AND seen > 0
            UNION ALL
            SELECT node_key, order_number, 1 AS proven FROM completions
                WHERE site = $1 AND machine = $2 AND node_key IS NOT NULL
         ) c
         WHERE c.node_key <> $3 AND (c.order_number > $4 OR (c.order_number = $4 AND c.proven > $5))
            AND NOT EXISTS (SELECT 1 FROM nodes r WHERE r.node_key = c.node_key AND r.revoked = 1)
         ORDER BY c.order_number DESC, c.proven DESC, c.node_key LIMIT 1",
    )
    .bind(arrival.site.to_string())
    .bind(arrival.machine.to_string())
    .bind(arrival.node.to_string())
    .bind(big(arrival.order))
    .bind(i64::from(arrival.proven))
    .fetch_optional(db)
    .await?;
    row.as_ref().map(|row| key(row, "node_key")).transpose()
}

/// The node is on its machine now, under this order.
pub(crate) async fn take_place(db: &mut Connection, arrival: &Arrival) -> Result<()> {
    sql::query(
        "UPDATE nodes SET replaced_by = NULL, replaced = 0, heard_again = 0,
            order_number = CASE WHEN order_number < $4 THEN $4 ELSE order_number END
         WHERE site = $1 AND machine = $2 AND node_key = $3",
    )
    .bind(arrival.site.to_string())
    .bind(arrival.machine.to_string())
    .bind(arrival.node.to_string())
    .bind(big(arrival.order))
    .execute(db)
    .await?;
    Ok(())
}

/// Nodes that were on the machine before this one, and whose place no other has, or whose place it has already.
pub(crate) async fn predecessors(
    db: &mut Connection,
    arrival: &Arrival,
) -> Result<Vec<NodeRecord>> {
    let rows = sql::query(
        "SELECT * FROM nodes WHERE site = $1 AND machine = $2 AND node_key <> $3 AND order_number <= $4
         AND (replaced_by IS NULL OR heard_again > 0 OR replaced_by = $3) ORDER BY node_key",
    )
    .bind(arrival.site.to_string())
    .bind(arrival.machine.to_string())
    .bind(arrival.node.to_string())
    .bind(big(arrival.order))
    .fetch_all(db)
    .await?;
    rows.iter().map(nodes::record).collect()
}

/// A node has another one's place from now on.
pub(crate) async fn mark(db: &mut Connection, old: &PublicKey, by: &PublicKey) -> Result<()> {
    sql::query(
        "UPDATE nodes SET replaced_by = $2, replaced = $3, heard_again = 0 WHERE node_key = $1",
    )
    .bind(old.to_string())
    .bind(by.to_string())
    .bind(big(unix_seconds()))
    .execute(db)
    .await?;
    Ok(())
}

/// People are told that a replaced node is heard of. False when somebody told them since it was looked at.
pub(crate) async fn tell(
    db: &mut Connection,
    old: &PublicKey,
    replaced: &nodes::Replaced,
    now: u64,
) -> Result<bool> {
    let told = sql::query(
        "UPDATE nodes SET heard_again = $4 WHERE node_key = $1 AND replaced_by = $2 AND heard_again = $3",
    )
    .bind(old.to_string())
    .bind(replaced.by.to_string())
    .bind(big(replaced.heard_again))
    .bind(big(now))
    .execute(db)
    .await?;
    Ok(told > 0)
}

/// The newest completion of a machine that names a node.
pub(crate) async fn completion_of(
    db: &mut Connection,
    site: SiteId,
    machine: MachineId,
    node: &PublicKey,
) -> Result<Option<Vec<u8>>> {
    let row = sql::query(
        "SELECT document FROM completions WHERE site = $1 AND machine = $2 AND node_key = $3
         ORDER BY order_number DESC LIMIT 1",
    )
    .bind(site.to_string())
    .bind(machine.to_string())
    .bind(node.to_string())
    .fetch_optional(db)
    .await?;
    row.map(|row| row.try_get("document")).transpose()
}
