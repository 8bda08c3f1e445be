//! Which sites a person's rights reach, and the tags of sites.
//!
//! Statements that list for people say `($N IS NULL OR site IN (SELECT site FROM reach WHERE user_id = $N))`: the view has what was
//! granted to an account by name or by tag, and NULL stands for every site.

use trust_format::SiteId;
use web_api::SiteScope;

use super::{Connection, Result, parsed, sql};

/// All sites, or those that were granted to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach(Option<i64>);

impl Reach {
    /// Every site.
    pub(crate) const ALL: Self = Self(None);

    /// What was granted to an account.
    pub(crate) fn of(user: i64) -> Self {
        Self(Some(user))
    }

    /// Whether nothing is out of it.
    pub(crate) fn is_all(self) -> bool {
        self.0.is_none()
    }
}

impl From<Reach> for sql::Value {
    fn from(reach: Reach) -> Self {
        reach.0.into()
    }
}

/// Whether a site is within it.
pub(crate) async fn reaches(db: &mut Connection, reach: Reach, site: SiteId) -> Result<bool> {
    let row = sql::query(
        "SELECT 1 FROM sites WHERE id = $1 AND ($2 IS NULL OR id IN (SELECT site FROM reach WHERE user_id = $2))",
    )
    .bind(site.to_string())
    .bind(reach)
    .fetch_optional(db)
    .await?;
    Ok(row.is_some())
}

/// What is granted to an account from now on.
pub(crate) async fn grant(
    db: &mut Connection,
    user: i64,
    all_sites: bool,
    sites: &[SiteId],
    tags: &[String],
) -> Result<()> {
    forget(db, user).await?;
    sql::query("UPDATE users SET all_sites = $2 WHERE id = $1")
        .bind(user)
        .bind(i64::from(all_sites))
        .execute(db)
        .await?;
    for site in sites {
        sql::query("INSERT INTO grants (user_id, site) VALUES ($1, $2)")
            .bind(user)
            .bind(site.to_string())
            .execute(db)
            .await?;
    }
    for tag in tags {
        sql::query("INSERT INTO grants (user_id, tag) VALUES ($1, $2)")
            .bind(user)
            .bind(tag)
            .execute(db)
            .await?;
    }
    Ok(())
}

/// Nothing is granted to an account.
pub(super) async fn forget(db: &mut Connection, user: i64) -> Result<()> {
    sql::query("DELETE FROM grants WHERE user_id = $1")
        .bind(user)
        .execute(db)
        .await?;
    Ok(())
}

/// What is granted to an account, in words.
pub(crate) async fn scope(db: &mut Connection, user: i64, all_sites: bool) -> Result<SiteScope> {
    if all_sites {
        return Ok(SiteScope::all());
    }
    let rows = sql::query(
        "SELECT s.name, g.tag FROM grants g LEFT JOIN sites s ON s.id = g.site WHERE g.user_id = $1 ORDER BY s.name, g.tag",
    )
    .bind(user)
    .fetch_all(db)
    .await?;
    let mut scope = SiteScope::default();
    for row in &rows {
        let (site, tag): (Option<String>, Option<String>) =
            (row.try_get("name")?, row.try_get("tag")?);
        scope.sites.extend(site);
        scope.tags.extend(tag);
    }
    Ok(scope)
}

/// A site's tags from now on.
pub(crate) async fn set_tags(db: &mut Connection, site: SiteId, tags: &[String]) -> Result<()> {
    sql::query("DELETE FROM site_tags WHERE site = $1")
        .bind(site.to_string())
        .execute(db)
        .await?;
    for tag in tags {
        sql::query("INSERT INTO site_tags (site, tag) VALUES ($1, $2)")
            .bind(site.to_string())
            .bind(tag)
            .execute(db)
            .await?;
    }
    Ok(())
}

/// Tags of some sites: site and tag, in order.
pub(crate) async fn tags(
    db: &mut Connection,
    sites: impl ExactSizeIterator<Item = String>,
) -> Result<Vec<(SiteId, String)>> {
    if sites.len() == 0 {
        return Ok(Vec::new());
    }
    let query = sql::query("SELECT site, tag FROM site_tags WHERE site IN (").list(sites);
    let rows = query.say(") ORDER BY site, tag").fetch_all(db).await?;
    rows.iter()
        .map(|row| Ok((parsed(row, "site")?, row.try_get("tag")?)))
        .collect()
}
