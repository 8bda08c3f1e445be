//! Vouchers, and the machines whose rights came from them.

use serde::Deserialize;
use trust_format::{MachineId, PublicKey, SiteId};
use utoipa::{IntoParams, ToSchema};
use web_api::{Hex, Page, VoucherInfo};

use super::{
    Connection, Result, big, flag, key,
    listing::{Key, Listing, Order, Turn},
    number,
    reach::Reach,
    sql,
};
use crate::listed::Sort;

/// A voucher that was made.
pub(crate) async fn insert(
    db: &mut Connection,
    voucher: &PublicKey,
    machines: u16,
    order: Option<u64>,
    made: u64,
) -> Result<()> {
    sql::query(
        "INSERT INTO vouchers (node_key, machines, order_number, made) VALUES ($1, $2, $3, $4)",
    )
    .bind(voucher.to_string())
    .bind(i64::from(machines))
    .bind(order.map(big))
    .bind(big(made))
    .execute(db)
    .await?;
    Ok(())
}

/// Vouchers of a site that are not revoked.
pub(crate) async fn living(db: &mut Connection, site: SiteId) -> Result<u64> {
    let row = sql::query(
        "SELECT COUNT(*) AS n FROM vouchers JOIN nodes USING (node_key) WHERE site = $1 AND revoked = 0",
    )
    .bind(site.to_string())
    .fetch_one(db)
    .await?;
    number(&row, "n")
}

/// Whether a machine is beyond what the voucher allows; nothing of one that was not seen under it.
pub(crate) async fn is_beyond(
    db: &mut Connection,
    voucher: &PublicKey,
    machine: MachineId,
) -> Result<Option<bool>> {
    let row =
        sql::query("SELECT beyond FROM voucher_machines WHERE node_key = $1 AND machine = $2")
            .bind(voucher.to_string())
            .bind(machine.to_string())
            .fetch_optional(db)
            .await?;
    row.map(|row| flag(&row, "beyond")).transpose()
}

/// Machines seen under a voucher: those that it allows, or those beyond.
pub(crate) async fn count(db: &mut Connection, voucher: &PublicKey, beyond: bool) -> Result<u64> {
    let row = sql::query(
        "SELECT COUNT(*) AS n FROM voucher_machines WHERE node_key = $1 AND beyond = $2",
    )
    .bind(voucher.to_string())
    .bind(i64::from(beyond))
    .fetch_one(db)
    .await?;
    number(&row, "n")
}

/// A machine was seen under a voucher for the first time.
pub(crate) async fn saw(
    db: &mut Connection,
    voucher: &PublicKey,
    machine: MachineId,
    beyond: bool,
    seen: u64,
) -> Result<()> {
    sql::query(
        "INSERT INTO voucher_machines (node_key, machine, beyond, seen) VALUES ($1, $2, $3, $4)",
    )
    .bind(voucher.to_string())
    .bind(machine.to_string())
    .bind(i64::from(beyond))
    .bind(big(seen))
    .execute(db)
    .await?;
    Ok(())
}

/// By what vouchers are sorted.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VoucherSort {
    /// The newest first.
    #[default]
    Made,
    /// By the site's name.
    Site,
}

impl Sort for VoucherSort {
    fn order(self) -> Order {
        const KEY: Key = Key::Text("v.node_key");
        match self {
            Self::Made => Order {
                word: "made",
                keys: &[Key::Number("v.made"), KEY],
                descending: true,
            },
            Self::Site => Order {
                word: "site",
                keys: &[Key::Text("s.name"), KEY],
                descending: false,
            },
        }
    }
}

/// Which vouchers.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct VoucherFilter {
    /// For one site, by its name.
    #[param(nullable = false)]
    pub(crate) site: Option<String>,
}

/// Vouchers for people.
pub(crate) async fn page(
    db: &mut Connection,
    reach: Reach,
    filter: &VoucherFilter,
    turn: &Turn,
) -> Result<Page<VoucherInfo>> {
    Listing::new(
        "v.node_key, v.machines, v.order_number, v.made, n.name, n.revoked, n.seen, s.name AS site_name,
            (SELECT COUNT(*) FROM voucher_machines m WHERE m.node_key = v.node_key AND m.beyond = 0) AS used,
            (SELECT COUNT(*) FROM voucher_machines m WHERE m.node_key = v.node_key AND m.beyond = 1) AS beyond",
        "vouchers v JOIN nodes n ON n.node_key = v.node_key JOIN sites s ON s.id = n.site",
    )
    .within("n.site", reach)
    .of_site("n.site", filter.site.as_ref())
    .page(db, turn, info)
    .await
}

fn info(row: &sql::Row) -> Result<VoucherInfo> {
    let order: Option<i64> = row.try_get("order_number")?;
    Ok(VoucherInfo {
        key: Hex(key(row, "node_key")?.0),
        site: row.try_get("site_name")?,
        name: row.try_get("name")?,
        machines: u16::try_from(number(row, "machines")?).unwrap_or(u16::MAX),
        order: order.and_then(|n| u64::try_from(n).ok()),
        used: number(row, "used")?,
        beyond: number(row, "beyond")?,
        revoked: flag(row, "revoked")?,
        made_unix_seconds: number(row, "made")?,
        seen_unix_seconds: number(row, "seen")?,
    })
}
