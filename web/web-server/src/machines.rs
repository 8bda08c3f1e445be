//! Machines, and their approval.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use trust_format::{MachineId, SiteId};
use utoipa::IntoParams;
use web_api::{Machine, Page};

use crate::{
    Hq,
    access::By,
    database::{
        machines,
        machines::{MachineFilter, MachineSort},
        rosters as roster_table,
    },
    error::Refusal,
    input::{Asked, Named},
    listed::Listed,
    rosters, sites,
};

const SITES_OF_A_MACHINE_MAX: u32 = 64;

pub(crate) async fn list(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    asked: Listed<MachineSort, MachineFilter>,
) -> Result<Json<Page<Machine>>, Refusal> {
    let mut db = hq.database.read().await?;
    let page = machines::page(&mut db, by.reach, &asked.filter, &asked.turn).await?;
    Ok(Json(Page {
        rows: page.rows.into_iter().map(|(_, machine)| machine).collect(),
        total: page.total,
        next: page.next,
    }))
}

/// Which machine is meant, when it is not plain.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Approval {
    /// The site's identity, 32 hexadecimal digits.
    site: Option<String>,
    /// What the machine shows on its screen.
    code: Option<String>,
}

/// `?site=ID` tells which site is meant when several saw the machine: a machine may have moved, and a node may lie.
/// `?code=CODE` is what the machine shows on its screen: another one that says the same of itself is not approved for it.
pub(crate) async fn approve(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    id: Named,
    Asked(asked): Asked<Approval>,
) -> Result<Json<Machine>, Refusal> {
    rosters::check_authority(&hq)?;
    let id: MachineId = id.parse("machine (32 hexadecimal digits)")?;
    let wanted: Option<SiteId> = match &asked.site {
        Some(text) => Some(text.parse().map_err(Refusal::bad)?),
        None => None,
    };
    let mut change = hq.database.write_by(&by).await?;
    let mut seen = machines::of_identity(&mut change, by.reach, id, SITES_OF_A_MACHINE_MAX).await?;
    seen.retain(|(site, _)| wanted.is_none_or(|w| w == *site));
    if seen.len() > 1 {
        let sites: Vec<_> = seen
            .iter()
            .map(|(site, machine)| format!("{:?} ({site})", machine.site))
            .collect();
        return Err(Refusal::conflict(format!(
            "several sites saw machine {id}: {}; name one with ?site=ID",
            sites.join(", ")
        )));
    }
    let Some((site, machine)) = seen.pop() else {
        return Err(Refusal::missing(format!("machine {id}")));
    };
    let known = machines::find(&mut change, site, id)
        .await?
        .unwrap_or_default();
    match &asked.code {
        Some(code) => check_code(id, &machine, code)?,
        None if known.approved || known.admitted => {
            return Err(Refusal::conflict(format!(
                "machine {id} is known already; if one that names itself so waits, approve that one by the code on its screen"
            )));
        }
        None => {}
    }
    roster_table::saw(&mut change, site, id, &machine.facts).await?;
    if let (Some(_), Some(code)) = (&asked.code, &machine.facts.code) {
        roster_table::set_code(&mut change, site, id, code).await?;
    }
    machines::approve(&mut change, site, id).await?;
    let mut record = sites::of(&mut change, site).await?;
    sites::refresh(&mut change, &hq, &mut record).await?;
    change.says(format!("machine {id} of site {:?} approved", record.name));
    let now = machines::of_identity(&mut change, by.reach, id, SITES_OF_A_MACHINE_MAX).await?;
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

/// The machine that waits has to show this code.
fn check_code(id: MachineId, machine: &Machine, code: &str) -> Result<(), Refusal> {
    let shown = machine.facts.code.as_deref();
    if shown.is_some_and(|shown| shown.eq_ignore_ascii_case(code)) {
        return Ok(());
    }
    let shown = shown.unwrap_or("none");
    Err(Refusal::conflict(format!(
        "machine {id} was last heard of with code {shown}, not {code}: look at its screen again"
    )))
}
