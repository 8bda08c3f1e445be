//! Sites and machines as files for spreadsheets (CSV), and sites back from them.

mod cells;
mod sites;

use std::{io, sync::Arc};

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;
use web_api::{ImportReport, Machine, PAGE_ROWS_MAX};

use self::{
    cells::{Faults, line},
    sites::{Site, SiteLine},
};
use crate::{
    Hq,
    access::By,
    bell::News,
    database::{
        Connection,
        listing::Turn,
        machines,
        machines::{MachineFilter, MachineSort},
        reach,
        reach::Reach,
        sites as table,
        sites::{SiteFilter, SiteSort},
        unix_seconds, wan,
    },
    error::{Refusal, random},
    input::{Asked, Raw},
    listed::Sort,
    sites as rules,
};

/// Bytes of a file that is read.
pub(crate) const SHEET_BYTES_MAX: usize = 4 << 20;
/// Sites that are written in one transaction: each is signed, and nodes wait meanwhile.
const WRITTEN_AT_ONCE: usize = 50;
const MACHINE_COLUMNS: [&str; 9] = [
    "site", "id", "state", "model", "serial", "uuid", "macs", "seen", "message",
];

/// A file.
pub(crate) struct Sheet(Response);

impl Sheet {
    pub(crate) const KIND: &str = "text/csv; charset=utf-8";

    /// Of lines that are read page by page, below the names of the columns.
    fn new<S>(name: &str, columns: &[&str], pages: S) -> Self
    where
        S: stream::Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let first = Bytes::from(line(columns.iter().map(ToString::to_string)));
        let lines = stream::iter([Ok(first)]).chain(pages);
        let mut response = Body::from_stream(lines).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Self::KIND));
        let name = format!("attachment; filename=\"{name}-{}.csv\"", unix_seconds());
        if let Ok(name) = HeaderValue::try_from(name) {
            headers.insert(header::CONTENT_DISPOSITION, name);
        }
        Self(response)
    }
}

impl IntoResponse for Sheet {
    fn into_response(self) -> Response {
        self.0
    }
}

/// The pages of a list, each as lines.
fn pages<S: Sort + Send + 'static, F, Page>(
    sort: S,
    page: F,
) -> impl stream::Stream<Item = io::Result<Bytes>> + Send + 'static
where
    F: Fn(Turn) -> Page + Send + Sync + 'static,
    Page: Future<Output = Result<(Vec<u8>, Option<String>), sqlx::Error>> + Send,
{
    let begin = Some(Turn::first(sort.order(), PAGE_ROWS_MAX));
    stream::try_unfold((begin, page), move |(turn, page)| async move {
        let Some(turn) = turn else { return Ok(None) };
        let (lines, next) = page(turn).await.map_err(io::Error::other)?;
        let next = next.and_then(|next| Turn::new(sort.order(), PAGE_ROWS_MAX, Some(&next)).ok());
        Ok(Some((lines.into(), (next, page))))
    })
}

pub(crate) async fn export_sites(State(hq): State<Arc<Hq>>, Extension(by): Extension<By>) -> Sheet {
    let reach = by.reach;
    let pages = pages(SiteSort::Name, move |turn| {
        let hq = hq.clone();
        async move { site_lines(&hq, reach, &turn).await }
    });
    Sheet::new("sites", sites::COLUMNS, pages)
}

async fn site_lines(
    hq: &Hq,
    reach: Reach,
    turn: &Turn,
) -> Result<(Vec<u8>, Option<String>), sqlx::Error> {
    let mut db = hq.database.read().await?;
    let page = table::page(&mut db, reach, &SiteFilter::default(), turn).await?;
    let mut lines = Vec::new();
    for site in &page.rows {
        // one that went away meanwhile is not there
        if let Some(site) = known(&mut db, &site.name).await? {
            lines.extend(site.to_line());
        }
    }
    Ok((lines, page.next))
}

pub(crate) async fn export_machines(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
) -> Sheet {
    let reach = by.reach;
    let pages = pages(MachineSort::Site, move |turn| {
        let hq = hq.clone();
        async move {
            let mut db = hq.database.read().await?;
            let page = machines::page(&mut db, reach, &MachineFilter::default(), &turn).await?;
            let lines = page
                .rows
                .iter()
                .flat_map(|(_, machine)| machine_line(machine));
            Ok((lines.collect(), page.next))
        }
    });
    Sheet::new("machines", &MACHINE_COLUMNS, pages)
}

fn machine_line(machine: &Machine) -> Vec<u8> {
    let facts = &machine.facts;
    let macs: Vec<_> = facts.macs.iter().map(ToString::to_string).collect();
    let message = machine
        .install
        .as_ref()
        .map(|install| install.message.clone());
    line([
        machine.site.clone(),
        machine.id.to_string(),
        machine.state.word().to_owned(),
        facts.model.clone(),
        facts.serial.clone().unwrap_or_default(),
        facts.uuid.map(|uuid| uuid.to_string()).unwrap_or_default(),
        macs.join(" "),
        utc(machine.seen_unix_seconds),
        message.unwrap_or_default(),
    ])
}

/// A moment as spreadsheets read it, in UTC.
fn utc(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let Ok(when) = OffsetDateTime::from_unix_timestamp(seconds) else {
        return String::new();
    };
    let (hours, minutes, seconds) = when.to_hms();
    format!("{} {hours:02}:{minutes:02}:{seconds:02}", when.date())
}

/// A site as HQ has it.
async fn known(db: &mut Connection, name: &str) -> Result<Option<Site>, sqlx::Error> {
    let Some(site) = table::by_name(db, Reach::ALL, name).await? else {
        return Ok(None);
    };
    let tags = reach::tags(db, [site.id.to_string()].into_iter()).await?;
    Ok(Some(Site {
        name: site.name,
        unknown: site.unknown,
        provisional: site.provisional,
        tags: tags.into_iter().map(|(_, tag)| tag).collect(),
        budget: wan::rules(db, site.id).await?.budget,
    }))
}

/// Whether something is done.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Import {
    /// Only say what would be.
    #[serde(default)]
    dry_run: bool,
}

/// A file with a fault changes nothing. One without is written some sites at a time; when that breaks off, the same file goes on.
pub(crate) async fn import_sites(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Asked(import): Asked<Import>,
    Raw(file): Raw,
) -> Result<Json<ImportReport>, Refusal> {
    if file.is_empty() {
        return Err(Refusal::bad(
            "the request's body is empty: there is no file in it",
        ));
    }
    let mut faults = Faults::default();
    let lines = sites::parse(&file, rules::TAGS_MAX, &mut faults);
    if let (Some(first), false) = (faults.0.first(), import.dry_run) {
        let more = match faults.0.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more: a dry run tells all)"),
        };
        return Err(Refusal::bad(format!("nothing is imported: {first}{more}")));
    }
    let mut report = ImportReport {
        faults: faults.0,
        done: !import.dry_run,
        ..ImportReport::default()
    };
    let mut wanted = Vec::new();
    let mut db = hq.database.read().await?;
    for line in lines {
        let now = known(&mut db, &line.name).await?;
        match &now {
            None => report.made += 1,
            Some(now) if now.with(&line) == *now => {
                report.same += 1;
                continue;
            }
            Some(_) => report.changed += 1,
        }
        wanted.push(line);
    }
    drop(db);
    if import.dry_run {
        return Ok(Json(report));
    }
    for some in wanted.chunks(WRITTEN_AT_ONCE) {
        let mut change = hq.database.write_by(&by).await?;
        for line in some {
            write(&mut change, &hq, line).await?;
        }
        let (first, last) = (some.first(), some.last());
        let name = |line: Option<&SiteLine>| line.map(|l| l.name.clone()).unwrap_or_default();
        change.says(format!(
            "{} sites imported from a file: {:?} to {:?}",
            some.len(),
            name(first),
            name(last)
        ));
        change.commit().await?;
    }
    tracing::info!(
        made = report.made,
        changed = report.changed,
        "sites imported"
    );
    Ok(Json(report))
}

async fn write(db: &mut Connection, hq: &Hq, line: &SiteLine) -> Result<(), Refusal> {
    if table::by_name(db, Reach::ALL, &line.name).await?.is_none() {
        let id = trust_format::SiteId(random()?);
        table::insert(db, id, &line.name, line.unknown.unwrap_or_default()).await?;
    }
    let mut site = rules::named(db, Reach::ALL, &line.name).await?;
    if let Some(tags) = &line.tags {
        reach::set_tags(db, site.id, tags).await?;
    }
    let mut carried = wan::rules(db, site.id).await?;
    let budget = &mut carried.budget;
    budget.windows = line
        .windows
        .clone()
        .unwrap_or_else(|| budget.windows.clone());
    budget.utc_offset_minutes = line.utc_offset_minutes.unwrap_or(budget.utc_offset_minutes);
    wan::put(db, site.id, &carried).await?;
    db.tell(News::Wan(site.id));
    site.unknown = line.unknown.unwrap_or(site.unknown);
    site.provisional = line.provisional.unwrap_or(site.provisional);
    rules::refresh(db, hq, &mut site).await
}
