//! What changes, as it changes, for pages and scripts that watch: server-sent events (WHATWG HTML, section 9.2).
//!
//! Nothing is kept for a watcher but how much it has seen. Each time that something changes, and not more often than [`PACE`], it is given
//! every machine that changed since, once, as it is now. So a slow one gets fewer states of a machine, and never an old one last.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until, timeout_at},
};
use trust_format::SiteId;
use utoipa::IntoParams;

use crate::{
    Hq,
    access::By,
    database::{Connection, changes, changes::Seen, reach::Reach},
    error::Refusal,
    input::Asked,
    sites,
};

/// Watchers at once.
pub(crate) const WATCHERS_MAX: usize = 512;
/// A watcher is given what changed so often at most, unless it is more than is read at once.
const PACE: Duration = Duration::from_millis(150);
/// A watcher whose line is quiet hears from HQ so often: proxies end what is silent for a minute.
const QUIET: Duration = Duration::from_secs(15);
/// Then it asks again, and its rights are looked at again.
const SECONDS_MAX: u64 = 300;
/// Machines or lines that are read at once.
const ROWS_MAX: u32 = 500;
/// Who is behind by more changes is told to read the lists again.
const BEHIND_MAX: u64 = 20_000;
/// A browser asks again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// What is watched.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Watch {
    /// One site, by its name.
    #[param(nullable = false)]
    site: Option<String>,
    /// For how long, 1 to 300 seconds.
    #[param(minimum = 1, maximum = 300, nullable = false)]
    seconds: Option<u64>,
}

/// A stream of events.
pub(crate) struct Live(Response);

impl Live {
    pub(crate) const KIND: &str = "text/event-stream";
}

impl IntoResponse for Live {
    fn into_response(self) -> Response {
        self.0
    }
}

/// `Last-Event-ID` says how much was seen; without it everything so far counts as seen. The first event says that too.
pub(crate) async fn watch(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    headers: HeaderMap,
    Asked(asked): Asked<Watch>,
) -> Result<Live, Refusal> {
    let seconds = asked.seconds.unwrap_or(SECONDS_MAX);
    if !(1..=SECONDS_MAX).contains(&seconds) {
        return Err(Refusal::bad(format!(
            "seconds: 1 to {SECONDS_MAX}, not {seconds}"
        )));
    }
    let claimed = headers.get("last-event-id").map(|id| {
        let id = id.to_str().ok().and_then(|id| id.parse::<Seen>().ok());
        id.ok_or_else(|| Refusal::bad("Last-Event-ID is none that HQ gave"))
    });
    let claimed = claimed.transpose()?;
    let Ok(place) = hq.watchers.clone().try_acquire_owned() else {
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{WATCHERS_MAX} pages watch already"),
        ));
    };
    // before anything is read: what comes later wakes it
    let bell = hq.bells.changes.subscribe();
    let mut db = hq.database.read().await?;
    let site = match &asked.site {
        Some(name) => Some(sites::named(&mut db, by.reach, name).await?.id),
        None => None,
    };
    let all = changes::all(&mut db).await?;
    drop(db);
    let (seen, is_behind) = begin(claimed, all);
    let word = if is_behind { "behind" } else { "ready" };
    let first = Event::default().event(word).id(seen.to_string());
    let first = first.retry(RETRY).data("{}");
    let watcher = Watcher {
        hq,
        reach: by.reach,
        site,
        seen,
        bell,
        until: Instant::now() + Duration::from_secs(seconds),
        pause: Instant::now(),
        _place: place,
    };
    let news = stream::unfold(watcher, |mut watcher| async move {
        let events = watcher.next().await?;
        Some((stream::iter(events), watcher))
    });
    let events = stream::iter([first]).chain(news.flatten());
    Ok(Live(
        Sse::new(events.map(Ok::<_, Infallible>)).into_response(),
    ))
}

/// How much somebody has seen who says so, and whether too much was missed. HQ may have been restored from a backup meanwhile.
fn begin(claimed: Option<Seen>, all: Seen) -> (Seen, bool) {
    let Some(seen) = claimed else {
        return (all, false);
    };
    let is_within = |seen: u64, all: u64| seen <= all && all - seen <= BEHIND_MAX;
    match is_within(seen.changes, all.changes) && is_within(seen.lines, all.lines) {
        true => (seen, false),
        false => (all, true),
    }
}

struct Watcher {
    hq: Arc<Hq>,
    reach: Reach,
    site: Option<SiteId>,
    seen: Seen,
    bell: watch::Receiver<()>,
    until: Instant,
    /// It is not read before.
    pause: Instant,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// What changed, as soon as something has; a comment when nothing does for a while, and nothing at the end.
    async fn next(&mut self) -> Option<Vec<Event>> {
        let quiet = self.until.min(Instant::now() + QUIET);
        while Instant::now() < self.until {
            sleep_until(self.pause).await;
            self.bell.mark_unchanged();
            // a database that is away ends the stream; the watcher asks again, and is told so
            let (events, is_more) = Box::pin(self.read()).await.ok()?;
            if !events.is_empty() {
                self.pause = Instant::now();
                if !is_more {
                    self.pause += PACE;
                }
                return Some(events);
            }
            if timeout_at(quiet, self.bell.changed()).await.is_err() {
                return Some(vec![Event::default().comment("quiet")]);
            }
        }
        None
    }

    /// What changed, and whether there is more of it.
    async fn read(&mut self) -> Result<(Vec<Event>, bool), sqlx::Error> {
        let mut db = self.hq.database.read().await?;
        let db: &mut Connection = &mut db;
        let all = changes::all(db).await?;
        if begin(Some(self.seen), all).1 {
            self.seen = all;
            let event = Event::default().event("behind").id(all.to_string());
            return Ok((vec![event.data("{}")], false));
        }
        let (reach, site, seen) = (self.reach, self.site, self.seen);
        let machines = changes::machines_since(db, reach, site, seen.changes, ROWS_MAX).await?;
        let lines = changes::events_since(db, reach, site, seen.lines, ROWS_MAX).await?;
        let mut events = Vec::new();
        for machine in &machines {
            self.seen.changes = machine.change;
            events.push(event("machine", self.seen, machine)?);
        }
        for line in &lines {
            self.seen.lines = line.id;
            events.push(event("event", self.seen, line)?);
        }
        // what is not for this watcher is seen as well
        let is_whole = |rows: usize| rows < ROWS_MAX as usize;
        if is_whole(machines.len()) {
            self.seen.changes = self.seen.changes.max(all.changes);
        }
        if is_whole(lines.len()) {
            self.seen.lines = self.seen.lines.max(all.lines);
        }
        let is_more = !is_whole(machines.len()) || !is_whole(lines.len());
        Ok((events, is_more))
    }
}

fn event(word: &str, seen: Seen, what: &impl Serialize) -> Result<Event, sqlx::Error> {
    let event = Event::default().event(word).id(seen.to_string());
    event
        .json_data(what)
        .map_err(|e| sqlx::Error::Encode(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_missed_too_much_reads_the_lists_again() {
        let seen = |changes, lines| Seen { changes, lines };
        let all = seen(50_000, 9);
        assert_eq!(begin(None, all), (all, false));
        let near = seen(40_000, 9);
        assert_eq!(begin(Some(near), all), (near, false));
        for far in [seen(29_999, 9), seen(50_001, 9), seen(50_000, 10)] {
            assert_eq!(begin(Some(far), all), (all, true), "{far}");
        }
    }
}
