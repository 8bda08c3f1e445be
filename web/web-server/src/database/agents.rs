//! Agents that nodes admitted, by the tickets that they showed.

use trust_format::{MachineId, PublicKey, SiteId};
use web_api::Hex;

use super::{Connection, Result, big, key, number, parsed, sql};

/// A ticket that was shown.
#[derive(Debug, Clone)]
pub(crate) struct AgentRecord {
    pub(crate) agent: PublicKey,
    pub(crate) site: SiteId,
    pub(crate) machine: MachineId,
    pub(crate) order: u64,
    /// The node that signed.
    pub(crate) issuer: PublicKey,
    /// The node that HQ certified: the issuer, or the one that certified a provisional issuer.
    pub(crate) certified: PublicKey,
    /// BLAKE3 of the ticket.
    pub(crate) ticket: Hex<32>,
    /// When its life is over, in seconds since 1970.
    pub(crate) until: u64,
}

fn record(row: &sql::Row) -> Result<AgentRecord> {
    Ok(AgentRecord {
        agent: key(row, "agent_key")?,
        site: parsed(row, "site")?,
        machine: parsed(row, "machine")?,
        order: number(row, "order_number")?,
        issuer: key(row, "issuer")?,
        certified: key(row, "certified")?,
        ticket: parsed(row, "ticket")?,
        until: number(row, "until")?,
    })
}

/// When the life of a ticket is over that was shown before.
pub(crate) async fn until(db: &mut Connection, ticket: &Hex<32>) -> Result<Option<u64>> {
    let row = sql::query("SELECT until FROM agents WHERE ticket = $1")
        .bind(ticket.to_string())
        .fetch_optional(db)
        .await?;
    row.map(|row| number(&row, "until")).transpose()
}

/// Adds a ticket that was not shown yet.
pub(crate) async fn insert(db: &mut Connection, agent: &AgentRecord) -> Result<()> {
    sql::query(
        "INSERT INTO agents (ticket, agent_key, site, machine, order_number, issuer, certified, until)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(agent.ticket.to_string())
    .bind(agent.agent.to_string())
    .bind(agent.site.to_string())
    .bind(agent.machine.to_string())
    .bind(big(agent.order))
    .bind(agent.issuer.to_string())
    .bind(agent.certified.to_string())
    .bind(big(agent.until))
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets the tickets whose life was over at a time, and returns how many of a site are left.
pub(crate) async fn forget(db: &mut Connection, site: SiteId, over_at: u64) -> Result<u64> {
    sql::query("DELETE FROM agents WHERE until <= $1")
        .bind(big(over_at))
        .execute(&mut *db)
        .await?;
    let row = sql::query("SELECT COUNT(*) AS agents FROM agents WHERE site = $1")
        .bind(site.to_string())
        .fetch_one(db)
        .await?;
    number(&row, "agents")
}

/// The ticket of an agent that holds for longest, of those whose issuers are not revoked; its life may be over.
pub(crate) async fn find(db: &mut Connection, agent: &PublicKey) -> Result<Option<AgentRecord>> {
    let row = sql::query(
        "SELECT * FROM agents a WHERE agent_key = $1 AND NOT EXISTS
            (SELECT 1 FROM nodes n WHERE n.node_key IN (a.issuer, a.certified) AND n.revoked <> 0)
         ORDER BY until DESC LIMIT 1",
    )
    .bind(agent.to_string())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(record).transpose()
}

/// The machine that an agent images, also when its ticket holds no longer.
pub(crate) async fn machine_of(
    db: &mut Connection,
    agent: &PublicKey,
) -> Result<Option<MachineId>> {
    let row =
        sql::query("SELECT machine FROM agents WHERE agent_key = $1 ORDER BY until DESC LIMIT 1")
            .bind(agent.to_string())
            .fetch_optional(db)
            .await?;
    row.map(|row| parsed(&row, "machine")).transpose()
}
