//! Leases: one node of a site fetches a version over the WAN, and nobody else.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use sqlx::SqliteConnection;
use trust_format::SiteId;
use web_api::{Hex, LEASE_HEADER, LeaseAnswer, LeaseHeld, LeaseRequest};

use crate::{
    Hq,
    access::Node,
    database::{images, leases, leases::LeaseRecord, nodes, orders, unix_millis},
    error::{Refusal, random},
    input::Input,
    sites,
};

/// How long a lease holds without renewal.
const LEASE_SECONDS: u64 = 30;

fn holds(lease: &LeaseRecord) -> bool {
    // either way: a clock that was set back must not make a lease eternal
    unix_millis().abs_diff(lease.renewed_millis) < LEASE_SECONDS * 1000
}

/// A site may read its image, its boot bundle, and what its orders name.
pub(crate) async fn may_read(
    db: &mut SqliteConnection,
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

pub(crate) async fn ask(
    State(hq): State<Arc<Hq>>,
    Extension(node): Extension<Node>,
    Input(request): Input<LeaseRequest>,
) -> Result<Response, Refusal> {
    let mut change = hq.database.write().await?;
    may_read(&mut change, node.site, &request.manifest).await?;
    let last = leases::find(&mut change, node.site, &request.manifest).await?;
    let lease = match last {
        Some(lease) if holds(&lease) && lease.holder == node.key => LeaseRecord {
            renewed_millis: unix_millis(),
            ..lease
        },
        Some(lease) if holds(&lease) => {
            let holder = nodes::find(&mut change, &lease.holder).await?;
            let holder = holder.map_or_else(|| lease.holder.short(), |n| n.name);
            return Ok((StatusCode::CONFLICT, Json(LeaseHeld { holder })).into_response());
        }
        last => LeaseRecord {
            site: node.site,
            manifest: request.manifest,
            holder: node.key,
            token: Hex(random::<16>()?).to_string(),
            fence: last.map_or(0, |l| l.fence) + 1,
            renewed_millis: unix_millis(),
        },
    };
    leases::put(&mut change, &lease).await?;
    change.commit().await?;
    let answer = LeaseAnswer {
        token: lease.token,
        fence: lease.fence,
        seconds: LEASE_SECONDS,
    };
    Ok(Json(answer).into_response())
}

/// The lease that a request for an object shows, if it is the node's and holds.
pub(crate) async fn shown(
    hq: &Hq,
    node: &Node,
    headers: &HeaderMap,
) -> Result<LeaseRecord, Refusal> {
    let refused = |sentence: &str| Refusal::new(StatusCode::FORBIDDEN, sentence);
    let Some(token) = headers.get(LEASE_HEADER).and_then(|v| v.to_str().ok()) else {
        return Err(refused("objects are given for a lease only: ask for one"));
    };
    let lease = leases::by_token(&mut *hq.database.read().await?, token).await?;
    match lease {
        Some(lease) if lease.holder == node.key && lease.site == node.site && holds(&lease) => {
            Ok(lease)
        }
        _ => Err(refused("this lease is over or another's: ask again")),
    }
}
