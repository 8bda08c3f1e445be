//! Agents that fetch for a site without a node: admitted by a ticket that a node of the site signed.
//!
//! A ticket counts by its issuer's uptime, which HQ cannot read. Here its life begins when it is shown for the first time.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use trust_format::{
    CheckedNode, PublicKey, Ticket, Verified, Voucher, check_ticket, peek, ticket_life,
};
use web_api::{AgentAdmitted, AgentTicket, Hex};

use crate::{
    Hq,
    database::{Connection, agents, agents::AgentRecord, machines, nodes, unix_seconds},
    error::Refusal,
    input::Input,
    nodes::applies,
    sites, vouchers,
};

/// Tickets of one site that HQ remembers. Those that are over for a while make room.
const TICKETS_MAX: u64 = 4096;
/// A ticket that is over is remembered for so long, and so is not taken for a new one.
const OVER_FOR_SECONDS: u64 = 24 * 3600;

fn refused(sentence: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, sentence)
}

pub(crate) async fn admit(
    State(hq): State<Arc<Hq>>,
    Extension(key): Extension<PublicKey>,
    Input(shown): Input<AgentTicket>,
) -> Result<Json<AgentAdmitted>, Refusal> {
    let mut change = hq.database.write().await?;
    let mut agent = check(&mut change, &hq, key, &shown).await?;
    let above = shown.issuers_issuer.as_ref().map(|i| i.0.as_slice());
    let voucher = Voucher::behind(&shown.issuer.0, above);
    if let Some(refusal) = vouchers::admits(&mut change, agent.site, voucher, agent.machine).await?
    {
        change.commit().await?;
        return Err(refusal);
    }
    let now = unix_seconds();
    match agents::until(&mut change, &agent.ticket).await? {
        Some(until) => agent.until = until,
        None => {
            let over_at = now.saturating_sub(OVER_FOR_SECONDS);
            let mut known = agents::forget(&mut change, agent.site, over_at).await?;
            if known >= TICKETS_MAX {
                known = agents::forget(&mut change, agent.site, now).await?;
            }
            if known >= TICKETS_MAX {
                return Err(Refusal::conflict(format!(
                    "{TICKETS_MAX} agents of this site are admitted here already"
                )));
            }
            agents::insert(&mut change, &agent).await?;
            tracing::info!(site = %agent.site, agent = agent.agent.short(), machine.id = %agent.machine, order = agent.order, issuer = agent.issuer.short(), "an agent may fetch");
        }
    }
    change.commit().await?;
    let seconds = agent.until.saturating_sub(now);
    if seconds == 0 {
        return Err(refused(
            "this ticket's life is over: a node has to renew it",
        ));
    }
    Ok(Json(AgentAdmitted { seconds }))
}

/// What a ticket says, if HQ believes it. Its life is counted from now.
async fn check(
    db: &mut Connection,
    hq: &Hq,
    key: PublicKey,
    shown: &AgentTicket,
) -> Result<AgentRecord, Refusal> {
    let claimed: Ticket = peek(&shown.ticket.0)?;
    let keys = &hq.signer.trusted();
    let site = sites::of(db, claimed.site)
        .await
        .map_err(|_| refused("this ticket is for no site of this HQ"))?;
    let channel = Verified::check(&site.channel, keys)?;
    let issuers_issuer = shown.issuers_issuer.as_ref().map(|i| i.0.as_slice());
    let issuer = CheckedNode::check(
        &claimed.issuer,
        &shown.issuer.0,
        issuers_issuer,
        keys,
        &channel,
    )
    .map_err(|e| refused(e.to_string()))?;
    let ticket = check_ticket(&shown.ticket.0, &key, &issuer, site.id)
        .map_err(|e| refused(e.to_string()))?;
    let certified = issuer.issuer().map_or(ticket.issuer, |i| i.node);
    let known = nodes::find(db, &certified).await?;
    if !known.is_some_and(|n| !n.revoked && n.site == site.id) {
        return Err(refused(format!(
            "node {}, which vouches for this ticket, is no node of the site",
            certified.short()
        )));
    }
    applies(db, site.id, ticket.order, ticket.machine).await?;
    if machines::has_completed(db, site.id, ticket.machine, ticket.order).await? {
        return Err(refused(format!(
            "order {} is spent: machine {} finished it",
            ticket.order, ticket.machine
        )));
    }
    Ok(AgentRecord {
        agent: ticket.agent,
        site: site.id,
        machine: ticket.machine,
        order: ticket.order,
        issuer: ticket.issuer,
        certified,
        ticket: Hex(*blake3::hash(&shown.ticket.0).as_bytes()),
        until: unix_seconds() + ticket.life.min(ticket_life::MAX).as_secs(),
    })
}
