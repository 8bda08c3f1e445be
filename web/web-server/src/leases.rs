//! Leases: one node of a site, or an agent without one, fetches a version over the WAN, and nobody else who can reach it.

pub(crate) mod activity;
mod judge;

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use trust_format::{PublicKey, SiteId};
use web_api::{
    HOLDER_VIEWS_MAX, Hex, LEASE_HEADER, LeaseAnswer, LeaseEnd, LeaseHeld, LeaseKind, LeaseRequest,
};

use crate::{
    Hq,
    access::Fetcher,
    bell::News,
    database::{
        Connection, agents, images, leases, leases::LeaseRecord, nodes, orders, unix_seconds,
    },
    error::{Refusal, random},
    input::Input,
    sites,
};
use activity::Activity;
use judge::{ISLANDS_MAX, LEASE_DEADLINE, Slot, Verdict, judge};

/// A node that works says so every second; one that HQ did not hear of for so long is no help to its neighbours.
const HEARD_SECONDS: u64 = 30;
/// The same for an agent: it has been without any node for 20 s when it asks, so one that is gone was heard of before that.
const HEARD_BESIDE_AGENTS_SECONDS: u64 = 15;

/// A site may read its image, its boot bundle, and what its orders name.
pub(crate) async fn may_read(
    db: &mut Connection,
    site: SiteId,
    manifest: &Hex<32>,
) -> Result<(), Refusal> {
    let is_image = sites::of(db, site).await?.image == Some(*manifest);
    let is_bundle = images::bundle(db).await?.is_some_and(|b| b.0 == manifest.0);
    if is_image || is_bundle || orders::names(db, site, manifest).await? {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        format!("version {manifest} is not meant for this site"),
    ))
}

/// Whether bytes of a lease go out, or may any moment.
pub(crate) fn works(hq: &Hq, lease: &LeaseRecord) -> bool {
    !lease.finished && hq.bells.activities.of(&lease.token).idle() < LEASE_DEADLINE
}

pub(crate) async fn ask(
    State(hq): State<Arc<Hq>>,
    Extension(fetcher): Extension<Fetcher>,
    Input(request): Input<LeaseRequest>,
) -> Result<Response, Refusal> {
    if request.holders.len() > HOLDER_VIEWS_MAX {
        let sentence = format!("a node speaks of at most {HOLDER_VIEWS_MAX} holders");
        return Err(Refusal::bad(sentence));
    }
    let mut change = hq.database.write().await?;
    may_read(&mut change, fetcher.site, &request.manifest).await?;
    let records = leases::of_version(&mut change, fetcher.site, &request.manifest).await?;
    let heard_within = match fetcher.is_agent {
        true => HEARD_BESIDE_AGENTS_SECONDS,
        false => HEARD_SECONDS,
    };
    let slots = slots(&mut change, &hq, &records, heard_within).await?;
    let view = |key: &PublicKey| {
        let said = request.holders.iter().find(|v| v.key.0 == key.0);
        said.map(|v| v.live)
    };
    let lease = match judge(fetcher.key, &slots, &view) {
        Verdict::Held { holder, finished } => {
            return held(&mut change, holder, finished).await;
        }
        Verdict::Crowded => {
            return Err(Refusal::conflict(format!(
                "{ISLANDS_MAX} islands of this site fetch this version already: its nodes should reach each other"
            )));
        }
        Verdict::Renew { island } => {
            let own = records.into_iter().find(|r| r.island == island);
            own.ok_or_else(|| Refusal::missing("this lease"))?
        }
        Verdict::Give { island } => {
            let lease = LeaseRecord {
                site: fetcher.site,
                manifest: request.manifest,
                island,
                holder: fetcher.key,
                token: Hex(random::<16>()?).to_string(),
                fence: records.iter().map(|r| r.fence).max().unwrap_or(0) + 1,
                finished: false,
            };
            leases::put(&mut change, &lease).await?;
            if let Some(old) = records.into_iter().find(|r| r.island == island) {
                change.tell(News::LeaseLost(old.token));
            }
            change.tell(News::Wan(fetcher.site));
            change.commit().await?;
            hq.bells.activities.of(&lease.token);
            lease
        }
    };
    Ok(Json(LeaseAnswer {
        kind: lease.kind(),
        token: lease.token,
        fence: lease.fence,
        seconds: LEASE_DEADLINE.as_secs(),
    })
    .into_response())
}

async fn slots(
    db: &mut Connection,
    hq: &Hq,
    records: &[LeaseRecord],
    heard_within_seconds: u64,
) -> Result<Vec<Slot>, Refusal> {
    let mut slots = Vec::with_capacity(records.len());
    for record in records {
        let seen = nodes::seen(db, &record.holder).await?;
        slots.push(Slot {
            island: record.island,
            holder: record.holder,
            idle: hq.bells.activities.of(&record.token).idle(),
            finished: record.finished,
            // either way: a clock that was set back must not keep a dead node alive
            heard: seen.is_some_and(|s| unix_seconds().abs_diff(s) < heard_within_seconds),
        });
    }
    Ok(slots)
}

async fn held(db: &mut Connection, key: PublicKey, finished: bool) -> Result<Response, Refusal> {
    let (kind, holder) = name_of(db, &key).await?;
    let error = match finished {
        false => format!("{kind}{holder} fetches this version for the site"),
        true => format!("{kind}{holder} has this version: fetch it from there"),
    };
    let held = LeaseHeld {
        error,
        holder,
        key: Hex(key.0),
        finished,
    };
    Ok((StatusCode::CONFLICT, Json(held)).into_response())
}

/// A holder's name, and what a sentence says before it. An agent has no name: its machine is what people know.
async fn name_of(db: &mut Connection, key: &PublicKey) -> Result<(&'static str, String), Refusal> {
    if let Some(node) = nodes::find(db, key).await? {
        return Ok(("node ", node.name));
    }
    Ok(match agents::machine_of(db, key).await? {
        Some(machine) => ("", format!("agent of machine {machine}")),
        None => ("peer ", key.short()),
    })
}

/// The holder is done. A lease that was lost meanwhile has no end any more.
pub(crate) async fn end(
    State(hq): State<Arc<Hq>>,
    Extension(fetcher): Extension<Fetcher>,
    Input(request): Input<LeaseEnd>,
) -> Result<StatusCode, Refusal> {
    let mut change = hq.database.write().await?;
    let lease = leases::by_token(&mut change, &request.token).await?;
    if let Some(lease) = lease.filter(|l| l.holder == fetcher.key) {
        match request.finished {
            true => leases::finish(&mut change, &lease.token).await?,
            false => leases::give_up(&mut change, &lease.token).await?,
        }
        change.tell(News::LeaseLost(lease.token));
        change.tell(News::Wan(fetcher.site));
        change.commit().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The lease that a request for an object shows, if it is the caller's and holds: under a token of an older fence, and
/// under one without a byte for a deadline, nothing is given.
pub(crate) async fn shown(
    hq: &Hq,
    fetcher: &Fetcher,
    headers: &HeaderMap,
) -> Result<(LeaseRecord, Arc<Activity>), Refusal> {
    let refused = |sentence: &str| Refusal::new(StatusCode::FORBIDDEN, sentence);
    let token = headers.get(LEASE_HEADER).and_then(|v| v.to_str().ok());
    let Some(token) = token.filter(|t| !t.is_empty()) else {
        return Err(refused("objects are given for a lease only: ask for one"));
    };
    let lease = leases::by_token(&mut *hq.database.read().await?, token).await?;
    match lease {
        Some(lease) if lease.holder != fetcher.key || lease.site != fetcher.site => {
            Err(refused("this lease is another's: ask for one"))
        }
        Some(lease) if works(hq, &lease) => {
            let activity = hq.bells.activities.of(&lease.token);
            Ok((lease, activity))
        }
        _ => Err(Refusal::conflict("this lease is over: ask again")),
    }
}

impl LeaseRecord {
    /// For whom it is.
    pub(crate) fn kind(&self) -> LeaseKind {
        match self.island {
            None => LeaseKind::Main,
            Some(_) => LeaseKind::Island,
        }
    }
}
