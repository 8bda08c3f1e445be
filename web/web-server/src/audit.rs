//! The audit log, for administrators: pages of it, all of it, and whether its chain holds.

use std::{io, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;
use web_api::{AUDIT_PAGE_ROWS, AuditChain, AuditCheck, AuditPage};

use crate::{
    Hq,
    database::{audit, unix_seconds},
    error::Refusal,
    input::Asked,
};

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    /// Rows below this number; the newest without.
    #[param(minimum = 0)]
    before: Option<i64>,
}

pub(crate) async fn page(
    State(hq): State<Arc<Hq>>,
    Asked(page): Asked<Page>,
) -> Result<Json<AuditPage>, Refusal> {
    let before = u64::try_from(page.before.unwrap_or(i64::MAX))
        .map_err(|_| Refusal::bad("rows have numbers from 1 on"))?;
    let mut db = hq.database.read().await?;
    Ok(Json(AuditPage {
        rows: audit::before(&mut db, before, AUDIT_PAGE_ROWS).await?,
    }))
}

pub(crate) async fn check(State(hq): State<Arc<Hq>>) -> Result<Json<AuditCheck>, Refusal> {
    let mut chain = AuditChain::default();
    let mut fault = None;
    'all: loop {
        // a connection for each page: writers of a file wait for nobody who reads for long
        let mut db = hq.database.read().await?;
        let rows = audit::after(&mut db, chain.rows(), AUDIT_PAGE_ROWS).await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            if let Err(found) = chain.follow(row) {
                tracing::error!(fault = %found, "the audit log's chain does not hold");
                fault = Some(found.to_string());
                break 'all;
            }
        }
    }
    Ok(Json(AuditCheck {
        rows: chain.rows(),
        head: chain.head(),
        fault,
    }))
}

/// A file with a row of JSON in each line.
pub(crate) struct Lines(Response);

impl Lines {
    pub(crate) const KIND: &str = "application/jsonl";
}

impl IntoResponse for Lines {
    fn into_response(self) -> Response {
        self.0
    }
}

/// All rows from the first on.
pub(crate) async fn export(State(hq): State<Arc<Hq>>) -> Lines {
    let pages = stream::try_unfold((hq, 0), |(hq, after)| async move {
        let page = lines(&hq, after).await.map_err(io::Error::other)?;
        Ok::<_, io::Error>(page.map(|(text, last)| (text, (hq, last))))
    });
    let name = format!("attachment; filename=\"audit-{}.jsonl\"", unix_seconds());
    let kind = HeaderValue::from_static(Lines::KIND);
    let mut response = Body::from_stream(pages).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if let Ok(name) = HeaderValue::try_from(name) {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, name);
    }
    Lines(response)
}

/// The next page as text, and the number of its last row.
async fn lines(hq: &Hq, after: u64) -> Result<Option<(Bytes, u64)>, sqlx::Error> {
    let mut db = hq.database.read().await?;
    let rows = audit::after(&mut db, after, AUDIT_PAGE_ROWS).await?;
    let Some(last) = rows.last().map(|row| row.number) else {
        return Ok(None);
    };
    let mut text = Vec::new();
    for row in &rows {
        serde_json::to_writer(&mut text, row).map_err(|e| sqlx::Error::Encode(e.into()))?;
        text.push(b'\n');
    }
    Ok(Some((text.into(), last)))
}
