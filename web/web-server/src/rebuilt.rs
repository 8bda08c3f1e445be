//! A machine that is built anew leaves no ghost: its old node is marked as replaced, and people are told when it is heard of all the same.
//!
//! A machine that was imaged again replaces its node and revokes nobody: a certified node that lies can say so of any machine of its site.
//! A token that a person made for the purpose revokes.

use std::net::SocketAddr;

use trust_format::{Completion, PublicKey, SiteId, Ticket, Voucher, peek};

use crate::{
    Hq,
    access::Node,
    database::{
        Connection,
        events::{self, EventKind},
        nodes,
        nodes::{NodeRecord, Replaced},
        reach::Reach,
        replaced::{self, Arrival},
        tokens::TokenRecord,
        unix_seconds,
    },
    error::Refusal,
    names, sites,
};

/// A call of the old node may have lain at HQ while HQ stood still. Nodes give up a call after 20 s; one that lives calls again every
/// eleven.
const LATE_WORD_SECONDS: u64 = 60;
/// Of a node that goes on calling, people are told so often.
const TOLD_EVERY_SECONDS: u64 = 24 * 3600;

/// Whether people are told that a replaced node called.
fn is_alarm(now: u64, replaced: &Replaced) -> bool {
    let is_late_word = now.saturating_sub(replaced.since) < LATE_WORD_SECONDS;
    let was_told =
        replaced.heard_again != 0 && now.saturating_sub(replaced.heard_again) < TOLD_EVERY_SECONDS;
    !is_late_word && !was_told
}

/// A node came onto its machine's disk: a completion names it, or it calls home for the first time. Either may come first, and news of an
/// earlier node may come last.
pub(crate) async fn arrived(db: &mut Connection, arrival: &Arrival) -> Result<(), Refusal> {
    let known = nodes::find(db, &arrival.node).await?;
    if known.as_ref().is_some_and(|node| node.revoked) {
        return Ok(());
    }
    if let Some(successor) = replaced::successor(db, arrival).await? {
        let is_here = known.filter(|n| n.site == arrival.site && n.machine == arrival.machine);
        return match is_here {
            Some(node) if node.life.replaced.is_none() => give_place(db, &node, &successor).await,
            _ => Ok(()),
        };
    }
    replaced::take_place(db, arrival).await?;
    for old in replaced::predecessors(db, arrival).await? {
        give_place(db, &old, &arrival.node).await?;
    }
    Ok(())
}

/// From now on it counts whether the old one is heard of. A line is written for the first time only.
async fn give_place(db: &mut Connection, old: &NodeRecord, new: &PublicKey) -> Result<(), Refusal> {
    replaced::mark(db, &old.key, new).await?;
    let again = old.life.replaced.is_some_and(|r| r.by == *new);
    if !again && !old.revoked {
        let message = format!(
            "node {:?} ({}) is replaced by node {}: machine {} was imaged again",
            old.name,
            old.key.short(),
            new.short(),
            old.machine
        );
        events::add(db, old.site, "HQ", EventKind::Node, &message).await?;
    }
    Ok(())
}

/// A replaced node calls. Soon after it was replaced that is a late word; later it is an alarm, and the node is shown again.
pub(crate) async fn heard(
    hq: &Hq,
    node: &Node,
    address: Option<SocketAddr>,
) -> Result<(), Refusal> {
    let now = unix_seconds();
    let old = nodes::find(&mut *hq.database.read().await?, &node.key).await?;
    let Some(old) = old else {
        return Ok(());
    };
    let Some(replaced) = old.life.replaced.filter(|r| is_alarm(now, r)) else {
        return Ok(());
    };
    let mut change = hq.database.write().await?;
    if !replaced::tell(&mut change, &old.key, &replaced, now).await? {
        return Ok(());
    }
    let message = alarm(&mut change, &old, &replaced, address).await?;
    events::add(&mut change, old.site, "HQ", EventKind::Trouble, &message).await?;
    change.commit().await?;
    tracing::warn!(site = %old.site, node = old.key.short(), by = replaced.by.short(), "a replaced node is heard of");
    Ok(())
}

/// What people are told, and what to do.
async fn alarm(
    db: &mut Connection,
    old: &NodeRecord,
    replaced: &Replaced,
    address: Option<SocketAddr>,
) -> Result<String, Refusal> {
    let witness = witness(db, old, &replaced.by).await?;
    let (vouched, and_witness) = match witness.map(|key| key.short()) {
        Some(key) => (
            format!(", as node {key} vouched"),
            format!(" and node {key}"),
        ),
        None => (String::new(), String::new()),
    };
    let at = address.map_or_else(
        || "an unknown address".to_owned(),
        |a| a.ip().to_canonical().to_string(),
    );
    Ok(format!(
        "node {:?}, key {}, is heard of at {at} though node {} has its place on machine {}{vouched}. \
         Look at the machine: if the new node runs there, the old disk was copied or runs elsewhere: revoke the old node. \
         If the old node runs there, the machine was never imaged: revoke the new node{and_witness}. \
         Two machines with one UUID look the same (machine demote)",
        old.name, old.key, replaced.by, old.machine
    ))
}

/// The node whose ticket let the new one onto the machine, when a completion says so.
async fn witness(
    db: &mut Connection,
    old: &NodeRecord,
    new: &PublicKey,
) -> Result<Option<PublicKey>, Refusal> {
    let document = replaced::completion_of(db, old.site, old.machine, new).await?;
    let Some(document) = document else {
        return Ok(None);
    };
    let completion: Completion = peek(&document)?;
    Ok(Some(peek::<Ticket>(&completion.ticket)?.issuer))
}

/// The node that a new token is to replace.
pub(crate) async fn wished(
    db: &mut Connection,
    reach: Reach,
    site: SiteId,
    text: &str,
) -> Result<NodeRecord, Refusal> {
    let old = names::by_beginning(db, reach, text).await?;
    if old.site != site {
        let of = sites::of(db, old.site).await?.name;
        return Err(Refusal::conflict(format!(
            "node {} is of site {of:?}: a token replaces nodes of its own site",
            old.key.short()
        )));
    }
    if Voucher::behind(&old.certificate, None).is_some() {
        return Err(Refusal::conflict(format!(
            "{} is a voucher: a new one takes no place of another",
            old.key.short()
        )));
    }
    check_in_place(&old)?;
    Ok(old)
}

/// A node is replaced once; whoever replaced it can be replaced in turn. One that is revoked may still give its place.
fn check_in_place(old: &NodeRecord) -> Result<(), Refusal> {
    match old.life.replaced {
        Some(Replaced {
            by, heard_again: 0, ..
        }) => Err(Refusal::conflict(format!(
            "node {} was replaced by node {} already: replace that one",
            old.key.short(),
            by.short()
        ))),
        _ => Ok(()),
    }
}

/// The node whose place the user of a token gets, as it stands now.
pub(crate) async fn given_up(
    db: &mut Connection,
    token: &TokenRecord,
) -> Result<Option<NodeRecord>, Refusal> {
    let Some(key) = token.replaces else {
        return Ok(None);
    };
    let old = nodes::find(db, &key).await?;
    let old = old.ok_or_else(|| Refusal::missing(format!("node {}", key.short())))?;
    check_in_place(&old)?;
    Ok(Some(old))
}

/// The token was used: the old node is revoked, and the new one has its place.
pub(crate) async fn replace(
    db: &mut Connection,
    hq: &Hq,
    old: &NodeRecord,
    new: &PublicKey,
) -> Result<(), Refusal> {
    sites::revoke_node(db, hq, &old.key).await?;
    replaced::mark(db, &old.key, new).await?;
    let message = format!(
        "node {:?} ({}) is revoked and replaced by node {}, which came with a token for its place",
        old.name,
        old.key.short(),
        new.short()
    );
    Ok(events::add(db, old.site, "HQ", EventKind::Node, &message).await?)
}

#[cfg(test)]
mod tests;
