//! A site's WAN rules, and news of them to the nodes that fetch.
//!
//! A node that fetches, or wants to, keeps one request open here. It is answered when something changed for it, when a
//! window of the budget ends, or after 25 s: thousands of sites that fetch nothing ask nothing.

mod news;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{RawQuery, State},
};
use tokio::time::{Instant, timeout_at};
use web_api::{WAN_NEWS_SECONDS, WAN_PRIORITY_MAX, WanChange, WanNews, WanRules};

use crate::{
    Hq,
    access::{By, Fetcher},
    bell::News,
    database::{leases as lease_table, unix_seconds, wan},
    error::Refusal,
    images,
    input::{Input, Named},
    leases, sites,
};

/// Versions of a site with a rule of their own.
const VERSIONS_MAX: usize = 256;

pub(crate) async fn show(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
) -> Result<Json<WanRules>, Refusal> {
    let mut db = hq.database.read().await?;
    let site = sites::named(&mut db, by.reach, &name).await?;
    Ok(Json(wan::rules(&mut db, site.id).await?))
}

pub(crate) async fn change(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
    Input(wish): Input<WanChange>,
) -> Result<Json<WanRules>, Refusal> {
    let mut change = hq.database.write_by(&by).await?;
    let site = sites::named(&mut change, by.reach, &name).await?;
    let mut rules = wan::rules(&mut change, site.id).await?;
    let said = said(&wish);
    let budget = &mut rules.budget;
    budget.windows = wish.windows.unwrap_or_else(|| budget.windows.clone());
    budget.utc_offset_minutes = wish.utc_offset_minutes.unwrap_or(budget.utc_offset_minutes);
    budget.check().map_err(|e| Refusal::bad(e.to_string()))?;
    match (&wish.version, wish.priority) {
        (None, Some(_)) => {
            return Err(Refusal::bad("a priority is that of a version: name one"));
        }
        (None, None) => rules.paused = wish.paused.unwrap_or(rules.paused),
        (Some(_), Some(priority)) if priority > WAN_PRIORITY_MAX => {
            return Err(Refusal::bad(format!(
                "a priority is 0 to {WAN_PRIORITY_MAX}, not {priority}"
            )));
        }
        (Some(version), priority) => {
            let version = images::resolve(&mut change, version).await?.version;
            let mut rule = wan::rule_of(&rules, version);
            if rules.versions.len() >= VERSIONS_MAX && !rules.versions.contains(&rule) {
                return Err(Refusal::conflict(format!(
                    "{VERSIONS_MAX} versions of this site have a rule of their own: take one away first"
                )));
            }
            rule.paused = wish.paused.unwrap_or(rule.paused);
            rule.priority = priority.unwrap_or(rule.priority);
            wan::put_version(&mut change, site.id, &rule).await?;
        }
    }
    wan::put(&mut change, site.id, &rules).await?;
    let rules = wan::rules(&mut change, site.id).await?;
    change.says(format!("WAN rules of site {name:?} changed{said}"));
    change.tell(News::Wan(site.id));
    change.commit().await?;
    tracing::info!(site = site.name, "WAN rules changed");
    Ok(Json(rules))
}

/// A wish in words.
fn said(wish: &WanChange) -> String {
    let mut said = String::new();
    if let Some(windows) = &wish.windows {
        said += &format!(", {} windows", windows.len());
    }
    if let Some(minutes) = wish.utc_offset_minutes {
        said += &format!(", clock {minutes} minutes from UTC");
    }
    match wish.paused {
        Some(true) => said += ", paused",
        Some(false) => said += ", resumed",
        None => {}
    }
    if let Some(priority) = wish.priority {
        said += &format!(", priority {priority}");
    }
    if let Some(version) = &wish.version {
        said += &format!(", of version {version}");
    }
    said
}

pub(crate) async fn tell(
    State(hq): State<Arc<Hq>>,
    Extension(fetcher): Extension<Fetcher>,
    RawQuery(query): RawQuery,
) -> Result<Json<WanNews>, Refusal> {
    let since = match query.as_deref().and_then(|q| q.strip_prefix("since=")) {
        Some(text) => text
            .parse()
            .map_err(|_| Refusal::bad("?since= takes the number of the last news"))?,
        None => 0,
    };
    // before the first look, so that no change falls between
    let mut bell = hq.bells.wan.listen(fetcher.site);
    let until = Instant::now() + Duration::from_secs(WAN_NEWS_SECONDS);
    loop {
        let news = news(&hq, &fetcher).await?;
        if news.number != since || Instant::now() >= until {
            return Ok(Json(news));
        }
        let window_ends = Instant::now() + Duration::from_secs(news.holds_seconds);
        // rung or not, it is time to look
        let _ = timeout_at(until.min(window_ends), bell.changed()).await;
    }
}

async fn news(hq: &Hq, fetcher: &Fetcher) -> Result<WanNews, Refusal> {
    let mut db = hq.database.read().await?;
    let rules = wan::rules(&mut db, fetcher.site).await?;
    let leases = lease_table::open_of_site(&mut db, fetcher.site).await?;
    let works: Vec<_> = leases.iter().filter(|l| leases::works(hq, l)).collect();
    let mut fetchers: BTreeSet<_> = works.iter().map(|l| l.holder).collect();
    fetchers.insert(fetcher.key);
    let leased = news::Leased {
        open: leases.iter().map(|l| l.manifest.0).collect(),
        fetched: works.iter().map(|l| l.manifest.0).collect(),
    };
    Ok(news::of(
        &rules,
        unix_seconds(),
        u64::try_from(fetchers.len()).unwrap_or(u64::MAX),
        &leased,
    ))
}
