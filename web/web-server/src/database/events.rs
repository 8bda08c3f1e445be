//! The newest lines of what happened, for people.

use serde::Deserialize;
use trust_format::SiteId;
use utoipa::{IntoParams, ToSchema};
use web_api::{EventInfo, Page};

use super::{
    Connection, Result, big,
    listing::{Key, Listing, Order, Turn},
    number,
    reach::Reach,
    search::Search,
    sql, unix_seconds,
};
use crate::{bell::News, listed::Sort};

/// Lines that are kept.
const EVENTS_MAX: i64 = 2_000_000;
/// Lines that one search looks at: those before them are looked at with the next page.
const SEARCHED_MAX: u32 = 20_000;
const MESSAGE_CHARS_MAX: usize = 1000;

/// What a line is about.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventKind {
    /// What a node holds.
    Holds,
    /// Somebody sent wrong bytes.
    Accused,
    /// A machine boots.
    Boot,
    /// A node got another name, or another one's place.
    Node,
    /// What went wrong.
    Trouble,
}

impl EventKind {
    fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Accused => "accused",
            Self::Boot => "boot",
            Self::Node => "node",
            Self::Trouble => "trouble",
        }
    }
}

/// Adds a line; the oldest makes room.
pub(crate) async fn add(
    db: &mut Connection,
    site: SiteId,
    source: &str,
    kind: EventKind,
    message: &str,
) -> Result<()> {
    db.tell(News::Changes);
    let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    let added = sql::query(
        "INSERT INTO events (site, source, kind, message, happened) VALUES ($1, $2, $3, $4, $5) RETURNING id",
    )
    .bind(site.to_string())
    .bind(source)
    .bind(kind.word())
    .bind(message)
    .bind(big(unix_seconds()))
    .fetch_one(db)
    .await?;
    sql::query("DELETE FROM events WHERE id <= $1")
        .bind(added.try_get::<i64>("id")? - EVENTS_MAX)
        .execute(db)
        .await?;
    Ok(())
}

/// By what lines are sorted.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventSort {
    /// The newest first.
    #[default]
    When,
}

impl Sort for EventSort {
    fn order(self) -> Order {
        Order {
            word: "when",
            keys: &[Key::Number("e.id")],
            descending: true,
        }
    }
}

/// Which lines.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventFilter {
    /// Of one site, by its name.
    #[param(nullable = false)]
    pub(crate) site: Option<String>,
    /// About one thing.
    #[param(inline, nullable = false)]
    pub(crate) kind: Option<EventKind>,
    /// Words that are in source or message, or parts of them. A page looks at 20,000 lines at most, so one may have few rows or none and
    /// yet be followed by others.
    #[param(value_type = String, required = false)]
    pub(crate) search: Option<Search>,
}

pub(super) fn infos(reach: Reach) -> Listing {
    Listing::new(
        "e.id, e.source, e.kind, e.message, e.happened, s.name AS site_name",
        "events e LEFT JOIN sites s ON s.id = e.site",
    )
    .within("e.site", reach)
}

/// Lines for people.
pub(crate) async fn page(
    db: &mut Connection,
    reach: Reach,
    filter: &EventFilter,
    turn: &Turn,
) -> Result<Page<EventInfo>> {
    let list = infos(reach)
        .of_site("e.site", filter.site.as_ref())
        .when("e.kind = ", filter.kind.map(EventKind::word));
    let Some(search) = &filter.search else {
        return list.page(db, turn, info).await;
    };
    let text = "lower(e.source || ' ' || e.message)";
    list.sift(db, turn, (text, search), SEARCHED_MAX, info)
        .await
}

pub(super) fn info(row: &sql::Row) -> Result<EventInfo> {
    Ok(EventInfo {
        id: number(row, "id")?,
        site: row.try_get("site_name")?,
        source: row.try_get("source")?,
        kind: row.try_get("kind")?,
        message: row.try_get("message")?,
        unix_seconds: number(row, "happened")?,
    })
}
