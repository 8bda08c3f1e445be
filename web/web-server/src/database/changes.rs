//! What changed, in order, for those who watch: machines by the number of their last change, and lines of what happened by theirs.
//!
//! Who writes is alone, so numbers are committed in their order: whoever has seen everything up to one never misses what came before it.

use std::{fmt, str::FromStr};

use trust_format::SiteId;
use web_api::{EventInfo, Machine};

use super::{
    Connection, Result, big, events,
    listing::{Key, Order, Turn},
    machines, number,
    reach::Reach,
    sql,
};
use crate::bell::News;

const BY_CHANGE: Order = Order {
    word: "change",
    keys: &[Key::Number("m.changed")],
    descending: false,
};
const BY_LINE: Order = Order {
    word: "line",
    keys: &[Key::Number("e.id")],
    descending: false,
};

/// How much of it somebody has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Changes of machines up to this number.
    pub(crate) changes: u64,
    /// Lines up to this number.
    pub(crate) lines: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.changes, self.lines)
    }
}

impl FromStr for Seen {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (changes, lines) = text.split_once('.').ok_or(())?;
        Ok(Self {
            changes: changes.parse().map_err(|_| ())?,
            lines: lines.parse().map_err(|_| ())?,
        })
    }
}

/// The number of one more change of a machine. Those who watch are told when it is committed.
pub(super) async fn next(db: &mut Connection) -> Result<u64> {
    next_of(db, 1).await
}

/// The last of so many numbers in a row, for several machines that change at once.
pub(super) async fn next_of(db: &mut Connection, count: usize) -> Result<u64> {
    db.tell(News::Changes);
    let row = sql::query("UPDATE change_numbers SET last = last + $1 RETURNING last")
        .bind(big(count as u64))
        .fetch_one(db)
        .await?;
    number(&row, "last")
}

/// Everything there is.
pub(crate) async fn all(db: &mut Connection) -> Result<Seen> {
    let row = sql::query(
        "SELECT c.last, (SELECT COALESCE(MAX(e.id), 0) FROM events e) AS line FROM change_numbers c",
    )
    .fetch_one(db)
    .await?;
    Ok(Seen {
        changes: number(&row, "last")?,
        lines: number(&row, "line")?,
    })
}

/// Machines that changed since, each as it is now, in the order of their changes.
pub(crate) async fn machines_since(
    db: &mut Connection,
    reach: Reach,
    site: Option<SiteId>,
    seen: u64,
    limit: u32,
) -> Result<Vec<Machine>> {
    let turn = Turn::first(BY_CHANGE, limit);
    let list = machines::infos(reach, &turn)
        .when("m.site = ", site.map(|site| site.to_string()))
        .when("m.changed > ", Some(big(seen)));
    let rows = list.first(db, &turn).await?;
    let mut found = rows
        .iter()
        .map(machines::info)
        .collect::<Result<Vec<_>>>()?;
    machines::add_completed(db, &mut found).await?;
    Ok(found.into_iter().map(|(_, machine)| machine).collect())
}

/// Lines since, in their order.
pub(crate) async fn events_since(
    db: &mut Connection,
    reach: Reach,
    site: Option<SiteId>,
    seen: u64,
    limit: u32,
) -> Result<Vec<EventInfo>> {
    let list = events::infos(reach)
        .when("e.site = ", site.map(|site| site.to_string()))
        .when("e.id > ", Some(big(seen)));
    let rows = list.first(db, &Turn::first(BY_LINE, limit)).await?;
    rows.iter().map(events::info).collect()
}
