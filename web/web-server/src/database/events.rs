//! The newest lines of what happened, for people.

use serde::Serialize;
use trust_format::SiteId;
use utoipa::ToSchema;

use super::{Connection, Result, big, number, reach::Reach, sql, unix_seconds};

/// Lines that are kept.
const EVENTS_MAX: i64 = 10_000;
const MESSAGE_CHARS_MAX: usize = 1000;

/// One line.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct EventInfo {
    pub(crate) site: String,
    pub(crate) source: String,
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) unix_seconds: u64,
}

/// What a line is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EventKind {
    Holds,
    Accused,
    Boot,
    /// A node got another name, or another one's place.
    Node,
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

/// The newest lines, newest first.
pub(crate) async fn newest(
    db: &mut Connection,
    reach: Reach,
    limit: u32,
) -> Result<Vec<EventInfo>> {
    let rows = sql::query(
        "SELECT e.*, s.name AS site_name FROM events e JOIN sites s ON s.id = e.site
         WHERE ($2 IS NULL OR e.site IN (SELECT site FROM reach WHERE user_id = $2)) ORDER BY e.id DESC LIMIT $1",
    )
    .bind(i64::from(limit))
    .bind(reach)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(EventInfo {
                site: row.try_get("site_name")?,
                source: row.try_get("source")?,
                kind: row.try_get("kind")?,
                message: row.try_get("message")?,
                unix_seconds: number(row, "happened")?,
            })
        })
        .collect()
}
