//! What a site's WAN may carry.

use trust_format::SiteId;
use web_api::{Hex, WanRules, WanVersion};

use super::{Connection, Result, flag, json, number, parsed, sql, to_json, undecodable};

/// The rules of a site that exists.
pub(crate) async fn rules(db: &mut Connection, site: SiteId) -> Result<WanRules> {
    let row = sql::query("SELECT wan_budget, wan_paused FROM sites WHERE id = $1")
        .bind(site.to_string())
        .fetch_one(&mut *db)
        .await?;
    let versions = sql::query("SELECT * FROM wan_versions WHERE site = $1 ORDER BY version")
        .bind(site.to_string())
        .fetch_all(db)
        .await?;
    let version = |row: &sql::Row| {
        Ok(WanVersion {
            version: parsed(row, "version")?,
            paused: flag(row, "paused")?,
            priority: u8::try_from(number(row, "priority")?)
                .map_err(|_| undecodable("priority"))?,
        })
    };
    Ok(WanRules {
        budget: json(&row, "wan_budget")?,
        paused: row.try_get::<i64>("wan_paused")? != 0,
        versions: versions.iter().map(version).collect::<Result<_>>()?,
    })
}

/// Writes budget and pause of a site.
pub(crate) async fn put(db: &mut Connection, site: SiteId, rules: &WanRules) -> Result<()> {
    sql::query("UPDATE sites SET wan_budget = $2, wan_paused = $3 WHERE id = $1")
        .bind(site.to_string())
        .bind(to_json(&rules.budget)?)
        .bind(i64::from(rules.paused))
        .execute(db)
        .await?;
    Ok(())
}

/// Writes the rule of one version; one that says nothing is taken away.
pub(crate) async fn put_version(
    db: &mut Connection,
    site: SiteId,
    rule: &WanVersion,
) -> Result<()> {
    sql::query("DELETE FROM wan_versions WHERE site = $1 AND version = $2")
        .bind(site.to_string())
        .bind(rule.version.to_string())
        .execute(&mut *db)
        .await?;
    if !rule.paused && rule.priority == 0 {
        return Ok(());
    }
    sql::query(
        "INSERT INTO wan_versions (site, version, paused, priority) VALUES ($1, $2, $3, $4)",
    )
    .bind(site.to_string())
    .bind(rule.version.to_string())
    .bind(i64::from(rule.paused))
    .bind(i64::from(rule.priority))
    .execute(db)
    .await?;
    Ok(())
}

/// The rule of a version, as it is when nobody gave one.
pub(crate) fn rule_of(rules: &WanRules, version: Hex<32>) -> WanVersion {
    let found = rules.versions.iter().find(|v| v.version == version);
    found.cloned().unwrap_or(WanVersion {
        version,
        paused: false,
        priority: 0,
    })
}
