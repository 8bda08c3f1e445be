//! Orders.

use serde::Deserialize;
use trust_format::{MachineId, Order, SiteId};
use utoipa::{IntoParams, ToSchema};
use web_api::{Hex, OrderInfo, Page};

use super::{
    Connection, Result, big, flag,
    listing::{self, Key, Listing, Turn},
    number, parsed, parsed_option,
    reach::Reach,
    sql, unix_seconds,
};
use crate::listed::Sort;

/// What an order says, without its signature.
#[derive(Debug, Clone)]
pub(crate) struct OrderRecord {
    pub(crate) image: Hex<32>,
    pub(crate) machine: Option<MachineId>,
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

/// By what orders are sorted.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OrderSort {
    /// The newest first.
    #[default]
    Made,
    /// By the site's name.
    Site,
}

impl Sort for OrderSort {
    fn order(self) -> listing::Order {
        match self {
            Self::Made => listing::Order {
                word: "made",
                keys: &[
                    Key::Number("o.made"),
                    Key::Text("o.site"),
                    Key::Number("o.number"),
                ],
                descending: true,
            },
            Self::Site => listing::Order {
                word: "site",
                keys: &[Key::Text("s.name"), Key::Number("o.number")],
                descending: false,
            },
        }
    }
}

/// Which orders.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderFilter {
    /// Of one site, by its name.
    #[param(nullable = false)]
    pub(crate) site: Option<String>,
    /// Of one version, by its digest.
    #[param(nullable = false)]
    pub(crate) version: Option<String>,
    /// For one machine alone, by its identity.
    #[param(nullable = false)]
    pub(crate) machine: Option<String>,
}

/// Orders for people.
pub(crate) async fn page(
    db: &mut Connection,
    reach: Reach,
    filter: &OrderFilter,
    turn: &Turn,
) -> Result<Page<OrderInfo>> {
    Listing::new(
        "o.number, o.version, o.machine, o.erase, s.name AS site_name, i.name AS image_name,
            (SELECT COUNT(*) FROM completions c WHERE c.site = o.site AND c.order_number = o.number) AS completed",
        match turn.word() {
            "site" => {
                "orders o JOIN sites s ON s.id = o.site LEFT JOIN images i ON i.version = o.version"
            }
            _ => "orders o LEFT JOIN sites s ON s.id = o.site LEFT JOIN images i ON i.version = o.version",
        },
    )
    .within("o.site", reach)
    .of_site("o.site", filter.site.as_ref())
    .when("o.version = ", filter.version.as_ref())
    .when("o.machine = ", filter.machine.as_ref())
    .page(db, turn, info)
    .await
}

fn info(row: &sql::Row) -> Result<OrderInfo> {
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
}
