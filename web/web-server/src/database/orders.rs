//! Orders.

use trust_format::{MachineId, Order, SiteId};
use web_api::{Hex, OrderInfo};

use super::{
    Connection, Result, big, flag, number, parsed, parsed_option, reach::Reach, sql, unix_seconds,
};

/// What an order says, without its signature.
#[derive(Debug, Clone)]
pub(crate) struct OrderRecord {
    pub(crate) image: Hex<32>,
    pub(crate) machine: Option<MachineId>,
}

/// How many a site has.
pub(crate) async fn count(db: &mut Connection, site: SiteId) -> Result<u64> {
    let row = sql::query("SELECT COUNT(*) AS number FROM orders WHERE site = $1")
        .bind(site.to_string())
        .fetch_one(db)
        .await?;
    number(&row, "number")
}

/// Adds an order.
pub(crate) async fn insert(db: &mut Connection, order: &Order, document: &[u8]) -> Result<()> {
    sql::query(
        "INSERT INTO orders (site, number, version, machine, erase, document, made) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(order.site.to_string())
    .bind(big(order.number))
    .bind(order.image.to_string())
    .bind(order.machine.map(|m| m.to_string()))
    .bind(i64::from(order.erase))
    .bind(document)
    .bind(big(unix_seconds()))
    .execute(db)
    .await?;
    Ok(())
}

/// One order.
pub(crate) async fn find(
    db: &mut Connection,
    site: SiteId,
    number: u64,
) -> Result<Option<OrderRecord>> {
    let row = sql::query("SELECT version, machine FROM orders WHERE site = $1 AND number = $2")
        .bind(site.to_string())
        .bind(big(number))
        .fetch_optional(db)
        .await?;
    row.map(|row| {
        Ok(OrderRecord {
            image: parsed(&row, "version")?,
            machine: parsed_option(&row, "machine")?,
        })
    })
    .transpose()
}

/// Whether any order of the site names a version.
pub(crate) async fn names(db: &mut Connection, site: SiteId, version: &Hex<32>) -> Result<bool> {
    let row = sql::query("SELECT 1 FROM orders WHERE site = $1 AND version = $2 LIMIT 1")
        .bind(site.to_string())
        .bind(version.to_string())
        .fetch_optional(db)
        .await?;
    Ok(row.is_some())
}

/// The newest signed orders of a site, newest last.
pub(crate) async fn documents(
    db: &mut Connection,
    site: SiteId,
    limit: u32,
) -> Result<Vec<Vec<u8>>> {
    let mut documents: Vec<Vec<u8>> =
        sql::query("SELECT document FROM orders WHERE site = $1 ORDER BY number DESC LIMIT $2")
            .bind(site.to_string())
            .bind(i64::from(limit))
            .fetch_values(db, "document")
            .await?;
    documents.reverse();
    Ok(documents)
}

/// Orders for people, newest first.
pub(crate) async fn infos(db: &mut Connection, reach: Reach, limit: u32) -> Result<Vec<OrderInfo>> {
    let rows = sql::query(
        "SELECT o.*, s.name AS site_name, i.name AS image_name,
            (SELECT COUNT(*) FROM completions c WHERE c.site = o.site AND c.order_number = o.number) AS completed
         FROM orders o JOIN sites s ON s.id = o.site JOIN images i ON i.version = o.version
         WHERE ($2 IS NULL OR o.site IN (SELECT site FROM reach WHERE user_id = $2))
         ORDER BY o.made DESC, o.number DESC LIMIT $1",
    )
    .bind(i64::from(limit))
    .bind(reach)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(OrderInfo {
                site: row.try_get("site_name")?,
                number: number(row, "number")?,
                version: parsed(row, "version")?,
                name: row.try_get("image_name")?,
                machine: parsed_option(row, "machine")?,
                erase: flag(row, "erase")?,
                completed: number(row, "completed")?,
                waiting: false,
            })
        })
        .collect()
}
