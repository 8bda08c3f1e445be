//! Machines, and their approval.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
};
use trust_format::{CHANNEL_ADMITTED_MAX, MachineId, SiteId};
use web_api::{Machine, SiteInfo};

use crate::{
    Hq,
    database::{machines, sites as site_table},
    error::Refusal,
    input::Named,
    sites,
};

const MACHINES_LISTED_MAX: u32 = 32_768;
const SITES_OF_A_MACHINE_MAX: u32 = 64;

pub(crate) async fn list(State(hq): State<Arc<Hq>>) -> Result<Json<Vec<Machine>>, Refusal> {
    let mut db = hq.database.read().await?;
    let machines = machines::infos(&mut db, None, MACHINES_LISTED_MAX).await?;
    Ok(Json(
        machines.into_iter().map(|(_, machine)| machine).collect(),
    ))
}

/// `?site=ID` tells which site is meant when several saw the machine: a machine may have moved, and a node may lie.
/// `?code=CODE` is what the machine shows on its screen: another one that says the same of itself is not approved for it.
pub(crate) async fn approve(
    State(hq): State<Arc<Hq>>,
    id: Named,
    RawQuery(query): RawQuery,
) -> Result<Json<Machine>, Refusal> {
    let id: MachineId = id.parse("machine (32 hexadecimal digits)")?;
    let asked = |name: &str| {
        let pairs = query.as_deref().unwrap_or_default().split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
    };
    let wanted: Option<SiteId> = match asked("site") {
        Some((_, text)) => Some(text.parse().map_err(Refusal::bad)?),
        None => None,
    };
    let mut change = hq.database.write().await?;
    let mut seen = machines::infos(&mut change, Some(id), SITES_OF_A_MACHINE_MAX).await?;
    seen.retain(|(site, _)| wanted.is_none_or(|w| w == *site));
    if seen.len() > 1 {
        let all: Vec<SiteInfo> = site_table::infos(&mut change, None).await?;
        let sites: Vec<_> = all
            .iter()
            .filter(|s| seen.iter().any(|(id, _)| id.0 == s.id.0))
            .map(|s| format!("{:?} ({})", s.name, s.id))
            .collect();
        return Err(Refusal::conflict(format!(
            "several sites saw machine {id}: {}; name one with ?site=ID",
            sites.join(", ")
        )));
    }
    let Some((site, machine)) = seen.pop() else {
        return Err(Refusal::missing(format!("machine {id}")));
    };
    if let Some((_, code)) = asked("code")
        && !machine
            .facts
            .code
            .as_deref()
            .is_some_and(|shown| shown.eq_ignore_ascii_case(code))
    {
        let shown = machine.facts.code.unwrap_or_else(|| "none".into());
        return Err(Refusal::conflict(format!(
            "machine {id} was last heard of with code {shown}, not {code}: look at its screen again"
        )));
    }
    let approved = site_table::approved(&mut change, site).await?;
    if approved.len() >= CHANNEL_ADMITTED_MAX && !approved.contains(&id) {
        return Err(Refusal::conflict(format!(
            "the site's list of approved machines is full: {CHANNEL_ADMITTED_MAX}"
        )));
    }
    machines::approve(&mut change, site, id).await?;
    let mut record = sites::of(&mut change, site).await?;
    sites::refresh(&mut change, &hq, &mut record).await?;
    let now = machines::infos(&mut change, Some(id), SITES_OF_A_MACHINE_MAX).await?;
    change.commit().await?;
    tracing::info!(site = record.name, machine = %id, "machine approved");
    let machine = now
        .into_iter()
        .find(|(of, _)| *of == site)
        .map(|(_, machine)| machine);
    machine
        .map(Json)
        .ok_or_else(|| Refusal::missing(format!("machine {id}")))
}
